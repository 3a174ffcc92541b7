//! A lobby as a joining member first sees it, and how far a user has read in it. Joins, snapshots and REST show them.

use serde::{Deserialize, Serialize};

use super::{LobbyEvent, read_events};
use crate::fields::{FieldError, Fields};
use crate::ids::{Seq, UserId};
use crate::lobby::{Member, Settings};
use crate::writer::ObjectWriter;

/// Members in a `state`; the rest is read by `roster`.
pub const STATE_MEMBERS_MAX: usize = 100;
/// Unread chats are counted up to this.
pub const UNREAD_MAX: usize = 1_000;
/// Messages in a `state`.
pub const STATE_MESSAGES_MAX: usize = 50;

/// A lobby as a joining member first sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LobbyState {
    pub settings: Settings,
    pub host: Option<UserId>,
    /// The own entry first, then up to [`STATE_MEMBERS_MAX`] others in the order of joining.
    pub members: Vec<Member>,
    pub members_total: u32,
    /// The number of the game under way.
    pub game: Option<u64>,
    /// The last [`STATE_MESSAGES_MAX`] messages, ascending.
    pub messages: Vec<LobbyEvent>,
    /// The newest message of each key that lasts, ascending.
    #[serde(default)]
    pub retained: Vec<LobbyEvent>,
}

impl LobbyState {
    /// Writes the state's fields into an object.
    pub fn write(&self, w: &mut ObjectWriter) {
        w.field("settings", &self.settings).field("host", &self.host).field("members", &self.members);
        w.field("members_total", &self.members_total).field("game", &self.game);
        w.objects("messages", self.messages.iter(), |w, message| message.write(w));
        w.objects("retained", self.retained.iter(), |w, message| message.write(w));
    }
}

/// The field `state` of an object, with its messages.
pub(crate) fn read_state(fields: &Fields<'_>) -> Result<Option<LobbyState>, FieldError> {
    let Some(inner) = fields.nested("state")? else { return Ok(None) };
    Ok(Some(LobbyState {
        settings: inner.need("settings")?,
        host: inner.get("host")?,
        members: inner.need("members")?,
        members_total: inner.need("members_total")?,
        game: inner.get("game")?,
        messages: read_events(&inner, "messages")?,
        retained: read_events(&inner, "retained")?,
    }))
}

/// How far a user has read in a lobby, on all devices together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadMark {
    /// Everything up to here.
    pub read: Seq,
    /// Chats of others behind it; [`UNREAD_MAX`] stands for that many or more.
    pub unread: u32,
}

impl ReadMark {
    pub(crate) fn write(self, w: &mut ObjectWriter) {
        w.field("read", &self.read).field("unread", &self.unread);
    }

    /// `None`: a server that keeps no marks.
    pub(crate) fn read(fields: &Fields<'_>) -> Result<Option<ReadMark>, FieldError> {
        let (read, unread) = (fields.get("read")?, fields.get("unread")?);
        Ok(read.map(|read| ReadMark { read, unread: unread.unwrap_or(0) }))
    }
}
