//! Positions and pages: where a player was, and everything that came before.

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::player::{Player, gapless, seq};

async fn talk(player: &mut Player, lobby: &str, from: u32, count: u32) {
    for number in from..from + count {
        player.chat(lobby, &format!("line {number}")).await;
        player.forget();
    }
}

/// The whole past, newest page first.
async fn backwards(player: &mut Player, lobby: &str, limit: u32) -> Vec<Value> {
    let mut pages = Vec::new();
    let mut page = json!({"limit": limit});
    loop {
        let (events, more) = player.history(lobby, page).await;
        assert!(events.len() <= limit as usize);
        page = json!({"limit": limit, "before": events.first().map_or(0, seq)});
        pages.push(events);
        if !more {
            return pages.into_iter().rev().flatten().collect();
        }
    }
}

/// The whole past, oldest page first.
async fn forwards(player: &mut Player, lobby: &str, limit: u32) -> Vec<Value> {
    let mut events: Vec<Value> = Vec::new();
    loop {
        let after = events.last().map_or(0, seq);
        let (page, more) = player.history(lobby, json!({"limit": limit, "after": after})).await;
        events.extend(page);
        if !more {
            return events;
        }
    }
}

#[tokio::test]
async fn history_pages_to_the_first_event_over_memory_and_database() {
    // Only the newest forty events are in memory.
    let limits = [
        ("MLMS_LIMIT_RESUME_EVENTS_MAX", "40"),
        ("MLMS_LIMIT_CHATS_PER_S", "0"),
        ("MLMS_LIMIT_COMMANDS_PER_S", "0"),
    ];
    let mut cluster = Cluster::with(&limits).await;
    let mut near = cluster.player_in("near", "archive").await;
    let mut far = cluster.player("far").await;
    far.join("archive").await;
    for round in 0..2 {
        talk(&mut near, "archive", round * 250, 250).await;
        let expected: Vec<String> = (0..(round + 1) * 250).map(|number| format!("line {number}")).collect();
        let whole = near.whole_history("archive").await;
        let (first, last) = gapless(&whole);
        assert_eq!(first, 1);
        for player in [&mut near, &mut far] {
            for limit in [1_u32, 39, 41, 200] {
                if limit == 1 && round == 1 {
                    continue;
                }
                for events in
                    [backwards(player, "archive", limit).await, forwards(player, "archive", limit).await]
                {
                    assert_eq!(gapless(&events), (first, last), "pages of {limit}");
                    assert_eq!(events, whole, "pages of {limit}");
                }
            }
            player.forget();
        }
        let lines: Vec<&str> = whole.iter().filter_map(|event| event["body"].as_str()).collect();
        assert_eq!(lines, expected);
        // The ends of the range.
        let past_the_end = near.history("archive", json!({"after": last})).await;
        assert_eq!(past_the_end, (Vec::new(), false));
        let far_past = near.history("archive", json!({"after": u64::MAX / 2})).await;
        assert_eq!(far_past, (Vec::new(), false));
        let before_the_first = near.history("archive", json!({"before": 1})).await;
        assert_eq!(before_the_first, (Vec::new(), false));
        let (newest, more) = near.history("archive", json!({"before": u64::MAX / 2, "limit": 3})).await;
        assert_eq!((gapless(&newest).1, more), (last, true));
        if round == 0 {
            cluster.kill();
            cluster.launch().await;
            near = cluster.player_in("near", "archive").await;
            far = cluster.player("far").await;
            far.join("archive").await;
        }
    }
    drop((near, far));
    cluster.stop().await;
}

#[tokio::test]
async fn a_position_is_resumed_where_it_can_be_and_else_a_snapshot_comes() {
    let limits = [("MLMS_LIMIT_CHATS_PER_S", "0"), ("MLMS_LIMIT_RESUME_EVENTS_MAX", "50")];
    let mut cluster = Cluster::with(&limits).await;
    let mut ann = cluster.player_in("ann", "den").await;
    let mut bob = cluster.player("bob").await;
    let start = bob.join("den").await;
    talk(&mut ann, "den", 0, 10).await;
    let (epoch, from) = (start["epoch"].as_u64().unwrap(), seq(&start));
    bob.vanish();

    let resume = |epoch: u64, seq: u64| json!({"op": "resume", "lobbies": [{"lobby": "den", "epoch": epoch, "seq": seq}]});
    // On both roads: the user's own node, and the lobby's.
    for target in ["/ws", "/lobbies/den/ws"] {
        let mut bob = cluster.player_at(target, "bob", mlms_protocol::Encoding::Json).await;
        if target != "/ws" {
            bob.event("snapshot").await;
        }
        for since in [from, from + 4, from + 10] {
            bob.forget();
            let answer = bob.ask(resume(epoch, since)).await.unwrap();
            let one = &answer["lobbies"][0];
            assert_eq!(
                (&one["status"], &one["seq"]),
                (&json!("resumed"), &json!(since)),
                "{target}: {answer}"
            );
            assert_eq!(one.get("state"), None);
            assert_eq!(one["missed"], from + 10 - since, "{target}: {answer}");
            assert_eq!(bob.event("caught_up").await["seq"], from + 10);
            let events: Vec<Value> = bob.unread().filter(|event| event["seq"].is_u64()).cloned().collect();
            let seqs: Vec<u64> = events.iter().map(seq).collect();
            let expected: Vec<u64> = (since + 1..=from + 10).collect();
            assert_eq!(seqs, expected, "{target} since {since}");
        }
        // Wrong, future and foreign positions are no error.
        for (epoch, since) in [(epoch, from + 11), (epoch, u64::MAX / 2), (epoch + 1_000, from), (0, from)] {
            let answer = bob.ask(resume(epoch, since)).await.unwrap();
            let one = &answer["lobbies"][0];
            assert_eq!(one["status"], "snapshot", "{target} ({epoch}, {since}): {answer}");
            assert_eq!(one["seq"], from + 10);
            assert!(one["state"]["members"].is_array());
        }
        // And the feed goes on from there.
        let sent = ann.chat("den", target).await;
        assert_eq!(seq(&bob.hears(target).await), seq(&sent));
        bob.vanish();
        ann.ask(json!({"op": "ping"})).await.unwrap();
        if target == "/ws" {
            // The second road starts from the same distance.
            let mut bob = cluster.player("bob").await;
            let joined = bob.join("den").await;
            assert_eq!(seq(&joined), from + 11);
            break;
        }
    }
    drop(ann);
    cluster.stop().await;
}

#[tokio::test]
async fn since_on_a_join_is_a_resume_and_a_position_out_of_the_window_a_snapshot() {
    let limits = [
        ("MLMS_LIMIT_CHATS_PER_S", "0"),
        ("MLMS_LIMIT_RESUME_EVENTS_MAX", "20"),
        ("MLMS_LIMIT_COMMANDS_PER_S", "0"),
    ];
    let mut cluster = Cluster::with(&limits).await;
    let mut ann = cluster.player_in("ann", "den").await;
    let first = ann.chat("den", "the first").await;
    talk(&mut ann, "den", 0, 10).await;
    let mut bob = cluster.player("bob").await;
    let join = |position: &Value| {
        let since = json!({"epoch": position["epoch"], "seq": position["seq"]});
        json!({"op": "join", "lobby": "den", "since": since})
    };
    // A stranger with a good position: joined and resumed from it.
    let joined = bob.ask(join(&first)).await.unwrap();
    assert_eq!((&joined["status"], &joined["seq"]), (&json!("resumed"), &first["seq"]), "{joined}");
    bob.event("caught_up").await;
    let events: Vec<Value> = bob.unread().filter(|event| event["seq"].is_u64()).cloned().collect();
    assert_eq!(gapless(&events).0, seq(&first) + 1);
    assert_eq!(events.last().unwrap()["ev"], "joined");
    let missed = joined["missed"].as_u64().unwrap();
    assert_eq!(missed, events.len() as u64);

    talk(&mut ann, "den", 10, 60).await;
    let joined = bob.ask(join(&first)).await.unwrap();
    assert_eq!(joined["status"], "snapshot", "it is behind the window: {joined}");
    assert_eq!(joined["state"]["messages"].as_array().unwrap().len(), 50);
    let sent = ann.chat("den", "and on").await;
    assert_eq!(seq(&bob.hears("and on").await), seq(&sent));
    drop((ann, bob));
    cluster.stop().await;
}

#[tokio::test]
async fn many_lobbies_are_resumed_in_one_answer() {
    let limits = [
        ("MLMS_LIMIT_CREATES_PER_MINUTE", "0"),
        ("MLMS_LIMIT_CHATS_PER_S", "0"),
        ("MLMS_LIMIT_COMMANDS_PER_S", "0"),
    ];
    let mut cluster = Cluster::with(&limits).await;
    let mut ann = cluster.player("ann").await;
    let mut bob = cluster.player("bob").await;
    let mut points = Vec::new();
    for number in 0..60 {
        let lobby = format!("lobby-{number}");
        ann.join(&lobby).await;
        let joined = bob.join(&lobby).await;
        points.push(json!({"lobby": lobby, "epoch": joined["epoch"], "seq": joined["seq"]}));
    }
    bob.vanish();
    for number in 0..60 {
        ann.chat(&format!("lobby-{number}"), &format!("in {number}")).await;
    }
    points.push(json!({"lobby": "never-there", "epoch": 1, "seq": 1}));
    // Twice named: the later one counts.
    points.push(points[0].clone());
    for restart in [false, true] {
        if restart {
            cluster.kill();
            cluster.launch().await;
        }
        let mut bob = cluster.player("bob").await;
        let answer = bob.ask(json!({"op": "resume", "lobbies": points})).await.unwrap();
        let lobbies = answer["lobbies"].as_array().unwrap();
        assert_eq!(lobbies.len(), 61, "restart {restart}");
        for one in lobbies {
            if one["lobby"] == "never-there" {
                assert_eq!(one["err"]["code"], "not_found", "{one}");
            } else {
                assert_eq!((&one["status"], &one["missed"]), (&json!("resumed"), &json!(1)), "{one}");
            }
        }
        for number in 0..60 {
            let lobby = format!("lobby-{number}");
            let heard = bob.hears(&format!("in {number}")).await;
            assert_eq!(heard["lobby"], lobby);
            bob.event_where(|event| event["ev"] == "caught_up" && event["lobby"] == lobby).await;
        }
        bob.vanish();
    }
    drop(ann);
    cluster.stop().await;
}

#[tokio::test]
async fn saved_is_told_to_those_who_asked() {
    let mut cluster = Cluster::start().await;
    let mut ann = cluster.player_in("ann", "den").await;
    let mut bob = cluster.player("bob").await;
    bob.ask(json!({"op": "join", "lobby": "den", "saved": true})).await.unwrap();
    let sent = ann.chat("den", "keep this").await;
    loop {
        let saved = bob.event("saved").await;
        assert_eq!(saved["lobby"], "den");
        if seq(&saved) >= seq(&sent) {
            break;
        }
    }
    ann.ask(json!({"op": "ping"})).await.unwrap();
    assert!(ann.unread().all(|event| event["ev"] != "saved"));
    drop((ann, bob));
    cluster.stop().await;
}
