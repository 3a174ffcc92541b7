//! Numbers, printed and not judged: `cargo test --release -p mlms --test system -- --ignored --nocapture measure`.
//! They need some ten thousand file descriptors (`ulimit -n`).

use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt as _};
use serde_json::json;

use crate::cluster::Cluster;
use crate::player::Player;

/// Limits that one machine's many players would meet.
const WIDE: &[(&str, &str)] = &[
    ("MLMS_LIMIT_CONNECTIONS_PER_ADDRESS_MAX", "100000"),
    ("MLMS_LIMIT_COMMANDS_PER_S", "0"),
    ("MLMS_LIMIT_CHATS_PER_S", "0"),
    ("MLMS_LIMIT_CREATES_PER_MINUTE", "0"),
    ("MLMS_LOG", "warn"),
];

/// Ends a round.
const END: &str = "this is the end of the round";

/// Connects this many players at once.
const ABREAST: usize = 64;

async fn crowd(cluster: &Cluster, count: usize, lobby: impl Fn(usize) -> String) -> Vec<Player> {
    let lobby = &lobby;
    stream::iter(0..count)
        .map(async |number| {
            let mut player = cluster.player_in(&format!("user-{number}"), &lobby(number)).await;
            player.forget();
            player
        })
        .buffer_unordered(ABREAST)
        .collect()
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_five_thousand_idle_connections() {
    for ephemeral in [false, true] {
        let mut cluster = Cluster::prepare(WIDE);
        if ephemeral {
            cluster.flag("--ephemeral");
            cluster.expect_log("memory only");
        }
        cluster.launch().await;
        // The first ones pay for what is made once.
        let first = crowd(&cluster, 100, |number| format!("warm-{}", number / 10)).await;
        let before = cluster.memory_bytes();
        let begun = Instant::now();
        let players = crowd(&cluster, 5_000, |number| format!("lobby-{}", number / 10)).await;
        let took = begun.elapsed();
        cluster.until_metric("mlms_sessions", "", 5_100.0).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let each = (cluster.memory_bytes() - before) / 5_000;
        eprintln!(
            "ephemeral {ephemeral}: 5000 joined in lobbies of 10 in {took:.2?} ({:.0} a second, client included), \
             {each} bytes of the process each, broker and tunnel included",
            5_000.0 / took.as_secs_f64()
        );
        drop((first, players));
        cluster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_one_lobby_of_a_thousand() {
    for (class, under_way) in [("ordered", 1), ("ordered", 32), ("durable", 1), ("durable", 32)] {
        let mut cluster = Cluster::with(WIDE).await;
        let mut players = crowd(&cluster, 1_000, |_| "stadium".to_owned()).await;
        let mut sender = players.pop().unwrap();
        let messages = 640;
        let kind =
            json!({"op": "send", "lobby": "stadium", "kind": "game", "class": class, "body": "x".repeat(64)});
        let listeners: Vec<_> = players
            .into_iter()
            .map(|mut player| tokio::spawn(async move { (player.skim_to(END).await, player) }))
            .collect();
        let (begun, ticks) = (Instant::now(), cluster.cpu_ticks());
        for _ in 0..messages / under_way {
            let mut posted = Vec::new();
            for _ in 0..under_way {
                posted.push(sender.post(kind.clone()).await);
            }
            for id in posted {
                sender.reply(id).await.unwrap();
            }
            sender.forget();
        }
        sender.ask(json!({"op": "send", "lobby": "stadium", "kind": "game", "body": END})).await.unwrap();
        let mut heard = 0;
        for listener in listeners {
            let (count, player) = listener.await.unwrap();
            heard += count;
            player.vanish();
        }
        let (took, ticks) = (begun.elapsed().as_secs_f64(), cluster.cpu_ticks() - ticks);
        eprintln!(
            "one lobby of 1000, {class}, {under_way} under way: {:.0} messages a second, {:.0} deliveries a second \
             with 1000 clients on the same machine; {:.2} µs of the service's processor time a delivery",
            f64::from(messages) / took,
            heard as f64 / took,
            ticks as f64 * 10_000.0 / heard as f64
        );
        cluster.stop().await;
    }
}
