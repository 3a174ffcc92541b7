//! What a node does at the moment, as an operator wants to see it.

use std::sync::{Arc, Weak};

use mlms_cluster::View;
use mlms_cluster::link::LinkStats;
use mlms_protocol::{Epoch, Incarnation, NodeName, Shard};
use serde::Serialize;

use crate::node::Node;
use crate::worker::Moved;

/// What an operator can see of a running node, and ask of it.
#[derive(Clone)]
pub struct Operator(Arc<Node>);

impl std::fmt::Debug for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Operator({})", self.0.name)
    }
}

/// Looks at a node without keeping it alive.
#[derive(Clone)]
pub struct Observer(Weak<Node>);

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Observer({:?})", self.0.upgrade().map(|node| node.name.clone()))
    }
}

impl Observer {
    /// The node as it is now; none once it has stopped. Waits for the workers, for those that do not turn not long.
    pub async fn status(&self) -> Option<NodeStatus> {
        Some(Operator(self.0.upgrade()?).status().await)
    }
}

/// One node.
#[derive(Debug, Clone, Serialize)]
pub struct NodeStatus {
    pub node: NodeName,
    pub incarnation: Incarnation,
    pub draining: bool,
    pub sessions: usize,
    /// The shards that it owns or is about to own, by number.
    pub shards: Vec<ShardReport>,
    pub links: Vec<LinkReport>,
}

/// What a node does with a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardState {
    /// It is being claimed, or read.
    Claiming,
    /// Its present owner is about to give it to this node.
    Expecting,
    Serving,
    /// The journal does not answer.
    Degraded,
    /// It is being given to another node.
    Moving,
}

/// One shard at one node.
#[derive(Debug, Clone, Serialize)]
pub struct ShardReport {
    pub shard: Shard,
    pub state: ShardState,
    /// None while it is claimed.
    pub epoch: Option<Epoch>,
    /// Where it moves to, or comes from.
    pub peer: Option<NodeName>,
    pub lobbies: usize,
    /// Entries of the journal that are in memory.
    pub kept_entries: usize,
    /// Entries that the event store does not have yet.
    pub archive_lag: usize,
    /// Commands that wait for the shard.
    pub waiting: usize,
}

/// One link to another node.
#[derive(Debug, Clone, Serialize)]
pub struct LinkReport {
    pub peer: NodeName,
    /// Bytes said to it that it has not acknowledged.
    pub unacked_bytes: usize,
    /// Batches sent to it again, since this node's start.
    pub resent: u64,
    /// How often the link to it began anew.
    pub resets: u64,
    /// Milliseconds since anything came from it; none: nothing ever did.
    pub heard_ms_ago: Option<u64>,
}

impl From<LinkStats> for LinkReport {
    fn from(stats: LinkStats) -> Self {
        let LinkStats { peer, unacked_bytes, resent, resets, heard_ms_ago } = stats;
        LinkReport { peer, unacked_bytes, resent, resets, heard_ms_ago }
    }
}

impl Operator {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Operator(node)
    }

    /// What only looks at the node.
    #[must_use]
    pub fn observer(&self) -> Observer {
        Observer(Arc::downgrade(&self.0))
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.0.name
    }

    /// The node as it is now. Waits for the workers.
    pub async fn status(&self) -> NodeStatus {
        let mut shards = self.0.reports().await;
        shards.sort_by_key(|report| report.shard);
        let mut links: Vec<_> = self.0.links.stats().into_iter().map(LinkReport::from).collect();
        links.sort_by(|one, other| one.peer.cmp(&other.peer));
        NodeStatus {
            node: self.0.name.clone(),
            incarnation: self.0.incarnation,
            draining: self.0.is_draining(),
            sessions: self.0.sessions().len(),
            shards,
            links,
        }
    }

    /// Gives a shard to another node while both go on. `true`: that node serves it now.
    pub async fn move_shard(&self, shard: Shard, to: &NodeName) -> bool {
        self.0.move_shard(shard, to.clone()).await == Moved::Served
    }

    /// The cluster as this node sees it.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.0.directory.view()
    }
}
