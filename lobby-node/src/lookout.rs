//! Looks whether the next node in the order of names still takes connections. A process that was killed takes none:
//! its address refuses them at once, long before its lease has run out. Then the lease is ended on its behalf, so that
//! its lobbies are claimed sooner. A node that lives after all renews the lease, and is not given up so again; whatever
//! it had lost by then, its journal refuses.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use mlms_cluster::view::{NodeRecord, NodeState, View};
use mlms_protocol::{Incarnation, NodeName};
use tokio::net::TcpStream;

use crate::node::Node;

/// How often the neighbour is looked at.
const PERIOD: Duration = Duration::from_millis(500);
/// A connection that is neither made nor refused by then proves nothing.
const PATIENCE: Duration = Duration::from_millis(250);
/// Refusals in a row, and the pause between them.
const REFUSALS: usize = 3;
const PAUSE: Duration = Duration::from_millis(100);
/// A node whose words were heard within this time lives, whatever its address does.
const SILENCE_MS: u64 = 700;

/// Looks until the node stops.
pub(crate) async fn watch(node: Arc<Node>) {
    let mut given_up: HashSet<(NodeName, Incarnation)> = HashSet::new();
    let mut ticker = tokio::time::interval(PERIOD);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while node.stop.run_until_cancelled(ticker.tick()).await.is_some() {
        let view = node.directory.view();
        given_up.retain(|(name, incarnation)| {
            view.nodes.get(name).is_none_or(|known| known.incarnation == *incarnation)
        });
        let Some(neighbour) = neighbour(&view, &node.name) else { continue };
        let run = (neighbour.name.clone(), neighbour.incarnation);
        if given_up.contains(&run) || node.standing.is_degraded() || !refuses(&neighbour.address).await {
            continue;
        }
        if is_heard(&node, &neighbour.name) {
            // It may be dead all the same: looked at again.
            continue;
        }
        tracing::warn!(peer = %run.0, "a node's address refuses connections; its lease is ended");
        if node.directory.retire(&run.0, run.1).await.is_ok() {
            given_up.insert(run);
        }
    }
}

/// The node behind this one in the order of names, around the end; a node that is leaving closes its door itself.
fn neighbour<'a>(view: &'a View, me: &NodeName) -> Option<&'a NodeRecord> {
    let ready = || view.nodes.values().filter(|other| other.state == NodeState::Ready && other.name != *me);
    ready().find(|other| other.name > *me).or_else(|| ready().next())
}

async fn refuses(address: &str) -> bool {
    for look in 0..REFUSALS {
        if look > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        match tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await {
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {}
            _ => return false,
        }
    }
    true
}

fn is_heard(node: &Node, peer: &NodeName) -> bool {
    let links = node.links.stats();
    let link = links.iter().find(|link| link.peer == *peer);
    link.and_then(|link| link.heard_ms_ago).is_some_and(|ago| ago < SILENCE_MS)
}

#[cfg(test)]
mod tests {
    use mlms_cluster::view::NodeLoad;

    use super::*;

    #[test]
    fn every_node_that_stays_is_somebodys_neighbour() {
        let mut view = View::empty();
        for (name, state) in [("a", NodeState::Ready), ("b", NodeState::Draining), ("c", NodeState::Ready)] {
            let name = NodeName::new(name).expect("a name");
            let record = NodeRecord {
                name: name.clone(),
                incarnation: Incarnation(1),
                address: String::new(),
                public_url: None,
                state,
                load: NodeLoad::default(),
            };
            view.nodes.insert(name, record);
        }
        let of = |me: &str| {
            neighbour(&view, &NodeName::new(me).expect("a name")).map(|other| other.name.to_string())
        };
        assert_eq!((of("a"), of("b"), of("c")), (Some("c".into()), Some("c".into()), Some("a".into())));
        view.nodes.retain(|name, _| name.as_str() == "a");
        let me = NodeName::new("a").expect("a name");
        assert!(neighbour(&view, &me).is_none());
    }

    #[tokio::test]
    async fn a_closed_port_refuses_and_an_open_one_does_not() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        assert!(!refuses(&address).await);
        // Taken, so that nobody else gets it meanwhile, and nobody listens.
        let closed = tokio::net::TcpSocket::new_v4().expect("a socket");
        closed.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        assert!(refuses(&closed.local_addr().expect("bound").to_string()).await);
    }
}
