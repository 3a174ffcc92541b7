//! What a node has under way, told with its lease so that an operator sees it without asking every node: moves of
//! shards, and how far event store, message broker and the other nodes are behind. `lease.rs` tells it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mlms_cluster::view::{MOVES_MAX, Move, Progress};
use mlms_protocol::{NodeName, Shard};
use prometheus::IntGauge;

use crate::node::Node;

/// The shards that this node is giving away now.
#[derive(Debug, Default)]
pub(crate) struct Moves(Mutex<BTreeMap<Shard, NodeName>>);

/// A move that is under way until this is dropped.
pub(crate) struct UnderWay<'a> {
    moves: &'a Moves,
    shard: Shard,
}

impl Moves {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Shard, NodeName>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin(&self, shard: Shard, to: &NodeName) -> UnderWay<'_> {
        self.lock().insert(shard, to.clone());
        UnderWay { moves: self, shard }
    }

    fn list(&self) -> Vec<Move> {
        let moves = self.lock();
        moves.iter().take(MOVES_MAX).map(|(shard, to)| Move { shard: *shard, to: to.clone() }).collect()
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.moves.lock().remove(&self.shard);
    }
}

/// What the node has under way now. Looks at counters only: a renewal waits for no worker.
pub(crate) fn of(node: &Node) -> Progress {
    let (metrics, view) = (&node.metrics, node.directory.view());
    let count = |gauge: &IntGauge| u64::try_from(gauge.get()).unwrap_or(0);
    let moved = |outcome| metrics.moves.with_label_values(&[outcome]).get();
    let links = node.links.stats();
    let silences = links.iter().filter(|link| view.nodes.contains_key(&link.peer));
    Progress {
        moves: node.moves.list(),
        moved: moved("served"),
        kept: moved("kept") + moved("taken_back"),
        archive_events: count(&metrics.archive_backlog),
        publish_entries: count(&metrics.publish_backlog),
        link_bytes: links.iter().map(|link| u64::try_from(link.unacked_bytes).unwrap_or(u64::MAX)).sum(),
        link_silent_ms: silences.filter_map(|link| link.heard_ms_ago).max(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_is_listed_until_it_is_over() {
        let (moves, to) = (Moves::default(), NodeName::new("b").unwrap());
        let first = moves.begin(Shard(7), &to);
        let second = moves.begin(Shard(3), &to);
        let listed = |shard| Move { shard: Shard(shard), to: to.clone() };
        assert_eq!(moves.list(), [listed(3), listed(7)]);
        drop(second);
        assert_eq!(moves.list(), [listed(7)]);
        drop(first);
        assert_eq!(moves.list(), []);
    }
}
