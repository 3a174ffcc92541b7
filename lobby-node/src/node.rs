//! One node as a whole: its workers, its lease, its links, its listener, and its way to rest.

mod entrance;
mod inboxes;
mod threads;
mod tickets;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use mlms_cluster::link::{LinkConfig, LinkEvents, Links, LinksHandle};
use mlms_cluster::relay::Relay;
use mlms_cluster::{Directory, Journal};
use mlms_process::health::{Health, Readiness};
use mlms_process::http::{self, HttpOptions, ListenerMetrics};
use mlms_process::jwt::Verifier;
use mlms_process::shutdown::Shutdown;
use mlms_process::trace::Tracer;
use mlms_protocol::ticket::ClusterKeys;
use mlms_protocol::{Encoding, Incarnation, Limits, NodeName, Role, SessionId};
use mlms_store::{Award, BanList, Outlet, Store};
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use entrance::Passenger;

use self::tickets::UsedTickets;
use crate::backlog::Backlog;
use crate::blocks::{self, Asking, Wanted};
use crate::clock::Clock;
use crate::condition::Conditions;
use crate::connection::Socket;
use crate::dial::Dial;
use crate::limiter::Creates;
use crate::listener::Trunks;
use crate::lobby::Rules;
use crate::metrics::Metrics;
use crate::progress::Moves;
use crate::search::Index;
use crate::secret::Sealing;
use crate::session::SessionHandle;
use crate::standing::Standing;
use crate::status::Operator;
use crate::worker::{ToWorker, Worker};
use crate::{banning, drain, lease, level, load, lookout};
use inboxes::{dispatch, watch_view};
use threads::{Thread, WorkerHandle, prepare_workers};

/// What a node is told about itself.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    pub name: NodeName,
    /// `host:port` at which brokers reach this node.
    pub address: String,
    pub public_url: Option<String>,
    pub limits: Limits,
    pub heartbeat: Duration,
    /// How long a member whose connection is lost stays one.
    pub grace: Duration,
    /// How long an empty lobby stays in memory.
    pub empty_ttl: Duration,
    /// Who may create lobbies; `None`: everybody.
    pub creators: Option<Vec<Role>>,
    /// How long sessions may take to leave when the node stops.
    pub drain: Duration,
    pub connections_max: usize,
    /// Bytes of the journal that may wait for event store and message broker before durable messages are refused.
    pub backlog_bytes_max: u64,
}

/// Where the workers run.
#[derive(Debug, Clone)]
pub enum Threads {
    /// Each on a thread of its own.
    Own(usize),
    /// All on the present runtime, for tests under a paused clock.
    Shared(usize),
}

/// Everything a node is made of.
pub struct LobbyNode {
    pub config: NodeConfig,
    pub directory: Directory,
    pub journal: Journal,
    pub relay: Relay,
    pub store: Store,
    /// Where domain events go.
    pub outlet: Outlet,
    /// Verifies refreshed tokens (`auth`).
    pub verifier: Verifier,
    /// Takes the spans of what is traced.
    pub tracer: Tracer,
    /// Opens tickets.
    pub keys: ClusterKeys,
    /// `None`: sessions come only through [`NodeHandle::admit`].
    pub listener: Option<TcpListener>,
    /// The newest run under this name that the directory knows of; this one gets a higher incarnation.
    pub former_run: Option<Incarnation>,
    pub registry: Registry,
    pub health: Health,
    pub readiness: Readiness,
    pub shutdown: Shutdown,
    pub clock: Clock,
    pub threads: Threads,
}

/// A running node.
pub struct NodeHandle {
    node: Arc<Node>,
    task: JoinHandle<()>,
}

impl std::fmt::Debug for NodeHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeHandle({})", self.node.name)
    }
}

/// Tells players of their awards. Does not keep the node alive.
#[derive(Clone)]
pub struct Announcer(Weak<Node>);

impl std::fmt::Debug for Announcer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Announcer({:?})", self.0.upgrade().map(|node| node.name.clone()))
    }
}

impl Announcer {
    /// Tells a player's sessions of an award, on whichever node they are. Nobody, once the node has stopped.
    pub fn announce(&self, award: &Award) {
        if let Some(node) = self.0.upgrade() {
            node.announce(award);
        }
    }
}

/// What all parts of a node share.
pub(crate) struct Node {
    pub(crate) name: NodeName,
    pub(crate) incarnation: Incarnation,
    /// The limits in it may change while the node runs.
    pub(crate) rules: ArcSwap<Rules>,
    pub(crate) heartbeat: Duration,
    pub(crate) clock: Clock,
    /// When it began; what sessions are let do is counted from here.
    pub(crate) began: Instant,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) directory: Directory,
    pub(crate) journal: Journal,
    pub(crate) store: Store,
    pub(crate) outlet: Outlet,
    pub(crate) backlog: Backlog,
    pub(crate) links: LinksHandle,
    pub(crate) verifier: Verifier,
    pub(crate) tracer: Tracer,
    pub(crate) keys: ClusterKeys,
    pub(crate) creates: Creates,
    pub(crate) sealing: Sealing,
    /// Who is kept out of the whole service.
    pub(crate) bans: BanList,
    pub(crate) index: Index,
    pub(crate) handshakes: TaskTracker,
    pub(crate) trunks: Trunks,
    /// Ends the workers, when everything is at rest.
    pub(crate) stop: CancellationToken,
    workers: Vec<WorkerHandle>,
    sessions: Mutex<HashMap<SessionId, Arc<SessionHandle>>>,
    pub(crate) blocks_asking: Asking,
    running: TaskTracker,
    used_tickets: Mutex<UsedTickets>,
    next_session: AtomicU64,
    draining: AtomicBool,
    pub(crate) moves: Moves,
    pub(crate) standing: Standing,
    pub(crate) conditions: Conditions,
    /// Of this process; other nodes of it write there, too.
    pub(crate) health: Health,
}

impl LobbyNode {
    /// Starts the node: from here on it has a lease and takes sessions.
    #[must_use]
    pub fn start(self) -> NodeHandle {
        let now = self.clock.now();
        // Microseconds: a restart within the same millisecond is not to be had.
        let micros = now.0.saturating_mul(1_000) + rand::random_range(0..1_000);
        // A clock that is behind, or was set back, must not make this run look like an older one.
        let after = self.former_run.map_or(0, |run| run.0.saturating_add(rand::random_range(1..=1_000)));
        let incarnation = Incarnation(micros.max(after));
        let (links, link_events, links_task) =
            Links::start(self.config.name.clone(), incarnation, self.relay.clone(), LinkConfig::default());
        let limits = Arc::new(self.config.limits.clone());
        let (workers, inboxes, threads) = prepare_workers(&self.threads, &self.shutdown);
        let (blocks_asking, blocks_asked) = Asking::new();
        let node = Arc::new(Node {
            name: self.config.name.clone(),
            incarnation,
            rules: ArcSwap::from_pointee(Rules {
                limits: Arc::clone(&limits),
                grace: self.config.grace,
                empty_ttl: self.config.empty_ttl,
                creators: self.config.creators.clone(),
                words: Arc::default(),
                maintenance: None,
            }),
            creates: Creates::new(limits.creates_per_minute),
            sealing: Sealing::default(),
            bans: BanList::default(),
            index: Index::default(),
            heartbeat: self.config.heartbeat,
            clock: self.clock.clone(),
            began: Instant::now(),
            metrics: Arc::new(Metrics::new(&self.registry)),
            directory: self.directory.clone(),
            journal: self.journal.clone(),
            store: self.store.clone(),
            outlet: self.outlet.clone(),
            backlog: Backlog::new(self.config.backlog_bytes_max),
            links,
            verifier: self.verifier.clone(),
            tracer: self.tracer.clone(),
            keys: self.keys.clone(),
            handshakes: TaskTracker::new(),
            trunks: Trunks::default(),
            stop: CancellationToken::new(),
            workers,
            sessions: Mutex::default(),
            blocks_asking,
            running: TaskTracker::new(),
            used_tickets: Mutex::default(),
            next_session: AtomicU64::new(1),
            draining: AtomicBool::new(false),
            moves: Moves::default(),
            standing: Standing::new(now),
            conditions: Conditions::new(&self.health),
            health: self.health.clone(),
        });
        let ends = Ends { inboxes, blocks_asked, link_events };
        let task = tokio::spawn(run(Arc::clone(&node), self, ends, threads, links_task));
        NodeHandle { node, task }
    }
}

impl NodeHandle {
    /// Takes in an upgraded connection, as the listener does.
    pub fn admit(&self, socket: Socket, encoding: Encoding, passenger: Passenger) {
        self.node.admit(socket, Bytes::new(), encoding, passenger, None);
    }

    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.node.name
    }

    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.node.incarnation
    }

    /// What the node does, and what it can be asked to do; usable for as long as the node runs.
    #[must_use]
    pub fn operator(&self) -> Operator {
        Operator::new(Arc::clone(&self.node))
    }

    /// What changes the node's terms while it runs.
    #[must_use]
    pub fn dial(&self) -> Dial {
        Dial::new(&self.node)
    }

    /// What awards are told through; usable for as long as the node runs.
    #[must_use]
    pub fn announcer(&self) -> Announcer {
        Announcer(Arc::downgrade(&self.node))
    }

    /// Open sessions.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.node.lock_sessions().len()
    }

    /// Waits until the node has stopped, after its shutdown began.
    pub async fn stopped(self) {
        // A panic of the node's task was reported by its own hook.
        let _ = self.task.await;
    }

    /// Ends the node as a kill would: nothing is flushed, nobody is told.
    pub fn kill(self) {
        self.task.abort();
        self.node.stop.cancel();
        self.node.links.stop();
        self.node.trunks.stop();
        for session in self.node.lock_sessions().values() {
            session.outbox.break_off();
        }
    }
}

/// The receiving ends of a node's channels.
struct Ends {
    inboxes: Vec<mpsc::Receiver<ToWorker>>,
    blocks_asked: mpsc::Receiver<Wanted>,
    link_events: LinkEvents,
}

/// The node's life.
async fn run(
    node: Arc<Node>,
    parts: LobbyNode,
    Ends { inboxes, blocks_asked, link_events }: Ends,
    threads: Vec<Thread>,
    links_task: impl Future<Output = ()> + Send + 'static,
) {
    let LobbyNode { config, listener, registry, health, readiness, shutdown, threads: threads_kind, .. } =
        parts;
    let tasks = TaskTracker::new();
    let mut joins = Vec::new();
    for (number, (inbox, thread)) in inboxes.into_iter().zip(threads).enumerate() {
        let worker = Worker::new(Arc::clone(&node), number);
        match thread {
            // The thread waits for exactly this.
            Some((thread, join)) => {
                drop(thread.send((worker, inbox)));
                joins.push(join);
            }
            None => drop(tasks.spawn(worker.run(inbox))),
        }
    }
    let gate = readiness.dependency("lease");
    let component = health.component("directory");
    tasks.spawn(links_task);
    tasks.spawn(dispatch(Arc::clone(&node), link_events));
    tasks.spawn(watch_view(Arc::clone(&node)));
    tasks.spawn(banning::follow(Arc::clone(&node)));
    tasks.spawn(blocks::look_up(Arc::clone(&node), blocks_asked));
    if matches!(threads_kind, Threads::Own(_)) {
        let workers = node.workers.iter().map(|worker| worker.runtime.clone()).collect();
        tasks.spawn(load::measure(Arc::clone(&node), workers, health.component("workers")));
        tasks.spawn(lookout::watch(Arc::clone(&node)));
    }
    tasks.spawn(level::keep(Arc::clone(&node)));
    let lease =
        tasks.spawn(lease::hold(Arc::clone(&node), config.clone(), gate, component, shutdown.clone()));
    let stop_listener = CancellationToken::new();
    if let Some(listener) = listener {
        let options = HttpOptions { connections_max: config.connections_max, ..HttpOptions::default() };
        let metrics = ListenerMetrics::new(&registry, "node");
        let service_node = Arc::clone(&node);
        let service = move |request, _peer| crate::listener::answer(Arc::clone(&service_node), request);
        tasks.spawn(http::serve(listener, options, metrics, service, stop_listener.clone()));
    }
    shutdown.drain().cancelled().await;
    readiness.drain();
    drain::drain(&node, &config, &shutdown).await;
    stop_listener.cancel();
    // What the sessions said last goes out before the threads end that carry it.
    node.trunks.end().await;
    lease.abort();
    if node.directory.retire(&node.name, node.incarnation).await.is_err() {
        tracing::debug!("the lease could not be given back; it runs out by itself");
    }
    node.links.stop();
    node.stop.cancel();
    tasks.close();
    tasks.wait().await;
    for join in joins {
        // The worker has ended or is about to; its thread has nothing else to do.
        let _ = tokio::task::spawn_blocking(move || join.join()).await;
    }
}

impl Node {
    pub(crate) fn begin_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn limits(&self) -> Arc<Limits> {
        Arc::clone(&self.rules.load().limits)
    }
}
