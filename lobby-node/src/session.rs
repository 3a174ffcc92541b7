//! One session: reads and checks a player's frames, keeps its rates and its heartbeat, and hands commands to the
//! workers that know the lobbies.

mod quick;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use mlms_protocol::command::{DecodeError, Join, Position, ResumePoint};
use mlms_protocol::reply::{Joined, encode_reply};
use mlms_protocol::{
    Answer, Change, CloseCode, Command, Encoding, ErrorCode, Event, Limits, LobbyCommand, LobbyEvent,
    LobbyId, Millis, Reconnect, Refusal, Request, Shard, TraceParent, UserId,
};
use rand::Rng;
use tokio::time::Instant;

use crate::blocks::Blocked;
use crate::connection::{Connection, Incoming};
use crate::limiter::{Bucket, Grant};
use crate::lobby::{Caller, CommandKey};
use crate::node::Node;
use crate::outbox::{Drained, Outbox};
use crate::worker::{Envelope, Origin, ToWorker};
use quick::Attempt;

/// Time without any frame after a ping before the session is given up (protocol: 10 s).
const PONG_TIME: Duration = Duration::from_secs(10);
/// A timer that is so late says that this process stood still, and nothing about its peers.
const OVERSLEPT: Duration = Duration::from_secs(1);
/// How long a peer may take to answer a close frame before the socket is dropped.
const CLOSE_TIME: Duration = Duration::from_secs(2);
/// How long a peer that does not read may take to receive what stands before its close frame.
const LAST_WORDS_TIME: Duration = Duration::from_secs(10);
/// Bytes of messages in all the snapshots of one resume's reply.
const RESUME_MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long a command may wait for a worker or an owner (protocol: then `owner_unavailable`).
pub(crate) const COMMAND_TIME: Duration = Duration::from_secs(2);

/// What the rest of the node holds of a session.
pub(crate) struct SessionHandle {
    /// Unique in this process; cheaper to hash than the id.
    pub(crate) number: u64,
    pub(crate) caller: Arc<Caller>,
    pub(crate) outbox: Arc<Outbox>,
    /// The shard of the lobby that the connection named: a broker places it by that, else by its user.
    pub(crate) home: Option<Shard>,
    /// When its last command came, in Unix milliseconds; at the start, when it was opened.
    pub(crate) spoke_ms: AtomicU64,
    pub(crate) blocked: Blocked,
    membership: Mutex<Membership>,
}

#[derive(Default)]
struct Membership {
    ended: bool,
    lobbies: Vec<LobbyId>,
}

impl SessionHandle {
    pub(crate) fn new(
        number: u64,
        caller: Caller,
        outbox: Arc<Outbox>,
        home: Option<Shard>,
        now: Millis,
    ) -> Self {
        let (caller, spoke_ms) = (Arc::new(caller), AtomicU64::new(now.0));
        let (blocked, membership) = (Blocked::default(), Mutex::default());
        SessionHandle { number, caller, outbox, home, spoke_ms, blocked, membership }
    }

    fn membership(&self) -> std::sync::MutexGuard<'_, Membership> {
        self.membership.lock().expect("no holder of a membership panics")
    }

    /// Notes that the session is in a lobby. `false`: it has ended, and must not be seated.
    pub(crate) fn enter(&self, lobby: &LobbyId) -> bool {
        let mut membership = self.membership();
        if !membership.ended && !membership.lobbies.contains(lobby) {
            membership.lobbies.push(lobby.clone());
        }
        !membership.ended
    }

    pub(crate) fn leave(&self, lobby: &LobbyId) {
        self.membership().lobbies.retain(|known| known != lobby);
    }

    fn is_in(&self, lobby: &LobbyId) -> bool {
        self.membership().lobbies.contains(lobby)
    }

    pub(crate) fn lobbies(&self) -> Vec<LobbyId> {
        self.membership().lobbies.clone()
    }

    fn lobby_count(&self) -> usize {
        self.membership().lobbies.len()
    }

    /// Ends the membership: nobody may seat the session any more. Gives the lobbies it was in.
    fn end(&self) -> Vec<LobbyId> {
        let mut membership = self.membership();
        membership.ended = true;
        std::mem::take(&mut membership.lobbies)
    }

    fn frame(&self, payload: &[u8]) -> Bytes {
        self.outbox.encoding().websocket_frame(payload)
    }

    /// The frame that tells the session how its command came out, if there is one to send now.
    pub(crate) fn reply_frame(
        &self,
        reply_to: &ReplyTo,
        op: &'static str,
        lobby: Option<&LobbyId>,
        outcome: Result<Answer, Refusal>,
    ) -> Option<Bytes> {
        let encoding = self.outbox.encoding();
        let outcome = outcome.map(|answer| self.blocked.withhold(answer));
        match (reply_to, outcome) {
            (ReplyTo::Id(id), outcome) => Some(self.frame(&encode_reply(*id, &outcome, encoding))),
            (
                ReplyTo::Snapshot,
                Ok(Answer::Joined(Joined { lobby, epoch, seq, state: Some(state), mark, .. })),
            ) => Some(self.frame(&Event::Snapshot { lobby, epoch, seq, state, mark }.encode(encoding))),
            (ReplyTo::Quick(attempt), Err(refusal)) => {
                attempt.done(Err(refusal));
                None
            }
            (ReplyTo::Quick(attempt), Ok(answer)) => {
                attempt.done(Ok(()));
                let reply_to = attempt.id.map_or(ReplyTo::Snapshot, ReplyTo::Id);
                self.reply_frame(&reply_to, op, lobby, Ok(answer))
            }
            (ReplyTo::Resume(gather, place), outcome) => {
                gather.complete(*place, outcome);
                None
            }
            (ReplyTo::Nobody | ReplyTo::Snapshot, Err(Refusal { code, message, retry_ms })) => {
                let (op, lobby) = (Some(op.to_owned()), lobby.cloned());
                Some(self.frame(&Event::Error { code, message, op, lobby, retry_ms }.encode(encoding)))
            }
            (ReplyTo::Nobody | ReplyTo::Snapshot, Ok(_)) => None,
        }
    }
}

/// How a session wants to hear the outcome of a command.
#[derive(Clone)]
pub(crate) enum ReplyTo {
    /// The command had no id: only a failure is told, as an `error` event.
    Nobody,
    Id(u32),
    /// The outcome comes as a `snapshot` or `error` event.
    Snapshot,
    /// One of several lobbies of a `resume`.
    Resume(Arc<Gather>, usize),
    /// One try of a quick match.
    Quick(Arc<Attempt>),
}

type LobbyOutcome = Result<Joined, (LobbyId, Refusal)>;

/// Gathers the outcomes of a resume; the last one sends the reply, and then the missed events may flow.
pub(crate) struct Gather {
    id: Option<u32>,
    session: Arc<SessionHandle>,
    lobbies: Vec<LobbyId>,
    outcomes: Mutex<Vec<Option<LobbyOutcome>>>,
    /// The reply is out.
    answered: AtomicBool,
}

impl Gather {
    /// Whether the reply is out. Before it, the session gets nothing of the lobbies that it resumes.
    pub(crate) fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Acquire)
    }

    fn complete(&self, place: usize, outcome: Result<Answer, Refusal>) {
        let lobby = self.lobbies[place].clone();
        let outcome = match outcome {
            Ok(Answer::Joined(joined)) => Ok(joined),
            Ok(_) => Err((lobby, Refusal::new(ErrorCode::Internal, "the lobby gave no position"))),
            Err(refusal) => Err((lobby, refusal)),
        };
        let mut outcomes = self.outcomes.lock().expect("no holder of the outcomes panics");
        outcomes[place] = Some(outcome);
        if !outcomes.iter().all(Option::is_some) {
            return;
        }
        let mut outcomes: Vec<_> = outcomes.drain(..).flatten().collect();
        shorten(outcomes.iter_mut().flatten());
        let outbox = &self.session.outbox;
        let joined: Vec<_> = outcomes.iter().flatten().map(|joined| joined.lobby.clone()).collect();
        if let Some(id) = self.id {
            let reply = encode_reply(id, &Ok(Answer::Resumed(outcomes)), outbox.encoding());
            outbox.push(&outbox.encoding().websocket_frame(&reply));
        }
        // Before the pulls are asked for: whoever finds it unanswered is called again by one.
        self.answered.store(true, Ordering::Release);
        for lobby in joined {
            outbox.pull_later(&lobby);
        }
    }
}

/// Takes the oldest messages out of snapshots that are too large together. They are in the history.
fn shorten<'a>(snapshots: impl Iterator<Item = &'a mut Joined>) {
    let mut room = RESUME_MESSAGE_BYTES_MAX;
    for messages in snapshots.filter_map(|joined| joined.state.as_mut()).map(|state| &mut state.messages) {
        let fits = |event: &&LobbyEvent| match &event.change {
            Change::Message { body, .. } if body.byte_len() > room => false,
            Change::Message { body, .. } => {
                room -= body.byte_len();
                true
            }
            _ => true,
        };
        let kept = messages.iter().rev().take_while(fits).count();
        messages.drain(..messages.len() - kept);
    }
}

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
pub(crate) async fn run(
    handle: Arc<SessionHandle>,
    mut connection: Box<Connection>,
    node: Arc<Node>,
    start: Start,
) {
    let limits = node.limits();
    let outbox = Arc::clone(&handle.outbox);
    node.tell_standing(&handle);
    node.tell_maintenance(&handle);
    let mut session = Session {
        commands: Bucket::new(limits.commands_per_s.into(), limits.commands_burst.into()),
        chats: Bucket::new(limits.chats_per_s.into(), limits.chats_burst.into()),
        joins: Bucket::new(limits.joins_per_s.into(), limits.lobbies_per_session_max as f64),
        token_expires_at: start.token_expires_at,
        expiry: expiry(start.token_expires_at, node.clock.now()),
        counted: 0,
        trace: start.trace,
        knows_blocks: false,
        caller: Arc::clone(&handle.caller),
        handle: Arc::clone(&handle),
        node: Arc::clone(&node),
    };
    if let Some(lobby) = start.lobby {
        let create = Some(mlms_protocol::lobby::Settings::default());
        let join = LobbyCommand::Join(Join { create, ..Join::default() });
        Box::pin(session.forward(lobby, ReplyTo::Snapshot, None, join)).await;
    }
    session.serve(&mut connection, &outbox).await;
    for lobby in handle.end() {
        let detach = ToWorker::Detach { lobby: lobby.clone(), session: Arc::clone(&handle) };
        Box::pin(node.insist(&lobby, detach)).await;
    }
}

impl Session {
    async fn serve(&mut self, connection: &mut Connection, outbox: &Arc<Outbox>) {
        let heartbeat = self.node.heartbeat;
        // The first ping comes at a random point, so that sessions that began together do not stay together.
        let first = heartbeat.mul_f64(rand::rng().random_range(0.5..=1.0));
        let mut next_ping = Instant::now() + first;
        // The oldest ping that no frame has followed.
        let mut unanswered: Option<Instant> = None;
        let mut closing: Option<Instant> = None;
        let timer = tokio::time::sleep_until(next_ping);
        tokio::pin!(timer);
        loop {
            let pong_due = unanswered.map_or(next_ping, |pinged| pinged + PONG_TIME);
            let wake_at = closing.unwrap_or_else(|| next_ping.min(pong_due).min(self.expiry));
            if timer.deadline() != wake_at {
                timer.as_mut().reset(wake_at);
            }
            tokio::select! {
                incoming = connection.receive(outbox) => {
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
                        && now.duration_since(wake_at) > OVERSLEPT
                    {
                        // The sign of life may wait in the socket: it gets its time anew.
                        unanswered = Some(now);
                    } else if unanswered.is_some_and(|pinged| now >= pinged + PONG_TIME) {
                        outbox.close(CloseCode::NoPong, "no sign of life", Reconnect::Now, None);
                    } else if now >= next_ping {
                        outbox.ping();
                        unanswered.get_or_insert(now);
                        next_ping = now + heartbeat;
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
                if self.commands.is_flooded() {
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
        let grant = self.commands.take();
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
            Command::Lobby(_, LobbyCommand::Join(_)) => self.joins.is_flooded(),
            Command::Lobby(_, LobbyCommand::Send(send)) if send.kind.is_chat() => self.chats.is_flooded(),
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
                match self.chats.take() {
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

    fn take_join(&mut self) -> Result<(), Refusal> {
        match self.joins.take() {
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

    async fn resume(&mut self, id: Option<u32>, points: Vec<Result<ResumePoint, (LobbyId, String)>>) {
        let mut unique: Vec<(LobbyId, Result<Join, String>)> = Vec::with_capacity(points.len());
        for point in points {
            let (lobby, join) = match point {
                Ok(ResumePoint { lobby, epoch, seq, saved, password, invite, role }) => {
                    let since = Some(Position { epoch, seq });
                    (
                        lobby,
                        Ok(Join { since, saved, password, invite, role, resumed: true, ..Join::default() }),
                    )
                }
                Err((lobby, why)) => (lobby, Err(why)),
            };
            match unique.iter_mut().find(|(known, _)| *known == lobby) {
                Some((_, known)) => *known = join,
                None => unique.push((lobby, join)),
            }
        }
        if unique.is_empty() {
            return self.answer(id, Answer::Resumed(Vec::new()));
        }
        let gather = Arc::new(Gather {
            id,
            session: Arc::clone(&self.handle),
            lobbies: unique.iter().map(|(lobby, _)| lobby.clone()).collect(),
            outcomes: Mutex::new(vec![None; unique.len()]),
            answered: AtomicBool::new(false),
        });
        let mut entered = self.handle.lobby_count();
        for (place, (lobby, join)) in unique.into_iter().enumerate() {
            let join = match self.joins.take() {
                Grant::Flood => return self.close(CloseCode::Flood, "far too many lobbies resumed"),
                Grant::Later(ms) => Err(rate_limited("joins", ms)),
                Grant::Yes => join.map_err(|why| Refusal::new(ErrorCode::BadRequest, why)),
            };
            let join = join.and_then(|join| {
                if !self.handle.is_in(&lobby) {
                    entered += 1;
                    if entered > self.node.rules.load().limits.lobbies_per_session_max {
                        return Err(self.too_many_lobbies());
                    }
                }
                Ok(LobbyCommand::Join(join))
            });
            let join = match join {
                Ok(join) => join,
                Err(refusal) => {
                    self.node.metrics.refusals.with_label_values(&[refusal.code.as_str()]).inc();
                    gather.complete(place, Err(refusal));
                    continue;
                }
            };
            self.forward(lobby, ReplyTo::Resume(Arc::clone(&gather), place), None, join).await;
        }
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
        })
    }
}

/// A far expiry is looked at again each day: timers have an end.
fn expiry(token_expires_at: Millis, now: Millis) -> Instant {
    Instant::now() + Duration::from_millis(token_expires_at.0.saturating_sub(now.0).min(86_400_000))
}

fn check_length(lobbies: usize, limits: &Limits) -> Result<(), Refusal> {
    let most = limits.lobbies_per_session_max;
    match lobbies > most {
        true => Err(Refusal::new(ErrorCode::BadRequest, format!("a resume names at most {most} lobbies"))),
        false => Ok(()),
    }
}

fn rate_limited(what: &str, ms: u64) -> Refusal {
    Refusal::new(ErrorCode::RateLimited, format!("too many {what}")).retry_after(ms)
}

/// Recognised by its missing `retry_ms`: it ends the session.
fn flood() -> Refusal {
    Refusal::new(ErrorCode::RateLimited, "far too many")
}
