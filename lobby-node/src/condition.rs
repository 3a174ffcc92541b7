//! How the services behind the workers are, for `/health`. The workers report; the nodes of one process share the
//! entries, so what is counted is counted over all of them.

use mlms_process::Health;
use mlms_process::health::Component;

use crate::metrics::Metrics;

/// The entries `journal` and `store`.
pub(crate) struct Conditions {
    journal: Component,
    store: Component,
}

/// What a worker last reported.
#[derive(Default)]
pub(crate) struct Reported {
    degraded_shards: i64,
    is_archive_failing: bool,
}

impl Conditions {
    /// Well, until somebody finds otherwise: an idle node has asked neither.
    pub(crate) fn new(health: &Health) -> Self {
        let (journal, store) = (health.component("journal"), health.component("store"));
        journal.ok();
        store.ok();
        Conditions { journal, store }
    }

    /// Replaces a worker's number of shards whose journal does not answer.
    pub(crate) fn report_journal(&self, metrics: &Metrics, reported: &mut Reported, degraded_shards: i64) {
        let change = degraded_shards - std::mem::replace(&mut reported.degraded_shards, degraded_shards);
        if change == 0 {
            return;
        }
        metrics.degraded_shards.add(change);
        match metrics.degraded_shards.get() {
            ..=0 => self.journal.ok(),
            shards => self.journal.degraded(format!("{shards} shards wait for an answer")),
        }
    }

    /// Replaces what a worker's last write to the event store came to.
    pub(crate) fn report_store(&self, metrics: &Metrics, reported: &mut Reported, failure: Option<String>) {
        let is_failing = failure.is_some();
        if is_failing != std::mem::replace(&mut reported.is_archive_failing, is_failing) {
            metrics.archive_failing.add(if is_failing { 1 } else { -1 });
        }
        match failure {
            Some(cause) => self.store.degraded(cause),
            None if metrics.archive_failing.get() <= 0 => self.store.ok(),
            None => {}
        }
    }
}
