//! One node as a whole: its workers, its lease, its links, its listener, and its way to rest.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use mlms_cluster::directory::SessionRecord;
use mlms_cluster::link::{LinkConfig, LinkEvent, LinkEvents, Links, LinksHandle};
use mlms_cluster::relay::Relay;
use mlms_cluster::{Directory, Journal};
use mlms_process::health::{Health, Readiness};
use mlms_process::http::{self, Held, HttpOptions, ListenerMetrics};
use mlms_process::jwt::Verifier;
use mlms_process::shutdown::Shutdown;
use mlms_process::trace::{Kind, Tracer};
use mlms_protocol::placement::shard_of;
use mlms_protocol::ticket::{ClusterKeys, TICKET_TTL_MS, Ticket};
use mlms_protocol::{
    CloseCode, Encoding, Event, Incarnation, Limits, LobbyId, Millis, NodeName, NoticeCode, Reconnect, Role,
    SessionId, Shard, TraceParent, UserId,
};
use mlms_store::{Award, Outlet, Store};
use prometheus::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backlog::Backlog;
use crate::clock::Clock;
use crate::condition::Conditions;
use crate::connection::{Connection, Socket};
use crate::dial::Dial;
use crate::limiter::Creates;
use crate::load;
use crate::lobby::{Caller, Rules};
use crate::metrics::Metrics;
use crate::search::Index;
use crate::secret::Sealing;
use crate::session::{self, SessionHandle};
use crate::standing::Standing;
use crate::status::Operator;
use crate::wire::{Achievement, LinkMessage};
use crate::worker::{INBOX_MAX, Moved, ToWorker, Worker};
use crate::{drain, lease};

/// Changes of the view are passed on to the workers no more often than this.
const VIEW_PAUSE: Duration = Duration::from_millis(50);
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
    pub registry: Registry,
    pub health: Health,
    pub readiness: Readiness,
    pub shutdown: Shutdown,
    pub clock: Clock,
    pub threads: Threads,
}

/// Who comes in, as its ticket says.
#[derive(Debug, Clone)]
pub struct Passenger {
    pub session: SessionId,
    pub user: UserId,
    pub name: String,
    pub roles: Vec<Role>,
    pub token_expires_at: Millis,
    /// The lobby to join at once.
    pub lobby: Option<LobbyId>,
    /// The place in a trace that is being recorded.
    pub trace: Option<TraceParent>,
}

impl From<Ticket> for Passenger {
    fn from(ticket: Ticket) -> Self {
        Passenger {
            session: ticket.session,
            name: ticket.name.unwrap_or_else(|| ticket.user.to_string()),
            user: ticket.user,
            roles: ticket.roles,
            token_expires_at: ticket.token_expires_at,
            lobby: ticket.lobby,
            trace: None,
        }
    }
}

/// A connection on its way into the node.
struct Arrival {
    socket: Socket,
    /// What came behind the handshake.
    read_already: Bytes,
    encoding: Encoding,
    passenger: Passenger,
    held: Option<Held>,
}

/// A session that is known to the node, before its first frame.
struct Opened {
    handle: Arc<SessionHandle>,
    connection: Box<Connection>,
    start: session::Start,
    ended: SessionEnd,
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

struct WorkerHandle {
    inbox: mpsc::Sender<ToWorker>,
    runtime: Handle,
}

/// What all parts of a node share.
pub(crate) struct Node {
    pub(crate) name: NodeName,
    pub(crate) incarnation: Incarnation,
    /// The limits in it may change while the node runs.
    pub(crate) rules: ArcSwap<Rules>,
    pub(crate) heartbeat: Duration,
    pub(crate) clock: Clock,
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
    pub(crate) index: Index,
    pub(crate) handshakes: TaskTracker,
    /// Ends the workers, when everything is at rest.
    pub(crate) stop: CancellationToken,
    workers: Vec<WorkerHandle>,
    sessions: Mutex<HashMap<SessionId, Arc<SessionHandle>>>,
    running: TaskTracker,
    used_tickets: Mutex<HashMap<SessionId, u64>>,
    next_session: AtomicU64,
    draining: AtomicBool,
    pub(crate) standing: Standing,
    pub(crate) conditions: Conditions,
}

impl LobbyNode {
    /// Starts the node: from here on it has a lease and takes sessions.
    #[must_use]
    pub fn start(self) -> NodeHandle {
        let now = self.clock.now();
        // Microseconds: a restart within the same millisecond is not to be had.
        let incarnation = Incarnation(now.0.saturating_mul(1_000) + rand::random_range(0..1_000));
        let (links, link_events, links_task) =
            Links::start(self.config.name.clone(), incarnation, self.relay.clone(), LinkConfig::default());
        let limits = Arc::new(self.config.limits.clone());
        let (workers, inboxes, threads) = prepare_workers(&self.threads, &self.shutdown);
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
            index: Index::default(),
            heartbeat: self.config.heartbeat,
            clock: self.clock.clone(),
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
            stop: CancellationToken::new(),
            workers,
            sessions: Mutex::default(),
            running: TaskTracker::new(),
            used_tickets: Mutex::default(),
            next_session: AtomicU64::new(1),
            draining: AtomicBool::new(false),
            standing: Standing::new(),
            conditions: Conditions::new(&self.health),
        });
        let task = tokio::spawn(run(Arc::clone(&node), self, inboxes, threads, link_events, links_task));
        NodeHandle { node, task }
    }
}

/// A worker's own thread, if it has one: where it gets its worker from, and how it is awaited.
type Thread = Option<(std::sync::mpsc::Sender<WorkerThread>, std::thread::JoinHandle<()>)>;
/// What a worker's thread runs.
type WorkerThread = (Worker, mpsc::Receiver<ToWorker>);

/// A worker that panics outside of any lobby's code leaves lobbies behind that nobody serves: the process stops, and
/// what starts in its place rebuilds them from the journal.
struct Alarm(Shutdown);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a worker panicked; stopping");
            self.0.begin();
        }
    }
}

/// Makes the workers' inboxes, and the threads that wait for their worker.
fn prepare_workers(
    threads: &Threads,
    shutdown: &Shutdown,
) -> (Vec<WorkerHandle>, Vec<mpsc::Receiver<ToWorker>>, Vec<Thread>) {
    let (count, own) = match threads {
        Threads::Own(count) => ((*count).max(1), true),
        Threads::Shared(count) => ((*count).max(1), false),
    };
    let (mut handles, mut inboxes, mut started) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..count {
        let (inbox, receiver) = mpsc::channel(INBOX_MAX);
        inboxes.push(receiver);
        if own {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("the system gives a worker its event queue at the start");
            handles.push(WorkerHandle { inbox, runtime: runtime.handle().clone() });
            let (give, take) = std::sync::mpsc::channel::<WorkerThread>();
            let alarm = Alarm(shutdown.clone());
            let thread = std::thread::Builder::new().name(format!("lobbies-{number}")).spawn(move || {
                let _alarm = alarm;
                if let Ok((worker, receiver)) = take.recv() {
                    runtime.block_on(worker.run(receiver));
                }
                // Sessions that outlive the drain end with their runtime.
                runtime.shutdown_background();
            });
            started.push(Some((give, thread.expect("the system gives a thread at the start"))));
        } else {
            handles.push(WorkerHandle { inbox, runtime: Handle::current() });
            started.push(None);
        }
    }
    (handles, inboxes, started)
}

impl NodeHandle {
    /// Takes in an upgraded connection, as the listener does.
    pub async fn admit(&self, socket: Socket, encoding: Encoding, passenger: Passenger) {
        self.node.admit(socket, Bytes::new(), encoding, passenger, None).await;
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
        for session in self.node.lock_sessions().values() {
            session.outbox.break_off();
        }
    }
}

/// The node's life.
async fn run(
    node: Arc<Node>,
    parts: LobbyNode,
    inboxes: Vec<mpsc::Receiver<ToWorker>>,
    threads: Vec<Thread>,
    link_events: LinkEvents,
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
    if matches!(threads_kind, Threads::Own(_)) {
        let workers = node.workers.iter().map(|worker| worker.runtime.clone()).collect();
        tasks.spawn(load::measure(Arc::clone(&node), workers));
    }
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
    drain::drain(&node, &config, &shutdown).await;
    stop_listener.cancel();
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

/// Tells the workers when the view changes.
async fn watch_view(node: Arc<Node>) {
    let mut view = node.directory.watch();
    loop {
        tokio::select! {
            changed = view.changed() => if changed.is_err() {
                return;
            },
            () = node.stop.cancelled() => return,
        }
        for worker in &node.workers {
            // A worker that has ended needs no view.
            let _ = worker.inbox.send(ToWorker::ViewChanged).await;
        }
        tokio::time::sleep(VIEW_PAUSE).await;
    }
}

/// Hands what the links bring to the workers that know the lobbies.
async fn dispatch(node: Arc<Node>, mut events: LinkEvents) {
    let mut incarnations: HashMap<NodeName, Incarnation> = HashMap::new();
    while let Some(event) = events.recv().await {
        match event {
            LinkEvent::Received { from, incarnation, payload } => {
                incarnations.insert(from.clone(), incarnation);
                match LinkMessage::decode(&payload) {
                    Some(LinkMessage::ToOwner(lobby, message)) => {
                        node.tell(
                            &lobby.clone(),
                            ToWorker::FromNode { from, lobby, message: Box::new(message) },
                        )
                        .await;
                    }
                    Some(LinkMessage::FromOwner(lobby, message)) => {
                        let message = Box::new(message);
                        node.tell(&lobby.clone(), ToWorker::FromOwner { from, lobby, message }).await;
                    }
                    Some(LinkMessage::Replace(session)) => node.replace(&session),
                    Some(LinkMessage::Shard(shard, message)) => {
                        let message = Box::new(message);
                        node.tell_shard(shard, ToWorker::ShardMessage { from, incarnation, shard, message })
                            .await;
                    }
                    Some(LinkMessage::Achievement(Achievement { user, achievement, at })) => {
                        node.tell_achievement(&user, &achievement, at);
                    }
                    None => node.metrics.unreadable.with_label_values(&["link_message"]).inc(),
                }
            }
            LinkEvent::IncomingReset { from, incarnation } => {
                let restarted = incarnations.insert(from.clone(), incarnation) != Some(incarnation);
                node.metrics.link_resets.with_label_values(&["incoming"]).inc();
                node.tell_all_of_reset(&from, restarted).await;
            }
            LinkEvent::OutgoingReset { to } => {
                node.metrics.link_resets.with_label_values(&["outgoing"]).inc();
                node.tell_all_of_reset(&to, false).await;
            }
        }
    }
}

impl Node {
    /// Hands something to the worker of a lobby; waits while that worker does not keep up.
    pub(crate) async fn tell(&self, lobby: &LobbyId, message: ToWorker) {
        self.tell_shard(shard_of(lobby), message).await;
    }

    /// Hands something to the worker of a shard; waits while that worker does not keep up.
    pub(crate) async fn tell_shard(&self, shard: Shard, message: ToWorker) {
        // A worker that has ended belongs to a node that is gone.
        let _ = self.workers[self.worker_of(shard)].inbox.send(message).await;
    }

    /// The number of the worker that a shard's lobbies are with.
    pub(crate) fn worker_of(&self, shard: Shard) -> usize {
        usize::from(shard.0) % self.workers.len()
    }

    /// Asks every worker the same, and waits for all their answers.
    pub(crate) async fn ask_all<T>(&self, question: impl Fn(oneshot::Sender<T>) -> ToWorker) -> Vec<T> {
        let mut asked = Vec::new();
        for worker in &self.workers {
            let (answer, answered) = oneshot::channel();
            if worker.inbox.send(question(answer)).await.is_ok() {
                asked.push(answered);
            }
        }
        // A worker that has ended has nothing to say.
        futures_util::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// Tells every worker the same.
    pub(crate) async fn tell_all(&self, message: impl Fn() -> ToWorker) {
        for worker in &self.workers {
            // A worker that has ended belongs to a node that is gone.
            let _ = worker.inbox.send(message()).await;
        }
    }

    /// Gives a shard to another node, and waits for the outcome.
    pub(crate) async fn move_shard(&self, shard: Shard, to: NodeName) -> Moved {
        let (answer, answered) = oneshot::channel();
        self.tell_shard(shard, ToWorker::Move { shard, to, answer }).await;
        answered.await.unwrap_or(Moved::NotOwned)
    }

    pub(crate) fn begin_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// All open sessions.
    pub(crate) fn sessions(&self) -> Vec<Arc<SessionHandle>> {
        self.lock_sessions().values().cloned().collect()
    }

    /// Waits for the end of all sessions; none begins any more.
    pub(crate) async fn wait_for_sessions(&self) {
        self.running.close();
        self.running.wait().await;
    }

    async fn tell_all_of_reset(&self, peer: &NodeName, restarted: bool) {
        for worker in &self.workers {
            let reset = ToWorker::LinkReset { peer: peer.clone(), restarted };
            // As above.
            let _ = worker.inbox.send(reset).await;
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn limits(&self) -> Arc<Limits> {
        Arc::clone(&self.rules.load().limits)
    }

    pub(crate) fn lock_sessions(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Arc<SessionHandle>>> {
        self.sessions.lock().expect("no holder of the sessions panics")
    }

    pub(crate) fn session(&self, id: &SessionId) -> Option<Arc<SessionHandle>> {
        self.lock_sessions().get(id).cloned()
    }

    /// Marks a ticket as used. `false`: it was used before.
    pub(crate) fn use_ticket(&self, ticket: &Ticket) -> bool {
        let now = self.clock.now().0;
        let mut used = self.used_tickets.lock().expect("no holder of the tickets panics");
        if used.len() > 4_096 {
            used.retain(|_, until| *until > now);
        }
        used.insert(ticket.session.clone(), now + 2 * TICKET_TTL_MS).is_none()
    }

    /// The sessions of a user on this node.
    pub(crate) fn sessions_of(&self, user: &UserId) -> Vec<Arc<SessionHandle>> {
        self.lock_sessions().values().filter(|session| session.caller.user == *user).cloned().collect()
    }

    /// Sends a `notice` to every session of this node.
    pub(crate) fn notify(&self, code: NoticeCode, message: &str) {
        let sessions: Vec<_> = self.lock_sessions().values().cloned().collect();
        for session in sessions {
            session.outbox.push_event(&Event::Notice { code, message: message.to_owned() });
        }
    }

    fn replace(&self, session: &SessionId) {
        if let Some(session) = self.session(session) {
            session.outbox.close(CloseCode::Replaced, "a newer session has come", Reconnect::Never, None);
        }
    }

    /// Takes in a connection that may come in, and runs its session on the worker that it talks to most.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        socket: Socket,
        read_already: Bytes,
        encoding: Encoding,
        passenger: Passenger,
        held: Option<Held>,
    ) {
        let worker = match &passenger.lobby {
            Some(lobby) => usize::from(shard_of(lobby).0),
            None => usize::try_from(self.next_session.load(Ordering::Relaxed)).unwrap_or(0),
        };
        let runtime = self.workers[worker % self.workers.len()].runtime.clone();
        let socket = match socket {
            Socket::Tcp(stream) => {
                let stream = stream.into_std().and_then(|stream| {
                    let _entered = runtime.enter();
                    TcpStream::from_std(stream)
                });
                match stream {
                    Ok(stream) => Socket::Tcp(stream),
                    Err(error) => return tracing::debug!(%error, "a connection ended while it was taken in"),
                }
            }
            pipe @ Socket::Pipe(_) => pipe,
        };
        let node = Arc::clone(self);
        let arrival = Box::new(Arrival { socket, read_already, encoding, passenger, held });
        self.running.spawn_on(node.run_session(arrival), &runtime);
    }

    /// A session's whole life. What runs once is boxed: its room would otherwise be part of every session for as long as
    /// it lasts, and idle sessions are most of a node's memory.
    async fn run_session(self: Arc<Self>, arrival: Box<Arrival>) {
        let opened = Box::pin(Arc::clone(&self).open_session(arrival)).await;
        let Opened { handle, connection, start, ended } = opened;
        session::run(Arc::clone(&handle), connection, Arc::clone(&self), start).await;
        drop(ended);
        Box::pin(self.forget_session(&handle.caller)).await;
    }

    async fn open_session(self: Arc<Self>, arrival: Box<Arrival>) -> Opened {
        let Arrival { socket, read_already, encoding, passenger, held } = *arrival;
        let Passenger { session, user, name, roles, token_expires_at, lobby, trace } = passenger;
        let traced = trace.and_then(|parent| self.tracer.span("session.open", Kind::Server, &parent));
        let metrics = Arc::clone(&self.metrics);
        let (frame_max, outbox_max) = {
            let limits = self.limits();
            (limits.frame_bytes_max, limits.outbox_bytes_max)
        };
        let open = Connection::open(socket, read_already, encoding, frame_max, outbox_max, metrics);
        let (connection, outbox) = open.await;
        let number = self.next_session.fetch_add(1, Ordering::Relaxed);
        let caller = Caller { session: session.clone(), user: user.clone(), name, roles, system: false };
        let handle = Arc::new(SessionHandle::new(number, caller, outbox));
        self.lock_sessions().insert(session.clone(), Arc::clone(&handle));
        self.metrics.sessions.inc();
        let ended = SessionEnd { node: Arc::clone(&self), session: session.clone(), _held: held };
        self.count_session(&user, &session).await;
        if self.is_draining() {
            handle.outbox.close(CloseCode::Draining, "the node is stopping", Reconnect::Now, None);
        }
        let trace = traced.map(|span| {
            let span =
                span.with("mlms.user", handle.caller.user.as_str()).with("mlms.node", self.name.as_str());
            span.in_log()
                .in_scope(|| tracing::debug!(session = %handle.caller.session, "a traced session begins"));
            Box::new(span.context())
        });
        let start = session::Start { token_expires_at, lobby, trace };
        Opened { handle, connection: Box::new(connection), start, ended }
    }

    async fn forget_session(&self, caller: &Caller) {
        if self.directory.remove_session(&caller.user, &caller.session).await.is_err() {
            tracing::debug!("a session's record could not be removed; it dies with the node's lease");
        }
    }

    /// Counts the session among its user's, and closes the oldest beyond the limit.
    async fn count_session(&self, user: &UserId, session: &SessionId) {
        let record = SessionRecord {
            session: session.clone(),
            node: self.name.clone(),
            incarnation: self.incarnation,
        };
        let sessions_max = self.limits().sessions_per_user_max;
        match self.directory.add_session(user, record, sessions_max).await {
            Ok(oldest) => {
                for SessionRecord { session, node, .. } in oldest {
                    if node == self.name {
                        self.replace(&session);
                    } else {
                        self.links.send(&node, LinkMessage::Replace(session).encode());
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "a session is not counted"),
        }
    }
}

/// Takes a session off the books, however it ends.
struct SessionEnd {
    node: Arc<Node>,
    session: SessionId,
    _held: Option<Held>,
}

impl Drop for SessionEnd {
    fn drop(&mut self) {
        self.node.lock_sessions().remove(&self.session);
        self.node.metrics.sessions.dec();
    }
}
