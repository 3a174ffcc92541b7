//! The cluster inside one process: directory and journal in memory, the journal optionally behind a SQLite
//! table. Told to fail by [`Faults`], it is the simulation; nothing else differs.

mod disk;
mod faults;
mod log;
mod sight;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use mlms_protocol::{Incarnation, LobbyId, NodeName, Shard, UserId};
use tokio::sync::watch;
use tokio::time::Instant;

pub use disk::DiskError;
pub use faults::Faults;
pub(crate) use sight::Sight;

use crate::directory::{Directory, LEASE, SessionRecord};
use crate::journal::{EntryId, Journal};
use crate::relay::Relay;
use crate::view::{LobbySummary, NodeRecord, ShardRecord, View};
use crate::{Unavailable, placement_shards};
use disk::Disk;

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
    /// The newest run of each node.
    runs: BTreeMap<NodeName, Incarnation>,
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

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
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
