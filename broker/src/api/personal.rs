//! A player's own data: what is kept of it, and how it is forgotten.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use mlms_protocol::encoding::Encoding;
use mlms_protocol::writer::ObjectWriter;
use mlms_protocol::{Change, ErrorCode, LobbyEvent, LobbyId, Millis, Role, Seq, UserId};
use mlms_store::{PlayerPosition, Range, ServiceBan, Store};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::bans::note;
use super::sessions::{SessionAnswer, check_own, disconnect, of_user};
use super::{Call, Fault, Reply};
use crate::players::{self, away, store};
use crate::seam::Frame;

/// Events on a page of an export, and without a `limit`.
const PAGE_MAX: u32 = 200;
/// Users that a player blocks: more than it may.
const BLOCKED_MAX: u32 = 10_000;
/// Events of a player that one call forgets; the caller asks again until none is left.
const FORGET_MAX: u32 = 500;
/// How often and after which pauses the end of a membership is looked for in the database.
const LOOKS: u32 = 40;
const LOOK: Duration = Duration::from_millis(50);

/// An event as a member gets it.
pub(super) fn as_told(event: &LobbyEvent) -> Box<RawValue> {
    let mut writer = ObjectWriter::new(Encoding::Json);
    event.write(&mut writer);
    let text = String::from_utf8(writer.finish()).expect("an event in JSON is text");
    RawValue::from_string(text).expect("an event in JSON is JSON")
}

/// `GET /v1/players/{user}/export`: everything that is kept of a player; the events in pages, the newest first.
pub(super) async fn export(call: &Call<'_>) -> Result<Reply, Fault> {
    #[derive(Serialize)]
    struct Answer {
        user: UserId,
        stats: players::StatsAnswer,
        achievements: Vec<players::AchievementAnswer>,
        ban: Option<ServiceBan>,
        blocked: Vec<UserId>,
        sessions: Vec<SessionAnswer>,
        events: Vec<Box<RawValue>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<String>,
    }
    let user = call.user()?;
    check_own(call, &user, &[Role::Server, Role::Admin])?;
    let limit = call.limit(PAGE_MAX, PAGE_MAX)?;
    let position = call.query("cursor").map(read_position).transpose()?;
    let store = store(call)?;
    let events = store.player_events(&user, position.as_ref(), limit).await.map_err(away)?;
    let next = events.last().filter(|_| events.len() == limit as usize).map(|last| {
        let PlayerPosition { at, lobby, seq } = PlayerPosition::of(last);
        format!("{}.{}.{lobby}", at.0, seq.0)
    });
    let answer = Answer {
        stats: players::stats_of(store, &user).await?,
        achievements: players::achievements_of(store, &user).await?,
        ban: store.ban(&user).await.map_err(away)?,
        blocked: store.blocked_by(&user, BLOCKED_MAX).await.map_err(away)?,
        sessions: of_user(call, &user).await?,
        events: events.iter().map(as_told).collect(),
        next,
        user,
    };
    Ok(Reply::ok(&answer))
}

fn read_position(text: &str) -> Result<PlayerPosition, Fault> {
    let mut parts = text.splitn(3, '.');
    let mut number = || parts.next()?.parse::<u64>().ok();
    let read = number().zip(number());
    let lobby = text.splitn(3, '.').nth(2).and_then(|lobby| LobbyId::new(lobby).ok());
    let position =
        read.zip(lobby).map(|((at, seq), lobby)| PlayerPosition { at: Millis(at), lobby, seq: Seq(seq) });
    position.ok_or_else(|| Fault::bad("`cursor` is not one of this list"))
}

/// `DELETE /v1/players/{user}`: ends its sessions and memberships, blanks its messages where they can still be read, and
/// forgets it in the database. One call does a part; `complete` says whether it found nothing any more.
pub(super) async fn erase(call: &Call<'_>) -> Result<Reply, Fault> {
    #[derive(Serialize)]
    struct Answer {
        events: usize,
        complete: bool,
    }
    let user = call.user()?;
    let store = store(call)?;
    let closed = disconnect(call, &user, None).await?;
    let events = store.player_events(&user, None, FORGET_MAX).await.map_err(away)?;
    let lobbies: BTreeSet<&LobbyId> = events.iter().map(|event| &event.lobby).collect();
    for lobby in lobbies {
        put_out(call, store, lobby, &user).await?;
    }
    for event in &events {
        // Lobbies that are open remember their last messages: there it is deleted as a moderator deletes it.
        if let Change::Message { body, .. } = &event.change
            && body.as_text().is_none_or(|text| !text.is_empty())
        {
            let frame = Frame::new("delete").with("seq", &event.seq);
            unless_gone(call.command_of_system(&event.lobby, frame).await)?;
        }
    }
    let alias = alias();
    let events = store.forget(&user, &alias, FORGET_MAX).await.map_err(away)?;
    let complete = closed == 0 && events == 0;
    if complete {
        note(call, "erase", &alias, None).await?;
    }
    Ok(Reply::ok(&Answer { events, complete }))
}

/// Ends a membership, and waits until the database has the end of it: what comes there later would name the user again.
async fn put_out(call: &Call<'_>, store: &Store, lobby: &LobbyId, user: &UserId) -> Result<(), Fault> {
    #[derive(Deserialize)]
    struct Kicked {
        seq: Seq,
    }
    let kicked = call.command_of_system(lobby, Frame::new("kick").with("user", user)).await;
    let Some(kicked) = unless_gone(kicked)? else { return Ok(()) };
    let Ok(Kicked { seq }) = serde_json::from_str(kicked.get()) else { return Ok(()) };
    let before = Range::After(Seq(seq.0.saturating_sub(1)));
    for _ in 0..LOOKS {
        if !store.history(lobby, before, Seq(0), 1).await.map_err(away)?.is_empty() {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// What a lobby answers that is there; where it, the member or the message is not, there is nothing to do.
fn unless_gone(outcome: Result<Box<RawValue>, Fault>) -> Result<Option<Box<RawValue>>, Fault> {
    match outcome {
        Ok(answer) => Ok(Some(answer)),
        Err(Fault::Owner(refusal)) if is_gone(refusal.code) => Ok(None),
        Err(fault) => Err(fault),
    }
}

fn is_gone(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::NotFound | ErrorCode::NotMember | ErrorCode::LobbyClosed)
}

/// Somebody of whom nobody knows who it was.
fn alias() -> UserId {
    let mut alias = String::from("erased-");
    write!(alias, "{}", uuid::Uuid::new_v4().simple()).expect("writing to memory cannot fail");
    UserId::new(&alias).expect("plain letters are an id")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_was_written() {
        let position = read_position("1780000000123.42.a-lobby").unwrap();
        assert_eq!(
            (position.at, position.seq, position.lobby.as_str()),
            (Millis(1_780_000_000_123), Seq(42), "a-lobby")
        );
        for strange in ["", "1.2", "a.2.b", "1.2.a b", "-1.2.b"] {
            assert!(read_position(strange).is_err(), "{strange}");
        }
    }
}
