//! The history's format: one JSON line an observation. The README describes every field.
//!
//! Recorders build [`Record`]s and write [`Record::to_line`]; the checker reads them back borrowed.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};

/// One observation of one process.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record<'a> {
    /// Microseconds of the recorder's one clock: taken before a command is sent, after a frame is read.
    pub t: u64,
    /// The client whose position goes on across its connections; empty where nobody's (`fault`, `capacity`).
    #[serde(borrow, default, skip_serializing_if = "str::is_empty")]
    pub process: Cow<'a, str>,
    #[serde(borrow)]
    pub what: What<'a>,
}

impl Record<'_> {
    /// Writes the record as one line of JSON, without the line's end.
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).expect("a record has string keys only")
    }
}

/// What was observed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What<'a> {
    /// The process opened a connection as this user; its first record, and again after each loss.
    Connected {
        #[serde(borrow)]
        user: Cow<'a, str>,
    },
    /// The process's connection ended, whoever ended it.
    Disconnected {},
    /// A command is about to be sent.
    #[serde(borrow)]
    Invoke(Invoke<'a>),
    /// The command's ok, except a join's or resume's, which is `joined`, `resumed` or `snapshot`.
    Ok {
        call: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        epoch: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
        #[serde(default, skip_serializing_if = "is_false")]
        dup: bool,
    },
    /// The command's refusal. `definite` (by default a matter of the code) says that it did not happen.
    Error {
        call: u64,
        #[serde(borrow)]
        code: Cow<'a, str>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        definite: Option<bool>,
    },
    /// The reply can no longer come: the command may or may not have happened.
    Unknown { call: u64 },
    /// A join's ok with status `joined`.
    #[serde(borrow)]
    Joined(Entry<'a>),
    /// A join's or resume's ok with status `resumed`.
    #[serde(borrow)]
    Resumed(Entry<'a>),
    /// An ok with status `snapshot` (with `call`), or the `snapshot` event (without).
    #[serde(borrow)]
    Snapshot(Entry<'a>),
    CaughtUp {
        #[serde(borrow)]
        lobby: Cow<'a, str>,
        seq: u64,
    },
    /// An event of a lobby reached the process.
    Delivered {
        #[serde(borrow)]
        lobby: Cow<'a, str>,
        #[serde(borrow)]
        event: Event<'a>,
    },
    /// `degraded` or `recovered` was announced to the process.
    Notice {
        #[serde(borrow)]
        code: Cow<'a, str>,
    },
    /// A page of a lobby's history was read.
    #[serde(borrow)]
    History(History<'a>),
    /// From this seq on the lobby holds at most so many members.
    Capacity {
        #[serde(borrow)]
        lobby: Cow<'a, str>,
        members: u64,
        #[serde(default, skip_serializing_if = "is_zero")]
        seq: u64,
    },
    /// So many members were counted in a roster or a state.
    Roster {
        #[serde(borrow)]
        lobby: Cow<'a, str>,
        members: u64,
    },
    /// Traffic has stopped and the recorder waited: what was promised to this process has arrived.
    Settled {},
    /// A fault was put in; for so long, ordered messages may be lost.
    Fault {
        #[serde(borrow)]
        name: Cow<'a, str>,
        #[serde(default, skip_serializing_if = "is_zero")]
        for_us: u64,
    },
}

/// A command as it was sent. One a lobby: a `resume` of three lobbies is three of these.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invoke<'a> {
    /// The recorder's own number, unique within the process.
    pub call: u64,
    /// The operation's name as on the wire; `?lobby=` at connect counts as `join`.
    #[serde(borrow)]
    pub op: Cow<'a, str>,
    #[serde(borrow)]
    pub lobby: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub nonce: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub kind: Option<Cow<'a, str>>,
    /// Left out: the kind's default class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// The body or any digest of it, made alike everywhere in the history.
    #[serde(borrow, default, deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub body: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<Cow<'a, str>>,
    /// Whom a kick or ban is meant for.
    #[serde(borrow, default, deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub user: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Position>,
}

/// How a message is delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    Durable,
    Ordered,
    Ephemeral,
}

/// A place in a lobby's order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    pub epoch: u64,
    pub seq: u64,
}

/// The position at which a session entered a lobby.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry<'a> {
    /// The join or resume it answers; none: the server sent it by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<u64>,
    #[serde(borrow)]
    pub lobby: Cow<'a, str>,
    pub epoch: u64,
    pub seq: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub missed: u64,
}

/// An event as it was received or read; without `seq` an unsequenced one.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event<'a> {
    #[serde(borrow)]
    pub ev: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    #[serde(borrow, default, deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub kind: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub from: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub nonce: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub body: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub user: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub by: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<u64>,
    /// `spectator` in a `joined` takes no place in the lobby's capacity.
    #[serde(borrow, default, deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub role: Option<Cow<'a, str>>,
}

/// A page of a history: every event with a seq above `after`, up to the head unless there is `more`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct History<'a> {
    #[serde(borrow)]
    pub lobby: Cow<'a, str>,
    /// When the read was sent off.
    pub started: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub after: u64,
    #[serde(default, skip_serializing_if = "is_false")]
    pub more: bool,
    /// Belongs to the reading at the end of the run, against which all is judged.
    #[serde(default, rename = "final", skip_serializing_if = "is_false")]
    pub is_final: bool,
    #[serde(borrow)]
    pub events: Vec<Event<'a>>,
}

/// serde borrows into a `Cow` field, but not into an `Option` of one; this does.
fn text<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cow<'a, str>>, D::Error> {
    #[derive(Deserialize)]
    struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);
    Ok(Option::<Borrowed<'a>>::deserialize(deserializer)?.map(|text| text.0))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes the field by reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes the field by reference")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}
