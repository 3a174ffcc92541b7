//! A broker's trunk at a node's listener, on real connections.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use mlms_cluster::Embedded;
use mlms_lobby_node::{Clock, LobbyNode, NodeConfig, NodeHandle, Threads};
use mlms_process::config::{JwtSettings, ProcessRole, Settings};
use mlms_process::jwt::{Verifier, install_crypto_provider};
use mlms_process::trunk::{PROTOCOL, Stream, Trunk, Unopened};
use mlms_process::{Health, Readiness, Shutdown, Tracer};
use mlms_protocol::ticket::{Boarding, ClusterKeys, TICKET_VERSION, Ticket};
use mlms_protocol::{Limits, Millis, SessionId};
use mlms_store::{Outlet, Store};
use prometheus::Registry;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::fleet::{lobby, node_name, user};

/// Longest wait for anything that must happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// A node with a listener.
struct Host {
    address: SocketAddr,
    keys: ClusterKeys,
    node: NodeHandle,
    registry: Registry,
    shutdown: Shutdown,
    _cluster: Embedded,
}

impl Host {
    async fn start(connections_max: usize) -> Host {
        install_crypto_provider();
        let secret = Some("a secret of at least thirty-two bytes".to_owned().into());
        let jwt = JwtSettings { hs256_secret: secret, ..Settings::defaults(ProcessRole::Tool).jwt };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cluster, keys) = (Embedded::in_memory(None), ClusterKeys::random());
        let (registry, shutdown) = (Registry::new(), Shutdown::new());
        let name = node_name(0);
        let node = LobbyNode {
            config: NodeConfig {
                name: name.clone(),
                address: address.to_string(),
                public_url: None,
                limits: Limits::default(),
                heartbeat: Duration::from_secs(25),
                grace: Duration::from_secs(60),
                empty_ttl: Duration::from_secs(60),
                creators: None,
                drain: Duration::from_secs(5),
                connections_max,
                backlog_bytes_max: 64 << 20,
            },
            directory: cluster.directory_of(&name),
            journal: cluster.journal(),
            relay: cluster.relay(),
            store: Store::memory(),
            outlet: Outlet::None,
            verifier: Verifier::new(&jwt).unwrap().0,
            tracer: Tracer::default(),
            keys: keys.clone(),
            listener: Some(listener),
            former_run: None,
            registry: registry.clone(),
            health: Health::new(),
            readiness: Readiness::new(),
            shutdown: shutdown.clone(),
            clock: Clock::System,
            threads: Threads::Own(2),
        };
        let node = node.start();
        let mut view = cluster.directory().watch();
        view.wait_for(|view| view.nodes.len() == 1).await.unwrap();
        Host { address, keys, node, registry, shutdown, _cluster: cluster }
    }

    /// What the node answers to whoever asks for a trunk so.
    async fn ask(&self, protocol: &str, purpose: &str) -> (u16, TcpStream) {
        let exp = unix_seconds() + 60;
        let token = self.keys.sign(&json!({ "exp": exp, "aud": "node", "sub": purpose }));
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!(
            "GET /internal/trunk HTTP/1.1\r\nhost: node\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n\
             authorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let status = std::str::from_utf8(&head[9..12]).unwrap().parse().unwrap();
        (status, stream)
    }

    /// A trunk that is taken.
    async fn trunk(&self) -> Trunk {
        let (status, stream) = self.ask(PROTOCOL, "trunk").await;
        assert_eq!(status, 101);
        let trunk = Trunk::new(None);
        let side = trunk.clone();
        tokio::spawn(async move {
            side.run(stream, Bytes::new(), drop, CancellationToken::new()).await.unwrap();
        });
        trunk
    }

    fn ticket(&self, name: &str) -> Ticket {
        Ticket {
            v: TICKET_VERSION,
            exp: unix_seconds() + 30,
            session: SessionId::generate(),
            user: user(name),
            name: None,
            roles: Vec::new(),
            token_expires_at: Millis(u64::MAX / 2),
            address: "127.0.0.1".to_owned(),
            lobby: Some(lobby("hall")),
            node: node_name(0),
        }
    }

    async fn open(
        &self,
        trunk: &Trunk,
        ticket: &Ticket,
        subprotocol: Option<&str>,
    ) -> Result<Player, Unopened> {
        let ticket = self.keys.mint(ticket);
        let boarding = Boarding { ticket, subprotocol: subprotocol.map(str::to_owned), traceparent: None };
        let request = serde_json::to_vec(&boarding).unwrap();
        let stream = timeout(PATIENCE, trunk.open(&request)).await.expect("an answer comes")?;
        Ok(Player { stream, heard: String::new() })
    }

    async fn player(&self, trunk: &Trunk, name: &str) -> Player {
        let mut player = self.open(trunk, &self.ticket(name), None).await.unwrap();
        player.hears("\"snapshot\"").await;
        player
    }

    /// Waits until so many connections count.
    async fn until_connections(&self, expected: i64) {
        let count = || {
            let families = self.registry.gather();
            let family = families.iter().find(|family| family.name() == "mlms_connections").unwrap();
            family.get_metric()[0].get_gauge().get_value() as i64
        };
        let reached = async {
            while count() != expected {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{} and not {expected}", count()));
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A player at the other end of a stream, who speaks plain frames.
struct Player {
    stream: Stream,
    heard: String,
}

impl Player {
    /// Sends a text frame (RFC 6455, section 5.2) whose mask is zero.
    fn says(&self, text: &str) {
        let mut frame = vec![0x81, 0x80 | 126];
        frame.extend_from_slice(&u16::try_from(text.len()).unwrap().to_be_bytes());
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(text.as_bytes());
        assert_eq!(self.stream.write_slice(&frame).unwrap(), frame.len());
    }

    /// Reads what comes next. `false`: nothing comes any more.
    async fn listens(&mut self) -> bool {
        let mut space = [0; 1_000];
        let mut buf = ReadBuf::new(&mut space);
        timeout(PATIENCE, poll_fn(|cx| self.stream.poll_read(cx, &mut buf))).await.expect("something comes");
        self.heard += &String::from_utf8_lossy(buf.filled());
        !buf.filled().is_empty()
    }

    async fn hears(&mut self, text: &str) {
        while !self.heard.contains(text) {
            assert!(self.listens().await, "it ends after {}", self.heard);
        }
    }

    async fn hears_to_the_end(mut self) -> String {
        while self.listens().await {}
        self.heard
    }
}

fn chat(text: &str) -> String {
    json!({ "id": 1, "op": "send", "lobby": "hall", "kind": "chat", "body": text }).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn players_of_two_trunks_talk_and_each_counts_as_a_connection() {
    let host = Host::start(100).await;
    let trunks = [host.trunk().await, host.trunk().await];
    let mut players = Vec::new();
    for number in 0..20 {
        players.push(host.player(&trunks[number % 2], &format!("player-{number}")).await);
    }
    host.until_connections(22).await;
    players[3].says(&chat("hello everybody"));
    for player in &mut players {
        player.hears("hello everybody").await;
    }
    drop(players.split_off(5));
    host.until_connections(7).await;
    assert_eq!(host.node.sessions(), 5);
    drop(trunks);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_comes_in_without_a_signature_and_a_ticket_of_their_own() {
    let host = Host::start(4).await;
    assert_eq!(host.ask(PROTOCOL, "bye").await.0, 401);
    assert_eq!(host.ask("websocket", "trunk").await.0, 426);
    assert_eq!(host.ask("mlms-trunk/2", "trunk").await.0, 426);
    let trunk = host.trunk().await;
    let refused = async |ticket: &Ticket, subprotocol| match host.open(&trunk, ticket, subprotocol).await {
        Err(Unopened::Refused(status)) => status,
        other => panic!("{:?}", other.map(|player| player.heard)),
    };

    let ticket = host.ticket("ann");
    assert_eq!(refused(&ticket, Some("mlms.v9.json")).await, 400);
    let mut ann = host.open(&trunk, &ticket, Some("mlms.v1.json")).await.unwrap();
    ann.hears("\"welcome\"").await;
    assert_eq!(refused(&ticket, None).await, 401, "used");
    assert_eq!(refused(&Ticket { node: node_name(1), ..host.ticket("bob") }, None).await, 401);
    assert_eq!(refused(&Ticket { exp: unix_seconds() - 90, ..host.ticket("bob") }, None).await, 401);
    for request in [&b""[..], b"{}", b"{\"ticket\":1}", &[0xff; 60_000]] {
        assert_eq!(trunk.open(request).await.unwrap_err(), Unopened::Refused(400));
    }
    assert_eq!(trunk.open(b"{\"ticket\":\"x.y.z\"}").await.unwrap_err(), Unopened::Refused(401));
    assert!(matches!(trunk.open(&[b' '; 100_000]).await, Err(Unopened::Refused(_))));

    host.until_connections(2).await;
    let (_bob, _cat) = (host.player(&trunk, "bob").await, host.player(&trunk, "cat").await);
    let late = host.ticket("dan");
    assert_eq!(refused(&late, None).await, 503, "the node is full");
    drop(ann);
    host.until_connections(3).await;
    host.open(&trunk, &late, None).await.unwrap().hears("\"snapshot\"").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trunk_that_is_broken_ends_its_own_sessions_only() {
    let host = Host::start(100).await;
    let (broken, sound) = (host.ask(PROTOCOL, "trunk").await.1, host.trunk().await);
    let mut bob = host.player(&sound, "bob").await;
    let trunk = Trunk::new(None);
    let (side, stop) = (trunk.clone(), CancellationToken::new());
    let stopped = stop.clone();
    // The same socket, to write what no trunk would.
    let broken = broken.into_std().unwrap();
    let mut behind = TcpStream::from_std(broken.try_clone().unwrap()).unwrap();
    let run = tokio::spawn(async move {
        side.run(TcpStream::from_std(broken).unwrap(), Bytes::new(), drop, stopped).await
    });
    let ann = host.player(&trunk, "ann").await;
    behind.write_all(&[0xff; 64]).await.unwrap();
    assert!(ann.hears_to_the_end().await.contains("\"welcome\""));
    assert_eq!(run.await.unwrap(), Ok(()));
    host.until_connections(2).await;
    bob.says(&chat("still here"));
    bob.hears("still here").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_says_goodbye_on_its_trunks_and_takes_nobody_in() {
    let host = Host::start(100).await;
    let trunk = host.trunk().await;
    let mut players = Vec::new();
    for number in 0..30 {
        players.push(host.player(&trunk, &format!("player-{number}")).await);
    }
    host.shutdown.signal();
    players[0].hears("\"bye\"").await;
    match host.open(&trunk, &host.ticket("late"), None).await {
        Err(Unopened::Refused(503) | Unopened::Over) => {}
        other => panic!("{:?}", other.map(|player| player.heard)),
    }
    for player in players {
        let heard = player.hears_to_the_end().await;
        assert!(heard.contains("\"bye\""), "{heard}");
    }
    timeout(PATIENCE, host.node.stopped()).await.expect("the node stops");
    let over = async {
        while !trunk.is_over() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, over).await.expect("the trunk ends with the node");
}
