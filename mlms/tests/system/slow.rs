//! A member that does not read: it costs a bounded number of bytes, hears of its losses, and then has to go.

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::player::{Player, gapless};

const BULK: usize = 32 * 1_024;

fn bulk(class: &str, number: u32) -> Value {
    let body = json!({"number": number, "bulk": "x".repeat(BULK)});
    json!({"op": "send", "lobby": "arena", "kind": "game", "class": class, "body": body})
}

/// Sends until a metric tells that it was too much, and gives the number of the last message. The bystander reads along.
async fn send_until(
    cluster: &Cluster,
    sender: &mut Player,
    others: &mut [&mut Player],
    class: &str,
    metric: &str,
) -> u32 {
    let mut number = 0;
    while cluster.metric(metric, "").await == 0.0 {
        for _ in 0..16 {
            number += 1;
            sender.ask(bulk(class, number)).await.unwrap();
            let is_it = |event: &Value| event["body"]["number"] == number;
            sender.event_where(is_it).await;
            for other in &mut *others {
                other.event_where(is_it).await;
            }
        }
        assert!(number < 10_000, "the kernel takes everything");
    }
    number
}

#[tokio::test]
async fn a_slow_reader_lags_then_is_closed_and_the_lobby_goes_on() {
    let limits = [("MLMS_LIMIT_OUTBOX_BYTES_MAX", "262144"), ("MLMS_LIMIT_COMMANDS_PER_S", "0")];
    let mut cluster = Cluster::with(&limits).await;
    let mut ann = cluster.player_in("ann", "arena").await;
    let mut bob = cluster.player("bob").await;
    bob.join("arena").await;
    let mut slow = cluster.player_in("slow", "arena").await;
    let memory = cluster.memory_bytes();

    // Ephemeral messages are shed, and the connection stays.
    let sent =
        send_until(&cluster, &mut ann, &mut [&mut bob], "ephemeral", "mlms_ephemeral_shed_total").await;
    assert_eq!(cluster.metric("mlms_slow_consumers_total", "").await, 0.0);
    let mut heard = 0;
    let mut dropped = 0;
    while heard + dropped < u64::from(sent) {
        let event = slow.event_where(|event| event["ev"] == "lag" || event["ev"] == "message").await;
        match event["ev"].as_str() {
            Some("lag") => dropped += event["dropped"].as_u64().unwrap(),
            _ => heard += 1,
        }
    }
    assert!(dropped > 0);
    assert_eq!(heard + dropped, u64::from(sent), "every message was delivered or counted");
    assert_eq!(cluster.metric("mlms_ephemeral_shed_total", "").await, dropped as f64);

    // Ordered ones are not: the connection is given up.
    send_until(&cluster, &mut ann, &mut [&mut bob], "ordered", "mlms_slow_consumers_total").await;
    let grown = cluster.memory_bytes().saturating_sub(memory);
    assert!(grown < 48 << 20, "a slow reader cost {grown} bytes");
    let goodbye = slow.closed().await;
    assert_eq!(goodbye.code, Some(4002));
    assert_eq!(goodbye.bye.unwrap()["reconnect"], "now");
    let numbers: Vec<u64> = slow.unread().filter_map(|event| event["body"]["number"].as_u64()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "ordered messages came without a gap");
    assert_eq!(cluster.metric("mlms_closes_total", "slow_consumer").await, 1.0);

    assert_eq!(ann.event("away").await["user"], "slow");
    ann.chat("arena", "go on").await;
    bob.hears("go on").await;
    drop((ann, bob, slow));
    cluster.stop().await;
}

#[tokio::test]
async fn of_ephemeral_messages_with_a_key_only_the_newest_waits() {
    let limits = [("MLMS_LIMIT_COMMANDS_PER_S", "0"), ("MLMS_LIMIT_OUTBOX_BYTES_MAX", "1048576")];
    let mut cluster = Cluster::with(&limits).await;
    let mut ann = cluster.player_in("ann", "arena").await;
    let mut slow = cluster.player_in("slow", "arena").await;
    // Fill what the kernel takes, until frames wait in the node.
    send_until(&cluster, &mut ann, &mut [], "ephemeral", "mlms_ephemeral_shed_total").await;
    for number in 0..500 {
        let place = json!({"op": "send", "lobby": "arena", "kind": "game", "class": "ephemeral", "key": "place", "body": {"x": number}});
        ann.ask(place).await.unwrap();
    }
    ann.ask(json!({"op": "send", "lobby": "arena", "kind": "game", "body": "end"})).await.unwrap();
    slow.hears("end").await;
    let places: Vec<u64> = slow.unread().filter_map(|event| event["body"]["x"].as_u64()).collect();
    assert!(places.len() < 500, "nothing was replaced");
    assert!(places.is_sorted());
    drop((ann, slow));
    cluster.stop().await;
}

#[tokio::test]
async fn a_long_resume_of_a_slow_reader_ends_in_order_and_not_in_4002() {
    // More is missed than the outbox holds, and the lobby goes on meanwhile.
    let limits = [
        ("MLMS_LIMIT_OUTBOX_BYTES_MAX", "65536"),
        ("MLMS_LIMIT_RESUME_BYTES_MAX", "16777216"),
        ("MLMS_LIMIT_COMMANDS_PER_S", "0"),
        ("MLMS_LIMIT_CHATS_PER_S", "0"),
    ];
    let mut cluster = Cluster::with(&limits).await;
    let mut ann = cluster.player_in("ann", "arena").await;
    let mut bob = cluster.player("bob").await;
    let joined = bob.join("arena").await;
    let position = json!({"lobby": "arena", "epoch": joined["epoch"], "seq": joined["seq"]});
    bob.vanish();
    let text = "y".repeat(4_000);
    for _ in 0..400 {
        ann.chat("arena", &text).await;
        ann.forget();
    }
    let mut bob = cluster.player("bob").await;
    let answer = bob.ask(json!({"op": "resume", "lobbies": [position]})).await.unwrap();
    assert_eq!(answer["lobbies"][0]["status"], "resumed", "{answer}");
    let missed = answer["lobbies"][0]["missed"].as_u64().unwrap();
    assert!(missed >= 400);
    // Bob has read nothing of it yet.
    let mut last = 0;
    for _ in 0..50 {
        last = crate::player::seq(&ann.chat("arena", &text).await);
        ann.forget();
    }
    let caught_up = bob.event("caught_up").await;
    ann.chat("arena", "end").await;
    bob.hears("end").await;
    assert!(crate::player::seq(&caught_up) >= missed);
    let events: Vec<Value> = bob.unread().filter(|event| event["seq"].is_u64()).cloned().collect();
    let (first, end) = gapless(&events);
    assert_eq!((first, end), (joined["seq"].as_u64().unwrap() + 1, last));
    assert_eq!(cluster.metric("mlms_slow_consumers_total", "").await, 0.0);
    drop((ann, bob));
    cluster.stop().await;
}
