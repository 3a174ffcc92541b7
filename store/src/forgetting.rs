//! Forgetting a player: an event keeps its place, and says no more who it was or what was said. Pure; the store
//! writes the result.

use mlms_protocol::{Body, Change, LobbyEvent, UserId};
use serde_json::Map;

/// The same event about `alias` instead of `user`, without what `user` said or was called.
pub(crate) fn anonymous(event: &LobbyEvent, user: &UserId, alias: &UserId) -> LobbyEvent {
    let mut event = event.clone();
    let swap = |one: &mut UserId| {
        if one == user {
            one.clone_from(alias);
        }
    };
    let swap_some = |one: &mut Option<UserId>| one.iter_mut().for_each(swap);
    match &mut event.change {
        Change::Message { from, body, nonce, .. } => {
            if from.as_ref() == Some(user) {
                *body = if body.as_text().is_some() {
                    Body::text("")
                } else {
                    Body::json(&serde_json::Value::Null)
                };
                *nonce = None;
            }
            swap_some(from);
        }
        Change::Joined { user: one, name, .. } => {
            if one == user {
                alias.as_str().clone_into(name);
            }
            swap(one);
        }
        Change::Left { user: one, .. }
        | Change::InviteUsed { user: one, .. }
        | Change::Ready { user: one, .. }
        | Change::Reacted { user: one, .. } => swap(one),
        Change::Reported { user: one, by, .. }
        | Change::Unbanned { user: one, by }
        | Change::Unmuted { user: one, by } => {
            swap(one);
            swap_some(by);
        }
        Change::Kicked { user: one, by, reason }
        | Change::Banned { user: one, by, reason, .. }
        | Change::Muted { user: one, by, reason, .. } => {
            if one == user {
                *reason = None;
            }
            swap(one);
            swap_some(by);
        }
        Change::HostChanged { user: one, by } => {
            swap_some(one);
            swap_some(by);
        }
        Change::Updated { user: one, by, attributes, .. } => {
            if one.as_ref() == Some(user) {
                *attributes = attributes.as_ref().map(|_| Map::new());
            }
            swap_some(one);
            swap_some(by);
        }
        Change::GameFinished { by, players, .. } => {
            players.iter_mut().for_each(swap);
            swap_some(by);
        }
        Change::Edited { by, body, .. } => {
            if by == user {
                *body = Body::text("");
            }
            swap(by);
        }
        Change::Deleted { by, .. } => swap(by),
        Change::Locked { by, .. }
        | Change::Invited { by, .. }
        | Change::GameStarted { by, .. }
        | Change::Closed { by, .. } => swap_some(by),
    }
    event
}

#[cfg(test)]
mod tests {
    use mlms_protocol::encoding::Encoding;
    use mlms_protocol::writer::ObjectWriter;

    use super::*;
    use crate::tests::{event, every_change};

    #[test]
    fn nothing_of_the_player_is_left_in_any_event() {
        let (bob, alias) = (UserId::new("bob").unwrap(), UserId::new("erased-1").unwrap());
        for (seq, change) in (1..).zip(every_change()) {
            let mut change = change;
            if let Change::Message { from, body, .. } = &mut change {
                *from = Some(bob.clone());
                *body = Body::text("bob was here");
            }
            let anonymous = anonymous(&event("den", 1, seq, change), &bob, &alias);
            let mut writer = ObjectWriter::new(Encoding::Json);
            anonymous.write(&mut writer);
            let text = String::from_utf8(writer.finish()).unwrap();
            assert!(!text.contains("\"bob\"") && !text.contains("bob was here"), "{text}");
        }
    }
}
