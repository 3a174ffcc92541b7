//! What a worker is told: commands with their place and their origin, and the words of sessions, other nodes and the
//! process itself.

use std::sync::Arc;

use mlms_protocol::{
    Answer, Epoch, Incarnation, LobbyCommand, LobbyEvent, LobbyId, NodeName, Refusal, Shard,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::{Moved, Traced};
use crate::lobby::{Caller, CommandKey};
use crate::session::{ReplyTo, SessionHandle};
use crate::status::ShardReport;
use crate::wire::{FromOwner, ShardMessage, ToOwner};

/// A command on its way to a lobby's owner.
pub(crate) struct Envelope {
    pub caller: Arc<Caller>,
    pub origin: Origin,
    pub lobby: LobbyId,
    pub command: LobbyCommand,
    pub key: Option<CommandKey>,
    /// What the database has of the message that the command is about, once it was asked.
    pub found: Option<Option<Arc<LobbyEvent>>>,
    pub deadline: Instant,
    pub trace: Option<Box<Traced>>,
    pub turn: Turn,
}

/// The place of a command among all that this worker takes for its own sessions and callers. It keeps its place wherever
/// it has to wait, and whoever hands it back.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Turn {
    /// None before the worker has taken it.
    pub(super) token: u64,
    /// How often it was sent to an owner elsewhere, as far as that can be told from its number.
    pub(super) sendings: u64,
}

/// Who is to hear the outcome of a command.
pub(crate) enum Origin {
    Session(Arc<SessionHandle>, ReplyTo),
    Node {
        node: NodeName,
        token: u64,
        /// The command's number, whichever of its sendings this is.
        of: Option<u64>,
        /// The newest epoch of the lobby's owner that the node knew.
        epoch: Option<Epoch>,
    },
    /// A broker, for somebody who came by REST.
    Call(mpsc::Sender<Result<Answer, Refusal>>),
}

/// What a worker is told.
pub(crate) enum ToWorker {
    Command(Box<Envelope>),
    /// A session has ended.
    Detach {
        lobby: LobbyId,
        session: Arc<SessionHandle>,
    },
    /// A session's user blocks other users than before.
    Blocks {
        lobby: LobbyId,
        session: Arc<SessionHandle>,
    },
    /// A connection has drained, and takes more missed events.
    Pull {
        lobby: LobbyId,
        session: Arc<SessionHandle>,
    },
    FromNode {
        from: NodeName,
        lobby: LobbyId,
        message: Box<ToOwner>,
    },
    FromOwner {
        from: NodeName,
        lobby: LobbyId,
        message: Box<FromOwner>,
    },
    /// Something between this node and that one may be lost.
    LinkReset {
        peer: NodeName,
        restarted: bool,
    },
    /// Another node's word about a shard that moves.
    ShardMessage {
        from: NodeName,
        incarnation: Incarnation,
        shard: Shard,
        message: Box<ShardMessage>,
    },
    /// Give a shard to another node. Answered when that node serves it, or when nothing came of it.
    Move {
        shard: Shard,
        to: NodeName,
        answer: oneshot::Sender<Moved>,
    },
    /// Tell what this worker has.
    Report(oneshot::Sender<Vec<ShardReport>>),
    ViewChanged,
    /// The node's lease had lapsed and is held again: others may have taken what it had.
    Rejoin,
    /// Bring everything to rest: journal, snapshots, event store. Answered when done.
    Rest(oneshot::Sender<()>),
    /// The node leaves: give up what it still owns, and say no more.
    LetGo(oneshot::Sender<()>),
}
