//! What the engine knows of one client: its connection, its place in its lobby, and what it waits for.

use std::collections::VecDeque;

use super::lobby::Member;
use super::message::Message;
use super::socket::Socket;
use crate::plan::Micros;
use crate::rng::Rng;
use crate::token::Credential;
use crate::websocket::Upgrade;

/// How far a client is.
#[derive(Debug, Default)]
pub(crate) enum Stage {
    #[default]
    Off,
    /// Asks for a ticket.
    Ticket {
        request: Vec<u8>,
    },
    Upgrade(Upgrade),
    /// Waits for `welcome`.
    Greeting,
    /// Waits for the ok of a join or resume, or for the snapshot of `?lobby=`.
    Entering,
    In,
    Leaving,
    /// Connected, in no lobby.
    Out,
}

impl Stage {
    pub(crate) fn is_in(&self) -> bool {
        matches!(self, Stage::In | Stage::Leaving)
    }

    pub(crate) fn is_handshake(&self) -> bool {
        matches!(self, Stage::Ticket { .. } | Stage::Upgrade(_))
    }

    pub(crate) fn is_open(&self) -> bool {
        !matches!(self, Stage::Off) && !self.is_handshake()
    }
}

/// A command without its reply yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub(crate) id: u32,
    pub(crate) what: What,
    pub(crate) begun: Micros,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    Join,
    Resume,
    Leave,
    Send(Message),
    Game(Move),
    History,
}

/// A command of a game.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Move {
    Ready,
    Start,
    Report { of: u32, number: u32 },
    Finish,
}

/// One of a client's streams of messages.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    /// The place in the scenario's list.
    pub(crate) sender: u8,
    pub(crate) next: u64,
    pub(crate) is_scheduled: bool,
    pub(crate) dice: Rng,
}

#[derive(Default)]
pub(crate) struct Client {
    pub(crate) number: u32,
    pub(crate) lobby: usize,
    pub(crate) credential: Option<Credential>,
    /// The user id as JSON text.
    pub(crate) user_text: Vec<u8>,
    pub(crate) is_slow: bool,
    pub(crate) is_msgpack: bool,
    /// When it leaves, and when it loses its connection, by plan.
    pub(crate) leaves: Rng,
    pub(crate) disconnects: Rng,
    /// How long it stays away next.
    pub(crate) away: Micros,
    /// The plan wants it here.
    pub(crate) is_wanted: bool,
    /// It may not come back.
    pub(crate) is_refused: bool,
    /// Away because the plan says so: no loss.
    pub(crate) is_away: bool,
    pub(crate) has_come: bool,
    /// Its streams and its churn have their times.
    pub(crate) is_scheduled: bool,
    pub(crate) stage: Stage,
    pub(crate) socket: Option<Socket>,
    /// Counts connections, so that late timers know theirs.
    pub(crate) connection: u32,
    /// Intended start of the connection under way.
    pub(crate) begun: Micros,
    pub(crate) attempts: u32,
    pub(crate) lost_at: Option<Micros>,
    /// It was lost by plan.
    pub(crate) is_lost_by_plan: bool,
    /// When the first of its joins that were refused began, until one is not.
    pub(crate) entering_since: Option<Micros>,
    /// When its leave got its ok: what was under way then may still come, what was sent later may not.
    pub(crate) left_at: Option<Micros>,
    /// What the server said before it closed: least and most wait, in milliseconds.
    pub(crate) bye: Option<(u64, u64)>,
    /// Its node said that it cannot reach what it needs.
    pub(crate) is_degraded: bool,
    pub(crate) heartbeat: Micros,
    pub(crate) last_heard: Micros,
    pub(crate) next_id: u32,
    pub(crate) pending: VecDeque<Pending>,
    /// Durable messages that must be sent (again) once it is in.
    pub(crate) backlog: VecDeque<Message>,
    /// Refused ones, with the time of the next attempt.
    pub(crate) retries: Vec<(Micros, Message)>,
    pub(crate) streams: Vec<Stream>,
    /// Durable and ordered messages so far.
    pub(crate) said: u64,
    /// Up to this one they may have lost their order among themselves: one was said again, or the connection was lost.
    pub(crate) unordered_to: u64,
    pub(crate) member: Member,
    /// Moves of a game that must be said (again) once it is in.
    pub(crate) moves: Vec<Move>,
    pub(crate) has_achievement: bool,
}

impl Client {
    pub(crate) fn take_pending(&mut self, id: u32) -> Option<Pending> {
        let place = self.pending.iter().position(|pending| pending.id == id)?;
        self.pending.remove(place)
    }
}
