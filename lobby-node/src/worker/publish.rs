//! What follows the archive: domain events go out in the order of the journal, once they are in the database, and the
//! cursor of each shard is kept there, so that a new owner repeats little and misses nothing.

use std::sync::Arc;
use std::time::Duration;

use mlms_cluster::journal::EntryId;
use mlms_process::trace::Kind;
use mlms_protocol::{Epoch, Shard};
use mlms_store::StoreError;

use super::shard::{OwnedShard, ShardSlot};
use super::{Done, Worker};

/// Events handed on in one go.
const PUBLISH_BATCH: usize = 2_000;
/// Pause after events were not taken, or a cursor could not be read or kept.
const PUBLISH_PAUSE: Duration = Duration::from_secs(1);

/// The cursors of shards, as the database has them.
pub(super) type Cursors = Vec<(Shard, Epoch, Result<Option<(u64, u64)>, StoreError>)>;

impl OwnedShard {
    /// Nobody wants domain events: nothing waits for them.
    pub(super) fn expect_no_publishing(&mut self) {
        self.published = Some(EntryId { epoch: u64::MAX, n: u64::MAX });
    }

    /// Up to where the journal is neither needed for the database nor for events on their way out.
    pub(super) fn safe(&self) -> EntryId {
        self.archived.min(self.published.unwrap_or_default())
    }

    /// Bytes behind that.
    fn backlog_bytes(&self) -> u64 {
        let safe = self.safe();
        let skip = self.kept.partition_point(|logged| logged.id <= safe);
        self.kept.range(skip..).map(|logged| logged.bytes as u64).sum()
    }

    /// Entries that are in the database and did not go out yet.
    fn unpublished(&self) -> usize {
        let Some(published) = self.published else { return 0 };
        let from = self.kept.partition_point(|logged| logged.id <= published);
        self.kept.partition_point(|logged| logged.id <= self.archived).saturating_sub(from)
    }
}

impl Worker {
    /// Hands on what has been archived, if there is something and nothing is under way.
    pub(super) fn publish(&mut self) {
        if self.publishing || !self.node.outlet.is_open() {
            return;
        }
        let (mut events, mut marks, mut unknown, mut spans) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (shard, slot) in &self.shards {
            let ShardSlot::Owned(owned) = slot else { continue };
            let Some(published) = owned.published else {
                unknown.push((*shard, owned.epoch));
                continue;
            };
            let mut last = None;
            let from = owned.kept.partition_point(|logged| logged.id <= published);
            for logged in owned.kept.range(from..).take_while(|logged| logged.id <= owned.archived) {
                if events.len() >= PUBLISH_BATCH {
                    break;
                }
                if let Some(parent) = logged.trace.as_deref() {
                    let span = self.node.tracer.span("events.publish", Kind::Producer, parent);
                    spans.extend(span.map(|span| (events.len(), span)));
                }
                events.extend(logged.events.iter().cloned());
                last = Some(logged.id);
            }
            marks.extend(last.map(|id| (*shard, owned.epoch, id)));
        }
        if !unknown.is_empty() {
            self.publishing = true;
            return self.load_cursors(unknown);
        }
        if events.is_empty() {
            return;
        }
        self.publishing = true;
        let outlet = self.node.outlet.clone();
        self.spawn(async move {
            let count = events.len();
            let traces: Vec<_> = spans.iter().map(|(place, span)| (*place, span.context())).collect();
            let taken = outlet.publish(events, traces).await;
            if !taken {
                spans.iter_mut().for_each(|(_, span)| span.fail("not taken"));
            }
            drop(spans);
            if !taken {
                tokio::time::sleep(PUBLISH_PAUSE).await;
            }
            Done::Published { marks, events: count, taken }
        });
    }

    pub(super) fn on_published(&mut self, marks: Vec<(Shard, Epoch, EntryId)>, events: usize, taken: bool) {
        self.publishing = false;
        if !taken {
            self.node.metrics.publish_failures.inc();
            return;
        }
        self.node.metrics.published.inc_by(events as u64);
        for (shard, epoch, id) in marks {
            // A shard that was lost meanwhile is the new owner's.
            if let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard)
                && owned.epoch == epoch
            {
                owned.published = owned.published.max(Some(id));
                self.cursors_due.insert(shard, id);
            }
        }
    }

    fn load_cursors(&mut self, shards: Vec<(Shard, Epoch)>) {
        let store = self.node.store.clone();
        self.spawn(async move {
            let mut cursors = Vec::new();
            for (shard, epoch) in shards {
                let cursor = store.load_published(shard).await;
                let failed = cursor.is_err();
                cursors.push((shard, epoch, cursor));
                if failed {
                    tokio::time::sleep(PUBLISH_PAUSE).await;
                    break;
                }
            }
            Done::Cursors { cursors }
        });
    }

    pub(super) fn on_cursors(&mut self, cursors: Cursors) {
        self.publishing = false;
        for (shard, epoch, cursor) in cursors {
            let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard) else { continue };
            match cursor {
                Ok(cursor) if owned.epoch == epoch => {
                    let cursor = cursor.map(|(epoch, n)| EntryId { epoch, n });
                    // One from the future is of a journal that was lost: everything kept goes out again.
                    let cursor = cursor.filter(|cursor| *cursor <= owned.top);
                    owned.published = Some(cursor.unwrap_or_default());
                }
                Ok(_) => {}
                Err(error) => {
                    self.node.metrics.publish_failures.inc();
                    tracing::warn!(%shard, %error, "the place of a shard's domain events cannot be read yet");
                }
            }
        }
    }

    /// Keeps in the database how far events have gone out.
    pub(super) fn keep_cursors(&mut self) {
        if self.cursors_due.is_empty() || self.keeping_cursors {
            return;
        }
        self.keeping_cursors = true;
        let cursors: Vec<_> = self.cursors_due.drain().map(|(shard, id)| (shard, id.epoch, id.n)).collect();
        let store = self.node.store.clone();
        self.spawn(async move {
            let result = store.save_published(&cursors).await;
            if result.is_err() {
                tokio::time::sleep(PUBLISH_PAUSE).await;
            }
            Done::CursorsKept { cursors, result }
        });
    }

    pub(super) fn on_cursors_kept(
        &mut self,
        cursors: Vec<(Shard, u64, u64)>,
        result: Result<(), StoreError>,
    ) {
        self.keeping_cursors = false;
        if let Err(error) = result {
            tracing::debug!(%error, "cursors cannot be kept; after a crash some events go out again");
            for (shard, epoch, n) in cursors {
                self.cursors_due.entry(shard).or_insert(EntryId { epoch, n });
            }
        }
    }

    /// Counts what waits, for the gauges and for the bound.
    pub(super) fn count_backlog(&mut self) {
        let (mut bytes, mut unpublished) = (0, 0);
        for slot in self.shards.values() {
            let ShardSlot::Owned(owned) = slot else { continue };
            bytes += owned.backlog_bytes();
            unpublished += owned.unpublished() as u64;
        }
        let node = Arc::clone(&self.node);
        let passed = node.backlog.count(self.counted_bytes, bytes);
        let change = |before: u64, now: u64| {
            i64::try_from(now).unwrap_or(i64::MAX) - i64::try_from(before).unwrap_or(i64::MAX)
        };
        node.metrics.backlog_bytes.add(change(self.counted_bytes, bytes));
        node.metrics.publish_backlog.add(change(self.counted_unpublished, unpublished));
        (self.counted_bytes, self.counted_unpublished) = (bytes, unpublished);
        match passed {
            Some(true) => {
                tracing::error!(
                    "the backlog is full: durable messages are refused until database and message broker keep up"
                );
                node.notify(mlms_protocol::NoticeCode::Degraded, "messages cannot be kept at the moment");
            }
            Some(false) => {
                tracing::info!("the backlog has room again");
                node.notify(mlms_protocol::NoticeCode::Recovered, "messages are kept again");
            }
            None => {}
        }
    }
}
