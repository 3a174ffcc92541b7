//! Brokers and lobby nodes over one Redis and one database, each a process of its own.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mlms_client::{Client, Connector, Options, TokenSource};
use mlms_cluster::Directory;
use mlms_cluster::view::View;
use mlms_process::config::{JwtSettings, ProcessRole, Settings};
use mlms_process::install_crypto_provider;
use mlms_process::jwt::Minter;
use mlms_protocol::placement::shard_of;
use mlms_protocol::{LobbyId, NodeName, UserId};
use secrecy::SecretString;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::redis::Redis;
use crate::service::{GLANCE, PATIENCE, Service};

/// The secret that signs the users' tokens.
const SECRET: &str = "a secret of the tests, long enough";
/// Seconds in which sessions leave a node that stops.
const DRAIN_SECONDS: &str = "3";

/// A folder that is gone with its owner.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays behind lies among the system's temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) struct Fleet {
    pub(crate) nodes: Vec<Service>,
    pub(crate) brokers: Vec<Service>,
    pub(crate) redis: Redis,
    directory: Directory,
    watching: JoinHandle<()>,
    minter: Minter,
    /// Ports of the brokers that a load balancer would know.
    doors: Arc<Mutex<Vec<u16>>>,
    folder: Folder,
}

impl Fleet {
    pub(crate) async fn start(nodes: usize, brokers: usize) -> Fleet {
        install_crypto_provider();
        let folder = folder();
        let redis = Redis::start(folder.0.clone()).await;
        let (connection, task) = mlms_cluster::Redis::connect(&redis.url(), "mlms:").await.unwrap();
        let jwt = JwtSettings {
            hs256_secret: Some(SecretString::from(SECRET)),
            ..Settings::defaults(ProcessRole::Tool).jwt
        };
        let mut fleet = Fleet {
            nodes: Vec::new(),
            brokers: Vec::new(),
            directory: connection.directory(),
            watching: tokio::spawn(task),
            redis,
            minter: Minter::new(&jwt).unwrap(),
            doors: Arc::default(),
            folder,
        };
        for number in 1..=nodes {
            fleet.add_node(number);
        }
        for number in 1..=brokers {
            let broker = Service::new("broker", format!("broker-{number}"), fleet.environment());
            fleet.doors.lock().unwrap().push(broker.port);
            fleet.brokers.push(broker);
        }
        let folder = fleet.folder.0.clone();
        for service in fleet.nodes.iter_mut().chain(&mut fleet.brokers) {
            service.spawn(&folder);
        }
        for service in fleet.nodes.iter_mut().chain(&mut fleet.brokers) {
            service.until_ready().await;
        }
        fleet
    }

    fn environment(&self) -> Vec<(String, String)> {
        let database = format!("sqlite://{}", self.folder.0.join("store.db").display());
        let pairs = [
            ("MLMS_REDIS_URL", self.redis.url()),
            ("MLMS_REDIS_PREFIX", "mlms:".to_owned()),
            ("MLMS_DATABASE_URL", database),
            ("MLMS_CLUSTER_KEY", STANDARD.encode([7; 32])),
            ("MLMS_JWT_HS256_SECRET", SECRET.to_owned()),
            ("MLMS_LOG_FORMAT", "json".to_owned()),
            ("MLMS_NODE_WORKERS", "2".to_owned()),
            ("MLMS_DRAIN_SECONDS", DRAIN_SECONDS.to_owned()),
            ("MLMS_LIMIT_CHATS_PER_S", "0".to_owned()),
            ("MLMS_LIMIT_COMMANDS_PER_S", "0".to_owned()),
            ("MLMS_LIMIT_JOINS_PER_S", "0".to_owned()),
            ("MLMS_LIMIT_CREATES_PER_MINUTE", "0".to_owned()),
            ("MLMS_LIMIT_CONNECTIONS_PER_ADDRESS_MAX", "0".to_owned()),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value)).into()
    }

    /// Adds a node that is not started yet, and gives its place.
    pub(crate) fn add_node(&mut self, number: usize) -> usize {
        self.nodes.push(Service::new("lobby-node", format!("node-{number}"), self.environment()));
        self.nodes.len() - 1
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.0.clone()
    }

    pub(crate) async fn launch_node(&mut self, place: usize) {
        let folder = self.folder();
        self.nodes[place].launch(&folder).await;
    }

    pub(crate) async fn launch_broker(&mut self, place: usize) {
        let folder = self.folder();
        self.brokers[place].launch(&folder).await;
    }

    pub(crate) fn token(&self, user: &str) -> TokenSource {
        let ttl = Duration::from_secs(24 * 3_600);
        TokenSource::fixed(self.minter.mint(&UserId::new(user).unwrap(), None, &[], ttl).token)
    }

    /// Somebody new comes in, says nothing, and goes; gives how long it took.
    pub(crate) async fn newcomer(&self, name: &str) -> Duration {
        let began = Instant::now();
        let options = Options { connector: self.door(0), ..Options::new("ws://fleet", self.token(name)) };
        let (client, _events) = Client::connect(options).unwrap();
        tokio::time::timeout(PATIENCE, client.opened()).await.expect("a newcomer gets in").unwrap();
        let took = began.elapsed();
        client.close().await;
        took
    }

    /// A user whom the running nodes place on this one first.
    pub(crate) async fn user_of(&self, place: usize) -> String {
        let view = self.view().await;
        let mut names = (0..).map(|number| format!("newcomer-{number}"));
        let is_first = |name: &String| {
            let nodes = view.nodes_for_user(&UserId::new(name).unwrap());
            nodes.first().is_some_and(|node| *node.name.as_str() == self.nodes[place].name)
        };
        names.find(is_first).unwrap()
    }

    /// Leads to a broker as a load balancer does: from the `first` on to one that answers.
    pub(crate) fn door(&self, first: usize) -> Connector {
        let doors = Arc::clone(&self.doors);
        Connector::new(move |_| {
            let mut ports = doors.lock().unwrap().clone();
            async move {
                let count = ports.len().max(1);
                ports.rotate_left(first % count);
                for port in ports {
                    if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)).await {
                        stream.set_nodelay(true)?;
                        return Ok(stream);
                    }
                }
                Err(std::io::Error::other("no broker answers"))
            }
        })
    }

    /// Sends everybody who comes from now on to another broker first, where there are two.
    pub(crate) fn swap_doors(&self) {
        self.doors.lock().unwrap().rotate_left(1);
    }

    /// Who owns what, as Redis says now.
    pub(crate) async fn view(&self) -> Arc<View> {
        let began = Instant::now();
        loop {
            match self.directory.refresh().await {
                Ok(view) => return view,
                Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// The lobbies among these that a node owns.
    pub(crate) async fn owned_by(&self, place: usize, lobbies: &[LobbyId]) -> Vec<LobbyId> {
        let view = self.view().await;
        let name = NodeName::new(&self.nodes[place].name).unwrap();
        let is_owner = |lobby: &&LobbyId| view.owner(shard_of(lobby)).is_some_and(|owner| owner.name == name);
        lobbies.iter().filter(is_owner).cloned().collect()
    }

    /// The node, of those that run, that owns most of these lobbies, and those lobbies.
    pub(crate) async fn busiest(&mut self, lobbies: &[LobbyId]) -> (usize, Vec<LobbyId>) {
        let mut best = (0, Vec::new());
        for place in 0..self.nodes.len() {
            if self.nodes[place].runs() {
                let owned = self.owned_by(place, lobbies).await;
                if owned.len() >= best.1.len() {
                    best = (place, owned);
                }
            }
        }
        assert!(!best.1.is_empty(), "no node owns a lobby");
        best
    }

    /// Waits until all of the running nodes are in the directory, ready, and nobody else.
    pub(crate) async fn until_settled(&mut self) {
        let running: Vec<bool> = self.nodes.iter_mut().map(Service::runs).collect();
        let names = self.nodes.iter().zip(running).filter(|(_, runs)| *runs);
        let mut wanted: Vec<String> = names.map(|(node, _)| node.name.clone()).collect();
        wanted.sort();
        let began = Instant::now();
        loop {
            let view = self.view().await;
            let present: Vec<String> = view.nodes.keys().map(ToString::to_string).collect();
            if present == wanted {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "there are {present:?}, not {wanted:?}");
            tokio::time::sleep(5 * GLANCE).await;
        }
    }

    /// Stops everything well, and looks at the logs.
    pub(crate) async fn stop(mut self) {
        for service in self.brokers.iter_mut().chain(&mut self.nodes) {
            if service.runs() {
                service.stop().await;
            }
            assert_eq!(service.errors(), Vec::<String>::new(), "in the log of {}", service.name);
        }
        let Fleet { directory, watching, .. } = self;
        drop(directory);
        watching.abort();
    }

    /// Writes everybody's log to a folder that outlives the fleet.
    pub(crate) fn keep_logs(&self, folder: &Path) {
        for service in self.brokers.iter().chain(&self.nodes) {
            // The test fails already; its logs are a help.
            let _ = std::fs::write(folder.join(format!("{}.log", service.name)), service.log());
        }
    }
}

fn folder() -> Folder {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("mlms-chaos-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&path).unwrap();
    Folder(path)
}
