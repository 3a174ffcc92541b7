//! What follows the journal: snapshots of the lobbies, and the writes to the event store.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mlms_cluster::journal::{AppendError, EntryId};
use mlms_process::trace::Kind;
use mlms_protocol::{LobbyEvent, LobbyId, Seq, Shard};
use mlms_store::{SaveReport, Store, StoreError};
use tokio::time::Instant;

use super::live::LobbySlot;
use super::shard::{ShardSlot, Snapshots};
use super::{Done, Worker};

/// Events in one write to the event store.
const ARCHIVE_BATCH: usize = 2_000;
/// Pause after a failed write to the event store.
const ARCHIVE_PAUSE: Duration = Duration::from_secs(1);
/// How long a shard's snapshots may take on their way to the journal.
const SAVE_TIME: Duration = Duration::from_secs(30);
/// How often a busy shard's lobbies are snapshotted.
pub(super) const SNAPSHOT_PERIOD: Duration = Duration::from_secs(30);

impl Worker {
    pub(super) fn snapshot_all(&mut self) {
        let shards: Vec<_> = self.shards.keys().copied().collect();
        for shard in shards {
            self.take_snapshots(shard);
        }
    }

    /// Takes the state of every lobby that has changed. It may include what is not committed yet, so it is saved
    /// only behind that batch.
    pub(super) fn take_snapshots(&mut self, shard: Shard) {
        let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard) else { return };
        owned.next_snapshot = Instant::now() + SNAPSHOT_PERIOD;
        if owned.snapshots.is_some() || owned.snapshotting {
            return;
        }
        let mut states = Vec::new();
        for (id, slot) in &mut owned.lobbies {
            if let LobbySlot::Live(lobby) = slot
                && (lobby.state.seq > lobby.snapshot_seq || lobby.reads_unsaved)
            {
                lobby.reads_unsaved = false;
                // A panic here leaves the lobby out of service, as when it takes a command.
                let Ok(bytes) = catch_unwind(AssertUnwindSafe(|| lobby.state.snapshot())) else {
                    tracing::error!(lobby = %id, "a lobby's code panicked; the lobby is out of service");
                    self.node.metrics.quarantined.inc();
                    *slot = LobbySlot::Quarantined;
                    continue;
                };
                states.push((id.clone(), lobby.state.seq, Bytes::from(bytes)));
            }
        }
        if states.is_empty() {
            return;
        }
        owned.note_taken(&states);
        owned.keep_snapshots(states);
        self.gathered.insert(shard);
    }

    pub(super) fn save_snapshots(&mut self, shard: Shard) {
        let node = Arc::clone(&self.node);
        let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard) else { return };
        let Some(Snapshots { states, covers: Some(covers), .. }) =
            owned.snapshots.take_if(|snapshots| snapshots.covers.is_some())
        else {
            return;
        };
        owned.snapshotting = true;
        let fence = owned.fence(&node);
        let saved = states.iter().map(|(lobby, seq, _)| (lobby.clone(), *seq)).collect();
        let changed = states.into_iter().map(|(lobby, _, bytes)| (lobby, Some(bytes))).collect();
        self.spawn(async move {
            let save = tokio::time::timeout(SAVE_TIME, node.journal.save_snapshots(shard, &fence, changed));
            let result = save.await.unwrap_or(Err(AppendError::Unclear));
            Done::Snapshotted { shard, covers, saved, result }
        });
    }

    pub(super) fn on_snapshotted(
        &mut self,
        shard: Shard,
        covers: EntryId,
        saved: &[(LobbyId, Seq)],
        result: Result<(), AppendError>,
    ) {
        let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard) else { return };
        owned.snapshotting = false;
        match result {
            Ok(()) => {
                owned.snapshotted = owned.snapshotted.max(covers);
                for (lobby, seq) in saved {
                    if let Some(LobbySlot::Live(lobby)) = owned.lobbies.get_mut(lobby) {
                        lobby.snapshot_seq = *seq;
                    }
                }
                if owned.note_covered(Some(covers)) {
                    self.take_snapshots(shard);
                }
            }
            Err(AppendError::Deposed) => self.on_deposed(shard),
            Err(AppendError::Unclear | AppendError::Behind) => {
                tracing::warn!(%shard, "snapshots could not be saved; they are taken again");
                owned.note_covered(None);
                self.retry_forgetting(shard);
            }
        }
    }

    /// Starts a write to the event store, if there is something and none is under way.
    pub(super) fn archive(&mut self) {
        if self.archiving {
            return;
        }
        let (mut events, mut marks, mut traces) = (Vec::new(), Vec::new(), Vec::new());
        for (shard, slot) in &self.shards {
            let ShardSlot::Owned(owned) = slot else { continue };
            let mut last = None;
            for logged in owned.unarchived() {
                if events.len() >= ARCHIVE_BATCH {
                    break;
                }
                events.extend(logged.events.iter().cloned());
                traces.extend(logged.trace.as_deref().copied());
                last = Some(logged.id);
            }
            marks.extend(last.map(|id| (*shard, id)));
        }
        if events.is_empty() {
            return;
        }
        self.archiving = true;
        let store = self.node.store.clone();
        let mut spans = self.node.trace_each("archive.write", Kind::Client, &traces);
        self.spawn(async move {
            let mut newest: HashMap<LobbyId, Seq> = HashMap::new();
            for event in &events {
                let seq = newest.entry(event.lobby.clone()).or_default();
                *seq = event.seq.max(*seq);
            }
            let mut aside = 0;
            let result = save(&store, events, &mut aside).await;
            if let Err(error) = &result {
                spans.iter_mut().for_each(|span| span.fail(error.to_string()));
            }
            drop(spans);
            if result.is_err() {
                tokio::time::sleep(ARCHIVE_PAUSE).await;
            }
            let report = *result.as_ref().unwrap_or(&SaveReport::default());
            let saved = newest.into_iter().collect();
            Done::Archived { marks, saved, report, aside, result: result.map(drop) }
        });
    }

    pub(super) fn on_archived(
        &mut self,
        marks: Vec<(Shard, EntryId)>,
        saved: Vec<(LobbyId, Seq)>,
        report: SaveReport,
        aside: u64,
        result: Result<(), StoreError>,
    ) {
        self.archiving = false;
        let (metrics, conditions) = (&self.node.metrics, &self.node.conditions);
        conditions.report_store(metrics, &mut self.reported, result.as_ref().err().map(ToString::to_string));
        metrics.archive_set_aside.inc_by(aside);
        if let Err(error) = result {
            metrics.archive_failures.inc();
            tracing::warn!(%error, "events could not be written to the database; they stay in the journal");
            return;
        }
        let SaveReport { inserted, repeated, replaced, kept_newer } = report;
        metrics.archived.inc_by(inserted + repeated + replaced + kept_newer);
        metrics.archive_conflicts.with_label_values(&["replaced"]).inc_by(replaced);
        metrics.archive_conflicts.with_label_values(&["kept_newer"]).inc_by(kept_newer);
        if replaced + kept_newer > 0 {
            tracing::warn!(
                replaced,
                kept_newer,
                "two events with one seq met in the database: the higher epoch is kept"
            );
        }
        for (shard, id) in marks {
            if let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard) {
                owned.on_archived(id);
            }
        }
        for (lobby_id, seq) in saved {
            if let Some(owned) = self.owned(&lobby_id)
                && let Some(LobbySlot::Live(lobby)) = owned.lobbies.get_mut(&lobby_id)
            {
                lobby.saved = lobby.saved.max(seq);
            }
        }
    }
}

/// Writes events to the event store. One that it refuses is set aside, with everything around it saved.
async fn save(
    store: &Store,
    mut events: Vec<Arc<LobbyEvent>>,
    aside: &mut u64,
) -> Result<SaveReport, StoreError> {
    loop {
        let (index, why) = match store.save_events(&events).await {
            Err(StoreError::Rejected { index, why }) if index < events.len() => (index, why),
            outcome => return outcome,
        };
        let event = events.remove(index);
        let id = format!("{}/{}", event.lobby, event.seq);
        match store.set_aside(&event, &why).await {
            Ok(()) => {
                tracing::error!(id, why, "the database refuses an event; it is set aside in refused_events")
            }
            Err(StoreError::Rejected { why: again, .. }) => {
                // The log is the last place left; it has to hold all of it.
                tracing::error!(
                    id,
                    why,
                    again,
                    ?event,
                    "the database refuses an event altogether; it is only here"
                );
            }
            Err(error) => return Err(error),
        }
        *aside += 1;
    }
}
