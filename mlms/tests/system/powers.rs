//! The service's own powers over users, over REST: bans, sessions, a player's data, and the audit of it all.

use mlms_protocol::Role;
use serde_json::{Value, json};

use crate::cluster::{Cluster, PATIENCE};
use crate::player::seq;

#[tokio::test]
async fn who_is_banned_from_the_service_is_out_everywhere_until_the_ban_ends() {
    let mut cluster = Cluster::start().await;
    {
        let mut bob = cluster.player_in("bob", "den").await;
        let mut ann = cluster.player_in("ann", "den").await;
        let guard = cluster.caller("guard", &[Role::Moderator]);
        let ban = guard.must("PUT", "/v1/bans/bob", json!({"reason": "cheating"})).await;
        assert_eq!((&ban["user"], &ban["by"], &ban["until"]), (&json!("bob"), &json!("guard"), &Value::Null));
        let goodbye = bob.closed().await;
        assert_eq!(goodbye.code, Some(4505));
        assert_eq!(goodbye.bye.unwrap()["reconnect"], "never");
        ann.event("away").await;

        // Neither a socket nor a call.
        let bearer = format!("Bearer {}", cluster.token("bob"));
        let (status, problem) = cluster.open("/ws", &[("authorization", &bearer)]).await.expect_err("banned");
        assert_eq!((status, &problem["code"]), (403, &json!("banned")));
        let caller = cluster.caller("bob", &[]);
        for (method, path) in
            [("POST", "/v1/connect"), ("GET", "/v1/lobbies"), ("GET", "/v1/players/bob/stats")]
        {
            assert_eq!(caller.refused(method, path, Value::Null).await, (403, "banned".to_owned()), "{path}");
        }
        assert_eq!(guard.must("GET", "/v1/bans", Value::Null).await["bans"], json!([ban]));
        assert_eq!(cluster.caller("ann", &[]).refused("GET", "/v1/bans", Value::Null).await.0, 403);
    }
    // A restart forgets nobody.
    cluster.stop().await;
    cluster.launch().await;
    let guard = cluster.caller("guard", &[Role::Moderator]);
    let bob = cluster.caller("bob", &[]);
    let banned = async {
        while bob.call("GET", "/v1/lobbies", Value::Null).await.0 != 403 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, banned).await.expect("the list is read");
    guard.must("DELETE", "/v1/bans/bob", Value::Null).await;
    assert_eq!(guard.refused("DELETE", "/v1/bans/bob", Value::Null).await, (404, "not_found".to_owned()));
    let free = async {
        let bearer = format!("Bearer {}", cluster.token("bob"));
        while cluster.open("/ws", &[("authorization", &bearer)]).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, free).await.expect("the nodes let it in again");

    // One with an end.
    guard.must("PUT", "/v1/bans/eve", json!({"for_s": 5})).await;
    let eve = cluster.caller("eve", &[]);
    assert_eq!(eve.refused("GET", "/v1/lobbies", Value::Null).await, (403, "banned".to_owned()));
    let over = async {
        while eve.call("GET", "/v1/lobbies", Value::Null).await.0 != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, over).await.expect("the ban ends");
    let audit = guard.must("GET", "/v1/audit?user=bob", Value::Null).await;
    let actions: Vec<_> =
        audit["entries"].as_array().unwrap().iter().map(|entry| entry["action"].clone()).collect();
    assert_eq!(actions, [json!("unban"), json!("ban")]);
    assert_eq!(audit["entries"][1]["detail"], "cheating");
    let page = guard.must("GET", "/v1/audit?limit=1", Value::Null).await;
    let next = format!("/v1/audit?limit=1&cursor={}", page["next"].as_str().unwrap());
    assert_ne!(guard.must("GET", &next, Value::Null).await["entries"], page["entries"]);
    cluster.stop().await;
}

#[tokio::test]
async fn sessions_are_listed_and_ended() {
    let mut cluster = Cluster::start().await;
    let (mut first, mut second) = (cluster.player("ann").await, cluster.player("ann").await);
    let ann = cluster.caller("ann", &[]);
    let id = first.welcome["session"].as_str().unwrap().to_owned();
    let listed = async {
        loop {
            let sessions = ann.must("GET", "/v1/players/ann/sessions", Value::Null).await;
            if sessions["sessions"].as_array().unwrap().len() == 2 {
                return sessions;
            }
        }
    };
    let sessions = tokio::time::timeout(PATIENCE, listed).await.expect("both are counted");
    assert!(sessions["sessions"].as_array().unwrap().iter().any(|session| session["session"] == id.as_str()));
    let eve = cluster.caller("eve", &[]);
    assert_eq!(eve.refused("GET", "/v1/players/ann/sessions", Value::Null).await.0, 403);
    assert_eq!(eve.refused("DELETE", "/v1/players/ann/sessions", Value::Null).await.0, 403);

    let one = format!("/v1/players/ann/sessions/{id}");
    assert_eq!(ann.must("DELETE", &one, Value::Null).await, json!({"closed": 1}));
    assert_eq!(first.closed().await.code, Some(4504));
    let server = cluster.caller("backend", &[Role::Server]);
    server.must("DELETE", "/v1/players/ann/sessions", Value::Null).await;
    assert_eq!(second.closed().await.code, Some(4504));
    let nobody = server.refused("DELETE", "/v1/players/ann/sessions/nobody", Value::Null).await;
    assert_eq!(nobody, (404, "not_found".to_owned()));
    cluster.stop().await;
}

#[tokio::test]
async fn a_players_data_is_handed_out_and_forgotten() {
    let mut cluster = Cluster::start().await;
    let server = cluster.caller("backend", &[Role::Server]);
    let (mut ann, mut bob) = (cluster.player_in("ann", "den").await, cluster.player_in("bob", "den").await);
    let said = bob.chat("den", "my address is 12 Hill Road").await;
    ann.hears("my address is 12 Hill Road").await;
    server.must("POST", "/v1/lobbies/den/games", Value::Null).await;
    let report = json!({"stat": "damage", "amount": 7, "user": "bob"});
    server.must("POST", "/v1/lobbies/den/games/current/reports", report).await;
    server.must("POST", "/v1/lobbies/den/games/current/finish", json!({"results": {"winner": "ann"}})).await;
    server.must("PUT", "/v1/lobbies/den/mutes/ann", json!({"for_s": 5})).await;

    // What the database has comes a moment later.
    let export = async {
        loop {
            let export = server.must("GET", "/v1/players/bob/export", Value::Null).await;
            let results = server.must("GET", "/v1/lobbies/den/results", Value::Null).await;
            if export["stats"]["games_finished"] == 1 && results["events"][0]["results"]["winner"] == "ann" {
                return export;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let export = tokio::time::timeout(PATIENCE, export).await.expect("everything is archived");
    assert_eq!(export["stats"]["stats"]["damage"]["sum"], 7);
    assert!(export.to_string().contains("12 Hill Road"));
    let own = cluster.caller("bob", &[]);
    assert_eq!(
        own.must("GET", "/v1/players/bob/export?limit=1", Value::Null).await["events"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(cluster.caller("ann", &[]).refused("GET", "/v1/players/bob/export", Value::Null).await.0, 403);
    let guard = cluster.caller("guard", &[Role::Moderator]);
    let moderation = async {
        while guard.must("GET", "/v1/lobbies/den/audit", Value::Null).await["events"][0]["ev"] != "muted" {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, moderation).await.expect("the mute is archived");
    assert_eq!(
        cluster.caller("eve", &[]).refused("GET", "/v1/lobbies/den/results", Value::Null).await.0,
        403
    );

    assert_eq!(own.refused("DELETE", "/v1/players/bob", Value::Null).await.0, 403);
    bob.ask(json!({"op": "block", "user": "ann"})).await.unwrap();
    let export = own.must("GET", "/v1/players/bob/export", Value::Null).await;
    assert_eq!(export["blocked"], json!(["ann"]));
    let erased = server.must("DELETE", "/v1/players/bob", Value::Null).await;
    assert_eq!(erased["complete"], false, "there was something: {erased}");
    assert_eq!(bob.closed().await.code, Some(4504));
    assert_eq!(ann.event("kicked").await["user"], "bob");
    // Those who are there see it go, and nobody reads it again.
    assert_eq!(ann.event("deleted").await["of"], seq(&said));
    let (events, _) = ann.history("den", json!({})).await;
    // What is left keeps its place, and is about nobody: also what the owner has in memory.
    let seqs: Vec<u64> = events.iter().map(seq).collect();
    assert!(seqs.windows(2).all(|pair| pair[1] == pair[0] + 1), "{seqs:?}");
    let look = server.must("GET", "/v1/lobbies/den", Value::Null).await;
    let messages = server.must("GET", "/v1/lobbies/den/messages", Value::Null).await;
    for page in [&json!(events), &look, &messages] {
        assert!(!page.to_string().contains("\"bob\"") && !page.to_string().contains("Hill Road"), "{page}");
    }
    assert!(
        events.iter().any(|event| event["user"].as_str().is_some_and(|user| user.starts_with("erased-")))
    );
    let forgotten = async {
        loop {
            let erased = server.must("DELETE", "/v1/players/bob", Value::Null).await;
            if erased["complete"] == true {
                return server.must("GET", "/v1/players/bob/export", Value::Null).await;
            }
        }
    };
    let export = tokio::time::timeout(PATIENCE, forgotten).await.expect("nothing is left");
    assert_eq!((&export["stats"]["games_finished"], &export["achievements"]), (&json!(0), &json!([])));
    assert_eq!((&export["events"], &export["blocked"]), (&json!([]), &json!([])));
    let results = server.must("GET", "/v1/lobbies/den/results", Value::Null).await;
    let audit = server.must("GET", "/v1/audit", Value::Null).await;
    for page in [&results, &audit] {
        assert!(!page.to_string().contains("\"bob\""), "{page}");
    }
    assert_eq!(audit["entries"][0]["action"], "erase");
    drop(ann);
    cluster.stop().await;
}

#[tokio::test]
async fn reported_messages_are_listed_for_those_who_moderate() {
    let mut cluster = Cluster::start().await;
    let mut players = Vec::new();
    for user in ["ann", "bob", "cle \u{1f980}"] {
        players.push(cluster.player_in(user, "den").await);
    }
    let before = seq(&players[0].chat("den", "hello").await);
    let said = seq(&players[1].chat("den", "something rude").await);
    let report =
        |reason: Value| json!({"op": "report_message", "lobby": "den", "seq": said, "reason": reason});
    players[0].ask(report(json!("rude"))).await.unwrap();
    players[0].ask(report(json!("again"))).await.unwrap();
    players[2].ask(report(Value::Null)).await.unwrap();
    // What becomes of the message later changes no report.
    players[1].ask(json!({"op": "delete", "lobby": "den", "seq": said})).await.unwrap();

    let guard = cluster.caller("guard", &[Role::Moderator]);
    let listed = async {
        loop {
            let page = guard.must("GET", "/v1/reports", Value::Null).await;
            if page["reports"].as_array().unwrap().len() == 2 {
                return page;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let page = tokio::time::timeout(PATIENCE, listed).await.expect("both are filed");
    let (newest, first) = (&page["reports"][0], &page["reports"][1]);
    assert_eq!((&newest["by"], &newest["reason"]), (&json!("cle \u{1f980}"), &Value::Null));
    assert_eq!(
        (&first["by"], &first["reason"], &first["user"]),
        (&json!("ann"), &json!("rude"), &json!("bob"))
    );
    assert_eq!((&first["lobby"], seq(first)), (&json!("den"), said));
    assert_eq!(first["message"]["body"], "something rude");
    assert!(first["context"].as_array().unwrap().iter().any(|event| seq(event) == before));

    // Page by page, whatever is filed meanwhile.
    let page = guard.must("GET", "/v1/reports?limit=1", Value::Null).await;
    assert_eq!(page["reports"], json!([newest]));
    let later = seq(&players[0].chat("den", "more").await);
    players[2].ask(json!({"op": "report_message", "lobby": "den", "seq": later})).await.unwrap();
    let next = format!("/v1/reports?limit=1&cursor={}", page["next"].as_str().unwrap());
    let page = guard.must("GET", &next, Value::Null).await;
    assert_eq!((&page["reports"], &page["next"]), (&json!([first]), &Value::Null));
    let strange = guard.refused("GET", "/v1/reports?cursor=1.zz", Value::Null).await;
    assert_eq!(strange, (400, "bad_request".to_owned()));
    assert_eq!(cluster.caller("ann", &[]).refused("GET", "/v1/reports", Value::Null).await.0, 403);
    drop(players);
    cluster.stop().await;
}
