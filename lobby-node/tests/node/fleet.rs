//! Nodes over one embedded cluster, all on the test's runtime, which a test starts, kills and connects to.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mlms_cluster::Embedded;
use mlms_cluster::embedded::Faults;
use mlms_lobby_node::{Clock, LobbyNode, NodeConfig, NodeHandle, Passenger, Socket, Threads};
use mlms_process::config::JwtSettings;
use mlms_process::jwt::{Minter, Verifier, install_crypto_provider};
use mlms_process::{Health, Readiness, Shutdown, Tracer};
use mlms_protocol::placement::shard_of;
use mlms_protocol::ticket::ClusterKeys;
use mlms_protocol::{Encoding, Limits, LobbyId, Millis, NodeName, Role, SessionId, UserId};
use mlms_store::{Outlet, Store};
use prometheus::Registry;
use tokio::time::Instant;

use crate::line::Line;

/// Bytes that a pipe holds each way, as a socket's buffers would.
const PIPE_BYTES: usize = 16 * 1024;

/// What a fleet is made of.
pub(crate) struct Plan {
    pub nodes: usize,
    /// Workers in each node.
    pub workers: usize,
    pub limits: Limits,
    pub heartbeat: Duration,
    pub grace: Duration,
    pub empty_ttl: Duration,
    pub faults: Option<Faults>,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            nodes: 2,
            workers: 2,
            limits: Limits { creates_per_minute: 0, ..Limits::default() },
            heartbeat: Duration::from_secs(25),
            grace: Duration::from_secs(60),
            empty_ttl: Duration::from_secs(60),
            faults: None,
        }
    }
}

/// How a session comes in.
pub(crate) struct Entrance {
    pub encoding: Encoding,
    pub session: Option<SessionId>,
    pub token_expires_at: Millis,
    pub lobby: Option<LobbyId>,
    pub roles: Vec<Role>,
    /// Bytes that the pipe holds on its way to the player.
    pub pipe_bytes: usize,
}

impl Default for Entrance {
    fn default() -> Self {
        Entrance {
            encoding: Encoding::Json,
            session: None,
            token_expires_at: Millis(u64::MAX / 2),
            lobby: None,
            roles: Vec::new(),
            pipe_bytes: PIPE_BYTES,
        }
    }
}

struct Slot {
    handle: Arc<NodeHandle>,
    registry: Registry,
    shutdown: Shutdown,
    readiness: Readiness,
}

/// The nodes, by their numbers from 0.
pub(crate) struct Fleet {
    plan: Plan,
    embedded: Embedded,
    pub store: Store,
    pub clock: Clock,
    pub start: (Millis, Instant),
    verifier: Verifier,
    pub minter: Minter,
    slots: Mutex<Vec<Option<Slot>>>,
    numbers: AtomicU64,
}

pub(crate) fn node_name(number: usize) -> NodeName {
    NodeName::new(&format!("node-{number}")).unwrap()
}

pub(crate) fn lobby(name: &str) -> LobbyId {
    LobbyId::new(name).unwrap()
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

impl Fleet {
    /// Starts the nodes, and waits until they know of each other.
    pub(crate) async fn start(plan: Plan) -> Arc<Fleet> {
        Fleet::start_on(plan, Store::memory()).await
    }

    /// The same with an event store that another fleet has left.
    pub(crate) async fn start_on(plan: Plan, store: Store) -> Arc<Fleet> {
        install_crypto_provider();
        let settings = JwtSettings {
            hs256_secret: Some("a secret of at least thirty-two bytes".to_owned().into()),
            public_key_file: None,
            jwks: None,
            algorithms: Vec::new(),
            issuer: None,
            audience: Vec::new(),
        };
        let (verifier, _) = Verifier::new(&settings).unwrap();
        // Tokens are dated by the system's clock.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let start = (Millis(0).after(now), Instant::now());
        let fleet = Arc::new(Fleet {
            embedded: Embedded::in_memory(plan.faults.clone()),
            store,
            clock: Clock::Runtime { start: start.0, since: start.1 },
            start,
            verifier,
            minter: Minter::new(&settings).unwrap(),
            slots: Mutex::new((0..plan.nodes).map(|_| None).collect()),
            numbers: AtomicU64::new(1),
            plan,
        });
        for number in 0..fleet.plan.nodes {
            fleet.start_node(number);
        }
        let mut view = fleet.embedded.directory().watch();
        view.wait_for(|view| view.nodes.len() == fleet.plan.nodes).await.unwrap();
        fleet
    }

    /// The time as the nodes tell it.
    pub(crate) fn now(&self) -> Millis {
        self.start.0.after(self.start.1.elapsed())
    }

    /// Starts a node that is not there, under its old name.
    pub(crate) fn start_node(&self, number: usize) {
        let name = node_name(number);
        let registry = Registry::new();
        let (shutdown, readiness) = (Shutdown::new(), Readiness::new());
        let plan = &self.plan;
        let node = LobbyNode {
            config: NodeConfig {
                name: name.clone(),
                address: format!("{name}:1"),
                public_url: None,
                limits: plan.limits.clone(),
                heartbeat: plan.heartbeat,
                grace: plan.grace,
                empty_ttl: plan.empty_ttl,
                creators: None,
                drain: Duration::from_secs(5),
                connections_max: 1_000,
                backlog_bytes_max: 64 << 20,
            },
            directory: self.embedded.directory_of(&name),
            journal: self.embedded.journal(),
            relay: self.embedded.relay(),
            store: self.store.clone(),
            outlet: Outlet::None,
            verifier: self.verifier.clone(),
            tracer: Tracer::default(),
            keys: ClusterKeys::random(),
            listener: None,
            former_run: None,
            registry: registry.clone(),
            health: Health::new(),
            readiness: readiness.clone(),
            shutdown: shutdown.clone(),
            clock: self.clock.clone(),
            threads: Threads::Shared(plan.workers),
        };
        let handle = Arc::new(node.start());
        let former = self.slots()[number].replace(Slot { handle, registry, shutdown, readiness });
        assert!(former.is_none(), "{name} runs already");
    }

    /// Ends a node as a kill would.
    pub(crate) fn kill(&self, number: usize) {
        let Slot { handle, .. } = self.slots()[number].take().unwrap();
        Arc::into_inner(handle).unwrap().kill();
    }

    /// Lets a node leave as an operator would, and waits until it is gone.
    pub(crate) async fn drain(&self, number: usize) {
        let Slot { handle, shutdown, readiness, .. } = self.slots()[number].take().unwrap();
        shutdown.begin();
        Arc::into_inner(handle).unwrap().stopped().await;
        assert!(readiness.is_draining(), "a node that leaves is not ready");
    }

    /// The same, told once more after a moment that there is no time for it.
    pub(crate) async fn drain_in_a_hurry(&self, number: usize, after: Duration) {
        let Slot { handle, shutdown, .. } = self.slots()[number].take().unwrap();
        shutdown.signal();
        tokio::time::sleep(after).await;
        shutdown.signal();
        Arc::into_inner(handle).unwrap().stopped().await;
    }

    /// Gives a lobby's shard from its owner to a node. `true`: that node serves it.
    pub(crate) async fn move_lobby(&self, lobby: &LobbyId, to: usize) -> bool {
        let Some(owner) = self.owner(lobby) else { return false };
        let Some(operator) = self.slots()[owner].as_ref().map(|slot| slot.handle.operator()) else {
            return false;
        };
        operator.move_shard(shard_of(lobby), &node_name(to)).await
    }

    /// Lets directory and journal lose the newest entries of each log, or everything.
    pub(crate) fn lose(&self, entries: Option<usize>) {
        self.embedded.lose(entries);
    }

    pub(crate) fn kill_all(&self) {
        for number in 0..self.plan.nodes {
            if self.is_up(number) {
                self.kill(number);
            }
        }
    }

    pub(crate) fn is_up(&self, number: usize) -> bool {
        self.slots()[number].is_some()
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Option<Slot>>> {
        self.slots.lock().unwrap()
    }

    /// The node that owns a lobby, as the directory says.
    pub(crate) fn owner(&self, lobby: &LobbyId) -> Option<usize> {
        let view = self.embedded.directory().view();
        let owner = view.owner(shard_of(lobby))?.name.clone();
        (0..self.plan.nodes).find(|number| node_name(*number) == owner)
    }

    /// A metric's value, summed over its labels; `label` chooses one by its value.
    pub(crate) fn metric(&self, number: usize, name: &str, label: Option<&str>) -> f64 {
        let registry = self.slots()[number].as_ref().unwrap().registry.clone();
        let families = registry.gather();
        // One with labels is not there before it counts.
        let Some(family) = families.iter().find(|family| family.name() == name) else { return 0.0 };
        let wanted = |metric: &&prometheus::proto::Metric| {
            label.is_none_or(|value| metric.get_label().iter().any(|pair| pair.value() == value))
        };
        let value = |metric: &prometheus::proto::Metric| {
            metric.get_counter().get_value() + metric.get_gauge().get_value()
        };
        family.get_metric().iter().filter(wanted).map(value).sum()
    }

    /// A number that was not given before.
    pub(crate) fn unique(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Opens a session at a node; `None` when the node is not there.
    pub(crate) async fn enter(&self, number: usize, user: &UserId, entrance: Entrance) -> Option<Line> {
        let handle = Arc::clone(&self.slots()[number].as_ref()?.handle);
        let (ours, theirs) = tokio::io::duplex(entrance.pipe_bytes);
        let number = self.unique();
        let passenger = Passenger {
            session: entrance
                .session
                .unwrap_or_else(|| SessionId::new(&format!("session-{number}")).unwrap()),
            user: user.clone(),
            name: user.to_string(),
            roles: entrance.roles,
            token_expires_at: entrance.token_expires_at,
            lobby: entrance.lobby,
            trace: None,
        };
        handle.admit(Socket::Pipe(theirs), entrance.encoding, passenger);
        drop(handle);
        Some(Line::new(ours, entrance.encoding).await)
    }

    /// Opens a session that must be possible, past its `welcome`.
    pub(crate) async fn connect(&self, number: usize, name: &str) -> Line {
        self.connect_with(number, name, Entrance::default()).await
    }

    pub(crate) async fn connect_with(&self, number: usize, name: &str, entrance: Entrance) -> Line {
        let mut line = self.enter(number, &user(name), entrance).await.unwrap();
        line.welcomed().await;
        line
    }
}
