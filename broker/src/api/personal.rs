//! A player's own data: what is kept of it, and how it is forgotten.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use futures_util::{StreamExt as _, TryStreamExt as _};
use mlms_protocol::encoding::Encoding;
use mlms_protocol::writer::ObjectWriter;
use mlms_protocol::{Change, ErrorCode, LobbyEvent, LobbyId, Millis, Role, Seq, UserId};
use mlms_store::{PlayerPosition, ServiceBan};
use serde::Serialize;
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
/// Lobbies that one call goes to, and of these at once: each lets go of a part of its journal.
const LOBBIES_MAX: usize = 64;
const AT_ONCE_MAX: usize = 16;

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

/// `DELETE /v1/players/{user}`: ends its sessions and memberships, blanks its messages where they can still be read, has
/// its lobbies forget it, and forgets it in the database. One call does a part; `complete` says whether it found nothing
/// any more.
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
    let (lobbies, part) = part(&events);
    for lobby in &lobbies {
        unless_gone(call.command_of_system(lobby, Frame::new("kick").with("user", &user)).await)?;
    }
    for event in &events[..part] {
        // Lobbies that are open remember their last messages: there it is deleted as a moderator deletes it.
        if let Change::Message { body, .. } = &event.change
            && body.as_text().is_none_or(|text| !text.is_empty())
        {
            let frame = Frame::new("delete").with("seq", &event.seq);
            unless_gone(call.command_of_system(&event.lobby, frame).await)?;
        }
    }
    let alias = alias();
    // An owner answers once the database has all that it knew of the user before: nothing comes there later.
    let forget = |lobby: LobbyId| {
        let frame = Frame::new("forget").with("user", &user).with("alias", &alias);
        async move { unless_gone(call.command_of_system(&lobby, frame).await) }
    };
    let forgetting = futures_util::stream::iter(lobbies).map(forget).buffer_unordered(AT_ONCE_MAX);
    forgetting.try_for_each(|_| async { Ok(()) }).await?;
    let limit = match u32::try_from(part) {
        Ok(part @ 1..FORGET_MAX) => part,
        _ => FORGET_MAX,
    };
    let events = store.forget(&user, &alias, limit).await.map_err(away)?;
    let complete = closed == 0 && events == 0;
    if complete {
        note(call, "erase", &alias, None).await?;
    }
    Ok(Reply::ok(&Answer { events, complete }))
}

/// The lobbies of the first events, as many as one call goes to, and how many events that are.
fn part(events: &[LobbyEvent]) -> (BTreeSet<LobbyId>, usize) {
    let mut lobbies = BTreeSet::new();
    for (place, event) in events.iter().enumerate() {
        if lobbies.len() == LOBBIES_MAX && !lobbies.contains(&event.lobby) {
            return (lobbies, place);
        }
        lobbies.insert(event.lobby.clone());
    }
    (lobbies, events.len())
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
    use mlms_protocol::Epoch;

    use super::*;

    #[test]
    fn a_part_ends_where_it_would_go_to_one_lobby_more() {
        let event = |lobby: &str| LobbyEvent {
            lobby: LobbyId::new(lobby).unwrap(),
            epoch: Epoch(1),
            seq: Seq(1),
            at: Millis(1),
            change: Change::Deleted { of: Seq(1), by: UserId::new("bob").unwrap() },
        };
        let mut events: Vec<_> = (0..LOBBIES_MAX).map(|number| event(&number.to_string())).collect();
        events.push(event("0"));
        assert_eq!(part(&events).1, LOBBIES_MAX + 1);
        events.extend([event("one-more"), event("0")]);
        let (lobbies, count) = part(&events);
        assert_eq!((lobbies.len(), count), (LOBBIES_MAX, LOBBIES_MAX + 1));
    }

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
