//! One session: reads and checks a player's frames, keeps its rates and its heartbeat, and hands commands to the
//! workers that know the lobbies.

mod handle;
mod quick;
mod reply;
mod resume;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mlms_protocol::command::{DecodeError, Join};
use mlms_protocol::reply::encode_reply;
use mlms_protocol::{
    Answer, CloseCode, Command, Encoding, ErrorCode, Event, LobbyCommand, LobbyId, Millis, Reconnect,
    Refusal, Request, TraceParent, UserId,
};
use rand::Rng;
use tokio::time::{Instant, Sleep};

use crate::connection::{Connection, Incoming};
use crate::limiter::{Bucket, Grant, Moment};
use crate::lobby::{Caller, CommandKey};
use crate::node::Node;
use crate::outbox::Drained;
use crate::worker::{Envelope, Origin, ToWorker, Turn};
use resume::check_length;

pub(crate) use handle::SessionHandle;
pub(crate) use reply::{Gather, ReplyTo};

/// Time without any frame after a ping before the session is given up (protocol: 10 s).
const PONG_TIME: Duration = Duration::from_secs(10);
/// A timer that is so late says that this process stood still, and nothing about its peers.
const OVERSLEPT: Duration = Duration::from_secs(1);
/// How long a peer may take to answer a close frame before the socket is dropped.
const CLOSE_TIME: Duration = Duration::from_secs(2);
/// How long a peer that does not read may take to receive what stands before its close frame.
const LAST_WORDS_TIME: Duration = Duration::from_secs(10);
/// How long a command may wait for a worker or an owner (protocol: then `owner_unavailable`).
pub(crate) const COMMAND_TIME: Duration = Duration::from_secs(2);

/// Everything a session starts with.
pub(crate) struct Start {
    pub(crate) token_expires_at: Millis,
    /// The lobby to join at once.
    pub(crate) lobby: Option<LobbyId>,
    /// What its commands are recorded under.
    pub(crate) trace: Option<Box<TraceParent>>,
}

/// What of a command may take time: most commands go to their worker at once.
enum Longer {
    /// The worker does not keep up.
    Tell(Box<Envelope>),
    /// Somebody else is to be asked first.
    Request(Box<Request>),
}

struct Session {
    handle: Arc<SessionHandle>,
    /// Who gives its commands, with the roles of its newest token.
    caller: Arc<Caller>,
    node: Arc<Node>,
    commands: Bucket,
    chats: Bucket,
    joins: Bucket,
    token_expires_at: Millis,
    /// When to look at the clock for that; no timer is set anew for a frame.
    expiry: Instant,
    /// Numbers the commands that carry no nonce.
    counted: u64,
    /// What its commands are recorded under, if it is traced.
    trace: Option<Box<TraceParent>>,
    /// Whom the user blocks is known; the first join asks.
    knows_blocks: bool,
}

/// Says the first word to a session. Before anybody else knows of it: what all sessions are told comes behind.
pub(crate) fn welcome(handle: &SessionHandle, node: &Node) {
    handle.outbox.push_event(&Event::Welcome {
        session: handle.caller.session.clone(),
        user: handle.caller.user.clone(),
        node: node.name.clone(),
        heartbeat_ms: u64::try_from(node.heartbeat.as_millis()).unwrap_or(u64::MAX),
        limits: node.limits().as_ref().clone(),
        now: node.clock.now(),
    });
}

/// Runs a session, which is welcomed, to its end.
#[expect(clippy::manual_async_fn, reason = "an async fn holds room for its arguments twice, for each player")]
pub(crate) fn run(
    handle: Arc<SessionHandle>,
    mut connection: Box<Connection>,
    node: Arc<Node>,
    mut start: Box<Start>,
) -> impl Future<Output = ()> + Send {
    async move {
        node.tell_standing(&handle);
        node.tell_maintenance(&handle);
        let mut session = Session::new(handle, node, &mut start);
        if let Some(lobby) = start.lobby.take() {
            let create = Some(mlms_protocol::lobby::Settings::default());
            let join = LobbyCommand::Join(Join { create, ..Join::default() });
            Box::pin(session.forward(lobby, ReplyTo::Snapshot, None, join)).await;
        }
        session.serve(&mut connection).await;
        for lobby in session.handle.end() {
            let detach = ToWorker::Detach { lobby: lobby.clone(), session: Arc::clone(&session.handle) };
            Box::pin(session.node.insist(&lobby, detach)).await;
        }
    }
}

impl Session {
    fn new(handle: Arc<SessionHandle>, node: Arc<Node>, start: &mut Start) -> Session {
        let limits = node.limits();
        let now = Moment::since(node.began);
        Session {
            commands: Bucket::new(limits.commands_per_s as f32, limits.commands_burst as f32, now),
            chats: Bucket::new(limits.chats_per_s as f32, limits.chats_burst as f32, now),
            joins: Bucket::new(limits.joins_per_s as f32, limits.lobbies_per_session_max as f32, now),
            token_expires_at: start.token_expires_at,
            expiry: expiry(start.token_expires_at, node.clock.now()),
            counted: 0,
            trace: start.trace.take(),
            knows_blocks: false,
            caller: Arc::clone(&handle.caller),
            handle,
            node,
        }
    }

    async fn serve(&mut self, connection: &mut Connection) {
        let outbox = Arc::clone(&self.handle.outbox);
        // The first ping comes at a random point, so that sessions that began together do not stay together.
        let mut next_ping = Instant::now() + self.node.heartbeat.mul_f64(rand::rng().random_range(0.5..=1.0));
        // The oldest ping that no frame has followed.
        let mut unanswered: Option<Instant> = None;
        let mut closing: Option<Instant> = None;
        let timer = tokio::time::sleep_until(next_ping);
        tokio::pin!(timer);
        loop {
            self.set_timer(timer.as_mut(), next_ping, unanswered, closing);
            tokio::select! {
                incoming = connection.receive(&outbox) => {
                    let Some(incoming) = incoming else {
                        // The answer to a close, or the code of a broken frame.
                        Box::pin(outbox.finish(CLOSE_TIME)).await;
                        return;
                    };
                    unanswered = None;
                    if closing.is_none()
                        && !outbox.is_closing()
                        && let Some(longer) = self.take(incoming)
                    {
                        // Boxed: an idle session must not hold room for a command.
                        Box::pin(self.go_on(longer)).await;
                    }
                }
                drained = outbox.drain(), if closing.is_none() => match drained {
                    Drained::Pulls(lobbies) => Box::pin(self.pull(lobbies)).await,
                    Drained::Closed(_) => closing = Some(Instant::now() + CLOSE_TIME),
                    Drained::Broken => return,
                },
                () = &mut timer => {
                    if closing.is_some() {
                        return;
                    }
                    let now = Instant::now();
                    if self.node.clock.now() >= self.token_expires_at {
                        outbox.close(CloseCode::TokenExpired, "the token has expired", Reconnect::Now, None);
                    } else if now >= self.expiry {
                        self.expiry = expiry(self.token_expires_at, self.node.clock.now());
                    } else if unanswered.is_some_and(|pinged| now >= pinged + PONG_TIME)
                        && now.duration_since(timer.deadline()) > OVERSLEPT
                    {
                        // The sign of life may wait in the socket: it gets its time anew.
                        unanswered = Some(now);
                    } else if unanswered.is_some_and(|pinged| now >= pinged + PONG_TIME) {
                        outbox.close(CloseCode::NoPong, "no sign of life", Reconnect::Now, None);
                    } else if now >= next_ping {
                        outbox.ping();
                        unanswered.get_or_insert(now);
                        next_ping = now + self.node.heartbeat;
                    }
                    if outbox.is_closing() {
                        // A peer that does not read gets a bounded time for its last words.
                        let words = Box::pin(tokio::time::timeout(LAST_WORDS_TIME, outbox.drain())).await;
                        if !matches!(words, Ok(Drained::Closed(_))) {
                            return;
                        }
                        closing = Some(Instant::now() + CLOSE_TIME);
                    }
                }
            }
        }
    }

    /// Sets the timer to what is due first.
    fn set_timer(
        &self,
        timer: Pin<&mut Sleep>,
        next_ping: Instant,
        unanswered: Option<Instant>,
        closing: Option<Instant>,
    ) {
        let pong_due = unanswered.map_or(next_ping, |pinged| pinged + PONG_TIME);
        let wake_at = closing.unwrap_or_else(|| next_ping.min(pong_due).min(self.expiry));
        if timer.deadline() != wake_at {
            timer.reset(wake_at);
        }
    }

    async fn pull(&self, lobbies: Vec<LobbyId>) {
        for lobby in lobbies {
            let session = Arc::clone(&self.handle);
            if self.node.tell(&lobby, ToWorker::Pull { lobby: lobby.clone(), session }).await.is_err() {
                // Nobody would ask again for what it missed.
                return self.close(CloseCode::Overloaded, "the lobby's node does not keep up");
            }
        }
    }

    /// Takes a frame. Gives back what may take time.
    fn take(&mut self, incoming: Incoming) -> Option<Longer> {
        let encoding = self.handle.outbox.encoding();
        let frame = match (incoming, encoding) {
            // Each ping costs a pong: they count towards a flood, and use up nothing.
            (Incoming::Alive, _) => {
                if self.commands.is_flooded(self.moment()) {
                    self.close(CloseCode::Flood, "far too many control frames");
                }
                return None;
            }
            (Incoming::Text(frame), Encoding::Json) | (Incoming::Binary(frame), Encoding::Msgpack) => frame,
            _ => {
                self.close(CloseCode::ProtocolError, "the frame is of the other encoding");
                return None;
            }
        };
        let grant = self.commands.take(self.moment());
        if grant == Grant::Flood {
            self.close(CloseCode::Flood, "far too many commands");
            return None;
        }
        match Request::decode(encoding, &frame) {
            Err(DecodeError::Protocol) => {
                self.close(CloseCode::ProtocolError, "the frame is not one object with `op`");
            }
            Err(DecodeError::Refused { id, op, lobby, code, message }) => {
                self.refuse(id, &op, lobby, Refusal::new(code, message));
            }
            Ok(request) => match grant {
                Grant::Later(_) if self.is_flooded_by(&request) => {
                    self.close(CloseCode::Flood, "far too many messages");
                }
                Grant::Later(ms) => self.refuse_request(&request, rate_limited("commands", ms)),
                _ => return self.carry_out(request),
            },
        }
        None
    }

    /// What the commands' rate refuses still counts against the rate of its own kind.
    fn is_flooded_by(&mut self, request: &Request) -> bool {
        match &request.command {
            Command::Lobby(_, LobbyCommand::Join(_)) => self.joins.is_flooded(self.moment()),
            Command::Lobby(_, LobbyCommand::Send(send)) if send.kind.is_chat() => {
                self.chats.is_flooded(self.moment())
            }
            _ => false,
        }
    }

    fn close(&self, code: CloseCode, reason: &str) {
        let reconnect = if code.invites_reconnect() { Reconnect::Now } else { Reconnect::Never };
        self.handle.outbox.close(code, reason, reconnect, None);
    }

    fn refuse(&self, id: Option<u32>, op: &str, lobby: Option<LobbyId>, refusal: Refusal) {
        self.node.metrics.refusals.with_label_values(&[refusal.code.as_str()]).inc();
        let outbox = &self.handle.outbox;
        let payload = match id {
            Some(id) => encode_reply(id, &Err(refusal), outbox.encoding()),
            None => {
                let Refusal { code, message, retry_ms } = refusal;
                Event::Error { code, message, op: Some(op.to_owned()), lobby, retry_ms }
                    .encode(outbox.encoding())
            }
        };
        outbox.push(&outbox.encoding().websocket_frame(&payload));
    }

    fn refuse_request(&self, request: &Request, refusal: Refusal) {
        let lobby = match &request.command {
            Command::Lobby(lobby, _) => Some(lobby.clone()),
            _ => None,
        };
        self.refuse(request.id, request.command.op(), lobby, refusal);
    }

    fn answer(&self, id: Option<u32>, answer: Answer) {
        if let Some(id) = id {
            let outbox = &self.handle.outbox;
            let reply = encode_reply(id, &Ok(answer), outbox.encoding());
            outbox.push(&outbox.encoding().websocket_frame(&reply));
        }
    }

    /// Carries a command out as far as that takes no time.
    fn carry_out(&mut self, request: Request) -> Option<Longer> {
        self.node.metrics.count_command(request.command.op());
        self.handle.spoke_ms.store(self.node.clock.now().0, Ordering::Relaxed);
        if let Err(refusal) = self.check(&request) {
            if refusal.code == ErrorCode::RateLimited && refusal.retry_ms.is_none() {
                self.close(CloseCode::Flood, "far too many messages");
            } else {
                self.refuse_request(&request, refusal);
            }
            return None;
        }
        match request.command {
            Command::Ping => {
                self.answer(request.id, Answer::Pong { now: self.node.clock.now() });
                None
            }
            // The first join asks whom the user blocks.
            Command::Lobby(lobby, command)
                if !crate::secret::is_in(&command)
                    && (self.knows_blocks || !matches!(command, LobbyCommand::Join(_))) =>
            {
                let reply_to = request.id.map_or(ReplyTo::Nobody, ReplyTo::Id);
                let envelope = self.envelope(lobby, reply_to, request.nonce.map(CommandKey::Nonce), command);
                self.node.try_tell(envelope).map(Longer::Tell)
            }
            _ => Some(Longer::Request(Box::new(request))),
        }
    }

    async fn go_on(&mut self, longer: Longer) {
        let request = match longer {
            Longer::Tell(envelope) => return self.hand_on(envelope).await,
            Longer::Request(request) => *request,
        };
        match request.command {
            Command::Ping => self.answer(request.id, Answer::Pong { now: self.node.clock.now() }),
            Command::Auth { ref token } => match self.authenticate(token).await {
                Ok(expires_at) => self.answer(request.id, Answer::Auth { expires_at }),
                Err(refusal) => self.refuse_request(&request, refusal),
            },
            Command::Block { ref user } => self.change_blocks(&request, user, true).await,
            Command::Unblock { ref user } => self.change_blocks(&request, user, false).await,
            Command::Blocked => match self.node.blocked(&self.handle.caller.user).await {
                Ok(users) => self.answer(request.id, Answer::Blocks { users }),
                Err(refusal) => self.refuse_request(&request, refusal),
            },
            Command::Resume(points) => self.resume(request.id, points.into_iter().map(Ok).collect()).await,
            Command::ResumePartly(points) => self.resume(request.id, points).await,
            Command::Find(find) => self.find(request.id, &find).await,
            Command::Lobby(lobby, mut command) => {
                let nonce = request.nonce.as_ref();
                let caller = &self.caller;
                let sealed = crate::secret::seal(&self.node, caller, &lobby, nonce, &mut command).await;
                if let Err(refusal) = sealed {
                    return self.refuse(request.id, command.op(), Some(lobby), refusal);
                }
                let reply_to = request.id.map_or(ReplyTo::Nobody, ReplyTo::Id);
                let key = request.nonce.map(CommandKey::Nonce);
                self.forward(lobby, reply_to, key, command).await;
            }
        }
    }

    /// What the session itself can refuse.
    fn check(&mut self, request: &Request) -> Result<(), Refusal> {
        let rules = self.node.rules.load();
        let limits = &rules.limits;
        match &request.command {
            Command::Lobby(lobby, LobbyCommand::Join(_)) => {
                self.take_join()?;
                if !self.handle.is_in(lobby) && self.handle.lobby_count() >= limits.lobbies_per_session_max {
                    return Err(self.too_many_lobbies());
                }
            }
            // They are looked up in the database.
            Command::Block { .. } | Command::Unblock { .. } | Command::Blocked => self.take_join()?,
            // A look at the list costs what a join costs.
            Command::Find(find) => {
                self.take_join()?;
                if find.quick.is_some() && self.handle.lobby_count() >= limits.lobbies_per_session_max {
                    return Err(self.too_many_lobbies());
                }
            }
            Command::Lobby(_, LobbyCommand::Send(send)) if send.kind.is_chat() => {
                if send.body.as_text().is_some_and(|text| text.len() > limits.chat_bytes_max) {
                    let text = format!("a chat has at most {} bytes", limits.chat_bytes_max);
                    return Err(Refusal::new(ErrorCode::TooLarge, text));
                }
                match self.chats.take(self.moment()) {
                    Grant::Yes => {}
                    Grant::Later(ms) => return Err(rate_limited("chats", ms)),
                    Grant::Flood => return Err(flood()),
                }
            }
            Command::Resume(points) => return check_length(points.len(), limits),
            Command::ResumePartly(points) => return check_length(points.len(), limits),
            _ => {}
        }
        Ok(())
    }

    fn moment(&self) -> Moment {
        Moment::since(self.node.began)
    }

    fn take_join(&mut self) -> Result<(), Refusal> {
        match self.joins.take(self.moment()) {
            Grant::Yes => Ok(()),
            Grant::Later(ms) => Err(rate_limited("joins", ms)),
            Grant::Flood => Err(flood()),
        }
    }

    fn too_many_lobbies(&self) -> Refusal {
        let text =
            format!("a session may be in {} lobbies", self.node.rules.load().limits.lobbies_per_session_max);
        Refusal::new(ErrorCode::Conflict, text)
    }

    async fn change_blocks(&self, request: &Request, whom: &UserId, blocks: bool) {
        match Box::pin(self.node.block(&self.handle.caller.user, whom, blocks)).await {
            Ok(users) => self.answer(request.id, Answer::Blocks { users }),
            Err(refusal) => self.refuse_request(request, refusal),
        }
    }

    async fn authenticate(&mut self, token: &str) -> Result<Millis, Refusal> {
        let claims = self.node.verifier.verify(token).await;
        let claims = claims.map_err(|error| Refusal::new(error.code(), error.to_string()))?;
        if claims.sub != self.handle.caller.user {
            return Err(Refusal::new(ErrorCode::Forbidden, "the token is of another user"));
        }
        if claims.roles != self.caller.roles {
            self.caller = Arc::new(Caller { roles: claims.roles, ..Caller::clone(&self.caller) });
        }
        self.token_expires_at = Millis(claims.exp.saturating_mul(1_000));
        self.expiry = expiry(self.token_expires_at, self.node.clock.now());
        Ok(self.token_expires_at)
    }

    async fn forward(
        &mut self,
        lobby: LobbyId,
        reply_to: ReplyTo,
        key: Option<CommandKey>,
        command: LobbyCommand,
    ) {
        if !self.knows_blocks && matches!(command, LobbyCommand::Join(_)) {
            self.knows_blocks = self.node.load_blocks(&self.handle).await;
        }
        let envelope = self.envelope(lobby, reply_to, key, command);
        self.hand_on(envelope).await;
    }

    async fn hand_on(&self, envelope: Box<Envelope>) {
        let lobby = envelope.lobby.clone();
        let told = self.node.tell(&lobby, ToWorker::Command(envelope)).await;
        if let Err(ToWorker::Command(envelope)) = told {
            let Envelope { origin: Origin::Session(_, reply_to), command, .. } = *envelope else { return };
            let text = "the lobby's node does not keep up";
            let refusal = Refusal::new(ErrorCode::Overloaded, text).retry_after(1_000);
            self.node.metrics.refusals.with_label_values(&[refusal.code.as_str()]).inc();
            let frame = self.handle.reply_frame(&reply_to, command.op(), Some(&lobby), Err(refusal));
            if let Some(frame) = frame {
                self.handle.outbox.push(&frame);
            }
        }
    }

    fn envelope(
        &mut self,
        lobby: LobbyId,
        reply_to: ReplyTo,
        key: Option<CommandKey>,
        mut command: LobbyCommand,
    ) -> Box<Envelope> {
        if let LobbyCommand::Join(join) = &mut command
            && join.create.is_some()
            && let Grant::Later(ms) = self.node.creates.take(&self.handle.caller.user)
        {
            // Whether the join creates anything, only the owner knows.
            join.create_later_ms = Some(ms);
        }
        let joins = matches!(command, LobbyCommand::Join(_));
        let key = match key {
            _ if !command.changes_state() => None,
            // A client that repeats a join wants to be in; only the node's own repetition is the same join.
            Some(key) if !joins => Some(key),
            _ => {
                self.counted += 1;
                Some(CommandKey::Counted(self.handle.caller.session.clone(), self.counted))
            }
        };
        let trace = self.trace.as_deref();
        let trace = self.node.trace_command("session.command", trace, &self.caller, &lobby, command.op());
        Box::new(Envelope {
            trace,
            caller: Arc::clone(&self.caller),
            origin: Origin::Session(Arc::clone(&self.handle), reply_to),
            lobby,
            command,
            key,
            found: None,
            deadline: Instant::now() + COMMAND_TIME,
            turn: Turn::default(),
        })
    }
}

/// A far expiry is looked at again each day: timers have an end.
fn expiry(token_expires_at: Millis, now: Millis) -> Instant {
    Instant::now() + Duration::from_millis(token_expires_at.0.saturating_sub(now.0).min(86_400_000))
}

fn rate_limited(what: &str, ms: u64) -> Refusal {
    Refusal::new(ErrorCode::RateLimited, format!("too many {what}")).retry_after(ms)
}

/// Recognised by its missing `retry_ms`: it ends the session.
fn flood() -> Refusal {
    Refusal::new(ErrorCode::RateLimited, "far too many")
}
