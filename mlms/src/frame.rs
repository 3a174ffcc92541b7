//! What every serving role has around it: tokens' keys, health, metrics, the operator's listener, signals, and the
//! way to stop.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use mlms_broker::{Broker, BrokerConfig, StoreSlot};
use mlms_cluster::relay::Relay;
use mlms_cluster::{ConnectError, Directory, Embedded, Journal, Redis};
use mlms_lobby_node::{Clock, Dial, LobbyNode, NodeConfig, NodeHandle, Terms, Threads};
use mlms_process::admin::Admin;
use mlms_process::config::MayCreate;
use mlms_process::health::Gate;
use mlms_process::jwt::{Minter, Verifier};
use mlms_process::metrics::Metrics;
use mlms_process::shutdown::Tasks;
use mlms_process::trace::Tracer;
use mlms_process::{Health, Live, Readiness, Settings, Shutdown};
use mlms_protocol::ticket::ClusterKeys;
use mlms_protocol::{Incarnation, NodeName};
use mlms_store::{Outlet, Store, StoreError};
use secrecy::ExposeSecret;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;

use crate::attendants::{Attendants, saturation};
use crate::operator;
use crate::patience::{PATIENCE, patiently};

/// Time for the last writes, beyond the sessions' own.
const REST: Duration = Duration::from_secs(15);

/// A process that is being put together.
pub(crate) struct Frame {
    /// As they were at the start.
    pub(crate) settings: Settings,
    live: Live,
    pub(crate) tasks: Tasks,
    pub(crate) shutdown: Shutdown,
    pub(crate) health: Health,
    readiness: Readiness,
    pub(crate) metrics: Metrics,
    /// None where the role needs no users' tokens and no key is set.
    verifier: Option<Verifier>,
    pub(crate) tracer: Tracer,
    keys: ClusterKeys,
    known: Arc<OnceLock<operator::Known>>,
    observed: operator::Observed,
    attendants: Attendants,
    /// Closed until the role is put together.
    start: Gate,
}

/// The cluster, whichever it is.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) directory: Directory,
    pub(crate) journal: Journal,
    pub(crate) relay: Relay,
}

impl From<Embedded> for Cluster {
    fn from(embedded: Embedded) -> Self {
        Cluster { directory: embedded.directory(), journal: embedded.journal(), relay: embedded.relay() }
    }
}

impl Frame {
    pub(crate) async fn new(live: Live) -> anyhow::Result<Frame> {
        let settings = Settings::clone(&live.settings());
        let shutdown = Shutdown::new();
        let health = Health::new();
        // A role without sessions has neither; nothing is signed or verified there.
        let keys = settings.cluster_keys.clone().unwrap_or_else(ClusterKeys::random);
        let admin_listener = bind(settings.admin_listen, "admin_listen")?;
        let metrics = Metrics::new(env!("CARGO_PKG_VERSION"), &settings.role.to_string());
        let mut tasks = Tasks::new();
        let verifier = if settings.jwt.has_key() {
            let (verifier, key_refresh) = Verifier::new(&settings.jwt)?;
            tasks.spawn("keys", key_refresh.run(health.component("keys"), shutdown.drain().clone()));
            Some(verifier)
        } else {
            None
        };
        let service = format!("mlms-{}", settings.role);
        let resource = [
            ("service.name", service.as_str()),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("service.instance.id", settings.node.name.as_str()),
        ];
        let (tracer, exporter) = Tracer::new(&settings.trace, &resource, metrics.registry())
            .map_err(|why| anyhow::anyhow!("trace.otlp_url: {why}"))?;
        let readiness = Readiness::new();
        let start = readiness.dependency("start");
        let (known, observed) = (Arc::default(), operator::Observed::default());
        let admin = Admin {
            health: health.clone(),
            readiness: readiness.clone(),
            metrics: metrics.clone(),
            saturation: saturation(&metrics, &settings),
            verifier: verifier.clone(),
            routes: operator::routes(Arc::clone(&known), shutdown.clone())
                .merge(operator::nodes(observed.clone()))
                .merge(operator::config(live.clone())),
        };
        let (spans, component) = ((tracer.clone(), exporter), health.component("settings"));
        let attendants = Attendants::start(&live, &shutdown, spans, component, admin, admin_listener);
        Ok(Frame {
            readiness,
            settings,
            live,
            tasks,
            shutdown,
            health,
            metrics,
            verifier,
            tracer,
            keys,
            known,
            observed,
            attendants,
            start,
        })
    }

    /// Waits for a server that is not there yet; meanwhile the process lives, and says what it waits for. None: it was
    /// told to stop.
    async fn wait_for<T, E: Display>(
        &self,
        what: &str,
        patience: Option<Duration>,
        passes: impl Fn(&E) -> bool,
        attempt: impl AsyncFnMut() -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        self.start.close(format!("waiting for {what}"));
        let mut waiting = None;
        let tell = |error: &E| {
            let cause = format!("waiting for {what}: {error}");
            self.start.close(cause.clone());
            waiting.get_or_insert_with(|| self.health.component("start")).down(cause);
        };
        let found = patiently(what, patience, passes, tell, attempt);
        let Some(found) = self.shutdown.drain().run_until_cancelled(found).await else { return Ok(None) };
        if let Some(component) = waiting {
            component.ok();
        }
        found.map(Some)
    }

    /// Connects to the Redis of the settings. None: the process was told to stop before that was there.
    pub(crate) async fn redis(&mut self) -> anyhow::Result<Option<Cluster>> {
        let url = self.settings.redis.url.as_ref().context("the settings name a Redis")?;
        let passes = |error: &ConnectError| matches!(error, ConnectError::Unreachable(_));
        let connect = async || Redis::connect(url.expose_secret(), &self.settings.redis.prefix).await;
        let Some((redis, task)) = self.wait_for("Redis", None, passes, connect).await? else {
            return Ok(None);
        };
        self.tasks.spawn("redis", task);
        Ok(Some(Cluster { directory: redis.directory(), journal: redis.journal(), relay: redis.relay() }))
    }

    /// The newest run of a node that Redis knows of. None: there was none, or the process was told to stop before Redis
    /// said so.
    pub(crate) async fn former_run(
        &self,
        cluster: &Cluster,
        name: &NodeName,
    ) -> anyhow::Result<Option<Incarnation>> {
        let look = async || cluster.directory.former_run(name).await;
        Ok(self.wait_for("Redis", None, |_| true, look).await?.flatten())
    }

    /// Opens an event store and brings its schema up to date. None: the process was told to stop before it was there.
    pub(crate) async fn open_store(&self, url: &str) -> anyhow::Result<Option<Store>> {
        // A file that cannot be opened now seldom can later.
        let patience = url.starts_with("sqlite:").then_some(PATIENCE);
        let open = async || {
            let store = Store::open(url).await?;
            store.migrate().await?;
            Ok(store)
        };
        let passes = |error: &StoreError| matches!(error, StoreError::Unavailable(_));
        self.wait_for("the database", patience, passes, open).await.context("the event store")
    }

    /// Tells the operator's listener what the process knows of the cluster.
    fn knows(&self, cluster: &Cluster) {
        // A second node of a process sees the same.
        let _ = self.known.set(cluster.directory.watch());
    }

    /// Starts a lobby node.
    #[expect(clippy::too_many_arguments, reason = "what a node is made of")]
    pub(crate) fn start_node(
        &mut self,
        cluster: &Cluster,
        store: &Store,
        outlet: &Outlet,
        name: NodeName,
        address: String,
        listener: TcpListener,
        former_run: Option<Incarnation>,
        workers: usize,
    ) -> anyhow::Result<NodeHandle> {
        self.knows(cluster);
        let settings = &self.settings;
        let node = LobbyNode {
            config: NodeConfig {
                address,
                public_url: settings.node.public_url.clone(),
                limits: settings.limits.clone(),
                heartbeat: settings.heartbeat,
                grace: settings.lobby.grace,
                empty_ttl: settings.lobby.empty_ttl,
                creators: match &settings.lobby.create {
                    MayCreate::Anyone => None,
                    MayCreate::Roles(roles) => Some(roles.clone()),
                },
                drain: settings.drain,
                connections_max: settings.connections_max,
                backlog_bytes_max: settings.node.backlog_bytes_max,
                name: name.clone(),
            },
            directory: cluster.directory.clone(),
            journal: cluster.journal.clone(),
            relay: cluster.relay.clone(),
            store: store.clone(),
            outlet: outlet.clone(),
            verifier: self.verifier.clone().context("no key for users' tokens is set")?,
            tracer: self.tracer.clone(),
            keys: self.keys.clone(),
            listener: Some(listener),
            former_run,
            registry: self.metrics.part(&[("node", name.as_str())]),
            health: self.health.clone(),
            readiness: self.readiness.clone(),
            shutdown: self.shutdown.clone(),
            clock: Clock::System,
            threads: Threads::Own(workers),
        };
        let node = node.start();
        self.observed.add(node.operator().observer());
        self.tasks.spawn("terms", follow(node.dial(), self.live.watch(), self.shutdown.clone()));
        Ok(node)
    }

    /// Starts a broker, and gives the address of its public listener.
    pub(crate) async fn start_broker(
        &mut self,
        cluster: &Cluster,
        players: Option<StoreSlot>,
    ) -> anyhow::Result<SocketAddr> {
        self.knows(cluster);
        let broker = Broker {
            config: BrokerConfig::from(&self.settings),
            directory: cluster.directory.clone(),
            verifier: self.verifier.clone().context("no key for users' tokens is set")?,
            tracer: self.tracer.clone(),
            players,
            minter: if self.settings.guests { Minter::new(&self.settings.jwt) } else { None },
            keys: self.keys.clone(),
            listener: bind(self.settings.listen, "listen")?,
            registry: self.metrics.registry().clone(),
            health: self.health.clone(),
            readiness: self.readiness.clone(),
            shutdown: self.shutdown.clone(),
        };
        let broker = broker.start()?;
        let address = broker.local_addr();
        self.tasks.spawn_fallible("broker", broker.join());
        Ok(address)
    }

    /// Serves until the process is told to stop, and has stopped.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        if !self.shutdown.is_draining() {
            self.start.open();
        }
        let outcome = self.tasks.run(&self.shutdown, self.settings.drain + REST).await;
        self.attendants.end().await?;
        outcome?;
        tracing::info!("stopped");
        Ok(())
    }
}

/// Keeps a node's terms at what the settings say, until the drain.
async fn follow(dial: Dial, mut settings: watch::Receiver<Arc<Settings>>, shutdown: Shutdown) {
    loop {
        let now = settings.borrow_and_update().clone();
        dial.set(&Terms {
            limits: now.limits.clone(),
            word_filter: now.lobby.word_filter.clone(),
            maintenance: now.maintenance.notice().map(str::to_owned),
        });
        let Some(Ok(())) = shutdown.drain().run_until_cancelled(settings.changed()).await else { return };
    }
}

/// Connections that may wait to be accepted: so many come at once when a node or a broker is gone. The kernel has a
/// bound of its own (`net.core.somaxconn`), and drops the SYN of one more, which costs its peer a second.
const WAITING_CONNECTIONS_MAX: u32 = 16_384;

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restarted process finds its port again while old connections still time out.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(WAITING_CONNECTIONS_MAX)
}

pub(crate) fn bind(address: SocketAddr, setting: &str) -> anyhow::Result<TcpListener> {
    listen(address).with_context(|| {
        format!("{address} cannot be listened on; is another service there? The setting is `{setting}`")
    })
}

/// Worker threads for one of `nodes` nodes of this process.
pub(crate) fn workers(settings: &Settings, nodes: usize) -> usize {
    match settings.node.workers {
        0 => (std::thread::available_parallelism().map_or(1, usize::from) / nodes).max(1),
        workers => workers,
    }
}
