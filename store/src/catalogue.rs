//! The catalogue of domain events: which there are, and what each holds. The one source of `docs/events.md`; tests hold
//! it against what is sent.

/// A kind of event of a lobby, published as `lobby.<kind>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventKind {
    pub kind: &'static str,
    /// What has happened.
    pub what: &'static str,
    /// The fields of `data`; one that not every event of the kind has ends in `?`.
    pub fields: &'static [&'static str],
}

const fn kind(kind: &'static str, what: &'static str, fields: &'static [&'static str]) -> EventKind {
    EventKind { kind, what, fields }
}

/// Every kind of a lobby's events. A player's is one: [`AWARDED`](crate::AWARDED).
pub const CATALOGUE: &[EventKind] = &[
    kind(
        "message",
        "somebody, or the system, said something that is kept",
        &["kind", "from", "body", "nonce?", "key?"],
    ),
    kind("joined", "a user is a member", &["user", "name", "role"]),
    kind("left", "a user is no member any more", &["user", "reason?"]),
    kind("host_changed", "somebody else, or nobody, is the host", &["user", "by?"]),
    kind(
        "updated",
        "settings, a role or attributes are others",
        &["by?", "settings?", "user?", "role?", "attributes?"],
    ),
    kind("locked", "the lobby got a password, or lost it", &["locked", "by?"]),
    kind("invited", "an invite was made; `invite` is its public name", &["invite", "by?", "uses?", "until?"]),
    kind("invite_used", "somebody came in with it", &["invite", "user"]),
    kind("ready", "a player is ready, or is not", &["user", "ready"]),
    kind("game_started", "a game began", &["game", "by?"]),
    kind("reported", "what a player did in it", &["game", "user", "stat", "amount", "by?"]),
    kind(
        "game_finished",
        "it ended; `players` are who played to the end",
        &["game", "by?", "players", "results?"],
    ),
    kind("kicked", "a user was sent away", &["user", "by?", "reason?"]),
    kind("banned", "and may not come back", &["user", "by?", "until?", "reason?"]),
    kind("unbanned", "but now may", &["user", "by?"]),
    kind("muted", "a user may not chat", &["user", "by?", "until?", "reason?"]),
    kind("unmuted", "but now may", &["user", "by?"]),
    kind("edited", "a message has another body", &["of", "by", "body"]),
    kind("deleted", "a message is blanked", &["of", "by"]),
    kind("reacted", "somebody answers a message with an emoji", &["of", "user", "emoji"]),
    kind("closed", "the lobby is over", &["by?", "reason?"]),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::Message;
    use crate::tests::{event, every_kind};

    #[test]
    fn what_is_sent_is_what_the_catalogue_says() {
        let mut seen = BTreeSet::new();
        for change in every_kind() {
            let message = Message::of_event(&event("a", 1, 1, change));
            let body: serde_json::Value = serde_json::from_slice(&message.body).unwrap();
            let name = body["kind"].as_str().unwrap().to_owned();
            let listed = CATALOGUE.iter().find(|listed| listed.kind == name);
            let fields = listed.unwrap_or_else(|| panic!("{name} is not listed")).fields;
            let data = body["data"].as_object().unwrap();
            for field in data.keys() {
                let listed = fields.iter().any(|listed| listed.trim_end_matches('?') == field);
                assert!(listed, "{name}: {field} is not listed");
            }
            for field in fields.iter().filter(|field| !field.ends_with('?')) {
                assert!(data.contains_key(*field), "{name}: {field} is not sent");
            }
            seen.insert(name);
        }
        let listed: BTreeSet<_> = CATALOGUE.iter().map(|listed| listed.kind.to_owned()).collect();
        assert_eq!(seen, listed);
    }

    #[test]
    fn the_page_lists_the_catalogue() {
        let page = include_str!("../../docs/events.md");
        let rows: Vec<String> = CATALOGUE
            .iter()
            .map(|EventKind { kind, what, fields }| {
                let shown = |field: &&str| match field.strip_suffix('?') {
                    Some(name) => format!("`{name}`?"),
                    None => format!("`{field}`"),
                };
                let fields: Vec<String> = fields.iter().map(shown).collect();
                format!("| `lobby.{kind}` | {what} | {} |", fields.join(", "))
            })
            .collect();
        let table = rows.join("\n");
        assert!(page.contains(&table), "docs/events.md is to hold\n{table}");
    }
}
