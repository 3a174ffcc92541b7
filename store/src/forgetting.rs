//! Forgetting a player: an event keeps its place, and says no more who it was or what was said. What becomes of an event
//! is pure; the store writes the result.

use std::collections::BTreeSet;

use mlms_protocol::encoding::Encoding;
use mlms_protocol::{Body, Change, LobbyEvent, LobbyId, UserId};
use serde_json::{Map, Value};

use crate::store::{Backend, Store, StoreError};

/// Events of one lobby that only mention the player, in one call.
const MENTIONS_MAX: u32 = 500;

impl Store {
    /// Forgets a player's statistics and awards, whom it blocks and who blocks it, reports of and by it, its part in the
    /// audit, and who it was in at most `limit` of its events and in what else happened in their lobbies; gives in how
    /// many. 0: nothing is left. A ban stays, without its reason.
    ///
    /// # Errors
    /// `Unavailable`: what was not done yet is done by the next call.
    pub async fn forget(&self, user: &UserId, alias: &UserId, limit: u32) -> Result<usize, StoreError> {
        let own = self.player_events(user, None, limit).await?;
        let lobbies: BTreeSet<&LobbyId> = own.iter().map(|event| &event.lobby).collect();
        let mut mentions = Vec::new();
        for lobby in lobbies {
            mentions.extend(self.mentions(lobby, user).await?);
        }
        let places: BTreeSet<_> = own.iter().map(|event| (event.lobby.clone(), event.seq)).collect();
        mentions.retain(|event| !places.contains(&(event.lobby.clone(), event.seq)));
        let mut forgotten: Vec<_> = own.iter().map(|event| anonymous(event, user, alias)).collect();
        // Somebody else's words that hold the same letters stay as they are.
        forgotten.extend(
            mentions
                .iter()
                .map(|event| (event, anonymous(event, user, alias)))
                .filter_map(|(event, anonymous)| (anonymous.change != event.change).then_some(anonymous)),
        );
        match &self.0 {
            Backend::Sql(sql) => sql.forget(user, alias, &forgotten).await?,
            Backend::Memory(memory) => memory.forget(user, alias, &forgotten),
        }
        Ok(forgotten.len())
    }

    /// Events of a lobby in which the user's id stands somewhere.
    async fn mentions(&self, lobby: &LobbyId, user: &UserId) -> Result<Vec<LobbyEvent>, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.mentions(lobby, &quoted(user), MENTIONS_MAX).await,
            Backend::Memory(memory) => Ok(memory.all_of(lobby)),
        }
    }
}

/// The id as it stands in JSON.
pub(crate) fn quoted(user: &UserId) -> String {
    serde_json::to_string(user.as_str()).expect("a text is JSON")
}

/// The same event about `alias` instead of `user`, without what `user` said or was called.
#[must_use]
pub fn anonymous(event: &LobbyEvent, user: &UserId, alias: &UserId) -> LobbyEvent {
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
        Change::Updated { user: one, by, attributes, settings, .. } => {
            if let Some(settings) = settings {
                settings.hosts.iter_mut().for_each(swap);
            }
            if one.as_ref() == Some(user) {
                *attributes = attributes.as_ref().map(|_| Map::new());
            }
            swap_some(one);
            swap_some(by);
        }
        Change::GameFinished { by, players, results, .. } => {
            players.iter_mut().for_each(swap);
            if let Some(results) = results {
                *results = renamed(results, user, alias);
            }
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

/// Results of a game are about players: whatever in them is the id and nothing else is the alias.
fn renamed(results: &Body, user: &UserId, alias: &UserId) -> Body {
    fn rename(value: &mut Value, user: &str, alias: &str) {
        match value {
            Value::String(text) if text == user => alias.clone_into(text),
            Value::Array(values) => values.iter_mut().for_each(|value| rename(value, user, alias)),
            Value::Object(fields) => {
                if let Some(value) = fields.remove(user) {
                    fields.insert(alias.to_owned(), value);
                }
                fields.values_mut().for_each(|value| rename(value, user, alias));
            }
            _ => {}
        }
    }
    let Ok(before) = serde_json::from_slice::<Value>(&results.to(Encoding::Json)) else {
        return results.clone();
    };
    let mut after = before.clone();
    rename(&mut after, user.as_str(), alias.as_str());
    if after == before { results.clone() } else { Body::json(&after) }
}

#[cfg(test)]
mod tests {
    use mlms_protocol::lobby::Settings;
    use mlms_protocol::writer::ObjectWriter;
    use serde_json::json;

    use super::*;
    use crate::tests::{event, every_change};

    #[test]
    fn nothing_of_the_player_is_left_in_any_event() {
        let (bob, alias) = (UserId::new("bob").unwrap(), UserId::new("erased-1").unwrap());
        let hosts = Settings { hosts: vec![bob.clone()], ..Settings::default() };
        let hosts = Change::Updated {
            by: None,
            settings: Some(Box::new(hosts)),
            user: None,
            role: None,
            attributes: None,
        };
        let results = Body::json(&json!({"winner": "bob", "teams": [["ann", "bob"]], "scores": {"bob": 7}}));
        let finished =
            Change::GameFinished { game: 1, by: None, players: vec![bob.clone()], results: Some(results) };
        for (seq, change) in (1..).zip(every_change().into_iter().chain([hosts, finished])) {
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

    #[test]
    fn results_that_do_not_name_the_player_stay_to_the_last_digit() {
        let (bob, alias) = (UserId::new("bob").unwrap(), UserId::new("erased-1").unwrap());
        let results = Body::new(Encoding::Json, br#"{"note": "bobsled", "n": 1.10}"#).unwrap();
        assert_eq!(renamed(&results, &bob, &alias), results);
        let results = Body::json(&json!({"scores": {"bob": 7}, "mvp": "bob"}));
        assert_eq!(
            renamed(&results, &bob, &alias),
            Body::json(&json!({"scores": {"erased-1": 7}, "mvp": "erased-1"}))
        );
    }
}
