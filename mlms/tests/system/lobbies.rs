//! Creating lobbies, filling them, listing them, closing them.

use mlms_protocol::{Encoding, Role};
use serde_json::{Value, json};

use crate::cluster::{Cluster, PATIENCE};
use crate::player::{Player, gapless, seq};

#[tokio::test]
async fn who_may_create_lobbies_is_a_setting() {
    let mut cluster = Cluster::with(&[("MLMS_LOBBY_CREATE", "server,admin")]).await;
    let open = async |user: &str, target: &str, roles: &[Role]| {
        let token = cluster.token_with(user, roles, std::time::Duration::from_secs(600));
        cluster.open(target, &[("authorization", &format!("Bearer {token}"))]).await.unwrap()
    };
    let mut ann = open("ann", "/ws", &[]).await;
    let create = json!({"op": "join", "lobby": "hall", "create": true});
    assert_eq!(ann.ask(create.clone()).await.unwrap_err()["code"], "forbidden");
    // By the address line the same, as an event, and the session stays.
    let mut moderator = open("mod", "/ws?lobby=hall", &[Role::Moderator]).await;
    let error = moderator.event("error").await;
    assert_eq!((&error["code"], &error["lobby"]), (&json!("forbidden"), &json!("hall")), "{error}");
    moderator.ask(json!({"op": "ping"})).await.unwrap();
    let mut server = open("game-server", "/ws", &[Role::Server]).await;
    server.ask(create).await.unwrap();
    // Joining is for everybody.
    ann.ask(json!({"op": "join", "lobby": "hall"})).await.unwrap();
    drop((ann, moderator, server));
    cluster.stop().await;
}

#[tokio::test]
async fn a_user_creates_so_many_lobbies_a_minute() {
    let mut cluster = Cluster::with(&[("MLMS_LIMIT_CREATES_PER_MINUTE", "3")]).await;
    let mut ann = cluster.player("ann").await;
    let mut refusal = None;
    // The rate is one of each node: with two of them it is over after at most six.
    for number in 0..8 {
        let create = json!({"op": "join", "lobby": format!("lobby-{number}"), "create": true});
        if let Err(error) = ann.ask(create).await {
            assert!(number >= 3, "{number}: {error}");
            refusal = Some(error);
        }
    }
    let refusal = refusal.expect("it is too much at last");
    assert_eq!(refusal["code"], "rate_limited");
    assert!(refusal["retry_ms"].as_u64().unwrap() <= 60_000, "{refusal}");
    // Joining what is there costs nothing, and another user may still create.
    for _ in 0..10 {
        ann.join("lobby-0").await;
    }
    cluster.player("bob").await.join("lobby-of-bob").await;
    drop(ann);
    cluster.stop().await;
}

#[tokio::test]
async fn a_lobby_takes_as_many_as_its_capacity() {
    let mut cluster = Cluster::start().await;
    let mut ann = cluster.player("ann").await;
    let settings = json!({"capacity": 2, "name": "The Booth", "metadata": {"map": "ice"}});
    let joined = ann.ask(json!({"op": "join", "lobby": "booth", "create": settings})).await.unwrap();
    assert_eq!(joined["state"]["settings"]["capacity"], 2, "{joined}");
    assert_eq!(joined["state"]["settings"]["metadata"]["map"], "ice");
    let mut bob = cluster.player("bob").await;
    bob.join("booth").await;
    let mut cid = cluster.player_at("/ws?lobby=booth", "cid", Encoding::Json).await;
    let error = cid.event("error").await;
    assert_eq!((&error["code"], &error["lobby"]), (&json!("lobby_full"), &json!("booth")), "{error}");
    // Another session of a member is no other member, and the member stays until the last one leaves.
    let leave = json!({"op": "leave", "lobby": "booth"});
    let join = json!({"op": "join", "lobby": "booth"});
    let mut second = cluster.player("bob").await;
    second.join("booth").await;
    bob.ask(leave.clone()).await.unwrap();
    assert_eq!(cid.ask(join.clone()).await.unwrap_err()["code"], "lobby_full");
    second.ask(leave).await.unwrap();
    cid.ask(join).await.expect("the seat that was given back is free");
    assert_eq!(ann.event("left").await["user"], "bob");
    drop(second);
    drop((ann, bob, cid));
    cluster.stop().await;
}

#[tokio::test]
async fn the_list_of_lobbies_shows_the_public_ones_in_pages() {
    let mut cluster = Cluster::with(&[("MLMS_LIMIT_CREATES_PER_MINUTE", "0")]).await;
    let mut ann = cluster.player("ann").await;
    for number in 0..25 {
        let settings = json!({"capacity": 7, "name": format!("Number {number}")});
        ann.ask(json!({"op": "join", "lobby": format!("lobby-{number:02}"), "create": settings}))
            .await
            .unwrap();
    }
    let hidden = json!({"visibility": "unlisted"});
    ann.ask(json!({"op": "join", "lobby": "hidden", "create": hidden})).await.unwrap();
    let bearer = format!("Bearer {}", cluster.token("bob"));
    let page = async |query: &str| {
        let target = format!("/v1/lobbies{query}");
        let (status, page) = cluster.request("GET", &target, &[("authorization", &bearer)], "").await;
        assert_eq!(status, 200, "{page}");
        page
    };
    let listed = async {
        while page("?limit=100").await["lobbies"].as_array().unwrap().len() < 25 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, listed).await.expect("all are listed");
    let mut seen = Vec::new();
    let mut query = "?limit=10".to_owned();
    loop {
        let page = page(&query).await;
        seen.extend(page["lobbies"].as_array().unwrap().iter().cloned());
        let Some(next) = page["next"].as_str() else { break };
        query = format!("?limit=10&cursor={next}");
    }
    let ids: Vec<String> = seen.iter().map(|lobby| lobby["lobby"].as_str().unwrap().to_owned()).collect();
    let expected: Vec<String> = (0..25).map(|number| format!("lobby-{number:02}")).collect();
    assert_eq!(ids, expected);
    assert_eq!(
        (&seen[3]["name"], &seen[3]["members"], &seen[3]["capacity"]),
        (&json!("Number 3"), &json!(1), &json!(7))
    );
    assert_eq!(cluster.request("GET", "/v1/lobbies", &[], "").await.0, 401);

    // Closed ones leave the list.
    ann.ask(json!({"op": "close", "lobby": "lobby-03"})).await.unwrap();
    let gone = async {
        while page("?limit=100").await["lobbies"]
            .as_array()
            .unwrap()
            .iter()
            .any(|one| one["lobby"] == "lobby-03")
        {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("a closed lobby leaves the list");
    drop(ann);
    cluster.stop().await;
}

#[tokio::test]
async fn a_closed_lobby_begins_anew_behind_its_end() {
    let mut cluster = Cluster::start().await;
    let mut ann = cluster.player_in("ann", "den").await;
    let mut bob = cluster.player("bob").await;
    bob.join("den").await;
    let old = ann.chat("den", "from before").await;
    assert_eq!(bob.ask(json!({"op": "close", "lobby": "den"})).await.unwrap_err()["code"], "forbidden");
    let end = ann.ask(json!({"op": "close", "lobby": "den"})).await.unwrap();
    for player in [&mut ann, &mut bob] {
        let closed = player.event("closed").await;
        assert_eq!((seq(&closed), &closed["by"]), (seq(&end), &json!("ann")));
        let refusal = player.ask(json!({"op": "send", "lobby": "den", "kind": "chat", "body": "x"})).await;
        assert_eq!(refusal.unwrap_err()["code"], "lobby_closed");
    }
    assert_eq!(bob.ask(json!({"op": "join", "lobby": "den"})).await.unwrap_err()["code"], "lobby_closed");
    let joined = bob.join("den").await;
    assert_eq!(joined["state"]["host"], "bob");
    assert_eq!(joined["state"]["messages"], json!([]), "{joined}");
    let events = bob.whole_history("den").await;
    assert!(gapless(&events).0 > seq(&end), "nothing from before the end: {}", events[0]);
    // A position from before the end gives a snapshot of the new lobby.
    let since = json!({"epoch": old["epoch"], "seq": old["seq"]});
    let joined = ann.ask(json!({"op": "join", "lobby": "den", "since": since})).await.unwrap();
    assert_eq!(joined["status"], "snapshot", "{joined}");
    let before = bob.history("den", json!({"before": seq(&end)})).await;
    assert_eq!(before, (Vec::new(), false));
    // The same after a restart.
    cluster.kill();
    cluster.launch().await;
    let mut bob = cluster.player_in("bob", "den").await;
    let events = bob.whole_history("den").await;
    assert!(gapless(&events).0 > seq(&end));
    drop((ann, bob));
    cluster.stop().await;
}

async fn roster(player: &mut Player, lobby: &str, limit: u32) -> Vec<Value> {
    let mut members = Vec::new();
    let mut command = json!({"op": "roster", "lobby": lobby, "limit": limit});
    loop {
        let page = player.ask(command.clone()).await.unwrap();
        let listed = page["members"].as_array().unwrap();
        assert!(listed.len() <= limit as usize);
        members.extend(listed.iter().cloned());
        let Some(next) = page["next"].as_str() else { return members };
        command["cursor"] = json!(next);
    }
}

#[tokio::test]
async fn the_roster_pages_through_more_members_than_a_snapshot_shows() {
    let mut cluster = Cluster::with(&[("MLMS_LIMIT_CONNECTIONS_PER_ADDRESS_MAX", "1000")]).await;
    let mut players = Vec::new();
    for number in 0..130 {
        players.push(cluster.player_in(&format!("user-{number:03}"), "stadium").await);
    }
    let mut last = players.pop().unwrap();
    let joined = last.join("stadium").await;
    assert_eq!(joined["state"]["members_total"], 130);
    let shown = joined["state"]["members"].as_array().unwrap();
    assert!(shown.iter().any(|member| member["user"] == "user-129"), "the own entry is among them");
    assert!((100..=101).contains(&shown.len()), "{}", shown.len());
    for limit in [7, 50, 100] {
        let members = roster(&mut last, "stadium", limit).await;
        let mut users: Vec<&str> = members.iter().map(|member| member["user"].as_str().unwrap()).collect();
        users.sort_unstable();
        let expected: Vec<String> = (0..130).map(|number| format!("user-{number:03}")).collect();
        assert_eq!(users, expected, "pages of {limit}");
        assert_eq!(members.iter().filter(|member| member["role"] == "host").count(), 1);
        assert!(members.iter().all(|member| member["away"] == false));
    }
    drop((players, last));
    cluster.stop().await;
}
