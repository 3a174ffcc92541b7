//! Who is alive, who owns which shard, where a user's sessions are, and which lobbies there are to see.

use std::sync::Arc;

use mlms_protocol::{Incarnation, LobbyId, NodeName, SessionId, Shard, UserId};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::Unavailable;
use crate::embedded::Sight;
use crate::redis::{Lifeline, RedisDirectory};
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
pub struct Directory(Kind);

#[derive(Clone)]
enum Kind {
    Embedded(Sight),
    Redis(Arc<RedisDirectory>, #[expect(dead_code, reason = "acts when it is dropped")] Lifeline),
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Kind::Embedded(_) => "Directory(embedded)",
            Kind::Redis(..) => "Directory(Redis)",
        })
    }
}

impl Directory {
    pub(crate) fn embedded(sight: Sight) -> Self {
        Directory(Kind::Embedded(sight))
    }

    pub(crate) fn redis(directory: Arc<RedisDirectory>, lifeline: Lifeline) -> Self {
        Directory(Kind::Redis(directory, lifeline))
    }

    /// Whether it is a part of this process.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        matches!(self.0, Kind::Embedded(_))
    }

    /// The view as last known; never waits.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        match &self.0 {
            Kind::Embedded(embedded) => embedded.view(),
            Kind::Redis(redis, _) => redis.view(),
        }
    }

    /// Tells of every change of the view.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        match &self.0 {
            Kind::Embedded(embedded) => embedded.watch(),
            Kind::Redis(redis, _) => redis.watch(),
        }
    }

    /// Reads the whole view again.
    ///
    /// # Errors
    /// The directory is out of reach; the last known view stays.
    pub async fn refresh(&self) -> Result<Arc<View>, Unavailable> {
        match &self.0 {
            Kind::Embedded(embedded) => embedded.refresh(),
            Kind::Redis(redis, _) => redis.refresh().await,
        }
    }

    /// Takes or renews a node's lease, and tells its state and load.
    ///
    /// # Errors
    /// The directory is out of reach.
    pub async fn renew(&self, record: &NodeRecord) -> Result<Renewal, Unavailable> {
        match &self.0 {
            Kind::Embedded(embedded) => embedded.renew(record),
            Kind::Redis(redis, _) => redis.renew(record).await,
        }
    }

    /// The newest run under this name that the directory knows of, whether or not it lives. A process that starts takes
    /// a higher incarnation, whatever its clock says: it would be taken for an older run else.
    ///
    /// # Errors
    /// The directory is out of reach.
    pub async fn former_run(&self, node: &NodeName) -> Result<Option<Incarnation>, Unavailable> {
        match &self.0 {
            Kind::Embedded(embedded) => embedded.former_run(node),
            Kind::Redis(redis, _) => redis.former_run(node).await,
        }
    }

    /// Ends a node's lease at once: as its last act, or on its behalf when it is known to be gone. A node that lives
    /// after all takes its lease again with its next renewal.
    ///
    /// # Errors
    /// The directory is out of reach; the lease runs out by itself.
    pub async fn retire(&self, node: &NodeName, incarnation: Incarnation) -> Result<(), Unavailable> {
        match &self.0 {
            Kind::Embedded(embedded) => embedded.retire(node, incarnation),
            Kind::Redis(redis, _) => redis.retire(node, incarnation).await,
        }
    }

    /// Replaces a shard's record if it is what the claimant expects. The new record's epoch must be higher. An owner
    /// gives its shard to whom it likes; a restarted node takes what its former run owned; nobody else takes a
    /// shard from a node whose lease lives.
    ///
    /// # Errors
    /// The directory is out of reach: the claim may have been won; claiming again tells. Or the owner's lease is
    /// gone, but not long enough to prove that the node is: after an outage of the directory all leases are. A
    /// claimant that keeps its own lease is let through within [`LEASE`] of unbroken contact.
    pub async fn claim(
        &self,
        shard: Shard,
        expected: Option<&ShardRecord>,
        new: &ShardRecord,
    ) -> Result<Claim, Unavailable> {
        match &self.0 {
            Kind::Embedded(embedded) => embedded.claim(shard, expected, new).await,
            Kind::Redis(redis, _) => redis.claim(shard, expected, new).await,
        }
    }

    /// Replaces a shard's record whoever's it is: who gave the shard away takes it back, because the new owner does
    /// not serve it, and an owner whose claim the directory has lost claims anew. Whoever loses finds out at its next
    /// append.
    ///
    /// # Errors
    /// The directory is out of reach: it may have happened; trying again tells.
    pub async fn take_back(
        &self,
        shard: Shard,
        expected: Option<&ShardRecord>,
        new: &ShardRecord,
    ) -> Result<Claim, Unavailable> {
        match &self.0 {
            Kind::Embedded(embedded) => embedded.claim(shard, expected, new).await,
            Kind::Redis(redis, _) => redis.take_back(shard, expected, new).await,
        }
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
        match &self.0 {
            Kind::Embedded(embedded) => embedded.add_session(user, session, max),
            Kind::Redis(redis, _) => redis.add_session(user, session, max).await,
        }
    }

    /// A user's sessions on nodes that live, the oldest first.
    ///
    /// # Errors
    /// The directory is out of reach.
    pub async fn sessions(&self, user: &UserId) -> Result<Vec<SessionRecord>, Unavailable> {
        match &self.0 {
            Kind::Embedded(embedded) => embedded.sessions(user),
            Kind::Redis(redis, _) => redis.sessions(user).await,
        }
    }

    /// Removes a session that has ended.
    ///
    /// # Errors
    /// The directory is out of reach; the record dies with its node's lease.
    pub async fn remove_session(&self, user: &UserId, session: &SessionId) -> Result<(), Unavailable> {
        match &self.0 {
            Kind::Embedded(embedded) => embedded.remove_session(user, session),
            Kind::Redis(redis, _) => redis.remove_session(user, session).await,
        }
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
        match &self.0 {
            Kind::Embedded(embedded) => embedded.publish_lobbies(node, changed, removed),
            Kind::Redis(redis, _) => redis.publish_lobbies(node, changed, removed).await,
        }
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
        match &self.0 {
            Kind::Embedded(embedded) => embedded.lobbies(after, limit),
            Kind::Redis(redis, _) => redis.lobbies(after, limit).await,
        }
    }
}
