//! A broker that stops.

use std::collections::HashSet;
use std::time::Duration;

use mlms_broker::BrokerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::node::{Manner, Release, on_nodes_of_both_releases};
use crate::stage::{PATIENCE, Stage};
use crate::tunnels::{noise, threads};

on_nodes_of_both_releases!(
    nodes_learn_who_leaves_and_the_broker_goes_with_the_last,
    tunnels_of_nodes_that_cannot_be_told_are_cut_at_the_end,
    a_hurry_ends_all_tunnels_at_once,
);

async fn nodes_learn_who_leaves_and_the_broker_goes_with_the_last(release: Release) {
    let mut stage = Stage::new(
        release,
        3,
        BrokerConfig { drain: Duration::from_secs(600), ..BrokerConfig::default() },
        true,
    )
    .await;
    let mut clients = Vec::new();
    for number in 0..20 {
        clients.push(stage.open(&format!("user-{number}")).await);
    }
    let gone = stage.open("gone").await;
    drop(gone);
    stage.until_metric("mlms_broker_tunnels_ended_total", "", 1.0).await;
    // A 101 is out before its tunnel stands.
    stage.until_metric("mlms_broker_connections", "", 20.0).await;

    stage.shutdown.signal();
    for node in
        stage.nodes.iter().filter(|node| node.seen().iter().any(|seen| seen.ticket.user.as_str() != "gone"))
    {
        let leaving = node.bye().await;
        let expected: HashSet<_> = node
            .seen()
            .into_iter()
            .filter(|seen| seen.ticket.user.as_str() != "gone")
            .map(|seen| seen.ticket.session)
            .collect();
        assert_eq!(leaving.sessions.iter().cloned().collect::<HashSet<_>>(), expected, "{}", node.name);
        assert_eq!((leaving.code, leaving.window_ms[0]), (4000, 0));
        // So few come back within a second, however long the drain may take: they have no connection meanwhile.
        assert!((1..=1_100).contains(&leaving.window_ms[1]), "{leaving:?}");
    }
    assert!(!stage.readiness.is_ready());
    let late = stage.handshake("/ws", &[("authorization", &stage.bearer("late"))]).await;
    assert_eq!((late.status, late.header("retry-after").is_some()), (503, true));
    assert_eq!(stage.metric("mlms_broker_handshakes_total", "draining"), 1.0);
    let ticket = stage.request("POST", "/v1/connect", &[("authorization", &stage.bearer("late"))], "").await;
    assert_eq!(ticket.status, 503);
    assert_eq!(stage.metric("mlms_broker_connections", ""), 20.0, "nobody is cut");

    drop((clients, late, ticket));
    stage.stopped().await;
    assert!(TcpStream::connect(stage.address).await.is_err(), "the listener is closed");
    assert_eq!(stage.metric("mlms_broker_tunnels_ended_total", "cut"), 0.0);
}

async fn tunnels_of_nodes_that_cannot_be_told_are_cut_at_the_end(release: Release) {
    let mut stage = Stage::new(
        release,
        1,
        BrokerConfig { drain: Duration::from_millis(200), ..BrokerConfig::default() },
        true,
    )
    .await;
    let mut client = stage.open("ann").await;
    stage.nodes[0].set_manner(Manner::Status(500));
    stage.shutdown.signal();
    stage.stopped().await;
    assert_eq!(client.read(&mut [0; 8]).await.unwrap_or(0), 0);
    assert_eq!(stage.metric("mlms_broker_tunnels_ended_total", "cut"), 1.0);
    assert_eq!(stage.metric("mlms_broker_bye_batches_total", "failed"), 1.0);
}

async fn a_hurry_ends_all_tunnels_at_once(release: Release) {
    let mut stage = Stage::new(
        release,
        1,
        BrokerConfig { drain: Duration::from_secs(600), ..BrokerConfig::default() },
        true,
    )
    .await;
    let mut client = stage.open("ann").await;
    stage.shutdown.signal();
    stage.nodes[0].bye().await;
    assert_eq!(stage.nodes[0].byes(), 1);
    stage.shutdown.signal();
    stage.stopped().await;
    assert_eq!(client.read(&mut [0; 8]).await.unwrap_or(0), 0);
    assert_eq!(stage.metric("mlms_broker_connections", ""), 0.0);
}

#[tokio::test]
async fn a_node_that_hears_late_hears_all_that_players_said_before_the_end() {
    /// What each says: all that may be under way to a node that does not read.
    const WINDOW: usize = 64 * 1024;
    /// So many that what they say is more than the kernel keeps for a connection.
    const PLAYERS: u64 = 80;
    let config = BrokerConfig { connections_per_address_max: 10_000, ..BrokerConfig::default() };
    let mut stage = Stage::with_config(config).await;
    stage.nodes[0].set_manner(Manner::HandOver);
    let (mut players, mut ends) = (Vec::new(), Vec::new());
    for _ in 0..PLAYERS {
        players.push(stage.open("ann").await);
        ends.push(stage.nodes[0].connection().await);
        // The others' turn: all players are on the same trunk.
        for _ in 1..threads() {
            drop((stage.open("bob").await, stage.nodes[0].connection().await));
        }
    }
    stage.nodes[0].set_deaf(true);
    for (player, seed) in players.iter_mut().zip(0..) {
        player.write_all(&noise(WINDOW, seed)).await.unwrap();
    }
    // As much as a trunk takes in any case.
    let carried = |stage: &Stage| stage.metric("mlms_broker_carried_bytes_total", "node");
    let taken = async {
        while carried(&stage) < f64::from(1 << 20) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, taken).await.expect("the trunk takes what it has room for");

    stage.shutdown.signal();
    stage.shutdown.signal();
    for player in &mut players {
        assert_eq!(player.read(&mut [0; 8]).await.unwrap_or(0), 0, "it is cut");
    }
    let closed = async {
        while TcpStream::connect(stage.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.expect("the listener is closed");
    let ended = stage.until_metric("mlms_broker_trunks", "", 0.0);
    assert!(tokio::time::timeout(Duration::from_millis(100), ended).await.is_err(), "the broker waits");
    stage.nodes[0].set_deaf(false);
    stage.stopped().await;
    let mut heard = 0;
    for (mut end, seed) in ends.into_iter().zip(0..) {
        let mut bytes = Vec::new();
        let reading = tokio::time::timeout(PATIENCE, end.read_to_end(&mut bytes));
        reading.await.expect("its stream ends").unwrap();
        assert!(noise(WINDOW, seed).starts_with(&bytes), "player {seed}: {} bytes", bytes.len());
        heard += bytes.len();
    }
    assert_eq!(heard as f64, carried(&stage));
}
