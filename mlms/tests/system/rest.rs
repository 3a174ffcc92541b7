//! Game back ends and players over REST, against the real service: what a call does is seen by those who are there.

use mlms_protocol::Role;
use serde_json::{Value, json};

use crate::cluster::{Cluster, PATIENCE};
use crate::player::seq;

/// Somebody who calls with a token.
pub(crate) struct Caller<'a> {
    cluster: &'a Cluster,
    pub(crate) bearer: String,
}

impl Cluster {
    pub(crate) fn caller(&self, user: &str, roles: &[Role]) -> Caller<'_> {
        let token = self.token_with(user, roles, std::time::Duration::from_secs(3_600));
        Caller { cluster: self, bearer: format!("Bearer {token}") }
    }
}

impl Caller<'_> {
    pub(crate) async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.with(method, path, body, &[]).await
    }

    pub(crate) async fn with(
        &self,
        method: &str,
        path: &str,
        body: Value,
        headers: &[(&str, &str)],
    ) -> (u16, Value) {
        let mut all = vec![("authorization", self.bearer.as_str()), ("content-type", "application/json")];
        all.extend_from_slice(headers);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.cluster.request(method, path, &all, &body).await
    }

    /// A call that does what it says.
    pub(crate) async fn must(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(method, path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// A call that is refused, as a problem should be: status and code.
    pub(crate) async fn refused(&self, method: &str, path: &str, body: Value) -> (u16, String) {
        let (status, problem) = self.call(method, path, body).await;
        assert!(status >= 400, "{method} {path}: {status} {problem}");
        assert_eq!(problem["status"], status, "{problem}");
        (status, problem["code"].as_str().unwrap_or_else(|| panic!("no code: {problem}")).to_owned())
    }
}

#[tokio::test]
async fn a_back_end_runs_a_lobby_from_its_creation_to_its_end() {
    let mut cluster = Cluster::start().await;
    let server = cluster.caller("match-maker", &[Role::Server]);
    let settings =
        json!({"name": "Finals", "capacity": 4, "visibility": "private", "metadata": {"map": "ice"}});
    let (status, created) =
        server.call("POST", "/v1/lobbies", json!({"lobby": "finals", "settings": settings})).await;
    assert_eq!((status, &created["lobby"]), (201, &json!("finals")), "{created}");
    let taken = server.refused("POST", "/v1/lobbies", json!({"lobby": "finals"})).await;
    assert_eq!(taken, (409, "conflict".to_owned()));
    let unnamed = server.must("POST", "/v1/lobbies", json!({})).await;
    assert_eq!(unnamed["lobby"].as_str().unwrap().len(), 32);

    // Its players come by invites.
    let invite = server.must("POST", "/v1/lobbies/finals/invites", json!({"uses": 2})).await;
    let (mut ann, mut bob) = (cluster.player("ann").await, cluster.player("bob").await);
    for player in [&mut ann, &mut bob] {
        let join = json!({"op": "join", "lobby": "finals", "invite": invite["invite"]});
        player.ask(join).await.unwrap();
    }
    let lobby = server.must("GET", "/v1/lobbies/finals", Value::Null).await;
    assert_eq!(lobby["state"]["host"], "ann");
    assert_eq!(lobby["state"]["settings"]["metadata"]["map"], "ice");
    let members = server.must("GET", "/v1/lobbies/finals/members?limit=1", Value::Null).await;
    assert_eq!(members["members"][0]["user"], "ann");
    let page = format!("/v1/lobbies/finals/members?limit=1&cursor={}", members["next"].as_str().unwrap());
    assert_eq!(server.must("GET", &page, Value::Null).await["members"][0]["user"], "bob");

    // It speaks as the system, edits and deletes what it said.
    let said = server.must("POST", "/v1/lobbies/finals/messages", json!({"body": "Welcome"})).await;
    let heard = bob.hears("Welcome").await;
    assert_eq!((&heard["from"], seq(&heard)), (&Value::Null, seq(&said)));
    let message = format!("/v1/lobbies/finals/messages/{}", seq(&said));
    server.must("PATCH", &message, json!({"body": "Welcome, all"})).await;
    assert_eq!(bob.event("edited").await["body"], "Welcome, all");
    server.must("DELETE", &message, Value::Null).await;
    assert_eq!(seq(&said), bob.event("deleted").await["of"].as_u64().unwrap());
    let (status, answer) = server
        .call("POST", "/v1/lobbies/finals/messages", json!({"kind": "tick", "body": {"n": 1}, "to": ["bob"]}))
        .await;
    assert_eq!((status, answer), (202, json!({})));
    assert_eq!(bob.event_where(|frame| frame["kind"] == "tick").await["body"]["n"], 1);

    // A game with a report and results.
    assert_eq!(server.must("POST", "/v1/lobbies/finals/games", Value::Null).await["game"], 1);
    let report = json!({"stat": "damage", "amount": 40, "user": "bob"});
    server.must("POST", "/v1/lobbies/finals/games/current/reports", report).await;
    let results = json!({"results": {"winner": "bob", "score": [3, 1]}});
    server.must("POST", "/v1/lobbies/finals/games/current/finish", results).await;
    let finished = ann.event("game_finished").await;
    assert_eq!(finished["results"]["winner"], "bob");
    let none = server.refused("POST", "/v1/lobbies/finals/games/current/finish", json!({})).await;
    assert_eq!(none, (409, "conflict".to_owned()));

    // Moderation, seen by those who are there.
    server.must("PUT", "/v1/lobbies/finals/mutes/bob", json!({"for_s": 60, "reason": "noise"})).await;
    assert_eq!(ann.event("muted").await["by"], "match-maker");
    let muted = bob.ask(json!({"op": "send", "lobby": "finals", "kind": "chat", "body": "hm"})).await;
    assert_eq!(muted.unwrap_err()["code"], "muted");
    server.must("DELETE", "/v1/lobbies/finals/mutes/bob", Value::Null).await;
    server.must("PUT", "/v1/lobbies/finals/members/bob/role", json!({"role": "moderator"})).await;
    server.must("PUT", "/v1/lobbies/finals/host", json!({"user": "bob"})).await;
    assert_eq!(ann.event("host_changed").await["user"], "bob");
    server.must("PUT", "/v1/lobbies/finals/bans/ann", json!({})).await;
    assert_eq!(bob.event("banned").await["user"], "ann");
    server.must("DELETE", "/v1/lobbies/finals/bans/ann", Value::Null).await;
    let missing = server.refused("DELETE", "/v1/lobbies/finals/bans/ann", Value::Null).await;
    assert_eq!(missing, (404, "not_found".to_owned()));
    server.must("DELETE", "/v1/lobbies/finals/members/bob?reason=enough", Value::Null).await;
    assert_eq!(bob.event("kicked").await["reason"], "enough");

    // Settings, history, the end.
    server.must("PATCH", "/v1/lobbies/finals", json!({"settings": {"name": null, "slow_mode_s": 5}})).await;
    let lobby = server.must("GET", "/v1/lobbies/finals", Value::Null).await;
    assert_eq!(
        (&lobby["state"]["settings"]["name"], &lobby["state"]["settings"]["slow_mode_s"]),
        (&Value::Null, &json!(5))
    );
    let history = server.must("GET", "/v1/lobbies/finals/messages?after=0&limit=3", Value::Null).await;
    assert_eq!((history["events"].as_array().unwrap().len(), &history["more"]), (3, &json!(true)));
    server.must("DELETE", "/v1/lobbies/finals", Value::Null).await;
    let gone = server.refused("GET", "/v1/lobbies/finals", Value::Null).await;
    assert_eq!(gone, (410, "lobby_closed".to_owned()));
    drop((ann, bob));
    cluster.stop().await;
}

#[tokio::test]
async fn a_player_may_do_over_rest_what_it_may_do_on_its_socket() {
    let mut cluster = Cluster::start().await;
    let mut ann = cluster.player_in("ann", "den").await;
    let (host, outsider) = (cluster.caller("ann", &[]), cluster.caller("eve", &[]));
    let moderator = cluster.caller("mod", &[Role::Moderator]);

    let said = host.must("POST", "/v1/lobbies/den/messages", json!({"body": "from my phone"})).await;
    assert_eq!(ann.hears("from my phone").await["from"], "ann");
    host.must("PATCH", "/v1/lobbies/den", json!({"settings": {"capacity": 9}})).await;
    assert_eq!(ann.event_where(|event| event["settings"]["capacity"] == 9).await["by"], "ann");

    // Of a public lobby an outsider sees the door, and nothing behind it.
    let seen = outsider.must("GET", "/v1/lobbies/den", Value::Null).await;
    assert_eq!((&seen["state"]["members"], &seen["state"]["messages"]), (&json!([]), &json!([])));
    assert_eq!(seen["state"]["members_total"], 1);
    let message = format!("/v1/lobbies/den/messages/{}", seq(&said));
    for (method, path, body) in [
        ("GET", "/v1/lobbies/den/members", Value::Null),
        ("GET", "/v1/lobbies/den/messages", Value::Null),
        ("POST", "/v1/lobbies/den/messages", json!({"body": "hi"})),
        ("PATCH", &message, json!({"body": "no"})),
        ("DELETE", &message, Value::Null),
        ("PATCH", "/v1/lobbies/den", json!({"settings": {"name": "mine"}})),
        ("DELETE", "/v1/lobbies/den", Value::Null),
        ("POST", "/v1/lobbies/den/invites", json!({})),
        ("PUT", "/v1/lobbies/den/bans/ann", json!({})),
        ("POST", "/v1/lobbies/den/games", Value::Null),
    ] {
        assert_eq!(
            outsider.refused(method, path, body).await,
            (403, "not_member".to_owned()),
            "{method} {path}"
        );
    }
    // A moderator moderates everywhere, and speaks nowhere unasked.
    assert_eq!(
        moderator.refused("POST", "/v1/lobbies/den/messages", json!({"body": "hi"})).await,
        (403, "not_member".to_owned())
    );
    moderator.must("DELETE", &message, Value::Null).await;
    assert_eq!(ann.event("deleted").await["by"], "mod");

    // A private lobby is none, to the byte.
    host.must("PATCH", "/v1/lobbies/den", json!({"settings": {"visibility": "private"}})).await;
    for (method, path, body) in [
        ("GET", "", Value::Null),
        ("GET", "/members", Value::Null),
        ("GET", "/messages", Value::Null),
        ("POST", "/messages", json!({"body": "hi"})),
        ("PATCH", "", json!({"settings": {"name": "mine"}})),
        ("DELETE", "", Value::Null),
        ("PUT", "/bans/ann", json!({})),
    ] {
        let hidden = outsider.call(method, &format!("/v1/lobbies/den{path}"), body.clone()).await;
        let none = outsider.call(method, &format!("/v1/lobbies/nowhere{path}"), body).await;
        assert_eq!(hidden.0, 404, "{method} {path}");
        assert_eq!(hidden, none, "{method} {path}");
    }
    drop(ann);
    cluster.stop().await;
}

#[tokio::test]
async fn a_repeat_with_its_key_happens_once() {
    let mut cluster = Cluster::start().await;
    let mut ann = cluster.player_in("ann", "den").await;
    let server = cluster.caller("backend", &[Role::Server]);
    let key = [("idempotency-key", "order-66")];
    let send = async |text: &str| {
        let body = json!({"body": text});
        let (status, answer) = server.with("POST", "/v1/lobbies/den/messages", body, &key).await;
        assert_eq!(status, 201, "{answer}");
        answer
    };
    let (first, second) = (send("once").await, send("once").await);
    assert_eq!((seq(&first), &second["dup"]), (seq(&second), &json!(true)));
    ann.hears("once").await;
    // Another request with the same key is none of its repeats, and does not happen.
    let other = server.with("POST", "/v1/lobbies/den/messages", json!({"body": "twice"}), &key).await;
    assert_eq!((other.0, &other.1["code"]), (409, &json!("conflict")));
    let other = [("idempotency-key", "order-67")];
    server.with("POST", "/v1/lobbies/den/messages", json!({"body": "thrice"}), &other).await;
    ann.hears("thrice").await;
    assert!(ann.unread().all(|frame| frame["body"] != "twice"));

    let create = async || {
        let (status, answer) = server.with("POST", "/v1/lobbies", json!({}), &key).await;
        assert_eq!(status, 201, "{answer}");
        answer
    };
    assert_eq!(create().await, create().await);
    let other = server.with("POST", "/v1/lobbies", json!({"settings": {"name": "Other"}}), &key).await;
    assert_eq!((other.0, &other.1["code"]), (409, &json!("conflict")));
    let named = async |lobby: &str| {
        let body = json!({"lobby": lobby});
        server.with("POST", "/v1/lobbies", body, &[("idempotency-key", "order-68")]).await
    };
    let (first, again, other) = (named("first").await, named("first").await, named("other").await);
    assert_eq!((first.0, &first.1), (201, &again.1));
    assert_eq!((other.0, &other.1["code"]), (409, &json!("conflict")), "{}", other.1);
    assert_eq!(server.refused("GET", "/v1/lobbies/other", Value::Null).await.0, 404);
    let invite = async || {
        server.with("POST", "/v1/lobbies/den/invites", json!({"uses": 1}), &key).await.1["invite"].clone()
    };
    let secret = invite().await;
    assert!(secret.is_string());
    assert_eq!(secret, invite().await);
    let bad = [("idempotency-key", "two words")];
    let (status, problem) = server.with("POST", "/v1/lobbies", json!({}), &bad).await;
    assert_eq!((status, &problem["code"]), (400, &json!("bad_request")));
    drop(ann);
    cluster.stop().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_says_why() {
    let mut cluster = Cluster::start().await;
    let server = cluster.caller("backend", &[Role::Server]);
    server.must("POST", "/v1/lobbies", json!({"lobby": "den"})).await;
    for (method, path, body, status, code) in [
        ("POST", "/v1/lobbies", json!({"lobby": "a b"}), 400, "bad_request"),
        ("POST", "/v1/lobbies", json!({"lobby": "a", "setings": {}}), 400, "bad_request"),
        ("POST", "/v1/lobbies", json!({"lobby": "a", "settings": {"pasword": "x"}}), 400, "bad_request"),
        ("POST", "/v1/lobbies", json!([1]), 400, "bad_request"),
        ("PUT", "/v1/lobbies/den/mutes/ann", json!([null, null]), 400, "bad_request"),
        ("GET", "/v1/lobbies/a%20b", Value::Null, 400, "bad_request"),
        ("GET", "/v1/lobbies/%ff", Value::Null, 400, "bad_request"),
        ("GET", "/v1/lobbies?limit=0", Value::Null, 400, "bad_request"),
        ("GET", "/v1/lobbies?limit=1&limit=2", Value::Null, 400, "bad_request"),
        ("GET", "/v1/lobbies?filter=7", Value::Null, 400, "bad_request"),
        ("GET", "/v1/lobbies/den/messages?before=1&after=1", Value::Null, 400, "bad_request"),
        ("GET", "/v1/lobbies/den/messages?after=-1", Value::Null, 400, "bad_request"),
        ("POST", "/v1/lobbies/den/messages", json!({}), 400, "bad_request"),
        ("POST", "/v1/lobbies/den/messages", json!({"body": 7}), 400, "bad_request"),
        ("POST", "/v1/lobbies/den/messages", json!({"body": "x".repeat(5_000)}), 413, "too_large"),
        (
            "POST",
            "/v1/lobbies/den/messages",
            json!({"kind": "blob", "body": "x".repeat(140_000)}),
            413,
            "too_large",
        ),
        ("PATCH", "/v1/lobbies/den/messages/1", json!({"body": "x"}), 404, "not_found"),
        ("PUT", "/v1/lobbies/den/bans/ann", json!({"for_s": 0}), 400, "bad_request"),
        ("PUT", "/v1/lobbies/den/members/ann/role", json!({"role": "king"}), 400, "bad_request"),
        ("PUT", "/v1/lobbies/den/members/ann/role", json!({"role": "player"}), 404, "not_found"),
        ("DELETE", "/v1/lobbies/nowhere", Value::Null, 404, "not_found"),
        ("PUT", "/v1/lobbies/den", json!({}), 405, "unknown_op"),
        ("GET", "/v1/lobbies/den/nothing", Value::Null, 404, "not_found"),
    ] {
        let shown = body.to_string().chars().take(60).collect::<String>();
        assert_eq!(
            server.refused(method, path, body).await,
            (status, code.to_owned()),
            "{method} {path} {shown}"
        );
    }
    let plain = [("content-type", "text/plain")];
    let bearer = format!("Bearer {}", cluster.token("ann"));
    let headers = [("authorization", bearer.as_str()), plain[0]];
    assert_eq!(cluster.request("POST", "/v1/lobbies", &headers, "{}").await.0, 415);
    for (method, path) in
        [("GET", "/v1/lobbies/den"), ("POST", "/v1/lobbies"), ("PUT", "/v1/lobbies/den/bans/x")]
    {
        assert_eq!(cluster.request(method, path, &[], "").await.0, 401, "{method} {path}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn the_list_takes_a_filter_and_a_lobby_its_tag() {
    let mut cluster = Cluster::start().await;
    let server = cluster.caller("backend", &[Role::Server]);
    for (lobby, map) in [("one", "ice"), ("two", "sand"), ("three", "ice")] {
        let body = json!({"lobby": lobby, "settings": {"metadata": {"map": map}}});
        server.must("POST", "/v1/lobbies", body).await;
    }
    let filtered = async {
        loop {
            let page = server
                .must(
                    "GET",
                    "/v1/lobbies?filter=%7B%22map%22%3A%22ice%22%2C%22%24sort%22%3A%22lobby%22%7D",
                    Value::Null,
                )
                .await;
            let ids: Vec<_> =
                page["lobbies"].as_array().unwrap().iter().map(|lobby| lobby["lobby"].clone()).collect();
            if ids == [json!("one"), json!("three")] {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, filtered).await.expect("the list follows");

    let bearer = format!("authorization: Bearer {}", cluster.token("ann"));
    let get = async |more: &str| {
        let lines = format!("{bearer}\r\nx-request-id: test-7{more}");
        cluster.head("GET", "/v1/lobbies/one", &lines).await
    };
    let head = get("").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("\r\nx-request-id: test-7\r\n"), "{head}");
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
    let again = get(&format!("\r\nif-none-match: {tag}")).await;
    assert!(again.starts_with("HTTP/1.1 304"), "{again}");
    server.must("PATCH", "/v1/lobbies/one", json!({"settings": {"name": "New"}})).await;
    let changed = get(&format!("\r\nif-none-match: {tag}")).await;
    assert!(changed.starts_with("HTTP/1.1 200"), "{changed}");

    // Who changes what it has not seen is told so.
    let patch = async |tag: &str| {
        let body = json!({"settings": {"name": "Newer"}});
        server.with("PATCH", "/v1/lobbies/one", body, &[("if-match", tag)]).await
    };
    let (status, problem) = patch(&tag).await;
    assert_eq!((status, &problem["code"]), (412, &json!("conflict")), "{problem}");
    let bearer = format!("authorization: {}", server.bearer);
    let head = cluster.head("GET", "/v1/lobbies/one", &bearer).await;
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
    assert_eq!(patch(&tag).await.0, 200);
    assert_eq!(patch("*").await.0, 200);
    // Of many at once who have seen the same, one is first.
    for _ in 0..20 {
        let head = cluster.head("GET", "/v1/lobbies/one", &bearer).await;
        let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
        let [a, b, c, d] = [patch(&tag), patch(&tag), patch(&tag), patch(&tag)];
        let (a, b, c, d) = tokio::join!(a, b, c, d);
        let mut statuses = [a.0, b.0, c.0, d.0];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 412, 412, 412]);
    }
    cluster.stop().await;
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_back() {
    let settings = [("MLMS_LIMIT_COMMANDS_PER_S", "1"), ("MLMS_LIMIT_COMMANDS_BURST", "3")];
    let mut cluster = Cluster::with(&settings).await;
    let ann = cluster.caller("ann", &[]);
    for _ in 0..3 {
        ann.must("GET", "/v1/lobbies", Value::Null).await;
    }
    let (status, problem) = ann.call("GET", "/v1/lobbies", Value::Null).await;
    assert_eq!((status, &problem["code"]), (429, &json!("rate_limited")));
    assert!((1..=1_000).contains(&problem["retry_ms"].as_u64().unwrap()), "{problem}");
    let bearer = format!("authorization: Bearer {}", cluster.token("ann"));
    assert!(cluster.head("GET", "/v1/lobbies", &bearer).await.contains("\r\nretry-after: 1\r\n"));
    let server = cluster.caller("backend", &[Role::Server]);
    for _ in 0..20 {
        server.must("GET", "/v1/lobbies", Value::Null).await;
    }
    cluster.stop().await;
}
