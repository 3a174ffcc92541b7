//! What nodes say to each other over a link. The first byte is the format's version; a release reads its own and
//! the one before.

use bytes::Bytes;
use mlms_cluster::journal::EntryId;
use mlms_protocol::command::Position;
use mlms_protocol::{
    Answer, Epoch, LobbyCommand, LobbyEvent, LobbyId, Millis, NodeName, Refusal, Seq, SessionId, Shard,
    TraceParent, UserId,
};
use mlms_store::Award;
use serde::{Deserialize, Serialize};

use crate::lobby::{Caller, CommandKey, Passing};

const VERSION: u8 = 1;
const VERSION_BEFORE: u8 = VERSION - 1;

/// One message about one lobby, or about a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "the large one is the usual one")]
pub(crate) enum LinkMessage {
    /// From a session's node to a lobby's owner.
    ToOwner(LobbyId, ToOwner),
    /// From a lobby's owner to a node whose sessions are in it.
    FromOwner(LobbyId, FromOwner),
    /// A newer session of the same user has come: close this one.
    Replace(SessionId),
    /// About a shard that moves from one owner to another while both live.
    Shard(Shard, ShardMessage),
    /// A player has been awarded something: tell the sessions that you have.
    Achievement(Achievement),
    /// Whom a user blocks from now on. The release before does not know it.
    Blocks(UserId, Vec<UserId>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Achievement {
    pub user: UserId,
    pub achievement: String,
    pub at: Millis,
}

impl From<Award> for Achievement {
    fn from(award: Award) -> Self {
        let Award { user, achievement, at } = award;
        Achievement { user, achievement, at }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum ShardMessage {
    /// The sender owns the shard and wants to give it to the receiver, who is to read it.
    Prepare,
    /// The sender has read the shard and waits for it.
    Prepared,
    /// The sender does not take the shard.
    Declined,
    /// The shard's record names the receiver now. The event store has everything up to `archived`; these members'
    /// connections are lost since then.
    HandOver {
        epoch: Epoch,
        archived: EntryId,
        away: Vec<(LobbyId, UserId, Millis)>,
        /// Where each lobby's sessions are, if not at the receiver.
        nodes: Vec<(LobbyId, Vec<NodeName>)>,
    },
    /// The sender serves the shard.
    Served { epoch: Epoch },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "the large one is the usual one")]
pub(crate) enum ToOwner {
    /// `token` is the sender's own number of this sending; the answer carries it.
    Command {
        token: u64,
        caller: Caller,
        key: Option<CommandKey>,
        command: LobbyCommand,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trace: Option<TraceParent>,
        /// The sender's own number of the command, whichever of its sendings this is. The release before gives none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<u64>,
        /// The newest epoch of the lobby's owner that the sender knows. The release before gives none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        epoch: Option<Epoch>,
        /// The command of the same session before this one, while it has no answer either. The release before gives none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<u64>,
    },
    /// All sessions of the sender in the lobby, and the last event that they were given.
    Attach {
        token: u64,
        since: Position,
        sessions: Vec<Attaching>,
        /// Sessions whose joins are on their way. The release before names none, and names them anew afterwards.
        #[serde(default)]
        joining: Vec<SessionId>,
    },
    Detach {
        session: SessionId,
        user: UserId,
    },
    /// Asks for the events behind a seq.
    Page {
        token: u64,
        after: Seq,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Attaching {
    pub caller: Caller,
    pub wants_saved: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum FromOwner {
    Answer {
        token: u64,
        outcome: Result<Answer, Refusal>,
    },
    /// The receiver of the command does not own the lobby; perhaps this node does.
    Moved {
        token: u64,
        to: Option<NodeName>,
        /// Of that node's ownership; the receiver's view may be older.
        #[serde(default)]
        epoch: Epoch,
    },
    Event {
        epoch: Epoch,
        event: LobbyEvent,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trace: Option<TraceParent>,
    },
    Pass {
        epoch: Epoch,
        passing: Passing,
    },
    Attached {
        token: u64,
        epoch: Epoch,
        outcome: AttachOutcome,
    },
    Page {
        token: u64,
        events: Option<Vec<LobbyEvent>>,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum AttachOutcome {
    /// The sessions are attached; these events followed the position they had. The refused ones are out.
    Continue { events: Vec<LobbyEvent>, refused: Vec<(SessionId, Refusal)> },
    /// The position cannot be continued: each session has to join anew and gets a snapshot.
    Restart,
}

impl LinkMessage {
    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = vec![VERSION];
        rmp_serde::encode::write_named(&mut bytes, self).expect("plain values written to memory cannot fail");
        Bytes::from(bytes)
    }

    /// `None`: not of a format that this release reads.
    pub(crate) fn decode(bytes: &[u8]) -> Option<LinkMessage> {
        let (&(VERSION_BEFORE..=VERSION), rest) = bytes.split_first()? else { return None };
        rmp_serde::from_slice(rest).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_the_release_before_is_read_and_one_of_the_next_is_not() {
        let message = LinkMessage::Replace(SessionId::generate());
        let mut bytes = message.encode().to_vec();
        bytes[0] = VERSION_BEFORE;
        assert_eq!(LinkMessage::decode(&bytes), Some(message));
        bytes[0] = VERSION + 1;
        assert_eq!(LinkMessage::decode(&bytes), None);
    }
}
