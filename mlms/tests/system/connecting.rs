//! Every way in, and every way in which the door stays shut.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mlms_protocol::Encoding;
use serde_json::{Value, json};

use crate::cluster::{Cluster, PATIENCE, SECRET, mlms};
use crate::player::Player;

#[tokio::test]
async fn every_road_of_the_protocol_leads_in() {
    let mut cluster = Cluster::start().await;
    let mut witness = cluster.player_in("witness", "hall").await;
    let bearer = |user: &str| format!("Bearer {}", cluster.token(user));

    let by_header = cluster.open("/ws?lobby=hall", &[("authorization", &bearer("by-header"))]).await;
    let by_path = cluster.open("/lobbies/hall/ws", &[("authorization", &bearer("by-path"))]).await;
    let query = format!("/ws?lobby=hall&token={}", cluster.token("by-query"));
    let by_query = cluster.open(&query, &[]).await;
    let protocols = format!("mlms.v1.msgpack, bearer.{}", cluster.token("by-subprotocol"));
    let by_subprotocol = cluster.open("/ws?lobby=hall", &[("sec-websocket-protocol", &protocols)]).await;
    let bare = format!("bearer.{}", cluster.token("by-subprotocol-alone"));
    // tungstenite wants one of what it asked for in the answer: the plain bytes are looked at instead.
    let (status, chosen) = plain_upgrade(&cluster, "/ws?lobby=hall", &bare).await;
    assert_eq!((status, chosen), (101, None));

    let connect = |user: &str| [("authorization", bearer(user)), ("content-type", "application/json".into())];
    let headers = connect("by-ticket");
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (status, ticket) = cluster.request("POST", "/v1/connect", &headers, r#"{"lobby":"hall"}"#).await;
    assert_eq!(status, 200, "{ticket}");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    assert!(u128::from(ticket["expires_at"].as_u64().unwrap()) > now);
    let url = ticket["url"].as_str().unwrap();
    let with_ticket = format!("Bearer {}", ticket["ticket"].as_str().unwrap());
    let by_ticket = Player::open(url, &[("authorization", &with_ticket)]).await;

    let mut players = Vec::new();
    for (player, user, encoding) in [
        (by_header, "by-header", Encoding::Json),
        (by_path, "by-path", Encoding::Json),
        (by_query, "by-query", Encoding::Json),
        (by_subprotocol, "by-subprotocol", Encoding::Msgpack),
        (by_ticket, "by-ticket", Encoding::Json),
    ] {
        let mut player = player.unwrap_or_else(|refusal| panic!("{user}: {refusal:?}"));
        assert_eq!(player.user(), user);
        assert_eq!(player.encoding(), encoding);
        assert_eq!(player.welcome["heartbeat_ms"], 25_000);
        assert_eq!(player.welcome["limits"]["chat_bytes_max"], 4_096);
        assert!(player.welcome["now"].is_u64() && player.welcome["session"].is_string());
        assert_eq!(player.event("snapshot").await["lobby"], "hall");
        player.chat("hall", &format!("I came {user}")).await;
        witness.hears(&format!("I came {user}")).await;
        players.push(player);
    }
    // A ticket opens one door, once.
    let again = Player::open(url, &[("authorization", &with_ticket)]).await;
    assert_eq!(again.unwrap_err().0, 401);
    drop((players, witness));
    cluster.stop().await;
}

/// Upgrades by hand, and gives the status and the chosen subprotocol.
async fn plain_upgrade(cluster: &Cluster, target: &str, protocols: &str) -> (u16, Option<String>) {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    let stream = tokio::net::TcpStream::connect(cluster.address()).await.unwrap();
    let mut stream = BufReader::new(stream);
    let head = format!(
        "GET {target} HTTP/1.1\r\nhost: {}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         sec-websocket-protocol: {protocols}\r\n\r\n",
        cluster.address()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut status, mut chosen, mut line) = (0, None, String::new());
    while stream.read_line(&mut line).await.unwrap() > 2 {
        if status == 0 {
            status = line.split(' ').nth(1).unwrap().parse().unwrap();
        }
        if let Some(("sec-websocket-protocol", value)) = line.to_ascii_lowercase().split_once(": ") {
            chosen = Some(value.trim().to_owned());
        }
        line.clear();
    }
    (status, chosen)
}

#[tokio::test]
async fn the_tour_of_a_newcomer_works_without_any_setting() {
    // No secret is given: the service makes one up, and the tool beside it finds it.
    let mut cluster = Cluster::prepare(&[]);
    cluster.without_secret();
    cluster.launch().await;
    let token = mlms(cluster.folder()).args(["token", "--guest", "Ann"]).output().unwrap();
    assert!(token.status.success(), "{token:?}");
    let token = String::from_utf8(token.stdout).unwrap();
    let mut ann = cluster.open(&format!("/ws?lobby=lounge&token={}", token.trim()), &[]).await.unwrap();
    let snapshot = ann.event("snapshot").await;
    assert_eq!(snapshot["state"]["members"][0]["name"], "Ann");

    let (status, guest) = cluster.request("POST", "/v1/guests", &[], r#"{"name":"Bob"}"#).await;
    assert_eq!((status, &guest["name"]), (201, &json!("Bob")), "{guest}");
    let target = format!("/ws?lobby=lounge&token={}", guest["token"].as_str().unwrap());
    let mut bob = cluster.open(&target, &[]).await.unwrap();
    assert_eq!(ann.event("joined").await["name"], "Bob");
    bob.event("snapshot").await;
    bob.chat("lounge", "hi Ann").await;
    assert_eq!(ann.hears("hi Ann").await["from"], guest["user"]);

    let bearer = format!("Bearer {}", token.trim());
    let listed = async {
        loop {
            let headers = [("authorization", bearer.as_str())];
            let (status, list) = cluster.request("GET", "/v1/lobbies", &headers, "").await;
            assert_eq!(status, 200, "{list}");
            if list["lobbies"][0]["lobby"] == "lounge" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, listed).await.expect("the lobby is listed");
    let (status, page) = crate::cluster::request(cluster.port(), "GET", "/", &[], "").await.unwrap();
    assert!(status == 200 && page.contains("<html"), "{page}");
    // The made-up secret stays: the token is good after a restart.
    drop((ann, bob));
    cluster.stop().await;
    cluster.launch().await;
    cluster.open(&format!("/ws?token={}", token.trim()), &[]).await.unwrap();
    cluster.stop().await;
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn seconds(offset: i64) -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap() + offset
}

fn signed(claims: &Value, secret: &str) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &key).unwrap()
}

#[tokio::test]
async fn a_bad_token_opens_no_door() {
    let mut cluster = Cluster::start().await;
    let good = cluster.token("mallory");
    let mut cut = good.clone();
    cut.truncate(good.len() - 2);
    let claims = json!({"sub": "mallory", "exp": seconds(600)});
    let alg_none = format!("{}.{}.", part(&json!({"alg": "none", "typ": "JWT"})), part(&claims));
    let unsigned = format!("{}.{}.", part(&json!({"alg": "HS256", "typ": "JWT"})), part(&claims));
    let other_alg = format!("{}.{}.c2ln", part(&json!({"alg": "RS256", "typ": "JWT"})), part(&claims));
    let (body, signature) = good.rsplit_once('.').unwrap();
    let (head, _) = body.split_once('.').unwrap();
    let admin = json!({"sub": "admin", "exp": seconds(600), "roles": ["admin"]});
    let swapped = format!("{head}.{}.{signature}", part(&admin));
    let cases = [
        ("nonsense", "nonsense".to_owned(), "bad_token"),
        ("cut", cut, "bad_token"),
        ("alg none", alg_none, "bad_token"),
        ("no signature", unsigned, "bad_token"),
        ("another algorithm", other_alg, "bad_token"),
        ("swapped claims", swapped, "bad_token"),
        ("another secret", signed(&claims, "another secret, as long as the first"), "bad_token"),
        ("expired", signed(&json!({"sub": "mallory", "exp": seconds(-600)}), SECRET), "token_expired"),
        ("no expiry", signed(&json!({"sub": "mallory"}), SECRET), "bad_token"),
        ("no user", signed(&json!({"exp": seconds(600)}), SECRET), "bad_token"),
        ("empty user", signed(&json!({"sub": "", "exp": seconds(600)}), SECRET), "bad_token"),
        (
            "user of control characters",
            signed(&json!({"sub": "a\nb", "exp": seconds(600)}), SECRET),
            "bad_token",
        ),
        ("long user", signed(&json!({"sub": "x".repeat(129), "exp": seconds(600)}), SECRET), "bad_token"),
        (
            "not yet valid",
            signed(&json!({"sub": "m", "exp": seconds(900), "nbf": seconds(600)}), SECRET),
            "bad_token",
        ),
    ];
    for (what, token, reason) in cases {
        let before = cluster.metric("mlms_broker_handshakes_total", reason).await;
        let bearer = format!("Bearer {token}");
        let (status, problem) =
            cluster.open("/ws?lobby=hall", &[("authorization", &bearer)]).await.unwrap_err();
        assert_eq!(status, 401, "{what}: {problem}");
        let after = cluster.metric("mlms_broker_handshakes_total", reason).await;
        assert_eq!(after, before + 1.0, "{what}: {problem}");
        // A bad token in the deciding place is not made good by a good one elsewhere.
        let target = format!("/ws?token={good}");
        let refused = cluster.open(&target, &[("authorization", &bearer)]).await;
        assert_eq!(refused.unwrap_err().0, 401, "{what}");
        let (status, _) = cluster.request("POST", "/v1/connect", &[("authorization", &bearer)], "{}").await;
        assert_eq!(status, 401, "{what}");
    }
    assert_eq!(cluster.open("/ws", &[]).await.unwrap_err().0, 401);
    assert_eq!(cluster.metric("mlms_broker_handshakes_total", "no_token").await, 1.0);
    cluster.stop().await;
}

#[tokio::test]
async fn what_is_no_honest_handshake_is_refused_before_the_upgrade() {
    let settings = [("MLMS_ALLOWED_ORIGINS", "https://play.example.com")];
    let mut cluster = Cluster::with(&settings).await;
    let bearer = format!("Bearer {}", cluster.token("ann"));
    let from = |origin: &'static str| [("authorization", bearer.clone()), ("origin", origin.to_owned())];
    let open = async |target: &str, headers: &[(&str, String)]| {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        cluster.open(target, &headers).await.map(|_| ()).map_err(|(status, _)| status)
    };
    assert_eq!(open("/ws", &from("https://play.example.com")).await, Ok(()));
    assert_eq!(open("/ws", &from("https://evil.example.com")).await, Err(403));
    assert_eq!(open("/ws", &from("https://play.example.com.evil.com")).await, Err(403));
    assert_eq!(open("/ws", &from("null")).await, Err(403));
    assert_eq!(cluster.metric("mlms_broker_handshakes_total", "origin").await, 3.0);
    let token = [("authorization", bearer.clone())];
    assert_eq!(open("/ws?lobby=no%20spaces", &token).await, Err(400));
    assert_eq!(open(&format!("/ws?lobby={}", "x".repeat(65)), &token).await, Err(400));
    assert_eq!(open("/lobbies/no.dots/ws", &token).await, Err(400));
    assert_eq!(open("/nowhere", &token).await, Err(404));
    let (status, _) = cluster.request("GET", "/ws", &[("authorization", &bearer)], "").await;
    assert_eq!(status, 400, "no upgrade is asked for");
    // Only subprotocols that nobody speaks: a close that tells the client never to come back.
    let (status, chosen) =
        plain_upgrade(&cluster, "/ws", &format!("mlms.v9, bearer.{}", cluster.token("a"))).await;
    assert_eq!((status, chosen), (101, None));
    assert_eq!(cluster.metric("mlms_broker_handshakes_total", "unsupported_subprotocol").await, 1.0);
    cluster.stop().await;
}

#[tokio::test]
async fn a_session_lives_as_long_as_its_token_and_auth_prolongs_it() {
    let mut cluster = Cluster::start().await;
    let short = |user: &str| cluster.token_with(user, &[], Duration::from_secs(2));
    let open = async |token: String| {
        let bearer = format!("Bearer {token}");
        cluster.open("/ws", &[("authorization", &bearer)]).await.unwrap()
    };
    let (mut ann, mut bob) = (open(short("ann")).await, open(short("bob")).await);
    let refusal = bob.ask(json!({"op": "auth", "token": cluster.token("ann")})).await.unwrap_err();
    assert_eq!(refusal["code"], "forbidden");
    let refusal = bob.ask(json!({"op": "auth", "token": "nonsense"})).await.unwrap_err();
    assert_eq!(refusal["code"], "unauthorized");
    let expired = signed(&json!({"sub": "bob", "exp": seconds(-600)}), SECRET);
    let refusal = bob.ask(json!({"op": "auth", "token": expired})).await.unwrap_err();
    assert_eq!(refusal["code"], "token_expired");
    let ok = bob.ask(json!({"op": "auth", "token": cluster.token("bob")})).await.unwrap();
    assert!(ok["expires_at"].as_i64().unwrap() > seconds(3_000) * 1_000);

    let goodbye = ann.closed().await;
    assert_eq!(goodbye.code, Some(4005));
    assert_eq!(goodbye.bye.unwrap()["code"], 4005);
    assert_eq!(cluster.metric("mlms_closes_total", "token_expired").await, 1.0);
    assert!(bob.ask(json!({"op": "ping"})).await.unwrap()["now"].is_u64());
    drop(bob);
    cluster.stop().await;
}
