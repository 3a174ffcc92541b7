//! The embedded directory as one node sees it: leases, the shard table, sessions, the published lobbies, over what all
//! share. A node that a plan of faults has made blind keeps its last view and reaches nothing of it; the journal it
//! reaches still. `directory.rs` is the only caller.

use std::sync::{Arc, Mutex, PoisonError};

use mlms_protocol::{Incarnation, LobbyId, NodeName, SessionId, Shard, UserId};
use tokio::sync::watch;
use tokio::time::Instant;

use super::disk::Op;
use super::{Shared, State};
use crate::Unavailable;
use crate::directory::{Claim, LEASE, Renewal, SessionRecord};
use crate::view::{LobbySummary, NodeRecord, ShardRecord, View};

/// A directory handle's way to what all nodes share.
#[derive(Clone)]
pub(crate) struct Sight {
    shared: Arc<Shared>,
    /// Whose it is; `None`: nobody's who could be made blind.
    node: Option<NodeName>,
    /// What a blind node saw last.
    last: Arc<Mutex<Option<Arc<View>>>>,
}

impl Sight {
    pub(super) fn new(shared: Arc<Shared>, node: Option<NodeName>) -> Self {
        Sight { shared, node, last: Arc::default() }
    }

    fn is_blind(&self) -> bool {
        match (&self.node, &self.shared.faults) {
            (Some(node), Some(faults)) => faults.is_blind(node),
            _ => false,
        }
    }

    /// What is shared, unless the node is blind.
    fn seen(&self) -> Result<&Shared, Unavailable> {
        if self.is_blind() { Err(Unavailable("the directory")) } else { Ok(&self.shared) }
    }

    /// What is shared, if the directory is in reach.
    fn reach(&self) -> Result<&Shared, Unavailable> {
        let shared = self.seen()?;
        shared.reachable("the directory")?;
        Ok(shared)
    }

    pub(crate) fn view(&self) -> Arc<View> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_blind() {
            return Arc::clone(last.get_or_insert_with(|| self.shared.view()));
        }
        *last = None;
        self.shared.view()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.shared.view.subscribe()
    }

    pub(crate) fn refresh(&self) -> Result<Arc<View>, Unavailable> {
        let shared = self.reach()?;
        let state = shared.lock();
        Ok(shared.publish_view(&state))
    }

    pub(crate) fn renew(&self, record: &NodeRecord) -> Result<Renewal, Unavailable> {
        let shared = self.reach()?;
        let mut state = shared.lock();
        if state.leases.get(&record.name).is_some_and(|(held, _)| held.incarnation > record.incarnation) {
            return Ok(Renewal::Superseded);
        }
        state.leases.insert(record.name.clone(), (record.clone(), Instant::now() + LEASE));
        state.runs.insert(record.name.clone(), record.incarnation);
        shared.publish_view(&state);
        Ok(Renewal::Held)
    }

    pub(crate) fn former_run(&self, node: &NodeName) -> Result<Option<Incarnation>, Unavailable> {
        let state = self.reach()?.lock();
        Ok(state.runs.get(node).copied())
    }

    pub(crate) fn retire(&self, node: &NodeName, incarnation: Incarnation) -> Result<(), Unavailable> {
        let shared = self.reach()?;
        let mut state = shared.lock();
        if state.leases.get(node).is_some_and(|(held, _)| held.incarnation == incarnation) {
            state.leases.remove(node);
            shared.publish_view(&state);
        }
        Ok(())
    }

    pub(crate) async fn claim(
        &self,
        shard: Shard,
        expected: Option<&ShardRecord>,
        new: &ShardRecord,
    ) -> Result<Claim, Unavailable> {
        let shared = self.reach()?;
        // The record on disk comes first: an epoch that was used once is never used again, not even after a kill.
        if let Some(disk) = &shared.disk {
            let op = Op::Claim { shard, record: new.clone() };
            if shared.lock().record(shard) != expected {
                return Ok(Claim::Lost(shared.lock().record(shard).cloned()));
            }
            disk.write(op).await.map_err(|_| Unavailable("the journal's table"))?;
        }
        let mut state = shared.lock();
        if state.record(shard) != expected {
            return Ok(Claim::Lost(state.record(shard).cloned()));
        }
        let is_anothers =
            |record: &ShardRecord| record.node != new.node || record.incarnation != new.incarnation;
        if state.has_just_lost() && shared.view().record(shard).is_some_and(is_anothers) {
            return Err(Unavailable("proof that the shard's owner is gone"));
        }
        state.shards[usize::from(shard.0)] = Some(new.clone());
        let died = expected.is_some_and(|former| !state.lives(former));
        if let (true, Some(faults), Some(log)) = (died, &shared.faults, state.logs.get_mut(&shard)) {
            log.lose_last(faults.lost_at_claim(log.entries.len()));
        }
        shared.publish_view(&state);
        Ok(Claim::Won)
    }

    pub(crate) fn add_session(
        &self,
        user: &UserId,
        session: SessionRecord,
        max: usize,
    ) -> Result<Vec<SessionRecord>, Unavailable> {
        let shared = self.reach()?;
        let mut state = shared.lock();
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
        let shared = self.reach()?;
        let state = shared.lock();
        let records = state.sessions.get(user).cloned().unwrap_or_default();
        let lives = |record: &SessionRecord| {
            state.leases.get(&record.node).is_some_and(|(lease, _)| lease.incarnation == record.incarnation)
        };
        Ok(records.into_iter().filter(lives).collect())
    }

    pub(crate) fn remove_session(&self, user: &UserId, session: &SessionId) -> Result<(), Unavailable> {
        let mut state = self.seen()?.lock();
        if let Some(records) = state.sessions.get_mut(user) {
            records.retain(|record| record.session != *session);
            if records.is_empty() {
                state.sessions.remove(user);
            }
        }
        Ok(())
    }

    pub(crate) fn publish_lobbies(
        &self,
        node: &NodeName,
        changed: Vec<LobbySummary>,
        removed: Vec<LobbyId>,
    ) -> Result<(), Unavailable> {
        let shared = self.reach()?;
        let mut state = shared.lock();
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
        let shared = self.reach()?;
        let state = shared.lock();
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
}
