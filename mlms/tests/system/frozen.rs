//! A process that stands still for a while is the one that was silent, not its players.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::cluster::Cluster;

/// A masked pong without a payload.
const PONG: [u8; 6] = [0x8a, 0x80, 0, 0, 0, 0];
/// Longer than a peer may be silent after a ping.
const FREEZE: Duration = Duration::from_secs(11);

#[tokio::test]
async fn whoever_answered_while_the_service_stood_still_is_not_closed_for_silence() {
    let mut cluster = Cluster::with(&[("MLMS_HEARTBEAT_MS", "500")]).await;
    cluster.expect_log("degraded");
    cluster.expect_log("lease");
    let mut players = Vec::new();
    for number in 0..10 {
        players.push(cluster.player(&format!("player-{number}")).await);
    }
    // Each has a ping now that it has not answered.
    for player in &mut players {
        let mut ping = [0; 2];
        tokio::io::AsyncReadExt::read_exact(player.raw(), &mut ping).await.unwrap();
        assert_eq!(ping, [0x89, 0]);
    }
    cluster.signal("STOP");
    for player in &mut players {
        player.raw().write_all(&PONG).await.unwrap();
    }
    tokio::time::sleep(FREEZE).await;
    cluster.signal("CONT");
    for player in &mut players {
        player.ask(json!({"op": "ping"})).await.unwrap();
    }
    assert_eq!(cluster.metric("mlms_closes_total", "no_pong").await, 0.0);
    drop(players);
    cluster.stop().await;
}
