//! A domain event as it goes out: routing key, id, and the JSON that `docs/events.md` describes. One place builds
//! it and one place reads it back, so that both ends agree.

use std::collections::BTreeMap;

use mlms_protocol::encoding::Encoding;
use mlms_protocol::writer::ObjectWriter;
use mlms_protocol::{LobbyEvent, Millis, TraceParent, UserId};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::row::user_of;
use crate::statistics::Award;

/// Version of the JSON. A field may be added without a new one.
const VERSION: u32 = 1;

/// The routing key of an award.
pub const AWARDED: &str = "player.achievement_awarded";

/// Fields of the wire's event that stand beside `data`, not in it.
const OUTSIDE: [&str; 5] = ["ev", "lobby", "epoch", "seq", "at"];

/// A domain event, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub key: String,
    /// The same whenever the event is sent again.
    pub id: String,
    pub at: Millis,
    pub body: Vec<u8>,
    /// Goes along as a header.
    pub trace: Option<TraceParent>,
}

#[derive(Serialize)]
struct LobbyMessage<'a> {
    id: &'a str,
    v: u32,
    kind: &'a str,
    lobby: &'a str,
    seq: u64,
    epoch: u64,
    at: u64,
    user: Option<&'a UserId>,
    data: BTreeMap<&'a str, &'a RawValue>,
}

#[derive(Serialize)]
struct AwardMessage<'a> {
    id: &'a str,
    v: u32,
    kind: &'static str,
    at: u64,
    user: &'a UserId,
    data: AwardData<'a>,
}

#[derive(Serialize)]
struct AwardData<'a> {
    achievement: &'a str,
}

impl Message {
    /// The message of a lobby's event: `lobby.<kind>`, id `<lobby>/<seq>`.
    #[must_use]
    pub fn of_event(event: &LobbyEvent) -> Message {
        let kind = event.change.name();
        let id = format!("{}/{}", event.lobby, event.seq);
        let mut writer = ObjectWriter::new(Encoding::Json);
        event.write(&mut writer);
        let object = writer.finish();
        let mut data: BTreeMap<&str, &RawValue> =
            serde_json::from_slice(&object).expect("an event writes an object with plain names");
        data.retain(|name, _| !OUTSIDE.contains(name));
        let message = LobbyMessage {
            id: &id,
            v: VERSION,
            kind,
            lobby: event.lobby.as_str(),
            seq: event.seq.0,
            epoch: event.epoch.0,
            at: event.at.0,
            user: user_of(&event.change),
            data,
        };
        let body = serde_json::to_vec(&message).expect("plain fields serialize");
        Message { key: format!("lobby.{kind}"), id, at: event.at, body, trace: None }
    }

    /// The message of an award, id `<user>/<achievement>`.
    #[must_use]
    pub fn of_award(award: &Award) -> Message {
        let id = format!("{}/{}", award.user, award.achievement);
        let message = AwardMessage {
            id: &id,
            v: VERSION,
            kind: "achievement_awarded",
            at: award.at.0,
            user: &award.user,
            data: AwardData { achievement: &award.achievement },
        };
        let body = serde_json::to_vec(&message).expect("plain fields serialize");
        Message { key: AWARDED.to_owned(), id, at: award.at, body, trace: None }
    }
}

/// Reads an award back from its message.
///
/// # Errors
/// Says what is wrong with it.
pub fn read_award(body: &[u8]) -> Result<Award, String> {
    #[derive(serde::Deserialize)]
    struct Data {
        achievement: String,
    }
    #[derive(serde::Deserialize)]
    struct Read {
        v: u32,
        user: UserId,
        at: Millis,
        data: Data,
    }
    let read: Read = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    check_version(read.v)?;
    Ok(Award { user: read.user, achievement: read.data.achievement, at: read.at })
}

pub(crate) fn check_version(version: u32) -> Result<(), String> {
    if version == VERSION { Ok(()) } else { Err(format!("version {version} is not known")) }
}
