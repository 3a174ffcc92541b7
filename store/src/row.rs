//! One event as a row of `lobby_events`, and back. The migration says what the columns are for.

use mlms_protocol::encoding::Encoding;
use mlms_protocol::fields::Fields;
use mlms_protocol::writer::ObjectWriter;
use mlms_protocol::{Body, Change, Event, LobbyEvent, LobbyId, UserId};

/// Largest row; below what MariaDB takes in one packet by default (16 MiB).
const ROW_BYTES_MAX: usize = 8 << 20;

/// The columns of one event.
#[derive(Debug)]
pub(crate) struct EventRow<'a> {
    pub(crate) lobby: &'a LobbyId,
    pub(crate) seq: i64,
    pub(crate) epoch: i64,
    pub(crate) at: i64,
    pub(crate) kind: &'static str,
    pub(crate) message_kind: Option<&'a str>,
    pub(crate) user: Option<&'a str>,
    pub(crate) nonce: Option<&'a str>,
    pub(crate) payload: String,
    pub(crate) packed: Option<Vec<u8>>,
}

/// A number as the databases keep it: signed.
pub(crate) fn signed(number: u64) -> Option<i64> {
    i64::try_from(number).ok()
}

/// A number as the databases keep it; a bound beyond their range means everything.
pub(crate) fn clamped(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A stored number; a negative one was not written by us.
pub(crate) fn unsigned(number: i64) -> Result<u64, String> {
    u64::try_from(number).map_err(|_| format!("{number} is negative"))
}

/// Whom an event is about; else who did it. `None`: the system.
pub(crate) fn user_of(change: &Change) -> Option<&UserId> {
    match change {
        Change::Message { from, .. } => from.as_ref(),
        Change::Joined { user, .. }
        | Change::Left { user, .. }
        | Change::Ready { user, .. }
        | Change::Reported { user, .. }
        | Change::Kicked { user, .. }
        | Change::Banned { user, .. }
        | Change::Unbanned { user, .. }
        | Change::Muted { user, .. }
        | Change::Unmuted { user, .. }
        | Change::Reacted { user, .. } => Some(user),
        Change::InviteUsed { user, .. } => Some(user),
        Change::Locked { by, .. } | Change::Invited { by, .. } => by.as_ref(),
        Change::HostChanged { user, by } | Change::Updated { user, by, .. } => user.as_ref().or(by.as_ref()),
        Change::Edited { by, .. } | Change::Deleted { by, .. } => Some(by),
        Change::GameStarted { by, .. } | Change::GameFinished { by, .. } | Change::Closed { by, .. } => {
            by.as_ref()
        }
    }
}

fn body_of(change: &Change) -> Option<&Body> {
    match change {
        Change::Message { body, .. } | Change::Edited { body, .. } => Some(body),
        Change::GameFinished { results, .. } => results.as_ref(),
        _ => None,
    }
}

fn write(event: &LobbyEvent, encoding: Encoding) -> Vec<u8> {
    let mut writer = ObjectWriter::new(encoding);
    event.write(&mut writer);
    writer.finish()
}

/// The event's object as a member gets it over JSON.
pub(crate) fn event_json(event: &LobbyEvent) -> Vec<u8> {
    write(event, Encoding::Json)
}

/// An event's seq, epoch and time as the databases keep them.
///
/// # Errors
/// Says which one no database could take.
pub(crate) fn numbers(event: &LobbyEvent) -> Result<(i64, i64, i64), String> {
    let number = |what, number| signed(number).ok_or_else(|| format!("its {what} {number} is out of range"));
    Ok((number("seq", event.seq.0)?, number("epoch", event.epoch.0)?, number("time", event.at.0)?))
}

impl<'a> EventRow<'a> {
    /// # Errors
    /// Says why no database could take this event.
    pub(crate) fn of(event: &'a LobbyEvent) -> Result<Self, String> {
        let (seq, epoch, at) = numbers(event)?;
        let payload = String::from_utf8(write(event, Encoding::Json)).map_err(|error| error.to_string())?;
        let was_packed = body_of(&event.change).is_some_and(|body| body.encoding() == Encoding::Msgpack);
        let (message_kind, nonce) = match &event.change {
            Change::Message { kind, nonce, .. } => (Some(kind.as_str()), nonce.as_ref().map(|n| n.as_str())),
            _ => (None, None),
        };
        let row = EventRow {
            lobby: &event.lobby,
            seq,
            epoch,
            at,
            kind: event.change.name(),
            message_kind,
            user: user_of(&event.change).map(UserId::as_str),
            nonce,
            payload,
            packed: was_packed.then(|| write(event, Encoding::Msgpack)),
        };
        match row.byte_len() {
            small if small <= ROW_BYTES_MAX => Ok(row),
            large => Err(format!("it has {large} bytes, more than {ROW_BYTES_MAX}")),
        }
    }

    /// What the row adds to a statement, roughly.
    pub(crate) fn byte_len(&self) -> usize {
        256 + self.payload.len() + self.packed.as_ref().map_or(0, Vec::len)
    }
}

/// Reads an event back from the columns that hold all of it.
///
/// # Errors
/// Says what is wrong with the row.
pub(crate) fn read(kind: &str, payload: &str, packed: Option<&[u8]>) -> Result<LobbyEvent, String> {
    let (encoding, bytes) = match packed {
        Some(packed) => (Encoding::Msgpack, packed),
        None => (Encoding::Json, payload.as_bytes()),
    };
    let fields = Fields::parse(encoding, bytes).map_err(|error| error.to_string())?;
    match Event::read(kind, &fields).map_err(|error| error.to_string())? {
        Some(Event::Lobby(event)) => Ok(event),
        _ => Err(format!("`{kind}` is no lobby event that this release knows")),
    }
}
