//! The embedded directory as one node sees it. A node that a plan of faults has made blind keeps its last view and
//! reaches nothing of the directory; the journal it reaches still. For everybody else nothing differs.

use std::sync::{Arc, Mutex, PoisonError};

use mlms_protocol::{Incarnation, LobbyId, NodeName, SessionId, Shard, UserId};
use tokio::sync::watch;

use super::Shared;
use crate::Unavailable;
use crate::directory::{Claim, Renewal, SessionRecord};
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

    /// What is shared, if it is in reach.
    fn reach(&self) -> Result<&Shared, Unavailable> {
        if self.is_blind() { Err(Unavailable("the directory")) } else { Ok(&self.shared) }
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
        self.shared.watch()
    }

    pub(crate) fn refresh(&self) -> Result<Arc<View>, Unavailable> {
        self.reach()?.refresh()
    }

    pub(crate) fn renew(&self, record: &NodeRecord) -> Result<Renewal, Unavailable> {
        self.reach()?.renew(record)
    }

    pub(crate) fn retire(&self, node: &NodeName, incarnation: Incarnation) -> Result<(), Unavailable> {
        self.reach()?.retire(node, incarnation)
    }

    pub(crate) async fn claim(
        &self,
        shard: Shard,
        expected: Option<&ShardRecord>,
        new: &ShardRecord,
    ) -> Result<Claim, Unavailable> {
        self.reach()?.claim(shard, expected, new).await
    }

    pub(crate) fn add_session(
        &self,
        user: &UserId,
        session: SessionRecord,
        max: usize,
    ) -> Result<Vec<SessionRecord>, Unavailable> {
        self.reach()?.add_session(user, session, max)
    }

    pub(crate) fn sessions(&self, user: &UserId) -> Result<Vec<SessionRecord>, Unavailable> {
        self.reach()?.sessions(user)
    }

    pub(crate) fn remove_session(&self, user: &UserId, session: &SessionId) -> Result<(), Unavailable> {
        self.reach()?.remove_session(user, session);
        Ok(())
    }

    pub(crate) fn publish_lobbies(
        &self,
        node: &NodeName,
        changed: Vec<LobbySummary>,
        removed: Vec<LobbyId>,
    ) -> Result<(), Unavailable> {
        self.reach()?.publish_lobbies(node, changed, removed)
    }

    pub(crate) fn lobbies(
        &self,
        after: Option<&LobbyId>,
        limit: usize,
    ) -> Result<Vec<LobbySummary>, Unavailable> {
        self.reach()?.lobbies(after, limit)
    }
}
