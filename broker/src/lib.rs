//! The stateless edge: checks who connects, picks a lobby node, and carries the bytes or hands out a ticket.
//! After the 101 it parses nothing. It also serves the REST side and the page. Brokers know nothing of each other.

mod address;
mod api;
mod carriers;
mod config;
mod credential;
mod drain;
mod edge;
mod guests;
mod handshake;
mod level;
mod metrics;
mod node;
mod page;
mod passenger;
mod players;
mod probes;
mod query;
mod refusal;
mod rest;
mod seam;
mod sessions;
mod socket;
mod trace;
mod trunks;
mod tunnel;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mlms_cluster::view::NodeState;
use mlms_cluster::{Directory, View};
use mlms_process::health::{Component, Gate, Health, Readiness};
use mlms_process::http::{self, HttpOptions, ListenerMetrics};
use mlms_process::jwt::{Minter, Verifier};
use mlms_process::shutdown::Shutdown;
use mlms_process::trace::Tracer;
use mlms_protocol::ticket::ClusterKeys;
use mlms_store::BanList;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::address::Places;
use crate::api::{Created, UserRate};
use crate::carriers::{CarrierThreads, Carriers};
pub use crate::config::BrokerConfig;
use crate::edge::Edge;
use crate::guests::GuestRate;
use crate::metrics::Metrics;
pub use crate::players::StoreSlot;
use crate::probes::Probes;

/// Pause between looks whether the store is open.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// What a broker is made of.
pub struct Broker {
    pub config: BrokerConfig,
    pub directory: Directory,
    pub verifier: Verifier,
    /// Takes the spans of what is traced.
    pub tracer: Tracer,
    /// Mints tokens for guests; none: `POST /v1/guests` does not exist.
    pub minter: Option<Minter>,
    /// What players have done; none: `/v1/players` does not exist.
    pub players: Option<StoreSlot>,
    /// Signs the tickets that nodes accept.
    pub keys: ClusterKeys,
    /// The public listener.
    pub listener: TcpListener,
    /// A registry of its own: two brokers in one process must not share one.
    pub registry: Registry,
    /// Gets the entries `nodes`, `redis`, `database`, `rabbitmq`, and one for each node.
    pub health: Health,
    /// Gets the gate `nodes`, which is open while a node is ready.
    pub readiness: Readiness,
    /// Its drain begins the stop, its hurry ends all tunnels at once.
    pub shutdown: Shutdown,
}

/// A running broker.
#[derive(Debug)]
pub struct BrokerHandle {
    local_addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Broker {
    /// Starts serving; returns at once. The broker stops by itself after the drain of `shutdown` has begun and its
    /// tunnels have ended, or their time is over.
    ///
    /// # Errors
    /// When the listener's address cannot be read, or the system gives no thread for the tunnels.
    ///
    /// # Panics
    /// When the registry holds a broker's metrics already.
    pub fn start(self) -> std::io::Result<BrokerHandle> {
        let local_addr = self.listener.local_addr()?;
        let nodes =
            NodeWatch { component: self.health.component("nodes"), gate: self.readiness.dependency("nodes") };
        nodes.report(&self.directory.view());
        let listener_metrics = ListenerMetrics::new(&self.registry, "public");
        let bans = BanList::default();
        let metrics = Metrics::new(&self.registry);
        let (carriers, threads) = Carriers::start(&metrics)?;
        let edge = Arc::new(Edge {
            bans,
            carriers,
            directory: self.directory,
            verifier: self.verifier,
            tracer: self.tracer,
            minter: self.minter,
            players: self.players,
            keys: self.keys,
            health: self.health,
            readiness: self.readiness,
            metrics,
            places: Places::new(self.config.connections_per_address_max),
            guest_rate: GuestRate::new(self.config.guests_per_minute),
            created: Created::default(),
            user_rate: UserRate::new(self.config.requests_per_s, self.config.requests_burst),
            handshakes: Semaphore::new(self.config.handshakes_max),
            sessions: Arc::default(),
            probes: Probes::default(),
            tunnels: TaskTracker::new(),
            shutdown: self.shutdown,
            cut: CancellationToken::new(),
            config: self.config,
        });
        let task = tokio::spawn(run(edge, threads, self.listener, listener_metrics, nodes));
        Ok(BrokerHandle { local_addr, task })
    }
}

impl BrokerHandle {
    /// The address of the public listener.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Returns when the broker has stopped.
    ///
    /// # Errors
    /// When it panicked.
    pub async fn join(self) -> Result<(), JoinError> {
        self.task.await
    }
}

/// Serves until the drain is over. The listener stays open meanwhile: whoever comes is told to come back later,
/// which a load balancer understands better than a closed port.
async fn run(
    edge: Arc<Edge>,
    threads: CarrierThreads,
    listener: TcpListener,
    metrics: ListenerMetrics,
    nodes: NodeWatch,
) {
    let closed = CancellationToken::new();
    let options = HttpOptions { connections_max: edge.config.connections_max, ..HttpOptions::default() };
    let answering = edge.clone();
    let service = move |request, peer: http::PeerAddr| answering.clone().answer(request, peer.0.ip());
    let serving = http::serve(listener, options, metrics, service, closed.clone());
    let leveled = CancellationToken::new();
    let leveling = level::run(edge.clone(), leveled.clone());
    let banning = async {
        let Some(slot) = &edge.players else { return std::future::pending().await };
        loop {
            match slot.get() {
                Some(store) => edge.bans.follow(store).await,
                None => tokio::time::sleep(STORE_PAUSE).await,
            }
        }
    };
    let stopping = async {
        tokio::select! {
            () = nodes.follow(&edge.directory) => {}
            () = edge.shutdown.drain().cancelled() => {}
            () = edge.shutdown.hurry().cancelled() => {}
        }
        leveled.cancel();
        edge.readiness.drain();
        let deadline = edge.shutdown.deadline(edge.config.drain);
        drain::drain(&edge, &deadline).await;
        closed.cancel();
    };
    let serving = async { tokio::join!(serving, stopping, leveling) };
    tokio::select! {
        _ = serving => {}
        () = banning => {}
        () = probes::run(&edge) => {}
    }
    edge.carriers.stop();
    threads.join().await;
}

/// Tells whether there is a node to send players to.
struct NodeWatch {
    component: Component,
    gate: Gate,
}

impl NodeWatch {
    fn report(&self, view: &View) {
        if view.nodes.values().any(|node| node.state == NodeState::Ready) {
            self.component.ok();
            self.gate.open();
        } else {
            self.component.down("no lobby node is ready");
            self.gate.close("no lobby node is ready");
        }
    }

    /// Follows the view for ever.
    async fn follow(&self, directory: &Directory) {
        let mut views = directory.watch();
        loop {
            self.report(&views.borrow_and_update().clone());
            if views.changed().await.is_err() {
                // The directory's task is gone: the last view stands until the process stops.
                std::future::pending::<()>().await;
            }
        }
    }
}
