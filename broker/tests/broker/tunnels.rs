//! What passes through a tunnel, and on which node it ends.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::SinkExt;
use mlms_broker::BrokerConfig;
use mlms_protocol::Role;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::node::{Manner, Release, on_nodes_of_both_releases};
use crate::stage::{PATIENCE, Stage};

on_nodes_of_both_releases!(
    a_websocket_client_talks_to_its_node,
    nothing_that_a_client_claims_reaches_the_node,
    megabytes_pass_both_ways_at_once_unharmed,
    a_client_that_does_not_read_stops_its_node_and_nobody_else,
    the_last_words_pass_after_one_side_has_ended,
    a_session_goes_to_the_next_node_when_one_fails,
    a_node_that_is_not_there_is_passed_over,
    a_frozen_node_is_passed_over,
    a_node_that_freezes_later_is_passed_over,
    what_nodes_say_decides_what_the_client_hears,
);

async fn a_websocket_client_talks_to_its_node(release: Release) {
    let stage = Stage::with_nodes_of(release, 2).await;
    let mut request = format!("ws://{}/ws?lobby=lounge", stage.address).into_client_request().unwrap();
    let protocols = format!("mlms.v1.msgpack, bearer.{}", stage.token("ann"));
    request.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
    let stream = TcpStream::connect(stage.address).await.unwrap();
    let (mut socket, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "mlms.v1.msgpack");

    let owner = stage.order("ann", Some("lounge"))[0];
    let ticket = owner.seen()[0].ticket.clone();
    assert_eq!((ticket.user.as_str(), ticket.name.as_deref()), ("ann", Some("Ann")));
    assert_eq!((&*ticket.roles, ticket.address.as_str()), (&[Role::Moderator][..], "127.0.0.1"));
    assert_eq!(ticket.lobby.unwrap().as_str(), "lounge");
    assert!(ticket.token_expires_at.0 > 1_700_000_000_000, "milliseconds");

    // The node returns the frame as it came, masked, which a client must refuse: so its bytes are compared.
    socket.send(Message::text("hello")).await.unwrap();
    let mut echoed = [0; 11];
    socket.get_mut().read_exact(&mut echoed).await.unwrap();
    assert_eq!(echoed[..2], [0x81, 0x85]);
    stage.until_metric("mlms_broker_carried_bytes_total", "client", 11.0).await;
}

async fn nothing_that_a_client_claims_reaches_the_node(release: Release) {
    let stage = Stage::with_nodes_of(release, 1).await;
    let answer = stage
        .handshake(
            "/lobbies/lounge/ws?user=admin&session=x",
            &[
                ("authorization", &stage.bearer("ann")),
                ("cookie", "session=1"),
                ("origin", &format!("http://{}", stage.address)),
                ("x-forwarded-for", "6.6.6.6"),
                ("x-user", "admin"),
                ("x-mlms-ticket", "admin"),
                ("sec-websocket-extensions", "permessage-deflate"),
                ("sec-websocket-protocol", "mlms.v1.json, bearer.evil"),
            ],
        )
        .await;
    assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, Some("mlms.v1.json")));
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(answer.header("sec-websocket-extensions"), None);

    let seen = &stage.nodes[0].seen()[0];
    let value = |name: &str| seen.headers.iter().find(|(known, _)| known == name).unwrap().1.as_str();
    let names: HashSet<&str> = seen.headers.iter().map(|(name, _)| name.as_str()).collect();
    match release {
        Release::Present => {
            assert_eq!(seen.target, "/internal/trunk");
            assert_eq!(names, HashSet::from(["ticket", "subprotocol"]));
            assert_eq!(value("subprotocol"), "mlms.v1.json");
        }
        Release::Before => {
            assert_eq!(seen.target, "/ws");
            let expected = [
                "host",
                "connection",
                "upgrade",
                "sec-websocket-version",
                "sec-websocket-key",
                "sec-websocket-protocol",
                "authorization",
            ];
            assert_eq!(names, HashSet::from(expected));
            assert_eq!(value("sec-websocket-protocol"), "mlms.v1.json");
            assert_eq!(value("host"), stage.nodes[0].address.to_string());
        }
    }
    assert_eq!((seen.ticket.user.as_str(), seen.ticket.address.as_str()), ("ann", "127.0.0.1"));
}

#[tokio::test]
async fn a_token_in_the_query_counts_where_it_is_allowed() {
    let stage = Stage::with_config(BrokerConfig { token_in_query: true, ..BrokerConfig::default() }).await;
    let target = format!("/ws?token={}", stage.token("bob"));
    assert_eq!(stage.handshake(&target, &[]).await.status, 101);
    assert_eq!(stage.nodes[0].seen()[0].ticket.user.as_str(), "bob");
    let answer = stage.handshake(&target, &[("authorization", "Bearer bad")]).await;
    assert_eq!(answer.status, 401, "the header comes first, and it is bad");
}

/// Bytes that differ at every place.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

async fn megabytes_pass_both_ways_at_once_unharmed(release: Release) {
    let stage = Stage::with_nodes_of(release, 1).await;
    stage.nodes[0].set_manner(Manner::HandOver);
    let client = stage.open("ann").await;
    let node = stage.nodes[0].connection().await;
    let (up, down) = (noise(8 << 20, 1), noise(8 << 20, 2));

    let talk = |stream: TcpStream, send: Vec<u8>, expect: Vec<u8>, gulp: usize| async move {
        let (mut from, mut to) = stream.into_split();
        let sending = tokio::spawn(async move {
            to.write_all(&send).await.unwrap();
            to.shutdown().await.unwrap();
        });
        let (mut got, mut buffer) = (Vec::new(), vec![0; gulp]);
        loop {
            let length = from.read(&mut buffer).await.unwrap();
            if length == 0 {
                break;
            }
            got.extend_from_slice(&buffer[..length]);
            tokio::task::yield_now().await;
        }
        sending.await.unwrap();
        assert!(got == expect, "{} of {} bytes came, or others", got.len(), expect.len());
    };
    // The client reads in small gulps, so that the way to it is blocked again and again.
    let both = async {
        tokio::join!(
            talk(client, up.clone(), down.clone(), 700),
            talk(node, down.clone(), up.clone(), 1 << 16)
        );
    };
    tokio::time::timeout(PATIENCE * 2, both).await.expect("all bytes come");
    stage.until_metric("mlms_broker_tunnels_ended_total", "", 1.0).await;
    assert_eq!(stage.metric("mlms_broker_carried_bytes_total", "node"), (8 << 20) as f64);
    assert_eq!(stage.metric("mlms_broker_carried_bytes_total", "client"), (8 << 20) as f64);
    assert_eq!(stage.metric("mlms_broker_connections", ""), 0.0);
}

async fn a_client_that_does_not_read_stops_its_node_and_nobody_else(release: Release) {
    const FLOOD: usize = 128 << 20;
    let stage = Stage::with_nodes_of(release, 1).await;
    stage.nodes[0].set_manner(Manner::HandOver);
    let mut client = stage.open("ann").await;
    let mut node = stage.nodes[0].connection().await;
    let flood = tokio::spawn(async move {
        let block = vec![7; 1 << 20];
        for _ in 0..FLOOD >> 20 {
            node.write_all(&block).await.unwrap();
        }
    });
    // Until nothing moves. Whenever this looks, less than the flood must have passed: buffers are bounded.
    let carried = || stage.metric("mlms_broker_carried_bytes_total", "client");
    let mut before = -1.0;
    while carried() != before {
        before = carried();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(carried() < FLOOD as f64, "the broker swallowed the flood");
    assert!(!flood.is_finished());

    stage.nodes[0].set_manner(Manner::Echo);
    let mut other = stage.open("bob").await;
    other.write_all(b"ping").await.unwrap();
    let mut echo = [0; 4];
    other.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"ping");

    let mut got = 0;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match client.read(&mut buffer).await.unwrap() {
            0 => break,
            length => got += length,
        }
        assert!(buffer.iter().all(|byte| *byte == 7 || *byte == 0));
    }
    assert_eq!(got, FLOOD, "it all comes once the client reads");
    flood.await.unwrap();
}

async fn the_last_words_pass_after_one_side_has_ended(release: Release) {
    let stage = Stage::with_nodes_of(release, 1).await;
    stage.nodes[0].set_manner(Manner::HandOver);
    let mut client = stage.open("ann").await;
    let mut node = stage.nodes[0].connection().await;
    client.write_all(b"bye").await.unwrap();
    client.shutdown().await.unwrap();
    let mut heard = Vec::new();
    node.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"bye");
    node.write_all(b"farewell").await.unwrap();
    drop(node);
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"farewell");
    stage.until_metric("mlms_broker_tunnels_ended_total", "client", 1.0).await;

    let mut client = stage.open("ann").await;
    drop(stage.nodes[0].connection().await);
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0, "a node's end is the client's end");
    drop(client);
    stage.until_metric("mlms_broker_tunnels_ended_total", "node", 1.0).await;
}

#[tokio::test]
async fn the_last_words_reach_a_player_who_goes_on_talking() {
    let stage = Stage::with_nodes(1).await;
    stage.nodes[0].set_manner(Manner::HandOver);
    let mut client = stage.open("ann").await;
    let mut node = stage.nodes[0].connection().await;
    node.write_all(b"farewell").await.unwrap();
    drop(node);
    for _ in 0..200 {
        client.write_all(&[0; 10_000]).await.unwrap();
        tokio::task::yield_now().await;
    }
    client.shutdown().await.unwrap();
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"farewell");
    stage.until_metric("mlms_broker_tunnels_ended_total", "node", 1.0).await;
}

async fn a_session_goes_to_the_next_node_when_one_fails(release: Release) {
    let stage = Stage::with_nodes_of(release, 3).await;
    stage.set_manners("ann", &[Manner::Status(503), Manner::Broken, Manner::Echo]).await;
    let mut client = stage.open("ann").await;
    client.write_all(b"hello").await.unwrap();
    client.read_exact(&mut [0; 5]).await.unwrap();
    let order = stage.order("ann", None);
    let tickets: Vec<_> = order.iter().map(|node| node.seen()[0].ticket.clone()).collect();
    let sessions: HashSet<_> = tickets.iter().map(|ticket| ticket.session.as_str()).collect();
    assert_eq!(sessions.len(), 3, "each node gets a ticket of its own");
    assert_eq!(stage.metric("mlms_broker_node_failures_total", "unavailable"), 1.0);
    assert_eq!(stage.metric("mlms_broker_node_failures_total", "broken"), 1.0);
    assert_eq!(stage.metric("mlms_broker_handshakes_total", "accepted"), 1.0);
}

async fn a_node_that_is_not_there_is_passed_over(release: Release) {
    let stage = Stage::with_nodes_of(release, 2).await;
    // Taken, so that nobody else gets it meanwhile, and nobody listens.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let closed = socket.local_addr().unwrap();
    let first = stage.order("ann", None)[0].name.clone();
    let index = stage.nodes.iter().position(|node| node.name == first).unwrap();
    stage.change(index, |record| record.address = closed.to_string()).await;
    drop(stage.open("ann").await);
    assert_eq!(stage.metric("mlms_broker_node_failures_total", "connect"), 1.0);
    assert_eq!(stage.nodes[1 - index].seen().len(), 1);
}

async fn a_frozen_node_is_passed_over(release: Release) {
    let stage = Stage::with_nodes_of(release, 2).await;
    stage.set_manners("ann", &[Manner::Frozen, Manner::Echo]).await;
    drop(stage.open("ann").await);
    assert_eq!(stage.metric("mlms_broker_node_failures_total", "answer_timeout"), 1.0);
    assert_eq!(stage.order("ann", None)[1].seen().len(), 1);
}

async fn a_node_that_freezes_later_is_passed_over(release: Release) {
    let stage = Stage::with_nodes_of(release, 2).await;
    let on_each_thread = threads();
    for _ in 0..on_each_thread {
        drop(stage.open("ann").await);
    }
    let order = stage.order("ann", None);
    assert_eq!((order[0].seen().len(), order[1].seen().len()), (on_each_thread, 0));
    stage.set_manners("ann", &[Manner::Frozen, Manner::Echo]).await;
    drop(stage.open("ann").await);
    assert_eq!(stage.metric("mlms_broker_node_failures_total", "answer_timeout"), 1.0);
    assert_eq!(order[1].seen().len(), 1);
}

#[tokio::test]
async fn a_trunk_that_has_ended_is_made_again() {
    let stage = Stage::with_nodes(1).await;
    let mut before = Vec::new();
    for _ in 0..threads() {
        before.push(stage.open("ann").await);
    }
    stage.until_metric("mlms_broker_trunks", "", threads() as f64).await;
    stage.nodes[0].set_manner(Manner::Broken);
    for _ in 0..threads() {
        let answer = stage.handshake("/ws", &[("authorization", &stage.bearer("ann"))]).await;
        assert_eq!(answer.status, 503);
    }
    for client in &mut before {
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0, "its players hear the end");
    }
    stage.nodes[0].set_manner(Manner::Echo);
    for _ in 0..threads() {
        let mut client = stage.open("ann").await;
        client.write_all(b"hello").await.unwrap();
        client.read_exact(&mut [0; 5]).await.unwrap();
    }
    stage.until_metric("mlms_broker_trunks", "", threads() as f64).await;
}

/// Threads of a broker's that carry tunnels, each with trunks of its own.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

#[tokio::test]
async fn an_attempt_that_nobody_waited_for_stands_in_nobodys_way() {
    let stage = Stage::with_nodes(1).await;
    stage.nodes[0].set_manner(Manner::Frozen);
    // On every thread of the broker's, so that each has begun to make a trunk.
    let bearer = stage.bearer("ann");
    for _ in 0..threads() {
        let credentials = [("authorization", bearer.as_str())];
        let leaving = stage.handshake("/ws", &credentials);
        assert!(tokio::time::timeout(Duration::from_millis(200), leaving).await.is_err());
    }
    // Longer than a node may take to answer.
    tokio::time::sleep(Duration::from_secs(4)).await;
    stage.nodes[0].set_manner(Manner::Echo);
    for _ in 0..threads() {
        drop(stage.open("ann").await);
    }
}

async fn what_nodes_say_decides_what_the_client_hears(release: Release) {
    let stage = Stage::with_nodes_of(release, 4).await;
    let hear = async |manners: &[Manner]| {
        stage.set_manners("ann", manners).await;
        let answer = stage.handshake("/ws", &[("authorization", &stage.bearer("ann"))]).await;
        (answer.status, answer.json()["code"].as_str().unwrap().to_owned())
    };
    let busy = Manner::Status(503);
    assert_eq!(hear(&[Manner::Status(403)]).await, (403, "forbidden".to_owned()));
    assert_eq!(hear(&[Manner::Status(429)]).await, (429, "rate_limited".to_owned()));
    assert_eq!(hear(&[busy, busy, busy, Manner::Echo]).await, (503, "owner_unavailable".to_owned()));
    assert!(stage.order("ann", None)[3].seen().is_empty(), "three are tried, no more");
    let broken = Manner::Status(500);
    assert_eq!(hear(&[broken, Manner::Status(401), broken]).await, (503, "owner_unavailable".to_owned()));
}
