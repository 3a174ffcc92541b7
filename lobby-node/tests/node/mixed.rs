//! A fleet that rolls from a build that passes for the release before, and back: what it wrote is read.

use std::sync::Arc;

use mlms_cluster::embedded::Faults;
use mlms_protocol::command::Position;
use mlms_protocol::{JoinStatus, LobbyId, Seq};

use crate::fleet::{Fleet, Plan, lobby, node_name};
use crate::stories::no_rates;

const NODES: usize = 3;

/// Restarts a node as one of this release or of the one before.
async fn roll(fleet: &Arc<Fleet>, faults: &Faults, node: usize, older: bool) {
    fleet.drain(node).await;
    faults.set_older(&node_name(node), older);
    fleet.start_node(node);
}

/// A member comes back to where it was, hears what it missed, and says something on each node in turn.
async fn talk(fleet: &Arc<Fleet>, lobby: &LobbyId, at: &mut Position, round: usize) {
    for node in 0..NODES {
        let mut ann = fleet.connect(node, "ann").await;
        let joined = ann.join_since(lobby, *at).await;
        assert_eq!(joined.status, JoinStatus::Resumed, "round {round}, node {node}");
        let seq = ann.chat(lobby, &format!("{round} on {node}")).await;
        at.seq = seq;
        at.epoch = ann.history(lobby, seq.0 - 1).await[0].epoch;
        ann.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_fleet_rolls_from_the_release_before_and_back() {
    let faults = Faults::seeded(1);
    for node in 0..NODES {
        faults.set_older(&node_name(node), true);
    }
    let plan = Plan { nodes: NODES, limits: no_rates(), faults: Some(faults.clone()), ..Plan::default() };
    let fleet = Fleet::start(plan).await;
    let hall = lobby("hall");
    let mut ann = fleet.connect(0, "ann").await;
    let joined = ann.join(&hall).await;
    let mut at = Position { epoch: joined.epoch, seq: joined.seq };
    ann.close().await;
    talk(&fleet, &hall, &mut at, 0).await;
    let mut round = 0;
    for older in [false, true] {
        for node in 0..NODES {
            // In between the fleet is mixed, and lobbies move both ways.
            roll(&fleet, &faults, node, older).await;
            round += 1;
            talk(&fleet, &hall, &mut at, round).await;
            fleet.move_lobby(&hall, round % NODES).await;
            // And one dies: the heir has only what it wrote.
            let owner = fleet.owner(&hall).unwrap();
            fleet.kill(owner);
            fleet.start_node(owner);
            talk(&fleet, &hall, &mut at, round).await;
        }
    }
    let mut reader = fleet.connect(0, "reader").await;
    reader.join(&hall).await;
    let events = reader.history(&hall, 0).await;
    let seqs: Vec<Seq> = events.iter().map(|event| event.seq).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).map(Seq).collect::<Vec<_>>());
    assert!(at.seq.0 >= 13 * NODES as u64, "{at:?}");
    for node in 0..NODES {
        assert_eq!(fleet.metric(node, "mlms_unreadable_total", None), 0.0, "node {node}");
    }
}
