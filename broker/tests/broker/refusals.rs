//! Everything that is refused before the 101, and with what.

use mlms_broker::BrokerConfig;
use mlms_cluster::view::NodeState;
use mlms_process::config::AllowedOrigins;
use mlms_protocol::ticket::{ClusterKeys, TICKET_VERSION, Ticket};
use mlms_protocol::{Millis, NodeName, SessionId, UserId};
use tokio::io::AsyncReadExt;

use crate::stage::{Answer, SECRET, Stage};

/// Target, changed headers, status, code.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], u16, &'a str);

fn assert_problem(answer: &Answer, status: u16, code: &str, context: &str) {
    assert_eq!(answer.status, status, "{context}: {answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{context}");
    let problem = answer.json();
    assert_eq!(problem["code"], code, "{context}: {problem}");
    assert_eq!(problem["status"], status, "{context}");
    let may_retry = matches!(status, 429 | 503);
    assert_eq!(answer.header("retry-after").is_some(), may_retry, "{context}");
    assert_eq!(problem["retry_ms"].is_u64(), may_retry, "{context}: {problem}");
}

#[tokio::test]
async fn every_bad_handshake_gets_its_status_and_code() {
    let config = BrokerConfig {
        allowed_origins: AllowedOrigins::Listed(vec!["https://play.example.com".to_owned()]),
        ..BrokerConfig::default()
    };
    let stage = Stage::with_config(config).await;
    let good = stage.bearer("ann");
    let users = ClusterKeys::new(&[*SECRET]);
    let sign = |claims: serde_json::Value| format!("Bearer {}", users.sign(&claims));
    let expired = sign(serde_json::json!({"sub": "ann", "exp": 1_000_000}));
    let no_sub = sign(serde_json::json!({"exp": 4_000_000_000_u64}));
    let control_sub = sign(serde_json::json!({"sub": "a\nb", "exp": 4_000_000_000_u64}));
    let foreign =
        ClusterKeys::new(&[[7; 32]]).sign(&serde_json::json!({"sub": "ann", "exp": 4_000_000_000_u64}));
    let foreign = format!("Bearer {foreign}");
    let stale_ticket = format!("Bearer {}", stage.keys.mint(&ticket_for("node-1", 1_000_000, None)));
    let gone_ticket = format!("Bearer {}", stage.keys.mint(&ticket_for("node-9", 4_000_000_000, None)));
    let lobby_ticket =
        format!("Bearer {}", stage.keys.mint(&ticket_for("node-1", 4_000_000_000, Some("one"))));
    let long_lobby = format!("/ws?lobby={}", "x".repeat(65));

    let cases: &[Case<'_>] = &[
        ("/ws", &[auth(&good), ("upgrade", "")], 400, "bad_request"),
        ("/ws", &[auth(&good), ("connection", "close")], 400, "bad_request"),
        ("/ws", &[auth(&good), ("sec-websocket-version", "8")], 426, "bad_request"),
        ("/ws", &[auth(&good), ("sec-websocket-version", "")], 426, "bad_request"),
        ("/ws", &[auth(&good), ("sec-websocket-key", "abc")], 400, "bad_request"),
        ("/ws?lobby=", &[auth(&good)], 400, "bad_request"),
        ("/ws?lobby=a%20b", &[auth(&good)], 400, "bad_request"),
        ("/ws?lobby=a&lobby=b", &[auth(&good)], 400, "bad_request"),
        (&long_lobby, &[auth(&good)], 400, "bad_request"),
        ("/lobbies/a.b/ws", &[auth(&good)], 400, "bad_request"),
        ("/lobbies//ws", &[auth(&good)], 400, "bad_request"),
        ("/lobbies/a/b/ws", &[auth(&good)], 400, "bad_request"),
        ("/lobbies/one/ws?lobby=two", &[auth(&good)], 400, "bad_request"),
        ("/ws", &[], 401, "unauthorized"),
        ("/ws?token=abc", &[], 401, "unauthorized"),
        ("/ws", &[auth("Bearer a.b.c")], 401, "unauthorized"),
        ("/ws", &[auth("Bearer ")], 401, "unauthorized"),
        ("/ws", &[auth(&foreign)], 401, "unauthorized"),
        ("/ws", &[auth(&no_sub)], 401, "unauthorized"),
        ("/ws", &[auth(&control_sub)], 401, "unauthorized"),
        ("/ws", &[auth(&expired)], 401, "token_expired"),
        ("/ws", &[auth(&stale_ticket)], 401, "token_expired"),
        ("/ws", &[("sec-websocket-protocol", "mlms.v1.json, bearer.a.b.c")], 401, "unauthorized"),
        ("/ws", &[auth(&good), ("origin", "https://evil.example.com")], 403, "forbidden"),
        ("/ws", &[auth(&good), ("origin", "null")], 403, "forbidden"),
        ("/ws", &[auth(&gone_ticket)], 503, "owner_unavailable"),
        ("/ws?lobby=two", &[auth(&lobby_ticket)], 400, "bad_request"),
    ];
    for (target, changes, status, code) in cases {
        let answer = stage.handshake(target, changes).await;
        assert_problem(&answer, *status, code, &format!("{target} {changes:?}"));
        assert_eq!(answer.header("www-authenticate").is_some(), *status == 401, "{target} {changes:?}");
    }
    assert_eq!(stage.metric("mlms_broker_handshakes_total", ""), cases.len() as f64);
    assert_eq!(stage.metric("mlms_broker_handshakes_total", "origin"), 2.0);
    assert!(stage.nodes[0].seen().is_empty(), "no node hears of any of these");

    let allowed = stage.handshake("/ws", &[auth(&good), ("origin", "https://play.example.com")]).await;
    assert_eq!(allowed.status, 101);
}

fn auth(token: &str) -> (&str, &str) {
    ("authorization", token)
}

fn ticket_for(node: &str, exp: u64, lobby: Option<&str>) -> Ticket {
    Ticket {
        v: TICKET_VERSION,
        exp,
        session: SessionId::generate(),
        user: UserId::new("ann").unwrap(),
        name: None,
        roles: Vec::new(),
        token_expires_at: Millis(4_000_000_000_000),
        address: "127.0.0.1".to_owned(),
        lobby: lobby.map(|lobby| lobby.parse().unwrap()),
        node: NodeName::new(node).unwrap(),
    }
}

#[tokio::test]
async fn a_request_that_names_no_host_or_two_is_refused_whatever_it_asks_for() {
    let stage = Stage::with_nodes(1).await;
    for path in ["/", "/health", "/ws", "/v1/lobbies"] {
        for hosts in ["", "Host: one.example\r\nHost: two.example\r\n"] {
            let answer = stage.send(&format!("GET {path} HTTP/1.1\r\n{hosts}\r\n")).await;
            assert_problem(&answer, 400, "bad_request", &format!("{path} {hosts:?}"));
        }
    }
    assert_eq!(stage.send("GET / HTTP/1.0\r\n\r\n").await.status, 200, "there was none in HTTP/1.0");
}

#[tokio::test]
async fn a_version_that_is_not_spoken_is_told_which_is() {
    let stage = Stage::with_nodes(1).await;
    let answer = stage.handshake("/ws", &[("sec-websocket-version", "7")]).await;
    assert_eq!((answer.status, answer.header("sec-websocket-version")), (426, Some("13")));
}

#[tokio::test]
async fn an_unknown_subprotocol_gets_a_bye_and_4502() {
    let stage = Stage::with_nodes(1).await;
    let headers = [("authorization", &*stage.bearer("ann")), ("sec-websocket-protocol", "mlms.v9.json")];
    let mut answer = stage.handshake("/ws", &headers).await;
    assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, None));
    let mut bytes = Vec::new();
    answer.stream.read_to_end(&mut bytes).await.unwrap();
    let bye_length = usize::from(bytes[1]);
    assert_eq!(bytes[0], 0x81);
    let bye: serde_json::Value = serde_json::from_slice(&bytes[2..2 + bye_length]).unwrap();
    assert_eq!((&bye["ev"], &bye["code"], &bye["reconnect"]), (&"bye".into(), &4502.into(), &"never".into()));
    let close = &bytes[2 + bye_length..];
    assert_eq!(close[0], 0x88);
    assert_eq!(close[2..4], 4502_u16.to_be_bytes());
    assert_eq!(stage.metric("mlms_broker_handshakes_total", "unsupported_subprotocol"), 1.0);
    assert!(stage.nodes[0].seen().is_empty());
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_others_have_theirs() {
    let config = BrokerConfig {
        connections_per_address_max: 2,
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        ..BrokerConfig::default()
    };
    let stage = Stage::with_config(config).await;
    let token = stage.bearer("ann");
    let open = async |forwarded: &str| {
        stage.handshake("/ws", &[("authorization", &token), ("x-forwarded-for", forwarded)]).await
    };
    let first = open("2001:db8::1").await;
    let second = open("6.6.6.6, 2001:db8::2").await;
    assert_eq!((first.status, second.status), (101, 101));
    assert_problem(&open("2001:db8::3").await, 429, "rate_limited", "one /64");
    assert_eq!(open("2001:db8:0:1::1").await.status, 101, "another address has its own");
    drop(first);
    stage.until_metric("mlms_broker_tunnels_ended_total", "client", 2.0).await;
    assert_eq!(open("2001:db8::3").await.status, 101, "a place comes back");
    assert_eq!(stage.metric("mlms_broker_handshakes_total", "connections_per_address"), 1.0);
}

#[tokio::test]
async fn without_a_ready_node_players_are_told_to_come_back() {
    let stage = Stage::with_nodes(1).await;
    assert!(stage.readiness.is_ready());
    stage.change(0, |record| record.state = NodeState::Draining).await;
    for target in ["/ws", "/ws?lobby=lounge"] {
        let answer = stage.handshake(target, &[("authorization", &stage.bearer("ann"))]).await;
        assert_problem(&answer, 503, "owner_unavailable", target);
    }
    let health = stage.get("/health", &[]).await;
    assert_eq!((health.status, &health.json()["services"]["nodes"]["state"]), (503, &"down".into()));
    assert!(!stage.readiness.is_ready());
}

#[tokio::test]
async fn requests_that_are_too_large_or_unknown_are_refused() {
    let stage = Stage::with_nodes(1).await;
    let long = "x".repeat(20_000);
    assert_eq!(stage.get("/health", &[("x-long", &long)]).await.status, 431);
    let many: Vec<(&str, &str)> = std::iter::repeat_n(("x-many", "1"), 100).collect();
    assert_eq!(stage.get("/health", &many).await.status, 431);
    for (method, target, status, code) in [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/ws/", 404, "not_found"),
        ("GET", "/lobbies/a", 404, "not_found"),
        ("GET", "/v1/guests", 405, "unknown_op"),
        ("PUT", "/v1/lobbies", 405, "unknown_op"),
        ("POST", "/health", 405, "unknown_op"),
        ("POST", "/ws", 400, "bad_request"),
    ] {
        assert_problem(
            &stage.request(method, target, &[], "").await,
            status,
            code,
            &format!("{method} {target}"),
        );
    }
}
