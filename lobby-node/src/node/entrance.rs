//! How a connection becomes a session of the node, and how it is taken off the books.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};

use bytes::Bytes;
use mlms_cluster::directory::SessionRecord;
use mlms_process::http::Held;
use mlms_process::trace::Kind;
use mlms_protocol::placement::shard_of;
use mlms_protocol::ticket::Ticket;
use mlms_protocol::{
    CloseCode, Encoding, Event, LobbyId, Millis, NoticeCode, Reconnect, Role, SessionId, TraceParent, UserId,
};
use tokio::runtime::Handle;

use super::Node;
use crate::connection::{Connection, Socket};
use crate::lobby::Caller;
use crate::session::{self, SessionHandle};
use crate::wire::LinkMessage;

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
    connection: Box<Connection>,
    start: Box<session::Start>,
    ended: SessionEnd,
}

impl Node {
    /// All open sessions.
    pub(crate) fn sessions(&self) -> Vec<Arc<SessionHandle>> {
        self.lock_sessions().values().cloned().collect()
    }

    pub(crate) fn lock_sessions(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<SessionHandle>>> {
        self.sessions.lock().expect("no holder of the sessions panics")
    }

    pub(crate) fn session(&self, id: &SessionId) -> Option<Arc<SessionHandle>> {
        self.lock_sessions().get(id).cloned()
    }

    /// The number that the next session will have; all before have lower ones.
    pub(crate) fn next_session_number(&self) -> u64 {
        self.next_session.load(Ordering::Relaxed)
    }

    /// Waits for the end of all sessions; none begins any more.
    pub(crate) async fn wait_for_sessions(&self) {
        self.running.close();
        self.running.wait().await;
    }

    /// Marks a ticket as used. `false`: it was used before.
    pub(crate) fn use_ticket(&self, ticket: &Ticket) -> bool {
        let mut used = self.used_tickets.lock().expect("no holder of the tickets panics");
        used.use_up(&ticket.session, self.clock.now().0)
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

    pub(super) fn replace(&self, session: &SessionId) {
        if let Some(session) = self.session(session) {
            session.outbox.close(CloseCode::Replaced, "a newer session has come", Reconnect::Never, None);
        }
    }

    /// Takes in a connection that may come in, and runs its session on the worker that it talks to most.
    pub(crate) fn admit(
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
        let runtime = self.worker_runtime(worker);
        let node = Arc::clone(self);
        let arrival = Box::new(Arrival { socket, read_already, encoding, passenger, held });
        self.running.spawn_on(node.run_session(arrival), &runtime);
    }

    /// The event loop of a worker; numbers beyond the last begin anew.
    pub(crate) fn worker_runtime(&self, number: usize) -> Handle {
        self.workers[number % self.workers.len()].runtime.clone()
    }

    /// A session's whole life. What runs once is boxed: its room would otherwise be part of every session for as long as
    /// it lasts, and idle sessions are most of a node's memory.
    async fn run_session(self: Arc<Self>, arrival: Box<Arrival>) {
        let Some(opened) = Box::pin(self.open_session(arrival)).await else { return };
        let Opened { connection, start, ended } = *opened;
        session::run(Arc::clone(&ended.handle), connection, Arc::clone(&ended.node), start).await;
        let (node, caller) = (Arc::clone(&ended.node), Arc::clone(&ended.handle.caller));
        drop(ended);
        Box::pin(node.forget_session(&caller)).await;
    }

    /// `None`: the connection has ended meanwhile.
    async fn open_session(self: Arc<Self>, arrival: Box<Arrival>) -> Option<Box<Opened>> {
        let Arrival { socket, read_already, encoding, passenger, held } = *arrival;
        let Passenger { session, user, name, roles, token_expires_at, lobby, trace } = passenger;
        let traced = trace.and_then(|parent| self.tracer.span("session.open", Kind::Server, &parent));
        let metrics = Arc::clone(&self.metrics);
        let (frame_max, outbox_max) = {
            let limits = self.limits();
            (limits.frame_bytes_max, limits.outbox_bytes_max)
        };
        let open = Connection::open(socket, read_already, encoding, frame_max, outbox_max, metrics);
        let (connection, outbox) = open
            .await
            .inspect_err(|error| tracing::debug!(%error, "a connection ended while it was taken in"))
            .ok()?;
        let number = self.next_session.fetch_add(1, Ordering::Relaxed);
        let caller = Caller {
            session: session.clone(),
            user: user.clone(),
            name,
            roles,
            system: false,
            expects: None,
        };
        let home = lobby.as_ref().map(shard_of);
        let handle = Arc::new(SessionHandle::new(number, caller, outbox, home, self.clock.now()));
        session::welcome(&handle, &self);
        self.lock_sessions().insert(session.clone(), Arc::clone(&handle));
        self.metrics.sessions.inc();
        let ended = SessionEnd { node: Arc::clone(&self), handle: Arc::clone(&handle), _held: held };
        self.count_session(&user, &session).await;
        // The list may have changed since its ticket was looked at.
        crate::banning::end_if_banned(&self, &handle);
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
        let start = Box::new(session::Start { token_expires_at, lobby, trace });
        Some(Box::new(Opened { connection: Box::new(connection), start, ended }))
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
    handle: Arc<SessionHandle>,
    _held: Option<Held>,
}

impl Drop for SessionEnd {
    fn drop(&mut self) {
        self.node.lock_sessions().remove(&self.handle.caller.session);
        self.node.metrics.sessions.dec();
    }
}
