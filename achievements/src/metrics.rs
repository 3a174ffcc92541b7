//! What the achievements service counts.

use mlms_process::metrics::register;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// The metrics of one service.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) events: IntCounterVec,
    pub(crate) awards: IntCounter,
    pub(crate) announced: IntCounter,
    pub(crate) failures: IntCounterVec,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        let counter = |name: &str, help: &str| register(registry, IntCounter::new(name, help));
        let labelled = |name: &str, help: &str, label: &str| {
            register(registry, IntCounterVec::new(Opts::new(name, help), &[label]))
        };
        Metrics {
            events: labelled(
                "mlms_achievements_events_total",
                "Domain events that came in: counted, repeated, or unreadable.",
                "outcome",
            ),
            awards: counter("mlms_achievements_awards_total", "Achievements awarded."),
            announced: counter("mlms_achievements_announced_total", "Awards told to players."),
            failures: labelled("mlms_achievements_failures_total", "Tries that failed and run again.", "of"),
        }
    }
}
