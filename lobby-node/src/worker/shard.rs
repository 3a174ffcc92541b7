//! A shard that this node owns: its lobbies, and the road of its entries into the journal, one batch at a time.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mlms_cluster::journal::{AppendError, EntryId, Fence};
use mlms_protocol::{Epoch, LobbyEvent, LobbyId, Millis, NodeName, Seq, Shard, TraceParent, UserId};
use tokio::time::Instant;

use super::Done;
use super::forgetting::Forgetting;
use super::live::{LobbySlot, Task};
use super::moving::Moving;
use super::taking::Expecting;
use crate::lobby::{Entry, Recorded};
use crate::node::Node;
use crate::status::{ShardReport, ShardState};

/// Bytes of a shard's journal that are kept for resuming before it is trimmed early.
const KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A journal that takes longer for a batch counts as out of reach.
const ANSWER_TIME: Duration = Duration::from_secs(3);

/// Nothing is awaited from the journal for longer, whatever became of the connection. An append is repeated then.
const GIVEN_UP: Duration = Duration::from_secs(5);

pub(super) enum ShardSlot {
    /// A claim is under way; commands wait for it.
    Claiming {
        waiting: Vec<Task>,
        retry_at: Option<Instant>,
        /// The present owner is about to give it to this node.
        expecting: Option<Expecting>,
    },
    Owned(Box<OwnedShard>),
}

impl ShardSlot {
    pub(super) fn claiming() -> Self {
        ShardSlot::Claiming { waiting: Vec::new(), retry_at: None, expecting: None }
    }

    /// The shard as an operator wants to see it.
    pub(super) fn report(&self, shard: Shard) -> ShardReport {
        match self {
            ShardSlot::Claiming { waiting, expecting, .. } => ShardReport {
                shard,
                state: if expecting.is_some() { ShardState::Expecting } else { ShardState::Claiming },
                epoch: None,
                peer: expecting.as_ref().map(|expecting| expecting.from.clone()),
                lobbies: 0,
                kept_entries: 0,
                archive_lag: 0,
                waiting: waiting.len(),
            },
            ShardSlot::Owned(owned) => ShardReport {
                shard,
                state: match &owned.moving {
                    Some(_) => ShardState::Moving,
                    None if owned.is_degraded() => ShardState::Degraded,
                    None => ShardState::Serving,
                },
                epoch: Some(owned.epoch),
                peer: owned.moving.as_ref().map(|moving| moving.to.clone()),
                lobbies: owned.lobbies.len(),
                kept_entries: owned.kept.len(),
                archive_lag: owned.unarchived().count(),
                waiting: owned.moving.as_ref().map_or(0, |moving| moving.held.len()),
            },
        }
    }
}

/// An entry that is in the journal.
pub(super) struct Logged {
    pub id: EntryId,
    pub at: Millis,
    pub bytes: usize,
    pub events: Vec<Arc<LobbyEvent>>,
    /// As it stands in the journal; empty once the event store has the events.
    pub entry: Bytes,
    /// What the archive records under.
    pub trace: Option<Box<TraceParent>>,
}

impl Logged {
    /// The entry, as it may be appended again. What the event store has does not need its key any more: snapshots
    /// hold the dedupe window.
    pub(super) fn again(&self) -> Bytes {
        if !self.entry.is_empty() {
            return self.entry.clone();
        }
        let events = self.events.iter().map(|event| LobbyEvent::clone(event)).collect();
        Bytes::from(Entry { events, key: None, recorded: Recorded::Changed, reads: Vec::new() }.encode())
    }
}

/// Entries on their way into the journal.
#[derive(Default)]
struct Batch {
    entries: Vec<Bytes>,
    events: Vec<Vec<Arc<LobbyEvent>>>,
    /// Of entries that are traced, by their place.
    traces: Vec<(usize, TraceParent)>,
}

/// What a former owner knew of a lobby beyond the journal.
#[derive(Default)]
pub(super) struct Promised {
    /// Members whose connections are lost, and since when.
    pub(super) away: Vec<(UserId, Millis)>,
    /// Where its sessions are.
    pub(super) nodes: Vec<NodeName>,
}

pub(super) struct OwnedShard {
    pub(super) epoch: Epoch,
    /// The epoch that the event store has of it.
    pub(super) epoch_kept: Option<Epoch>,
    /// It was claimed, and nobody said which nodes have sessions in its lobbies: until then they may still attach.
    pub(super) unnamed_until: Option<Instant>,
    /// Of lobbies that are still read from the database.
    pub(super) promised: HashMap<LobbyId, Promised>,
    pub(super) lobbies: HashMap<LobbyId, LobbySlot>,
    /// Lobbies that have something to say when an append is committed.
    pub(super) speaking: HashSet<LobbyId>,
    pub(super) top: EntryId,
    under_way: Option<Batch>,
    /// When the batch under way was first sent.
    asked_at: Option<Instant>,
    gathering: Batch,
    /// Something waits for an append, though it may hold no entry.
    wanted: bool,
    /// The number of the batch that gathers now. What is decided now is true when it is committed.
    pub(super) gathering_batch: u64,
    pub(super) committed_batch: u64,
    /// Appends in a row that went unanswered.
    pub(super) unclear: u32,
    /// What is in the journal: first what is not archived yet.
    pub(super) kept: VecDeque<Logged>,
    kept_bytes: usize,
    pub(super) archived: EntryId,
    /// Up to where domain events have gone out; `None`: the database has not told yet.
    pub(super) published: Option<EntryId>,
    pub(super) snapshotted: EntryId,
    pub(super) snapshotting: bool,
    /// Snapshots that may be saved when the batch they include is committed.
    pub(super) snapshots: Option<Snapshots>,
    pub(super) next_snapshot: Instant,
    /// The command that is being taken is traced.
    pub(super) tracing: Option<TraceParent>,
    /// It is being given to another node.
    pub(super) moving: Option<Box<Moving>>,
    /// The journal has lost entries; they are being appended again.
    pub(super) restoring: bool,
    /// Commands whose lobbies have forgotten somebody, until the journal has, too.
    pub(super) forgetting: Vec<Forgetting>,
}

/// States of lobbies, taken while a batch gathers.
pub(super) struct Snapshots {
    pub batch: u64,
    /// Entries of that batch that the states include; what the batch gathers later they do not.
    entries: u64,
    /// The last entry that the states include, once the batch is committed.
    pub covers: Option<EntryId>,
    pub states: Vec<(LobbyId, Seq, Bytes)>,
}

impl OwnedShard {
    pub(super) fn new(epoch: Epoch, top: EntryId, next_snapshot: Instant) -> Self {
        OwnedShard {
            epoch,
            epoch_kept: None,
            unnamed_until: None,
            promised: HashMap::new(),
            lobbies: HashMap::new(),
            speaking: HashSet::new(),
            top,
            under_way: None,
            asked_at: None,
            gathering: Batch::default(),
            wanted: false,
            gathering_batch: 1,
            committed_batch: 0,
            unclear: 0,
            kept: VecDeque::new(),
            kept_bytes: 0,
            archived: EntryId::default(),
            published: None,
            snapshotted: EntryId::default(),
            snapshotting: false,
            snapshots: None,
            next_snapshot,
            tracing: None,
            moving: None,
            restoring: false,
            forgetting: Vec::new(),
        }
    }

    /// Whether intake has stopped, because another node takes over.
    pub(super) fn holds(&self) -> bool {
        self.moving.as_ref().is_some_and(|moving| moving.holds())
    }

    /// Whether an append is under way or due.
    pub(super) fn is_appending(&self) -> bool {
        self.under_way.is_some() || self.wanted
    }

    pub(super) fn keep(&mut self, logged: Logged) {
        self.kept_bytes += logged.bytes;
        self.kept.push_back(logged);
    }

    /// Adds an entry to the batch that gathers.
    pub(super) fn gather(&mut self, entry: Bytes, events: Vec<Arc<LobbyEvent>>) {
        if let Some(trace) = self.tracing {
            self.gathering.traces.push((self.gathering.entries.len(), trace));
        }
        self.gathering.entries.push(entry);
        self.gathering.events.push(events);
        self.wanted = true;
    }

    /// Keeps states of lobbies as they are now, until what they include is committed.
    pub(super) fn keep_snapshots(&mut self, states: Vec<(LobbyId, Seq, Bytes)>) {
        let entries = self.gathering.entries.len() as u64;
        self.snapshots = Some(Snapshots { batch: self.gathering_batch, entries, covers: None, states });
        self.want_append();
    }

    /// Makes sure that an append begins after now, even an empty one: a read proves by it that this node still owns
    /// the shard.
    pub(super) fn want_append(&mut self) {
        self.wanted = true;
    }

    /// The journal does not answer; nothing new is taken until it does.
    pub(super) fn is_degraded(&self) -> bool {
        self.unclear >= 3 || self.restoring || self.asked_at.is_some_and(|at| at.elapsed() >= ANSWER_TIME)
    }

    pub(super) fn is_busy(&self) -> bool {
        self.under_way.is_some()
            || self.wanted
            || self.snapshotting
            || self.snapshots.is_some()
            || self.safe() < self.top_of_kept()
    }

    fn top_of_kept(&self) -> EntryId {
        self.kept.back().map_or(EntryId::default(), |logged| logged.id)
    }

    pub(super) fn fence(&self, node: &Node) -> Fence {
        Fence { node: node.name.clone(), incarnation: node.incarnation, epoch: self.epoch, top: self.top }
    }

    pub(super) fn next_append(
        &mut self,
        node: &Node,
        shard: Shard,
    ) -> Option<impl Future<Output = Done> + Send + use<>> {
        if self.under_way.is_some() || !self.wanted {
            return None;
        }
        self.under_way = Some(std::mem::take(&mut self.gathering));
        self.asked_at = Some(Instant::now());
        self.wanted = false;
        self.gathering_batch += 1;
        Some(self.append(node, shard))
    }

    /// The same append again, after a pause: absence of an answer proves nothing.
    pub(super) fn repeat_append(
        &mut self,
        node: &Node,
        shard: Shard,
    ) -> impl Future<Output = Done> + Send + use<> {
        self.append(node, shard)
    }

    fn append(&self, node: &Node, shard: Shard) -> impl Future<Output = Done> + Send + use<> {
        let entries = self.under_way.as_ref().map(|batch| batch.entries.clone()).unwrap_or_default();
        let (fence, journal) = (self.fence(node), node.journal.clone());
        let batch = self.gathering_batch - 1;
        let pause = match self.unclear {
            0 => Duration::ZERO,
            n => Duration::from_millis(20 << n.min(4)),
        };
        node.metrics.append_entries.observe(entries.len() as f64);
        async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            let began = Instant::now();
            let append = tokio::time::timeout(GIVEN_UP, journal.append(shard, &fence, &entries));
            let result = append.await.unwrap_or(Err(AppendError::Unclear));
            Done::Appended { shard, batch, result, took: began.elapsed() }
        }
    }

    /// What is traced of the batch that is under way.
    pub(super) fn traces(&self) -> &[(usize, TraceParent)] {
        self.under_way.as_ref().map_or(&[], |batch| &batch.traces)
    }

    /// Takes the batch that was under way as committed.
    pub(super) fn committed(&mut self, batch: u64, top: EntryId) {
        self.unclear = 0;
        self.asked_at = None;
        self.committed_batch = batch;
        let Some(Batch { entries, events, traces }) = self.under_way.take() else { return };
        let mut id = self.top.following(self.epoch);
        if let Some(snapshots) = self.snapshots.as_mut().filter(|snapshots| snapshots.batch == batch) {
            let included = EntryId { n: id.n + snapshots.entries.saturating_sub(1), ..id };
            snapshots.covers = Some(if snapshots.entries == 0 { self.top } else { included });
        }
        let mut traces = traces.into_iter().peekable();
        for (place, (entry, events)) in entries.iter().zip(events).enumerate() {
            let at = events.last().map_or(Millis(0), |event| event.at);
            let trace = traces.next_if(|(traced, _)| *traced == place).map(|(_, trace)| Box::new(trace));
            self.keep(Logged { id, at, bytes: entry.len(), events, entry: entry.clone(), trace });
            id.n += 1;
        }
        self.top = top;
    }

    /// The event store has everything up to here: the entries need not be kept as they were written.
    pub(super) fn on_archived(&mut self, through: EntryId) {
        self.archived = self.archived.max(through);
        let done = self.kept.partition_point(|logged| logged.id <= self.archived);
        for logged in self.kept.range_mut(..done).rev().take_while(|logged| !logged.entry.is_empty()) {
            logged.entry = Bytes::new();
        }
    }

    /// Entries that the event store does not have yet.
    pub(super) fn unarchived(&self) -> impl Iterator<Item = &Logged> {
        let archived = self.archived;
        // All shards are asked at each commit, and most have nothing: that is told by the newest alone.
        let skip = match self.kept.back() {
            Some(newest) if newest.id > archived => self.kept.partition_point(|logged| logged.id <= archived),
            _ => self.kept.len(),
        };
        self.kept.range(skip..)
    }

    /// Forgets what nobody needs any more, and gives the place up to which the journal can be trimmed.
    pub(super) fn trim(&mut self, now: Millis, resume: Duration) -> Option<EntryId> {
        let safe = self.safe().min(self.snapshotted);
        let forgotten = self.forgotten();
        let mut through = None;
        while let Some(oldest) = self.kept.front() {
            let stale =
                oldest.at.after(resume) < now || self.kept_bytes > KEPT_BYTES_MAX || oldest.id <= forgotten;
            if oldest.id > safe || !stale {
                break;
            }
            through = Some(oldest.id);
            self.kept_bytes -= oldest.bytes;
            self.kept.pop_front();
        }
        through
    }
}

/// Kept apart so that a deposed owner is told from one that only has no answer.
pub(super) fn is_deposed(result: &Result<EntryId, AppendError>) -> bool {
    matches!(result, Err(AppendError::Deposed))
}
