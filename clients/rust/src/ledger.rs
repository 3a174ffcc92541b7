//! What the client is in, what it has asked and not heard, and where it stands in each lobby. No I/O and no clock of
//! its own: the driver brings frames and times, and takes away the frames to send and the news for the application.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use mlms_protocol::command::{Join, Position, ResumePoint};
use mlms_protocol::reply::{Joined, ServerFrame, ServerFrameError};
use mlms_protocol::{
    Answer, Change, Class, Command, Encoding, ErrorCode, Event, JoinStatus, Limits, LobbyCommand, LobbyEvent,
    LobbyId, Reconnect, Refusal, Request, UserId,
};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::debug;

use crate::client::{Error, Incoming};
use crate::pace::Pace;

/// Lobbies in one `resume`: a hundred of them, the most a session may be in, are two small frames.
const RESUME_CHUNK: usize = 50;
/// Shortest and longest pause before a lobby is resumed again, whatever the server says.
const RETRY_MS: std::ops::RangeInclusive<u64> = 100..=60_000;
/// Doublings of the pause between resumes of a lobby whose events do not connect.
const GAP_DOUBLINGS_MAX: u32 = 7;

/// The server knows a nonce for 5 minutes; a repeat near that age could happen a second time.
const NONCE_AGE_MAX: Duration = Duration::from_secs(270);

/// A command on its way in from a handle.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) request: Request,
    pub(crate) reply: oneshot::Sender<Result<Answer, Error>>,
}

/// What a frame means to the connection itself.
#[derive(Debug, PartialEq)]
pub(crate) enum Signal {
    None,
    Welcome(Event),
    Bye { code: u16, reason: String, reconnect: Reconnect, window_ms: Option<(u64, u64)> },
}

#[derive(Debug)]
pub(crate) struct Ledger {
    encoding: Encoding,
    random: StdRng,
    limits: Limits,
    user: Option<UserId>,
    /// Welcomed, and not told to leave: commands may be sent.
    open: bool,
    /// The rates of this connection, from its welcome on.
    pace: Option<Pace>,
    /// So long nobody's command is sent, for the rates.
    paced_until: Option<Instant>,
    lobbies: BTreeMap<LobbyId, Membership>,
    /// Unanswered commands in the order of asking; the low half of the key is the id on the wire.
    pending: BTreeMap<u64, Pending>,
    next: u64,
    /// Frames for the socket. Each belongs to a pending command, so that their bound is its bound.
    pub(crate) out: VecDeque<Vec<u8>>,
    /// News for the application; the driver reads no further frame while some waits.
    pub(crate) incoming: VecDeque<Incoming>,
}

#[derive(Debug)]
struct Membership {
    /// Everything up to here was passed on.
    position: Position,
    /// False after being kicked, banned or the like: the lobby is not resumed.
    member: bool,
    stage: Stage,
    /// What the lobby was joined with (password, wish for `saved` events): a resume may need it again.
    entry: Join,
    /// Gaps since the last event that fitted.
    gaps: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    Live,
    /// A resume is under way; commands for the lobby wait for it, so that they find the membership restored.
    Resuming,
    /// Resumed again at this time; commands wait as well.
    Waiting(Instant),
}

#[derive(Debug)]
struct Pending {
    request: Request,
    sent: bool,
    first_sent: Option<Instant>,
    purpose: Purpose,
}

#[derive(Debug)]
enum Purpose {
    Caller(oneshot::Sender<Result<Answer, Error>>),
    Resume(Vec<LobbyId>),
    /// A fresh token for this connection.
    Renewal,
}

impl Pending {
    fn is_given_up(&self) -> bool {
        matches!(&self.purpose, Purpose::Caller(reply) if reply.is_closed())
    }

    fn is_leave_of(&self, lobby: &LobbyId) -> bool {
        matches!(&self.request.command, Command::Lobby(named, LobbyCommand::Leave) if named == lobby)
    }
}

/// Whether a command may be sent again after a lost connection: reads, and changes that a nonce makes happen once.
fn is_repeatable(command: &Command) -> bool {
    match command {
        Command::Lobby(_, LobbyCommand::Send(send)) => send.class == Class::Durable,
        Command::Lobby(_, LobbyCommand::Typing) => false,
        _ => true,
    }
}

fn is_chat(command: &Command) -> bool {
    matches!(command, Command::Lobby(_, LobbyCommand::Send(send)) if send.kind.is_chat())
}

fn lobby_of(command: &Command) -> Option<&LobbyId> {
    match command {
        Command::Lobby(lobby, _) => Some(lobby),
        _ => None,
    }
}

impl Ledger {
    pub(crate) fn new(encoding: Encoding, random: StdRng) -> Self {
        Ledger {
            encoding,
            random,
            limits: Limits::default(),
            user: None,
            open: false,
            pace: None,
            paced_until: None,
            lobbies: BTreeMap::new(),
            pending: BTreeMap::new(),
            next: 1,
            out: VecDeque::new(),
            incoming: VecDeque::new(),
        }
    }

    /// Whether another command may be taken in.
    pub(crate) fn has_room(&mut self, commands_max: usize) -> bool {
        if self.pending.len() >= commands_max {
            // Callers who no longer wait make room; a late answer to them is ignored.
            self.pending.retain(|_, pending| !pending.is_given_up());
        }
        self.pending.len() < commands_max
    }

    /// Takes in a command: sent at once, or as soon as its lobby is resumed.
    pub(crate) fn accept(&mut self, ask: Ask, now: Instant) {
        if !self.open && !is_repeatable(&ask.request.command) {
            _ = ask.reply.send(Err(Error::NotConnected));
            return;
        }
        let order = self.enter(ask.request, Purpose::Caller(ask.reply));
        self.send(order, now);
    }

    /// Gives the server a fresh token, ahead of whatever waits.
    pub(crate) fn renew(&mut self, token: String, now: Instant) {
        if self.open {
            let request = Request { id: None, nonce: None, command: Command::Auth { token } };
            let order = self.enter(request, Purpose::Renewal);
            self.send(order, now);
        }
    }

    fn enter(&mut self, mut request: Request, purpose: Purpose) -> u64 {
        let order = self.next;
        self.next += 1;
        request.id = Some(low_half(order));
        self.pending.insert(order, Pending { request, sent: false, first_sent: None, purpose });
        order
    }

    /// Sends one pending command unless it has to wait.
    fn send(&mut self, order: u64, now: Instant) {
        let Some(pending) = self.pending.get_mut(&order).filter(|pending| self.open && !pending.sent) else {
            return;
        };
        let command = &pending.request.command;
        if let Purpose::Caller(_) = pending.purpose {
            let membership = lobby_of(command).and_then(|lobby| self.lobbies.get(lobby));
            if membership.is_some_and(|membership| membership.stage != Stage::Live) {
                return;
            }
        }
        let is_old = |at: Instant| now.saturating_duration_since(at) >= NONCE_AGE_MAX;
        if pending.request.nonce.is_some() && pending.first_sent.is_some_and(is_old) {
            return self.give_up(order, Error::TimedOut);
        }
        let frame = pending.request.encode(self.encoding);
        let (bytes, max) = (frame.len(), self.limits.frame_bytes_max);
        if bytes > max {
            // The server would end the session for it (1009), and again after each repetition.
            return self.give_up(order, Error::TooLarge { bytes, max });
        }
        if let Purpose::Caller(_) = pending.purpose {
            // Nobody overtakes who waits for the rates.
            if self.paced_until.is_some_and(|until| until > now) {
                return;
            }
            if let Some(Err(until)) = self.pace.as_mut().map(|pace| pace.take(is_chat(command), now)) {
                self.paced_until = Some(until);
                return;
            }
        }
        pending.sent = true;
        pending.first_sent.get_or_insert(now);
        self.out.push_back(frame);
    }

    fn give_up(&mut self, order: u64, error: Error) {
        if let Some(Pending { purpose: Purpose::Caller(reply), .. }) = self.pending.remove(&order) {
            _ = reply.send(Err(error));
        }
    }

    /// Sends whatever waits and no longer has to, in the order of asking.
    fn send_waiting(&mut self, now: Instant) {
        let waiting: Vec<u64> =
            self.pending.iter().filter(|(_, pending)| !pending.sent).map(|(order, _)| *order).collect();
        waiting.into_iter().for_each(|order| self.send(order, now));
    }

    /// The connection stands: resumes every lobby, and repeats what was not answered.
    pub(crate) fn welcome(&mut self, user: UserId, limits: Limits, now: Instant) {
        self.user = Some(user);
        (self.pace, self.paced_until) = (Some(Pace::new(&limits, now)), None);
        self.limits = limits;
        self.open = true;
        self.pending.retain(|_, pending| !pending.is_given_up());
        // A lobby that is being left is not resumed: that could join it anew behind the leave.
        let pending = &self.pending;
        self.lobbies.retain(|lobby, membership| {
            membership.member && !pending.values().any(|pending| pending.is_leave_of(lobby))
        });
        let lobbies = self.lobbies.keys().cloned().collect();
        self.resume(lobbies, now);
        self.send_waiting(now);
    }

    fn resume(&mut self, lobbies: Vec<LobbyId>, now: Instant) {
        let mut points = Vec::new();
        for lobby in lobbies {
            let Some(membership) = self.lobbies.get_mut(&lobby) else { continue };
            membership.stage = Stage::Resuming;
            let position = membership.position;
            // A resume, and not a join: it undoes no kick, and creates nothing that was closed meanwhile.
            let mut point = ResumePoint::new(lobby, position.epoch, position.seq);
            point.saved = membership.entry.saved;
            point.password.clone_from(&membership.entry.password);
            point.invite.clone_from(&membership.entry.invite);
            point.role = membership.entry.role;
            points.push(point);
        }
        for chunk in points.chunks(RESUME_CHUNK) {
            let lobbies = chunk.iter().map(|point| point.lobby.clone()).collect();
            let request = Request { id: None, nonce: None, command: Command::Resume(chunk.to_vec()) };
            let order = self.enter(request, Purpose::Resume(lobbies));
            self.send(order, now);
        }
    }

    /// When a lobby is to be resumed again, or a command may be sent.
    pub(crate) fn next_retry(&self) -> Option<Instant> {
        let waiting = self.lobbies.values().filter_map(|membership| match membership.stage {
            Stage::Waiting(until) => Some(until),
            _ => None,
        });
        waiting.chain(self.paced_until).min().filter(|_| self.open)
    }

    /// Resumes the lobbies whose time has come, and sends what waited for the rates.
    pub(crate) fn retry(&mut self, now: Instant) {
        let due = |membership: &Membership| matches!(membership.stage, Stage::Waiting(until) if until <= now);
        let lobbies = self.lobbies.iter().filter(|(_, membership)| due(membership));
        let lobbies = lobbies.map(|(lobby, _)| lobby.clone()).collect();
        self.resume(lobbies, now);
        if self.paced_until.is_some_and(|until| until <= now) {
            self.paced_until = None;
            self.send_waiting(now);
        }
    }

    /// The server asked the client to leave: nothing more is sent on this connection.
    fn stop_sending(&mut self) {
        self.open = false;
    }

    /// The connection is gone. What can be repeated waits for the next one.
    pub(crate) fn lost(&mut self) {
        self.open = false;
        self.out.clear();
        let pending = std::mem::take(&mut self.pending);
        for (order, mut pending) in pending {
            match pending.purpose {
                Purpose::Resume(_) | Purpose::Renewal => {}
                Purpose::Caller(reply) if !is_repeatable(&pending.request.command) => {
                    _ = reply.send(Err(if pending.sent { Error::Lost } else { Error::NotConnected }));
                }
                Purpose::Caller(_) => {
                    pending.sent = false;
                    self.pending.insert(order, pending);
                }
            }
        }
    }

    /// The client is closed: every caller hears it.
    pub(crate) fn end(&mut self, error: &Error) {
        self.open = false;
        for pending in std::mem::take(&mut self.pending).into_values() {
            if let Purpose::Caller(reply) = pending.purpose {
                _ = reply.send(Err(error.clone()));
            }
        }
    }

    fn order_of(&self, id: u32) -> Option<u64> {
        let order = (self.next & !u64::from(u32::MAX)) | u64::from(id);
        if order < self.next { Some(order) } else { order.checked_sub(1 << 32) }
    }

    /// Takes in one frame from the server.
    ///
    /// # Errors
    /// It is not a frame of the protocol.
    pub(crate) fn frame(&mut self, frame: &[u8], now: Instant) -> Result<Signal, ServerFrameError> {
        let op_of = |id| Some(self.pending.get(&self.order_of(id)?)?.request.command.op());
        match ServerFrame::decode(self.encoding, frame, op_of) {
            Ok(ServerFrame::Event(event)) => Ok(self.event(event, now)),
            Ok(ServerFrame::Reply { id, outcome }) => {
                if let Some(pending) = self.order_of(id).and_then(|order| self.pending.remove(&order)) {
                    self.answered(pending, outcome, now);
                }
                Ok(Signal::None)
            }
            // The answer to a command whose caller gave up.
            Ok(ServerFrame::Unknown) | Err(ServerFrameError::NotAsked(_)) => Ok(Signal::None),
            Err(error) => Err(error),
        }
    }

    fn answered(&mut self, pending: Pending, outcome: Result<Answer, Refusal>, now: Instant) {
        let reply = match pending.purpose {
            Purpose::Resume(lobbies) => return self.resume_answered(&lobbies, outcome, now),
            // A token that is refused ends with its time, and the next connection asks for another.
            Purpose::Renewal => return,
            Purpose::Caller(reply) => reply,
        };
        let outcome = match (&pending.request.command, outcome) {
            (Command::Lobby(lobby, LobbyCommand::Join(join)), Ok(Answer::Joined(joined))) => {
                self.joined(lobby, join, &joined);
                Ok(Answer::Joined(joined))
            }
            // Repeated after the first one did it.
            (Command::Lobby(lobby, LobbyCommand::Leave), Err(refusal))
                if refusal.code == ErrorCode::NotMember =>
            {
                self.lobbies.remove(lobby);
                Ok(Answer::Done)
            }
            (Command::Lobby(lobby, LobbyCommand::Leave), Ok(answer)) => {
                self.lobbies.remove(lobby);
                Ok(answer)
            }
            (_, outcome) => outcome,
        };
        _ = reply.send(outcome.map_err(Error::Refused));
    }

    fn joined(&mut self, lobby: &LobbyId, join: &Join, joined: &Joined) {
        let epoch = match (joined.status, join.since) {
            // The events that follow may be older than the owner who answers.
            (JoinStatus::Resumed, Some(since)) => since.epoch,
            _ => joined.epoch,
        };
        let entry = Join { create: None, ..join.clone() };
        let position = Position { epoch, seq: joined.seq };
        self.lobbies
            .insert(lobby.clone(), Membership { position, member: true, stage: Stage::Live, entry, gaps: 0 });
        self.incoming.push_back(Incoming::Joined(joined.clone()));
    }

    fn resume_answered(&mut self, lobbies: &[LobbyId], outcome: Result<Answer, Refusal>, now: Instant) {
        let outcomes = match outcome {
            Ok(Answer::Resumed(outcomes)) => outcomes,
            Ok(Answer::Joined(joined)) => vec![Ok(joined)],
            Ok(_) => Vec::new(),
            Err(refusal) => lobbies.iter().map(|lobby| Err((lobby.clone(), refusal.clone()))).collect(),
        };
        for outcome in outcomes {
            match outcome {
                Ok(joined) => self.resumed(joined),
                Err((lobby, refusal)) => self.resume_refused(&lobby, refusal, now),
            }
        }
        for lobby in lobbies {
            // Left out of the answer: a server's mistake, mended by asking again.
            if self.lobbies.get(lobby).is_some_and(|membership| membership.stage == Stage::Resuming) {
                let refusal =
                    Refusal::new(ErrorCode::Internal, "no answer for this lobby").retry_after(1_000);
                self.resume_refused(lobby, refusal, now);
            }
        }
        self.send_waiting(now);
    }

    fn resumed(&mut self, joined: Joined) {
        let Some(membership) = self.lobbies.get_mut(&joined.lobby) else { return };
        if joined.status != JoinStatus::Resumed {
            membership.position = Position { epoch: joined.epoch, seq: joined.seq };
            membership.gaps = 0;
        }
        membership.stage = Stage::Live;
        self.incoming.push_back(Incoming::Joined(joined));
    }

    fn resume_refused(&mut self, lobby: &LobbyId, refusal: Refusal, now: Instant) {
        let Some(membership) = self.lobbies.get_mut(lobby) else { return };
        if let Some(retry_ms) = refusal.retry_ms {
            let ms = retry_ms.clamp(*RETRY_MS.start(), *RETRY_MS.end());
            let pause = Duration::from_millis(self.random.random_range(ms..=2 * ms));
            membership.stage = Stage::Waiting(now + pause);
        } else {
            self.lobbies.remove(lobby);
            self.incoming.push_back(Incoming::Ended { lobby: lobby.clone(), refusal });
        }
    }

    fn event(&mut self, event: Event, now: Instant) -> Signal {
        match &event {
            Event::Welcome { .. } => {
                self.incoming.push_back(Incoming::Event(event.clone()));
                return Signal::Welcome(event);
            }
            Event::Bye { code, reason, reconnect, window_ms } => {
                let (code, reconnect, window_ms) = (*code, *reconnect, *window_ms);
                let signal = Signal::Bye { code, reason: reason.clone(), reconnect, window_ms };
                self.stop_sending();
                self.incoming.push_back(Incoming::Event(event));
                return signal;
            }
            Event::Lobby(sequenced) if !self.follows(sequenced, now) => return Signal::None,
            Event::Snapshot { lobby, epoch, seq, .. } => {
                let position = Position { epoch: *epoch, seq: *seq };
                let fresh = Membership {
                    position,
                    member: true,
                    stage: Stage::Live,
                    entry: Join::default(),
                    gaps: 0,
                };
                let membership = self.lobbies.entry(lobby.clone()).or_insert(fresh);
                (membership.position, membership.member, membership.gaps) = (position, true, 0);
            }
            _ => {}
        }
        self.incoming.push_back(Incoming::Event(event));
        Signal::None
    }

    /// Whether a sequenced event is the next one of its lobby. One that was passed on before is dropped; a gap is
    /// closed by resuming from before it.
    fn follows(&mut self, event: &LobbyEvent, now: Instant) -> bool {
        let Some(membership) = self.lobbies.get_mut(&event.lobby) else { return false };
        let position = &mut membership.position;
        if membership.stage != Stage::Live || event.seq <= position.seq {
            return false;
        }
        if event.seq != position.seq.next() {
            debug!(lobby = %event.lobby, at = %position.seq, got = %event.seq, "gap in a lobby's events");
            if membership.member {
                membership.gaps += 1;
                // The first gap is closed at once; a server that keeps leaving them is not hammered.
                let doublings = membership.gaps.min(GAP_DOUBLINGS_MAX);
                let pause = if doublings == 1 { 0 } else { RETRY_MS.start() << doublings };
                membership.stage = Stage::Waiting(now + Duration::from_millis(pause));
                self.retry(now);
            }
            return false;
        }
        *position = Position { epoch: position.epoch.max(event.epoch), seq: event.seq };
        membership.gaps = 0;
        match &event.change {
            Change::Joined { user, .. } if self.user.as_ref() == Some(user) => membership.member = true,
            Change::Left { user, .. } | Change::Kicked { user, .. } | Change::Banned { user, .. }
                if self.user.as_ref() == Some(user) =>
            {
                membership.member = false;
            }
            Change::Closed { .. } => _ = self.lobbies.remove(&event.lobby),
            _ => {}
        }
        true
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
fn low_half(order: u64) -> u32 {
    order as u32
}
