//! The cluster inside one process: directory and journal in memory, the journal optionally behind a SQLite
//! table. Told to fail by [`Faults`], it is the simulation; nothing else differs.

mod disk;
mod faults;
mod sight;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use mlms_protocol::{Incarnation, LobbyId, NodeName, SessionId, Shard, UserId};
use tokio::sync::watch;
use tokio::time::Instant;

pub use disk::DiskError;
pub use faults::Faults;
pub(crate) use sight::Sight;

use crate::directory::{Claim, Directory, LEASE, Renewal, SessionRecord};
use crate::journal::{AppendError, EntryId, Fence, Journal, Loaded};
use crate::relay::Relay;
use crate::view::{LobbySummary, NodeRecord, ShardRecord, View};
use crate::{Unavailable, placement_shards};
use disk::{Disk, Op};

/// One process's cluster; clones of its handles go to brokers and nodes.
pub struct Embedded {
    shared: Arc<Shared>,
    relay: Relay,
}

/// What directory and journal share: an append checks the shard's record and the log in one step.
pub(crate) struct Shared {
    state: Mutex<State>,
    view: watch::Sender<Arc<View>>,
    disk: Option<Disk>,
    faults: Option<Faults>,
}

#[derive(Default)]
struct State {
    leases: BTreeMap<NodeName, (NodeRecord, Instant)>,
    shards: Vec<Option<ShardRecord>>,
    logs: HashMap<Shard, Log>,
    sessions: HashMap<UserId, Vec<SessionRecord>>,
    lobbies: BTreeMap<LobbyId, (NodeName, LobbySummary)>,
    /// When everything was lost last.
    lost_at: Option<Instant>,
    /// How often.
    lost: u64,
}

#[derive(Default)]
struct Log {
    entries: VecDeque<(EntryId, Bytes)>,
    snapshots: HashMap<LobbyId, Bytes>,
    top: EntryId,
    /// An append is on its way to the disk: no other may start, and claims wait for it.
    busy: bool,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Embedded")
    }
}

impl Embedded {
    /// Everything in memory; gone with the process.
    #[must_use]
    pub fn in_memory(faults: Option<Faults>) -> Self {
        let relay = Relay::embedded(faults.as_ref().map(Faults::relay));
        let shards = vec![None; placement_shards()];
        Embedded { shared: Shared::new(State { shards, ..State::default() }, None, faults), relay }
    }

    /// The journal behind a SQLite table: what was acknowledged is found again after a kill. The future is the
    /// table's writer; the caller runs and awaits it.
    ///
    /// # Errors
    /// The file cannot be opened, or another process uses it as its journal.
    pub async fn on_disk(
        url: &str,
        sync_full: bool,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<>), DiskError> {
        let (disk, loaded, writer) = Disk::open(url, sync_full).await?;
        let mut state = State { shards: vec![None; placement_shards()], ..State::default() };
        for (shard, record) in loaded.epochs {
            if let Some(slot) = state.shards.get_mut(usize::from(shard.0)) {
                *slot = Some(record);
            }
        }
        for (shard, id, entry) in loaded.entries {
            let log = state.logs.entry(shard).or_default();
            log.top = log.top.max(id);
            log.entries.push_back((id, entry));
        }
        for (shard, lobby, snapshot) in loaded.snapshots {
            state.logs.entry(shard).or_default().snapshots.insert(lobby, snapshot);
        }
        Ok((Embedded { shared: Shared::new(state, Some(disk), None), relay: Relay::embedded(None) }, writer))
    }

    /// Loses what a failover may lose: the newest entries of every shard's log, or, with `None`, everything that
    /// stands in directory and journal.
    pub fn lose(&self, entries: Option<usize>) {
        self.shared.lose(entries);
    }

    #[must_use]
    pub fn directory(&self) -> Directory {
        Directory::embedded(Sight::new(Arc::clone(&self.shared), None))
    }

    /// The directory as this node sees it, which [`Faults::set_blind`] can take from it.
    #[must_use]
    pub fn directory_of(&self, node: &NodeName) -> Directory {
        Directory::embedded(Sight::new(Arc::clone(&self.shared), Some(node.clone())))
    }

    #[must_use]
    pub fn journal(&self) -> Journal {
        Journal::embedded(Arc::clone(&self.shared))
    }

    #[must_use]
    pub fn relay(&self) -> Relay {
        self.relay.clone()
    }
}

impl Shared {
    /// Loses the newest entries of every log, or everything.
    fn lose(&self, entries: Option<usize>) {
        let mut state = self.lock();
        match entries {
            Some(count) => {
                for log in state.logs.values_mut() {
                    for _ in 0..count {
                        log.entries.pop_back();
                    }
                    log.top = log.entries.back().map_or(EntryId::default(), |(id, _)| *id);
                }
            }
            None => {
                let shards = vec![None; placement_shards()];
                let lost = state.lost + 1;
                *state = State { shards, lost_at: Some(Instant::now()), lost, ..State::default() };
            }
        }
        self.publish_view(&state);
    }

    fn new(state: State, disk: Option<Disk>, faults: Option<Faults>) -> Arc<Self> {
        let (view, _) = watch::channel(Arc::new(state.view()));
        Arc::new(Shared { state: Mutex::new(state), view, disk, faults })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the embedded cluster's state panics")
    }

    fn reachable(&self, what: &'static str) -> Result<(), Unavailable> {
        match &self.faults {
            Some(faults) if faults.is_down() => Err(Unavailable(what)),
            _ => Ok(()),
        }
    }

    // --- directory

    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    fn publish_view(&self, state: &State) -> Arc<View> {
        self.view.send_modify(|shown| {
            let mut view = state.view();
            view.follow(shown);
            view.lost = state.lost;
            if state.has_just_lost() {
                // The leases went with the records: they live until the nodes had the time to renew them.
                for (name, record) in &shown.nodes {
                    view.nodes.entry(name.clone()).or_insert_with(|| record.clone());
                }
            }
            *shown = Arc::new(view);
        });
        self.view()
    }

    pub(crate) fn refresh(&self) -> Result<Arc<View>, Unavailable> {
        self.reachable("the directory")?;
        let state = self.lock();
        Ok(self.publish_view(&state))
    }

    pub(crate) fn renew(&self, record: &NodeRecord) -> Result<Renewal, Unavailable> {
        self.reachable("the directory")?;
        let mut state = self.lock();
        if state.leases.get(&record.name).is_some_and(|(held, _)| held.incarnation > record.incarnation) {
            return Ok(Renewal::Superseded);
        }
        state.leases.insert(record.name.clone(), (record.clone(), Instant::now() + LEASE));
        self.publish_view(&state);
        Ok(Renewal::Held)
    }

    pub(crate) fn retire(&self, node: &NodeName, incarnation: Incarnation) -> Result<(), Unavailable> {
        self.reachable("the directory")?;
        let mut state = self.lock();
        if state.leases.get(node).is_some_and(|(held, _)| held.incarnation == incarnation) {
            state.leases.remove(node);
            self.publish_view(&state);
        }
        Ok(())
    }

    pub(crate) async fn claim(
        &self,
        shard: Shard,
        expected: Option<&ShardRecord>,
        new: &ShardRecord,
    ) -> Result<Claim, Unavailable> {
        self.reachable("the directory")?;
        // The record on disk comes first: an epoch that was used once is never used again, not even after a kill.
        if let Some(disk) = &self.disk {
            let op = Op::Claim { shard, record: new.clone() };
            if self.lock().record(shard) != expected {
                return Ok(Claim::Lost(self.lock().record(shard).cloned()));
            }
            disk.write(op).await.map_err(|_| Unavailable("the journal's table"))?;
        }
        let mut state = self.lock();
        if state.record(shard) != expected {
            return Ok(Claim::Lost(state.record(shard).cloned()));
        }
        let is_anothers =
            |record: &ShardRecord| record.node != new.node || record.incarnation != new.incarnation;
        if state.has_just_lost() && self.view().record(shard).is_some_and(is_anothers) {
            return Err(Unavailable("proof that the shard's owner is gone"));
        }
        state.shards[usize::from(shard.0)] = Some(new.clone());
        let died = expected.is_some_and(|former| !state.lives(former));
        if let (true, Some(faults), Some(log)) = (died, &self.faults, state.logs.get_mut(&shard)) {
            log.lose_last(faults.lost_at_claim(log.entries.len()));
        }
        self.publish_view(&state);
        Ok(Claim::Won)
    }

    pub(crate) fn add_session(
        &self,
        user: &UserId,
        session: SessionRecord,
        max: usize,
    ) -> Result<Vec<SessionRecord>, Unavailable> {
        self.reachable("the directory")?;
        let mut state = self.lock();
        let State { sessions, leases, .. } = &mut *state;
        let records = sessions.entry(user.clone()).or_default();
        records.retain(|record| {
            leases.get(&record.node).is_some_and(|(lease, _)| lease.incarnation == record.incarnation)
                && record.session != session.session
        });
        records.push(session);
        let excess = if max == 0 { 0 } else { records.len().saturating_sub(max) };
        Ok(records.drain(..excess).collect())
    }

    pub(crate) fn sessions(&self, user: &UserId) -> Result<Vec<SessionRecord>, Unavailable> {
        self.reachable("the directory")?;
        let state = self.lock();
        let records = state.sessions.get(user).cloned().unwrap_or_default();
        let lives = |record: &SessionRecord| {
            state.leases.get(&record.node).is_some_and(|(lease, _)| lease.incarnation == record.incarnation)
        };
        Ok(records.into_iter().filter(lives).collect())
    }

    pub(crate) fn remove_session(&self, user: &UserId, session: &SessionId) {
        let mut state = self.lock();
        if let Some(records) = state.sessions.get_mut(user) {
            records.retain(|record| record.session != *session);
            if records.is_empty() {
                state.sessions.remove(user);
            }
        }
    }

    pub(crate) fn publish_lobbies(
        &self,
        node: &NodeName,
        changed: Vec<LobbySummary>,
        removed: Vec<LobbyId>,
    ) -> Result<(), Unavailable> {
        self.reachable("the directory")?;
        let mut state = self.lock();
        for lobby in removed {
            if state.lobbies.get(&lobby).is_some_and(|(owner, _)| owner == node) {
                state.lobbies.remove(&lobby);
            }
        }
        for summary in changed {
            state.lobbies.insert(summary.lobby.clone(), (node.clone(), summary));
        }
        Ok(())
    }

    pub(crate) fn lobbies(
        &self,
        after: Option<&LobbyId>,
        limit: usize,
    ) -> Result<Vec<LobbySummary>, Unavailable> {
        use std::ops::Bound;
        self.reachable("the directory")?;
        let state = self.lock();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let alive =
            |node: &NodeName| state.leases.get(node).is_some_and(|(_, until)| *until > Instant::now());
        let shown = |(node, summary): &&(NodeName, LobbySummary)| {
            alive(node) && summary.visibility == mlms_protocol::lobby::Visibility::Public
        };
        let range = state.lobbies.range::<LobbyId, _>((from, Bound::Unbounded));
        Ok(range
            .map(|(_, entry)| entry)
            .filter(shown)
            .take(limit)
            .map(|(_, summary)| summary.clone())
            .collect())
    }

    // --- journal

    pub(crate) async fn append(
        self: &Arc<Self>,
        shard: Shard,
        fence: &Fence,
        entries: &[Bytes],
    ) -> Result<EntryId, AppendError> {
        let lost_answer = match &self.faults {
            Some(faults) => faults.before_append().await?,
            None => false,
        };
        let first = fence.top.following(fence.epoch);
        let last = match entries.len() as u64 {
            0 => fence.top,
            count => EntryId { n: first.n + count - 1, ..first },
        };
        {
            let mut state = self.lock();
            let mine = state.record(shard).is_some_and(|record| {
                record.node == fence.node
                    && record.incarnation == fence.incarnation
                    && record.epoch == fence.epoch
            });
            let is_fenced = match &self.faults {
                Some(faults) => !faults.skips_fence(!mine && !entries.is_empty()),
                None => true,
            };
            if !mine && is_fenced {
                let is_lost = state.record(shard).is_none_or(|record| record.epoch < fence.epoch);
                return Err(if is_lost { AppendError::Behind } else { AppendError::Deposed });
            }
            let log = state.logs.entry(shard).or_default();
            if !entries.is_empty() && log.top == last {
                return Ok(last);
            }
            if log.top != fence.top && is_fenced {
                let is_lost = log.top < fence.top;
                return Err(if is_lost { AppendError::Behind } else { AppendError::Deposed });
            }
            if entries.is_empty() {
                return Ok(fence.top);
            }
            if self.disk.is_some() {
                if log.busy {
                    return Err(AppendError::Unclear);
                }
                log.busy = true;
            }
        }
        let ids = (0..).map(|i| EntryId { n: first.n + i, ..first });
        let numbered: Vec<_> = ids.zip(entries.iter().map(|bytes| self.as_written(fence, bytes))).collect();
        let Some(disk) = &self.disk else {
            self.lock().logs.entry(shard).or_default().extend(numbered);
            return if lost_answer { Err(AppendError::Unclear) } else { Ok(last) };
        };
        // Memory follows the table even when nobody waits for this append any more.
        let busy = Busy { shared: Arc::clone(self), shard };
        let op = Op::Append { shard, entries: numbered.clone() };
        let then = move |written: Result<(), DiskError>| {
            if written.is_ok() {
                busy.shared.lock().logs.entry(busy.shard).or_default().extend(numbered);
            }
            written
        };
        match disk.write_then(op, then).await {
            Some(Ok(())) => Ok(last),
            _ => Err(AppendError::Unclear),
        }
    }

    /// A writer may pretend to be of another release.
    fn as_written(&self, fence: &Fence, bytes: &Bytes) -> Bytes {
        self.faults.as_ref().map_or_else(|| bytes.clone(), |faults| faults.written_by(&fence.node, bytes))
    }

    pub(crate) fn load(&self, shard: Shard) -> Result<Loaded, Unavailable> {
        self.reachable("the journal")?;
        let state = self.lock();
        let Some(log) = state.logs.get(&shard) else { return Ok(Loaded::default()) };
        if log.busy {
            // An append of the former owner is on its way to the disk; a moment later it is decided.
            return Err(Unavailable("the journal of this shard"));
        }
        Ok(Loaded {
            snapshots: log.snapshots.iter().map(|(lobby, bytes)| (lobby.clone(), bytes.clone())).collect(),
            entries: log.entries.iter().cloned().collect(),
            top: log.top,
        })
    }

    pub(crate) fn load_tail(&self, shard: Shard, after: EntryId) -> Result<Loaded, Unavailable> {
        let mut loaded = self.load(shard)?;
        loaded.snapshots.clear();
        loaded.entries.retain(|(id, _)| *id > after);
        loaded.top = loaded.top.max(after);
        Ok(loaded)
    }

    pub(crate) async fn save_snapshots(
        &self,
        shard: Shard,
        fence: &Fence,
        changed: Vec<(LobbyId, Option<Bytes>)>,
    ) -> Result<(), AppendError> {
        self.reachable("the journal").map_err(|_| AppendError::Unclear)?;
        let owns = |state: &State| {
            state.record(shard).is_some_and(|record| record.node == fence.node && record.epoch == fence.epoch)
        };
        if !owns(&self.lock()) {
            return Err(AppendError::Deposed);
        }
        if let Some(disk) = &self.disk {
            let op = Op::Snapshots { shard, changed: changed.clone() };
            disk.write(op).await.map_err(|_| AppendError::Unclear)?;
        }
        let mut state = self.lock();
        if !owns(&state) {
            return Err(AppendError::Deposed);
        }
        let log = state.logs.entry(shard).or_default();
        for (lobby, snapshot) in changed {
            match snapshot {
                Some(bytes) => _ = log.snapshots.insert(lobby, self.as_written(fence, &bytes)),
                None => _ = log.snapshots.remove(&lobby),
            }
        }
        Ok(())
    }

    pub(crate) async fn trim(&self, shard: Shard, through: EntryId) -> Result<(), Unavailable> {
        self.reachable("the journal")?;
        if let Some(disk) = &self.disk {
            disk.write(Op::Trim { shard, through }).await.map_err(|_| Unavailable("the journal's table"))?;
        }
        let mut state = self.lock();
        if let Some(log) = state.logs.get_mut(&shard) {
            while log.entries.front().is_some_and(|(id, _)| *id <= through) {
                log.entries.pop_front();
            }
        }
        Ok(())
    }
}

/// An append of a shard is on its way to the disk. It ends with its commit, or when it is given up before it was
/// queued.
struct Busy {
    shared: Arc<Shared>,
    shard: Shard,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.shared.lock().logs.entry(self.shard).or_default().busy = false;
    }
}

impl Log {
    fn extend(&mut self, entries: Vec<(EntryId, Bytes)>) {
        self.top = entries.last().map_or(self.top, |(id, _)| *id);
        self.entries.extend(entries);
    }

    /// A planted fault: what was answered for was not written.
    fn lose_last(&mut self, count: usize) {
        if count > 0 {
            self.entries.truncate(self.entries.len().saturating_sub(count));
            self.top = self.entries.back().map_or_else(EntryId::default, |(id, _)| *id);
        }
    }
}

impl State {
    fn record(&self, shard: Shard) -> Option<&ShardRecord> {
        self.shards.get(usize::from(shard.0)).and_then(Option::as_ref)
    }

    /// Whether an owner still has its lease.
    fn lives(&self, owner: &ShardRecord) -> bool {
        let lease = self.leases.get(&owner.node);
        lease
            .is_some_and(|(record, until)| record.incarnation == owner.incarnation && *until > Instant::now())
    }

    /// Whether absence proves nothing, because all leases were lost a moment ago.
    fn has_just_lost(&self) -> bool {
        self.lost_at.is_some_and(|at| at.elapsed() < LEASE)
    }

    fn view(&self) -> View {
        let now = Instant::now();
        let alive = self.leases.iter().filter(|(_, (_, until))| *until > now);
        View {
            nodes: alive.map(|(name, (record, _))| (name.clone(), record.clone())).collect(),
            shards: self.shards.clone(),
            lost: 0,
        }
    }
}
