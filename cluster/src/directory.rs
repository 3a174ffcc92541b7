//! Who is alive, who owns which shard, where a user's sessions are, and which lobbies there are to see.

use std::sync::Arc;

use mlms_protocol::{Incarnation, LobbyId, NodeName, SessionId, Shard, UserId};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::Unavailable;
use crate::embedded::Shared;
use crate::view::{LobbySummary, NodeRecord, ShardRecord, View};

/// How long a node counts as alive after its last renewal.
pub const LEASE: std::time::Duration = std::time::Duration::from_secs(6);
/// How often a node renews its lease.
pub const RENEWAL: std::time::Duration = std::time::Duration::from_secs(2);

/// What became of a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    Held,
    /// A newer process runs under this name. This one must stop.
    Superseded,
}

/// What became of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    Won,
    /// The record was not what the claimant expected; this is what it is.
    Lost(Option<ShardRecord>),
}

/// One of a user's sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    pub session: SessionId,
    pub node: NodeName,
    pub incarnation: Incarnation,
}

/// A handle to the directory.
#[derive(Clone)]
pub struct Directory(Arc<Shared>);

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Directory(embedded)")
    }
}

impl Directory {
    pub(crate) fn embedded(shared: Arc<Shared>) -> Self {
        Directory(shared)
    }

    /// The view as last known; never waits.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.0.view()
    }

    /// Tells of every change of the view.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.0.watch()
    }

    /// Reads the whole view again.
    ///
    /// # Errors
    /// The directory is out of reach; the last known view stays.
    pub async fn refresh(&self) -> Result<Arc<View>, Unavailable> {
        self.0.refresh()
    }

    /// Takes or renews a node's lease, and tells its state and load.
    ///
    /// # Errors
    /// The directory is out of reach.
    pub async fn renew(&self, record: &NodeRecord) -> Result<Renewal, Unavailable> {
        self.0.renew(record)
    }

    /// Ends a node's lease at once, as its last act.
    ///
    /// # Errors
    /// The directory is out of reach; the lease runs out by itself.
    pub async fn retire(&self, node: &NodeName, incarnation: Incarnation) -> Result<(), Unavailable> {
        self.0.retire(node, incarnation)
    }

    /// Replaces a shard's record if it is what the claimant expects. The new record's epoch must be higher.
    ///
    /// # Errors
    /// The directory is out of reach: the claim may have been won; claiming again tells.
    pub async fn claim(
        &self,
        shard: Shard,
        expected: Option<&ShardRecord>,
        new: &ShardRecord,
    ) -> Result<Claim, Unavailable> {
        self.0.claim(shard, expected, new).await
    }

    /// Adds a session of a user, and gives the oldest ones beyond `max`, which are to be closed. Sessions on
    /// nodes that are gone do not count.
    ///
    /// # Errors
    /// The directory is out of reach; the session is not counted then.
    pub async fn add_session(
        &self,
        user: &UserId,
        session: SessionRecord,
        max: usize,
    ) -> Result<Vec<SessionRecord>, Unavailable> {
        self.0.add_session(user, session, max)
    }

    /// Removes a session that has ended.
    ///
    /// # Errors
    /// The directory is out of reach; the record dies with its node's lease.
    pub async fn remove_session(&self, user: &UserId, session: &SessionId) -> Result<(), Unavailable> {
        self.0.remove_session(user, session);
        Ok(())
    }

    /// Publishes what changed in the list of lobbies that a node owns.
    ///
    /// # Errors
    /// The directory is out of reach; the caller publishes again later.
    pub async fn publish_lobbies(
        &self,
        node: &NodeName,
        changed: Vec<LobbySummary>,
        removed: Vec<LobbyId>,
    ) -> Result<(), Unavailable> {
        self.0.publish_lobbies(node, changed, removed)
    }

    /// Public lobbies whose owner lives, ascending by id, from behind `after`.
    ///
    /// # Errors
    /// The directory is out of reach.
    pub async fn lobbies(
        &self,
        after: Option<&LobbyId>,
        limit: usize,
    ) -> Result<Vec<LobbySummary>, Unavailable> {
        self.0.lobbies(after, limit)
    }
}
