//! The cluster as one process sees it: nodes with their leases, and who owns which shard. A view is a hint for
//! routing; what decides is the compare-and-set on a shard's record and the fence of the journal.

use std::collections::BTreeMap;

use mlms_protocol::placement::{self, SHARD_COUNT};
use mlms_protocol::{Epoch, Incarnation, LobbyId, NodeName, Shard, UserId};
use serde::{Deserialize, Serialize};

/// Whether a node takes new sessions and shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    Ready,
    /// Keeps what it has until it is moved away; takes nothing new.
    Draining,
}

/// What a node carries, for planning and for the operator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLoad {
    pub sessions: u32,
    pub lobbies: u32,
    pub shards: u32,
    /// Only for the operator: a change of it is no news to anybody. The release before tells none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

/// What a node has under way, as it was when it renewed its lease.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// The shards that it is giving to other nodes; [`MOVES_MAX`] of them at most.
    pub moves: Vec<Move>,
    /// Shards that it has given away since its start and that are served there.
    pub moved: u64,
    /// Moves that came to nothing: the shard stayed.
    pub kept: u64,
    /// Events in the journal that the event store does not have yet.
    pub archive_events: u64,
    /// Journal entries in the event store whose domain events did not go out yet.
    pub publish_entries: u64,
    /// Bytes said to other nodes that these have not acknowledged.
    pub link_bytes: u64,
    /// Since when it has heard nothing of that living node of which it has heard nothing for the longest time, in
    /// milliseconds.
    pub link_silent_ms: Option<u64>,
}

/// How many moves a node tells of. A lease is small, and no node has more of them under way.
pub const MOVES_MAX: usize = 32;

/// A shard on its way to another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    pub shard: Shard,
    pub to: NodeName,
}

/// A node's lease: who it is, where it is reached, what it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    pub name: NodeName,
    /// The run of the process; a lease counts only for it.
    pub incarnation: Incarnation,
    /// `host:port` at which brokers reach the node's listener.
    pub address: String,
    /// Where players reach the node directly (`ws://…` or `wss://…`), if they may.
    pub public_url: Option<String>,
    pub state: NodeState,
    pub load: NodeLoad,
}

impl NodeRecord {
    /// Whether nobody but an operator would see a difference.
    pub(crate) fn is_no_news(&self, known: &NodeRecord) -> bool {
        let plain = |record: &NodeRecord| NodeRecord {
            load: NodeLoad { progress: None, ..record.load.clone() },
            ..record.clone()
        };
        self == known || plain(self) == plain(known)
    }
}

/// A shard's record: its owner and the generation of that ownership.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRecord {
    pub node: NodeName,
    pub incarnation: Incarnation,
    pub epoch: Epoch,
}

/// All nodes with a live lease, and all shard records.
#[derive(Debug, Clone, Default)]
pub struct View {
    pub nodes: BTreeMap<NodeName, NodeRecord>,
    /// By shard number; a shard that was never claimed is `None`.
    pub shards: Vec<Option<ShardRecord>>,
    /// How often the directory was found to have lost records. What it lost stays here: epochs never go back, and
    /// the owners claim anew.
    pub lost: u64,
}

impl View {
    #[must_use]
    pub fn empty() -> Self {
        View { nodes: BTreeMap::new(), shards: vec![None; usize::from(SHARD_COUNT)], lost: 0 }
    }

    /// Takes this reading for the one that follows `former`. Records that it lacks, or has in an older state, are kept.
    /// `true`: the directory has just lost some.
    pub(crate) fn follow(&mut self, former: &View) -> bool {
        let mut has_lost = false;
        self.lost = former.lost;
        for (record, known) in self.shards.iter_mut().zip(&former.shards) {
            let Some(known) = known else { continue };
            if record.as_ref().is_none_or(|record| record.epoch < known.epoch) {
                *record = Some(known.clone());
                has_lost = true;
            }
        }
        if has_lost {
            self.lost += 1;
        }
        has_lost
    }

    /// The record of a shard, whether or not its owner lives.
    #[must_use]
    pub fn record(&self, shard: Shard) -> Option<&ShardRecord> {
        self.shards.get(usize::from(shard.0)).and_then(Option::as_ref)
    }

    /// The owner of a shard, if its lease lives and is of the incarnation that claimed it.
    #[must_use]
    pub fn owner(&self, shard: Shard) -> Option<&NodeRecord> {
        let record = self.record(shard)?;
        self.nodes.get(&record.node).filter(|node| node.incarnation == record.incarnation)
    }

    fn ready(&self) -> impl Iterator<Item = &NodeName> {
        self.nodes.values().filter(|node| node.state == NodeState::Ready).map(|node| &node.name)
    }

    /// The ready node that should claim a shard nobody owns.
    #[must_use]
    pub fn heir(&self, shard: Shard) -> Option<&NodeRecord> {
        placement::nodes_for_shard(shard, self.ready()).first().and_then(|name| self.nodes.get(*name))
    }

    /// The ready nodes in the order in which a user's session should try them.
    #[must_use]
    pub fn nodes_for_user(&self, user: &UserId) -> Vec<&NodeRecord> {
        placement::nodes_for_user(user, self.ready())
            .into_iter()
            .filter_map(|name| self.nodes.get(name))
            .collect()
    }

    /// The ready nodes in the order in which a session that names a lobby should try them: its live owner
    /// first, then the nodes that would inherit the shard.
    #[must_use]
    pub fn nodes_for_lobby(&self, lobby: &LobbyId) -> Vec<&NodeRecord> {
        self.nodes_for_shard(placement::shard_of(lobby))
    }

    /// The same for a lobby of this shard.
    #[must_use]
    pub fn nodes_for_shard(&self, shard: Shard) -> Vec<&NodeRecord> {
        let owner = self.owner(shard).filter(|node| node.state == NodeState::Ready);
        let heirs = placement::nodes_for_shard(shard, self.ready());
        let heirs = heirs.into_iter().filter_map(|name| self.nodes.get(name));
        owner
            .into_iter()
            .chain(heirs.filter(|node| Some(node.name.as_str()) != owner.map(|o| o.name.as_str())))
            .collect()
    }
}

/// A line in the list of lobbies, published by the lobby's owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LobbySummary {
    pub lobby: LobbyId,
    pub name: String,
    pub members: u32,
    pub capacity: u32,
    pub visibility: mlms_protocol::lobby::Visibility,
    #[serde(default)]
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// A password is asked for.
    #[serde(default)]
    pub locked: bool,
    #[serde(default)]
    pub invite_only: bool,
    /// Players come in at the moment, as far as there is room.
    #[serde(default)]
    pub joinable: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(nodes: &[(&str, u64, NodeState)]) -> View {
        let mut view = View::empty();
        for (name, incarnation, state) in nodes {
            let name = NodeName::new(name).unwrap();
            let record = NodeRecord {
                name: name.clone(),
                incarnation: Incarnation(*incarnation),
                address: format!("{name}:1"),
                public_url: None,
                state: *state,
                load: NodeLoad::default(),
            };
            view.nodes.insert(name, record);
        }
        view
    }

    #[test]
    fn a_lobby_goes_to_its_live_owner_first_and_never_to_a_dead_or_draining_one() {
        let mut view =
            view(&[("a", 1, NodeState::Ready), ("b", 1, NodeState::Ready), ("c", 1, NodeState::Draining)]);
        let lobby = LobbyId::new("lounge").unwrap();
        let shard = placement::shard_of(&lobby);
        for (owner, incarnation, first) in
            [("a", 1, Some("a")), ("b", 1, Some("b")), ("b", 0, None), ("c", 1, None)]
        {
            let node = NodeName::new(owner).unwrap();
            view.shards[usize::from(shard.0)] =
                Some(ShardRecord { node, incarnation: Incarnation(incarnation), epoch: Epoch(1) });
            let order: Vec<_> = view.nodes_for_lobby(&lobby).iter().map(|n| n.name.to_string()).collect();
            assert_eq!(order.len(), 2, "{order:?}");
            assert!(!order.contains(&"c".to_owned()));
            match first {
                Some(first) => assert_eq!(order[0], first),
                None => assert_eq!(order[0], view.heir(shard).unwrap().name.to_string()),
            }
        }
    }
}
