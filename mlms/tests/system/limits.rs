//! Rates and bounds, as the environment sets them.

use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::cluster::Cluster;
use crate::player::Player;

#[tokio::test]
async fn the_environment_sets_every_limit_and_welcome_tells_them() {
    let limits = [
        ("frame_bytes_max", 2_048),
        ("chat_bytes_max", 100),
        ("lobbies_per_session_max", 2),
        ("commands_per_s", 1_000),
        ("commands_burst", 2_000),
        ("chats_per_s", 7),
        ("chats_burst", 8),
        ("joins_per_s", 10_000),
        ("creates_per_minute", 3),
        ("outbox_bytes_max", 65_536),
        ("sessions_per_user_max", 2),
        ("connections_per_address_max", 6),
        ("members_per_lobby_max", 3),
        ("resume_events_max", 10),
        ("resume_seconds_max", 60),
        ("resume_bytes_max", 4_096),
    ];
    let environment =
        limits.map(|(name, value)| (format!("MLMS_LIMIT_{}", name.to_ascii_uppercase()), value.to_string()));
    let environment = environment.each_ref().map(|(name, value)| (name.as_str(), value.as_str()));
    let mut cluster = Cluster::with(&environment).await;
    let mut ann = cluster.player("ann").await;
    let told = ann.welcome["limits"].as_object().unwrap();
    assert_eq!(told.len(), limits.len(), "{told:?}");
    for (name, value) in limits {
        assert_eq!(told[name], value, "{name}");
    }

    // Lobbies of a session, and creations of a user.
    ann.join("one").await;
    ann.join("two").await;
    let refusal = ann.ask(json!({"op": "join", "lobby": "three", "create": true})).await.unwrap_err();
    assert_eq!(refusal["code"], "conflict");
    ann.join("one").await;
    ann.ask(json!({"op": "leave", "lobby": "one"})).await.unwrap();

    // The length of a chat, in bytes of UTF-8.
    let chat = |text: String| json!({"op": "send", "lobby": "two", "kind": "chat", "body": text});
    ann.ask(chat("é".repeat(50))).await.unwrap();
    assert_eq!(ann.ask(chat("é".repeat(51))).await.unwrap_err()["code"], "too_large");

    // Members of a lobby.
    let mut others = Vec::new();
    for user in ["bob", "cid"] {
        let mut player = cluster.player(user).await;
        player.join("two").await;
        others.push(player);
    }
    let mut dan = cluster.player("dan").await;
    let refusal = dan.ask(json!({"op": "join", "lobby": "two"})).await.unwrap_err();
    assert_eq!(refusal["code"], "lobby_full");
    assert!(refusal["retry_ms"].is_u64());

    // Sessions of a user: a further one closes the oldest.
    let second = cluster.player("ann").await;
    let third = cluster.player("ann").await;
    let goodbye = ann.closed().await;
    assert_eq!(goodbye.code, Some(4506));
    assert_eq!(goodbye.bye.unwrap()["reconnect"], "never");
    assert_eq!(cluster.metric("mlms_closes_total", "replaced").await, 1.0);

    // Connections of an address: those of bob, cid, dan, and two of ann are open.
    let refused = async {
        let mut held = Vec::new();
        loop {
            let bearer = format!("Bearer {}", cluster.token(&format!("guest-{}", held.len())));
            match cluster.open("/ws", &[("authorization", &bearer)]).await {
                Ok(player) => held.push(player),
                Err((status, problem)) => break (held.len(), status, problem),
            }
        }
    };
    let (held, status, problem) = refused.await;
    // ann's first connection may still be on its way out.
    assert!(held <= 1, "{held} more came in");
    assert_eq!((status, &problem["code"]), (429, &json!("rate_limited")), "{problem}");
    assert_eq!(cluster.metric("mlms_broker_handshakes_total", "connections_per_address").await, 1.0);
    drop((ann, second, third, others, dan));
    cluster.stop().await;
}

/// Sends a command until it is refused, and says how often it went well.
async fn until_limited(player: &mut Player, command: &serde_json::Value) -> (u32, serde_json::Value) {
    for number in 0..500 {
        if let Err(refusal) = player.ask(command.clone()).await {
            return (number, refusal);
        }
    }
    panic!("{command} is never refused");
}

#[tokio::test]
async fn commands_chats_and_joins_over_their_rate_are_refused_and_come_back_with_time() {
    let slow = [
        ("MLMS_LIMIT_COMMANDS_PER_S", "200"),
        ("MLMS_LIMIT_COMMANDS_BURST", "400"),
        ("MLMS_LIMIT_CHATS_PER_S", "2"),
        ("MLMS_LIMIT_CHATS_BURST", "5"),
        ("MLMS_LIMIT_JOINS_PER_S", "2"),
        ("MLMS_LIMIT_LOBBIES_PER_SESSION_MAX", "8"),
    ];
    let mut cluster = Cluster::with(&slow).await;
    let mut ann = cluster.player_in("ann", "arena").await;
    let mut bob = cluster.player_in("bob", "arena").await;
    for (command, least) in [
        (json!({"op": "send", "lobby": "arena", "kind": "chat", "body": "spam"}), 5),
        (json!({"op": "join", "lobby": "arena"}), 8),
    ] {
        let (passed, refusal) = until_limited(&mut ann, &command).await;
        assert!(passed >= least, "{command}: {passed}");
        assert_eq!(refusal["code"], "rate_limited", "{refusal}");
        let pause = refusal["retry_ms"].as_u64().unwrap();
        assert!((1..=1_000).contains(&pause), "{refusal}");
        tokio::time::sleep(std::time::Duration::from_millis(pause + 20)).await;
        ann.ask(command).await.expect("after the pause it is granted");
    }
    // Game messages do not count as chats, and the rate of one session is not another's.
    ann.ask(json!({"op": "send", "lobby": "arena", "kind": "game", "body": 1})).await.unwrap();
    bob.chat("arena", "I may").await;

    // Everything at once, without waiting for answers.
    let mut posted = Vec::new();
    for _ in 0..600 {
        posted.push(bob.post(json!({"op": "ping"})).await);
    }
    let mut limited = 0;
    for id in posted {
        if let Err(refusal) = bob.reply(id).await {
            assert_eq!(refusal["code"], "rate_limited");
            assert!(refusal["retry_ms"].is_u64());
            limited += 1;
        }
    }
    assert!(limited > 0 && limited < 400, "{limited} of 600 were over the rate");
    assert!(cluster.metric("mlms_refusals_total", "rate_limited").await >= f64::from(limited) + 2.0);
    ann.hears("I may").await;
    drop((ann, bob));
    cluster.stop().await;
}

#[tokio::test]
async fn a_flood_ends_its_session_and_nobody_elses() {
    let rates = [
        ("MLMS_LIMIT_COMMANDS_PER_S", "20"),
        ("MLMS_LIMIT_COMMANDS_BURST", "20"),
        ("MLMS_LIMIT_CHATS_PER_S", "2"),
        ("MLMS_LIMIT_CHATS_BURST", "2"),
    ];
    let mut cluster = Cluster::with(&rates).await;
    let mut ann = cluster.player_in("ann", "arena").await;
    let mut bob = cluster.player_in("bob", "arena").await;
    ann.event("joined").await;
    let mut mallory = cluster.player_in("mallory", "arena").await;
    // 20 a second and a burst of 20 allow 1020 in 5 s before it is a flood.
    for _ in 0..1_100 {
        mallory.say(&json!({"op": "ping"})).await;
    }
    let goodbye = mallory.closed().await;
    assert_eq!(goodbye.code, Some(4008));
    assert_eq!(goodbye.bye.unwrap()["reconnect"], "now");
    assert_eq!(cluster.metric("mlms_closes_total", "flood").await, 1.0);
    assert_eq!(bob.event("away").await["user"], "mallory");
    // Control frames are answered without being commands, and are a flood all the same.
    let mut mallory = cluster.player("mallory").await;
    let ping = [0x89, 0x80, 0, 0, 0, 0];
    mallory.raw().write_all(&ping.repeat(1_100)).await.unwrap();
    assert_eq!(mallory.closed().await.code, Some(4008));
    assert_eq!(cluster.metric("mlms_closes_total", "flood").await, 2.0);
    bob.chat("arena", "go on").await;
    ann.hears("go on").await;
    drop((ann, bob));
    cluster.stop().await;
}
