//! A broker with its nodes, and a player who sees every byte.

use std::net::SocketAddr;
use std::time::Duration;

use mlms_broker::{Broker, BrokerConfig, BrokerHandle};
use mlms_cluster::view::{NodeLoad, NodeRecord, NodeState};
use mlms_cluster::{Directory, Embedded};
use mlms_process::config::{JwtSettings, ProcessRole, Settings};
use mlms_process::health::{Health, Readiness};
use mlms_process::jwt::{Minter, Verifier, install_crypto_provider};
use mlms_process::shutdown::Shutdown;
use mlms_process::trace::Tracer;
use mlms_protocol::ticket::ClusterKeys;
use mlms_protocol::{Incarnation, LobbyId, NodeName, Role, UserId};
use prometheus::Registry;
use secrecy::SecretString;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::node::{Manner, Node, Release};

/// The users' secret; 32 bytes, so that `ClusterKeys` can sign what no minter would.
pub(crate) const SECRET: &[u8; 32] = b"the users' secret has 32 bytes!!";

/// Longest wait for anything that must happen; only a failing test waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Stage {
    pub(crate) address: SocketAddr,
    pub(crate) keys: ClusterKeys,
    pub(crate) nodes: Vec<Node>,
    pub(crate) directory: Directory,
    pub(crate) registry: Registry,
    pub(crate) readiness: Readiness,
    pub(crate) shutdown: Shutdown,
    minter: Minter,
    broker: Option<BrokerHandle>,
    renewal: JoinHandle<()>,
    _cluster: Embedded,
}

impl Stage {
    /// A broker with so many good nodes.
    pub(crate) async fn with_nodes(count: usize) -> Stage {
        Stage::with_nodes_of(Release::Present, count).await
    }

    pub(crate) async fn with_nodes_of(release: Release, count: usize) -> Stage {
        Stage::new(release, count, BrokerConfig::default(), true).await
    }

    pub(crate) async fn with_config(config: BrokerConfig) -> Stage {
        Stage::new(Release::Present, 1, config, true).await
    }

    pub(crate) async fn new(release: Release, count: usize, config: BrokerConfig, guests: bool) -> Stage {
        install_crypto_provider();
        let keys = ClusterKeys::random();
        let cluster = Embedded::in_memory(None);
        let directory = cluster.directory();
        let mut nodes = Vec::new();
        for number in 1..=count {
            nodes.push(Node::start(&format!("node-{number}"), keys.clone(), release).await);
        }
        let records: Vec<NodeRecord> =
            nodes.iter().map(|node| record(&node.name, node.address, None)).collect();
        for record in &records {
            directory.renew(record).await.unwrap();
        }
        let renewed = directory.clone();
        let renewal = tokio::spawn(async move {
            loop {
                tokio::time::sleep(mlms_cluster::directory::RENEWAL).await;
                for name in records.iter().map(|record| &record.name) {
                    // As it stands: a test may have changed it.
                    let record = renewed.view().nodes.get(name).cloned();
                    if let Some(record) = record {
                        renewed.renew(&record).await.unwrap();
                    }
                }
            }
        });
        let secret = SecretString::from(std::str::from_utf8(SECRET).unwrap().to_owned());
        let jwt = JwtSettings { hs256_secret: Some(secret), ..Settings::defaults(ProcessRole::Tool).jwt };
        let minter = Minter::new(&jwt).unwrap();
        let (registry, readiness, shutdown) = (Registry::new(), Readiness::new(), Shutdown::new());
        let broker = Broker {
            config,
            directory: directory.clone(),
            verifier: Verifier::new(&jwt).unwrap().0,
            tracer: Tracer::default(),
            players: None,
            minter: guests.then(|| minter.clone()),
            keys: keys.clone(),
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            registry: registry.clone(),
            health: Health::new(),
            readiness: readiness.clone(),
            shutdown: shutdown.clone(),
        };
        let broker = broker.start().unwrap();
        let address = broker.local_addr();
        let broker = Some(broker);
        Stage {
            address,
            keys,
            nodes,
            directory,
            registry,
            readiness,
            shutdown,
            minter,
            broker,
            renewal,
            _cluster: cluster,
        }
    }

    pub(crate) fn token(&self, user: &str) -> String {
        let user = UserId::new(user).unwrap();
        self.minter.mint(&user, Some("Ann"), &[Role::Moderator], Duration::from_secs(3_600)).token
    }

    /// Sends a request and reads the answer's head and, unless it is a 101, its body.
    pub(crate) async fn request(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut text = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n", self.address);
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        if method == "POST" {
            text += &format!("content-length: {}\r\n", body.len());
        }
        stream.write_all(format!("{text}\r\n{body}").as_bytes()).await.unwrap();
        tokio::time::timeout(PATIENCE, Answer::read(stream, method == "HEAD")).await.expect("an answer comes")
    }

    /// Sends a request as it stands here, and reads its answer.
    pub(crate) async fn send(&self, request: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        tokio::time::timeout(PATIENCE, Answer::read(stream, false)).await.expect("an answer comes")
    }

    pub(crate) async fn get(&self, target: &str, headers: &[(&str, &str)]) -> Answer {
        self.request("GET", target, headers, "").await
    }

    /// Sends a handshake with some headers replaced (an empty value: left out) or added.
    pub(crate) async fn handshake(&self, target: &str, changes: &[(&str, &str)]) -> Answer {
        let mut headers = HANDSHAKE.to_vec();
        for (name, value) in changes {
            match headers.iter_mut().find(|(known, _)| known == name) {
                Some(header) => header.1 = value,
                None => headers.push((name, value)),
            }
        }
        headers.retain(|(_, value)| !value.is_empty());
        self.get(target, &headers).await
    }

    /// Opens a tunnel as this user.
    pub(crate) async fn open(&self, user: &str) -> TcpStream {
        let answer = self.handshake("/ws", &[("authorization", &self.bearer(user))]).await;
        assert_eq!(answer.status, 101, "{answer:?}");
        answer.stream
    }

    pub(crate) fn bearer(&self, user: &str) -> String {
        format!("Bearer {}", self.token(user))
    }

    /// The nodes in the order in which a session should be tried on them.
    pub(crate) fn order(&self, user: &str, lobby: Option<&str>) -> Vec<&Node> {
        let view = self.directory.view();
        let names = match lobby {
            Some(lobby) => view.nodes_for_lobby(&LobbyId::new(lobby).unwrap()),
            None => view.nodes_for_user(&UserId::new(user).unwrap()),
        };
        let find = |name: &NodeName| self.nodes.iter().find(|node| node.name == *name).unwrap();
        names.into_iter().map(|record| find(&record.name)).collect()
    }

    /// Changes what the directory says about a node.
    pub(crate) async fn change(&self, node: usize, change: impl FnOnce(&mut NodeRecord)) {
        let mut record = self.directory.view().nodes[&self.nodes[node].name].clone();
        change(&mut record);
        self.directory.renew(&record).await.unwrap();
    }

    /// The value of a metric, summed over the series that have this label value (any, when it is empty).
    pub(crate) fn metric(&self, name: &str, label: &str) -> f64 {
        let families = self.registry.gather();
        let series =
            families.iter().filter(|family| family.name() == name).flat_map(|family| family.get_metric());
        let matching = series
            .filter(|series| label.is_empty() || series.get_label().iter().any(|pair| pair.value() == label));
        matching.map(|series| series.get_counter().get_value() + series.get_gauge().get_value()).sum()
    }

    /// Waits until a metric has this value.
    pub(crate) async fn until_metric(&self, name: &str, label: &str, expected: f64) {
        let reached = async {
            while self.metric(name, label) != expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, reached).await;
        assert!(outcome.is_ok(), "{name}{{{label}}} is {} and not {expected}", self.metric(name, label));
    }

    pub(crate) async fn set_manners(&self, user: &str, manners: &[Manner]) {
        for (node, manner) in self.order(user, None).into_iter().zip(manners) {
            node.set_manner(*manner);
        }
    }

    /// Waits until the broker has stopped.
    pub(crate) async fn stopped(&mut self) {
        let broker = self.broker.take().expect("it is stopped once");
        tokio::time::timeout(PATIENCE, broker.join()).await.expect("the broker stops").unwrap();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.renewal.abort();
        self.shutdown.signal();
        self.shutdown.signal();
    }
}

const HANDSHAKE: [(&str, &str); 4] = [
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

fn record(name: &NodeName, address: SocketAddr, public_url: Option<String>) -> NodeRecord {
    NodeRecord {
        name: name.clone(),
        incarnation: Incarnation(1),
        address: address.to_string(),
        public_url,
        state: NodeState::Ready,
        load: NodeLoad::default(),
    }
}

/// What came back, and the connection it came on.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) stream: TcpStream,
}

impl Answer {
    async fn read(mut stream: TcpStream, is_head: bool) -> Answer {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("the head is whole"));
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.map(|line| line.split_once(": ").unwrap());
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
        let mut answer = Answer { status, headers, body: Vec::new(), stream };
        let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        if !is_head && status != 304 {
            answer.body = vec![0; length];
            answer.stream.read_exact(&mut answer.body).await.expect("the body is whole");
        }
        answer
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }
}
