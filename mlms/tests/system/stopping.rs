//! How the process ends: politely, by itself, and hurried when it is told twice.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::cluster::Cluster;
use crate::player::{Player, gapless, seq};

#[tokio::test]
async fn a_signal_says_bye_to_every_session_and_the_process_ends_well() {
    for signal in ["TERM", "INT"] {
        let mut cluster = Cluster::start().await;
        let mut players = Vec::new();
        for number in 0..12 {
            // Some sit on the lobby's node and some on the other.
            let user = format!("player-{number}");
            let mut player = match number % 2 {
                0 => cluster.player_in(&user, "hall").await,
                _ => cluster.player(&user).await,
            };
            player.join("hall").await;
            players.push(player);
        }
        let last = players[3].chat("hall", "before the end").await;
        // Nobody waits for the answers to these.
        for player in &mut players {
            player.post(json!({"op": "send", "lobby": "hall", "kind": "chat", "body": "at the end", "nonce": "n"})).await;
        }
        cluster.signal(signal);
        let mut acknowledged = Vec::new();
        for player in &mut players {
            let goodbye = player.closed().await;
            assert_eq!(goodbye.code, Some(4000), "{signal}: {goodbye:?}");
            let bye = goodbye.bye.expect("a bye comes before the close");
            assert_eq!((&bye["code"], &bye["reconnect"]), (&json!(4000), &json!("window")));
            let (from, to) = (bye["window_ms"][0].as_u64().unwrap(), bye["window_ms"][1].as_u64().unwrap());
            assert!(from < to && to <= 20_000, "{bye}");
            acknowledged.extend(player.unread().filter_map(|frame| frame["ok"]["seq"].as_u64()));
        }
        let status = cluster.ended().await;
        assert_eq!(status.code(), Some(0), "{signal}");

        cluster.launch().await;
        let mut witness = cluster.player("witness").await;
        witness.join("hall").await;
        let events = witness.whole_history("hall").await;
        assert_eq!(gapless(&events).0, 1);
        for number in acknowledged.into_iter().chain([seq(&last)]) {
            let event = events.iter().find(|event| seq(event) == number);
            assert_eq!(event.map(|event| &event["ev"]), Some(&json!("message")), "{signal}: seq {number}");
        }
        drop((witness, players));
        cluster.stop().await;
    }
}

#[tokio::test]
async fn without_a_window_everybody_still_gets_the_word() {
    let mut cluster = Cluster::with(&[("MLMS_DRAIN_SECONDS", "0")]).await;
    let mut players = Vec::new();
    for number in 0..12 {
        players.push(cluster.player_in(&format!("player-{number}"), "hall").await);
    }
    cluster.signal("TERM");
    for player in &mut players {
        let goodbye = player.closed().await;
        assert_eq!(goodbye.code, Some(4000), "{goodbye:?}");
        assert_eq!(goodbye.bye.expect("a bye comes before the close")["reconnect"], "window");
    }
    assert!(cluster.ended().await.success());
}

#[tokio::test]
async fn a_process_without_sessions_ends_at_once() {
    let mut cluster = Cluster::with(&[("MLMS_DRAIN_SECONDS", "600")]).await;
    let ann = cluster.player_in("ann", "hall").await;
    ann.vanish();
    let gone = async {
        while cluster.metric("mlms_sessions", "").await > 0.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(crate::cluster::PATIENCE, gone).await.expect("the session ends");
    cluster.stop().await;
    assert_eq!(cluster.log().matches("\"draining\"").count(), 2, "{}", cluster.log());
}

#[tokio::test]
async fn while_it_drains_it_is_not_ready_and_takes_nobody() {
    let (mut cluster, stuck) = stuck_cluster("600").await;
    cluster.signal("TERM");
    let refused = async {
        loop {
            let bearer = format!("Bearer {}", cluster.token("late"));
            match cluster.open("/ws", &[("authorization", &bearer)]).await {
                Err((status, problem)) => break (status, problem),
                Ok(player) => drop(player),
            }
        }
    };
    let (status, problem) = tokio::time::timeout(crate::cluster::PATIENCE, refused).await.unwrap();
    assert_eq!(status, 503, "{problem}");
    assert!(problem["retry_ms"].is_u64(), "{problem}");
    assert!(!cluster.is_ready().await);
    // A second signal hurries.
    let begun = Instant::now();
    assert!(cluster.is_running());
    cluster.signal("TERM");
    let status = cluster.ended().await;
    assert!(status.success(), "{status}");
    assert!(begun.elapsed() < Duration::from_secs(30), "the drain had ten minutes");
    drop(stuck);
}

#[tokio::test]
async fn one_who_does_not_read_cannot_hold_up_the_end_for_longer_than_the_drain() {
    let (mut cluster, stuck) = stuck_cluster("2").await;
    cluster.signal("INT");
    let status = cluster.ended().await;
    assert!(status.success(), "{status}");
    drop(stuck);
}

/// A service with a session that has much to read, and reads nothing: it does not leave by itself.
async fn stuck_cluster(drain_seconds: &str) -> (Cluster, Player) {
    let limits = [
        ("MLMS_DRAIN_SECONDS", drain_seconds),
        ("MLMS_LIMIT_COMMANDS_PER_S", "0"),
        ("MLMS_LIMIT_OUTBOX_BYTES_MAX", "33554432"),
    ];
    let cluster = Cluster::with(&limits).await;
    let mut ann = cluster.player_in("ann", "hall").await;
    let stuck = cluster.player_in("stuck", "hall").await;
    let bulk = "x".repeat(60_000);
    // Twice what the kernel's buffers hold on the way.
    for _ in 0..400 {
        ann.ask(json!({"op": "send", "lobby": "hall", "kind": "game", "body": bulk})).await.unwrap();
        ann.forget();
    }
    ann.vanish();
    (cluster, stuck)
}
