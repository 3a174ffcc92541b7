//! Tickets, guests, lobbies, health and the page.

use mlms_broker::BrokerConfig;
use mlms_cluster::view::{LobbySummary, NodeState};
use mlms_process::config::AllowedOrigins;
use mlms_protocol::lobby::Visibility;
use mlms_protocol::{Incarnation, LobbyId, NodeName};

use crate::node::{Manner, Release};
use crate::stage::{PATIENCE, Stage};

#[tokio::test]
async fn a_ticket_opens_its_session_once() {
    let stage = Stage::with_nodes(3).await;
    let auth = stage.bearer("ann");
    let answer =
        stage.request("POST", "/v1/connect", &[("authorization", &auth)], "{\"lobby\":\"lounge\"}").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let body = answer.json();
    assert_eq!(body["url"], format!("ws://{}/ws", stage.address));
    assert!(body["expires_at"].as_u64().unwrap() > 1_700_000_000_000, "milliseconds");
    let ticket = format!("Bearer {}", body["ticket"].as_str().unwrap());
    assert_eq!(stage.handshake("/ws?lobby=lounge", &[("authorization", &ticket)]).await.status, 101);
    let seen = stage.order("ann", Some("lounge"))[0].seen();
    assert_eq!(seen.len(), 1, "the ticket's node got the session");
    assert_eq!(seen[0].ticket.lobby.as_ref().unwrap().as_str(), "lounge");

    let again = stage.handshake("/ws", &[("authorization", &ticket)]).await;
    assert_eq!((again.status, &again.json()["code"]), (401, &"unauthorized".into()));
    let rest = stage.request("POST", "/v1/connect", &[("authorization", &ticket)], "").await;
    assert_eq!(rest.status, 401, "a ticket opens nothing else");
}

#[tokio::test]
async fn a_node_with_a_public_url_is_connected_to_directly() {
    let stage = Stage::with_nodes(1).await;
    stage.change(0, |record| record.public_url = Some("wss://node-1.play.example.com".to_owned())).await;
    let answer = stage.request("POST", "/v1/connect", &[("authorization", &stage.bearer("ann"))], "").await;
    let body = answer.json();
    assert_eq!(body["url"], "wss://node-1.play.example.com/ws");
    let ticket = stage.keys.open(body["ticket"].as_str().unwrap()).unwrap();
    assert_eq!((ticket.node.as_str(), ticket.user.as_str(), ticket.lobby), ("node-1", "ann", None));
}

#[tokio::test]
async fn connect_refuses_what_it_cannot_use() {
    let stage = Stage::with_nodes(1).await;
    let auth = stage.bearer("ann");
    let too_large = format!("{{\"lobby\":\"{}\"}}", "x".repeat(17_000));
    for (auth, body, status, code) in [
        (None, "", 401, "unauthorized"),
        (Some("Bearer x"), "", 401, "unauthorized"),
        (Some(&*auth), "{\"lobby\":\"a b\"}", 400, "bad_request"),
        (Some(&*auth), "{\"lobby\":7}", 400, "bad_request"),
        (Some(&*auth), "[", 400, "bad_request"),
        (Some(&*auth), &too_large, 413, "too_large"),
    ] {
        let headers: Vec<_> = auth.map(|auth| ("authorization", auth)).into_iter().collect();
        let answer = stage.request("POST", "/v1/connect", &headers, body).await;
        assert_eq!((answer.status, &answer.json()["code"]), (status, &code.into()), "{auth:?} {body:.40}");
    }
}

#[tokio::test]
async fn guests_get_a_token_that_works_and_not_too_many() {
    let stage = Stage::with_config(BrokerConfig { guests_per_minute: 2, ..BrokerConfig::default() }).await;
    let answer = stage.request("POST", "/v1/guests", &[], "{\"name\":\"Änne\"}").await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let guest = answer.json();
    assert_eq!(guest["name"], "Änne");
    assert!(guest["expires_at"].as_u64().unwrap() > 1_700_000_000_000, "milliseconds");
    let auth = format!("Bearer {}", guest["token"].as_str().unwrap());
    assert_eq!(stage.handshake("/ws", &[("authorization", &auth)]).await.status, 101);
    let seen = stage.nodes[0].seen();
    assert_eq!(seen[0].ticket.user.as_str(), guest["user"].as_str().unwrap());
    assert!(seen[0].ticket.user.as_str().starts_with("guest-"));
    assert!(seen[0].ticket.roles.is_empty());

    assert_eq!(stage.request("POST", "/v1/guests", &[], "{\"name\":\"\"}").await.status, 400);
    let third = stage.request("POST", "/v1/guests", &[], "").await;
    assert_eq!((third.status, third.header("retry-after").is_some()), (429, true));
    assert_eq!(stage.metric("mlms_broker_guest_tokens_total", ""), 1.0);
    assert_eq!(stage.metric("mlms_broker_requests_refused_total", "guests_per_address"), 1.0);
}

#[tokio::test]
async fn without_guests_the_path_does_not_exist() {
    let stage = Stage::new(Release::Present, 1, BrokerConfig::default(), false).await;
    assert_eq!(stage.request("POST", "/v1/guests", &[], "{\"name\":\"Ann\"}").await.status, 404);
}

#[tokio::test]
async fn lobbies_are_listed_page_by_page() {
    let stage = Stage::with_nodes(1).await;
    let summary = |name: &str| LobbySummary {
        lobby: LobbyId::new(name).unwrap(),
        name: name.to_uppercase(),
        members: 3,
        capacity: 10,
        visibility: Visibility::Public,
        metadata: serde_json::Map::new(),
        locked: false,
        invite_only: false,
        joinable: true,
    };
    let all = ["a", "b", "c", "d", "e"].map(summary).to_vec();
    let node = NodeName::new("node-1").unwrap();
    stage.directory.publish_lobbies(&node, all, Vec::new()).await.unwrap();
    let auth = stage.bearer("ann");
    let (mut listed, mut target) = (Vec::new(), "/v1/lobbies?limit=2".to_owned());
    loop {
        let answer = stage.get(&target, &[("authorization", &auth)]).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let page = answer.json();
        let lobbies = page["lobbies"].as_array().unwrap();
        assert!(lobbies.len() <= 2);
        listed.extend(lobbies.iter().map(|lobby| lobby["lobby"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        target = format!("/v1/lobbies?limit=2&cursor={next}");
    }
    assert_eq!(listed, ["a", "b", "c", "d", "e"]);
    assert_eq!(stage.get("/v1/lobbies", &[]).await.status, 401);
    assert_eq!(stage.get("/v1/lobbies?limit=x", &[("authorization", &auth)]).await.status, 400);
}

#[tokio::test]
async fn pages_of_allowed_origins_may_read_the_answers() {
    let origin = "https://play.example.com";
    let allowed_origins = AllowedOrigins::Listed(vec![origin.to_owned()]);
    let stage = Stage::with_config(BrokerConfig { allowed_origins, ..BrokerConfig::default() }).await;
    let preflight = [("origin", origin), ("access-control-request-method", "POST")];
    let answer = stage.request("OPTIONS", "/v1/connect", &preflight, "").await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (204, Some(origin)));
    assert_eq!(answer.header("access-control-allow-methods"), Some("POST"));
    let allowed = "authorization, content-type, idempotency-key, if-match, if-none-match, x-request-id";
    assert_eq!(answer.header("access-control-allow-headers"), Some(allowed));
    assert_eq!(answer.header("access-control-allow-credentials"), None, "no cookie counts here");
    let refused = stage.get("/v1/lobbies", &[("origin", origin)]).await;
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (401, Some(origin)));
    assert_eq!(refused.header("vary"), Some("origin"));

    let foreign =
        stage.request("OPTIONS", "/v1/connect", &[("origin", "https://evil.example.com")], "").await;
    assert_eq!((foreign.status, foreign.header("access-control-allow-origin")), (403, None));
}

#[tokio::test]
async fn health_tells_of_services_and_nodes() {
    let stage = Stage::with_nodes(2).await;
    let answer = stage.get("/health", &[]).await;
    assert_eq!(answer.status, 200);
    let health = answer.json();
    assert_eq!(
        (&health["state"], &health["ready"], &health["draining"]),
        (&"ok".into(), &true.into(), &false.into())
    );
    assert_eq!(health["services"]["nodes"]["state"], "ok");
    assert_eq!(health["nodes"][1]["name"], "node-2");
}

#[tokio::test]
async fn health_tells_which_node_does_not_answer_and_what_the_nodes_say_of_others() {
    let stage = Stage::with_nodes(2).await;
    // The first ask may have come before the manner.
    stage.nodes[1].set_manner(Manner::Frozen);
    let told = async {
        loop {
            let health = stage.get("/health", &[]).await.json();
            if health["nodes"][1]["health"]["state"] == "down" {
                return health;
            }
        }
    };
    let health = tokio::time::timeout(PATIENCE, told).await.expect("it is found out");
    assert_eq!(health["state"], "degraded", "the other one serves: {health}");
    assert_eq!(health["nodes"][1]["health"]["cause"], "does not answer in time");
    assert_eq!(health["nodes"][0]["health"]["state"], "ok");
    assert!(health["nodes"][0]["health"]["latency_ms"].is_f64(), "{health}");
    let services = &health["services"];
    assert_eq!((&services["redis"]["state"], &services["redis"]["embedded"]), (&"ok".into(), &true.into()));
    assert_eq!(services["rabbitmq"]["state"], "ok", "as the one that answers says");
}

#[tokio::test]
async fn a_node_that_vanishes_is_missed_and_one_that_says_farewell_is_not() {
    let stage = Stage::with_nodes(3).await;
    let until = async |what: &str, is: &dyn Fn(&serde_json::Value) -> bool| {
        let told = async {
            loop {
                let health = stage.get("/health", &[]).await.json();
                if is(&health["services"]) {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, told).await.unwrap_or_else(|_| panic!("{what}"));
    };
    until("all are well", &|services| services["node node-3"]["state"] == "ok").await;
    stage.change(1, |record| record.state = NodeState::Draining).await;
    until("it says farewell", &|services| services["node node-2"]["cause"] == "is leaving").await;
    for number in [1, 2] {
        stage.directory.retire(&stage.nodes[number].name, Incarnation(1)).await.unwrap();
    }
    until("the one is forgotten, the other is missed", &|services| {
        services["node node-2"].is_null() && services["node node-3"]["state"] == "down"
    })
    .await;
}

#[tokio::test]
async fn the_documents_are_there_for_everybody() {
    let stage = Stage::with_nodes(1).await;
    for (path, name) in [("/openapi.json", "openapi"), ("/asyncapi.json", "asyncapi")] {
        let answer = stage.get(path, &[]).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")), "{path}");
        assert!(answer.json()[name].is_string(), "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        let tag = answer.header("etag").unwrap().to_owned();
        assert_eq!(stage.get(path, &[("if-none-match", &tag)]).await.status, 304, "{path}");
    }
    // The reference shows them without anything from elsewhere.
    let page = stage.get("/docs", &[]).await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.header("content-security-policy").unwrap().contains("default-src 'none'"));
    for path in ["/docs.js", "/docs.css"] {
        assert_eq!(stage.get(path, &[]).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn the_page_is_served_strictly_and_once() {
    let stage = Stage::with_nodes(1).await;
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/style.css", "text/css; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
        ("/client/index.js", "text/javascript; charset=utf-8"),
    ] {
        let answer = stage.get(path, &[]).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(kind)), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let etag = answer.header("etag").unwrap().to_owned();
        assert_eq!(stage.get(path, &[("if-none-match", &etag)]).await.status, 304, "{path}");
        let head = stage.request("HEAD", path, &[], "").await;
        assert_eq!((head.status, head.body.len()), (200, 0));
    }
    assert_eq!(stage.get("/client/../Cargo.toml", &[]).await.status, 404);
}
