//! Brokers and lobby nodes over one Redis and one database, each a process of its own; where a story wants it, with a
//! real MariaDB, a real RabbitMQ and the service that counts games.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mlms_client::{Client, Connector, Events, Options, TokenSource};
use mlms_cluster::Directory;
use mlms_cluster::view::View;
use mlms_process::config::{JwtSettings, ProcessRole, Settings};
use mlms_process::install_crypto_provider;
use mlms_process::jwt::Minter;
use mlms_protocol::placement::shard_of;
use mlms_protocol::{LobbyId, NodeName, Role, UserId};
use mlms_test_servers::{Folder, MariaDb, RabbitMq, Redis};
use secrecy::SecretString;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::service::{GLANCE, PATIENCE, Service};

/// The secret that signs the users' tokens.
const SECRET: &str = "a secret of the tests, long enough";
/// What signs tickets.
pub(crate) const CLUSTER_KEY: [u8; 32] = [7; 32];
/// Seconds in which sessions leave a node that stops.
const DRAIN_SECONDS: &str = "3";

/// What a fleet's events go to, beside its Redis.
pub(crate) struct Servers {
    pub(crate) mariadb: MariaDb,
    pub(crate) rabbitmq: RabbitMq,
    pub(crate) database_url: String,
}

pub(crate) struct Fleet {
    /// None: the events go to a file, and no further.
    pub(crate) servers: Option<Servers>,
    /// What counts games; only where there are servers.
    pub(crate) achievements: Vec<Service>,
    pub(crate) nodes: Vec<Service>,
    pub(crate) brokers: Vec<Service>,
    pub(crate) redis: Redis,
    directory: Directory,
    watching: JoinHandle<()>,
    minter: Minter,
    /// Ports of the brokers that a load balancer would know.
    doors: Arc<Mutex<Vec<u16>>>,
    folder: Folder,
    settings: Vec<(String, String)>,
    /// Parts of lines of ERROR that a story is about.
    pub(crate) expected: Vec<&'static str>,
}

impl Fleet {
    pub(crate) async fn start(nodes: usize, brokers: usize) -> Fleet {
        Fleet::build(nodes, brokers, None, &[]).await
    }

    /// The same where every process is told something more.
    pub(crate) async fn start_with(nodes: usize, brokers: usize, settings: &[(&str, &str)]) -> Fleet {
        Fleet::build(nodes, brokers, None, settings).await
    }

    /// A fleet with a MariaDB, a RabbitMQ and the service that counts games.
    pub(crate) async fn with_servers(nodes: usize, settings: &[(&str, &str)]) -> Fleet {
        let mariadb = async {
            let mariadb = MariaDb::start().await;
            let url = mariadb.deployment("mlms").await;
            (mariadb, url)
        };
        let ((mariadb, database_url), rabbitmq) = tokio::join!(mariadb, RabbitMq::start());
        Fleet::build(nodes, 1, Some(Servers { mariadb, rabbitmq, database_url }), settings).await
    }

    async fn build(
        nodes: usize,
        brokers: usize,
        servers: Option<Servers>,
        settings: &[(&str, &str)],
    ) -> Fleet {
        install_crypto_provider();
        let folder = Folder::new("chaos");
        let redis = Redis::start().await;
        let (connection, task) = mlms_cluster::Redis::connect(&redis.url(), "mlms:").await.unwrap();
        let jwt = JwtSettings {
            hs256_secret: Some(SecretString::from(SECRET)),
            ..Settings::defaults(ProcessRole::Tool).jwt
        };
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut fleet = Fleet {
            servers,
            achievements: Vec::new(),
            settings: settings.collect(),
            expected: Vec::new(),
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
        if fleet.servers.is_some() {
            let name = "achievements".to_owned();
            fleet.achievements.push(Service::new("achievements", name, fleet.environment()));
        }
        fleet.launch().await;
        fleet
    }

    /// Everything that runs the binary.
    pub(crate) fn services(&mut self) -> impl Iterator<Item = &mut Service> {
        self.brokers.iter_mut().chain(&mut self.nodes).chain(&mut self.achievements)
    }

    /// Starts every process (again), all at once.
    pub(crate) async fn launch(&mut self) {
        let folder = self.folder();
        self.services().for_each(|service| service.spawn(&folder));
        for service in self.services() {
            service.until_ready().await;
        }
    }

    /// Starts every process and every server again, all at once.
    pub(crate) async fn launch_everything(&mut self) {
        let folder = self.folder();
        self.services().for_each(|service| service.spawn(&folder));
        let Servers { mariadb, rabbitmq, .. } = self.servers.as_mut().expect("a fleet with servers");
        tokio::join!(self.redis.launch(), mariadb.launch(), rabbitmq.launch());
        for service in self.services() {
            service.until_ready().await;
        }
    }

    pub(crate) fn servers(&mut self) -> &mut Servers {
        self.servers.as_mut().expect("a fleet with servers")
    }

    /// A metric's sum over all processes.
    pub(crate) async fn metric(&mut self, name: &str) -> f64 {
        let mut sum = 0.0;
        for service in self.services() {
            sum += service.metric(name).await;
        }
        sum
    }

    /// What every process is told.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let database = match &self.servers {
            Some(servers) => servers.database_url.clone(),
            None => format!("sqlite://{}", self.folder.path().join("store.db").display()),
        };
        let pairs = [
            ("MLMS_REDIS_URL", self.redis.url()),
            ("MLMS_REDIS_PREFIX", "mlms:".to_owned()),
            ("MLMS_DATABASE_URL", database),
            ("MLMS_CLUSTER_KEY", STANDARD.encode(CLUSTER_KEY)),
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
        let amqp = self.servers.as_ref().map(|servers| ("MLMS_AMQP_URL".to_owned(), servers.rabbitmq.url()));
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value));
        pairs.into_iter().chain(amqp).chain(self.settings.iter().cloned()).collect()
    }

    /// Adds a node that is not started yet, and gives its place.
    pub(crate) fn add_node(&mut self, number: usize) -> usize {
        self.nodes.push(Service::new("lobby-node", format!("node-{number}"), self.environment()));
        self.nodes.len() - 1
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
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
        TokenSource::fixed(self.mint(user, &[]))
    }

    pub(crate) fn mint(&self, user: &str, roles: &[Role]) -> String {
        let ttl = Duration::from_secs(24 * 3_600);
        self.minter.mint(&UserId::new(user).unwrap(), None, roles, ttl).token
    }

    /// A client of this user, with what it hears.
    pub(crate) async fn enter(&self, user: &str) -> (Client, Events) {
        let options = Options { connector: self.door(0), ..Options::new("ws://fleet", self.token(user)) };
        let (client, events) = Client::connect(options).unwrap();
        tokio::time::timeout(PATIENCE, client.opened()).await.expect("the fleet lets in").unwrap();
        (client, events)
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

    /// Tells the brokers of each other; from their next start on.
    pub(crate) fn introduce_brokers(&mut self) {
        let names = self.brokers.iter().map(|broker| format!("127.0.0.1:{}", broker.port));
        let names = names.collect::<Vec<_>>().join(",");
        self.brokers.iter_mut().for_each(|broker| broker.set("MLMS_BROKER_PEERS", &names));
    }

    /// Sends everybody who comes from now on to this broker alone, as a balancer does that counts connections and has
    /// found an empty one.
    pub(crate) fn prefer_door(&self, place: usize) {
        *self.doors.lock().unwrap() = vec![self.brokers[place].port];
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
        let expected = std::mem::take(&mut self.expected);
        for service in self.services() {
            if service.runs() {
                service.stop().await;
            }
            let mut errors = service.errors();
            errors.retain(|line| !expected.iter().any(|part| line.contains(part)));
            assert_eq!(errors, Vec::<String>::new(), "in the log of {}", service.name);
        }
        let Fleet { directory, watching, .. } = self;
        drop(directory);
        watching.abort();
    }

    /// Writes everybody's log to a folder that outlives the fleet.
    pub(crate) fn keep_logs(&self, folder: &Path) {
        for service in self.brokers.iter().chain(&self.nodes).chain(&self.achievements) {
            // The test fails already; its logs are a help.
            let _ = std::fs::write(folder.join(format!("{}.log", service.name)), service.log());
        }
    }
}
