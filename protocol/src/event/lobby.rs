//! One sequenced event of a lobby: what it is about, what is left of it without somebody's words, and its frame. The
//! journal and the event store keep it, members and clients read it. It never decides who may see it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Change;
use crate::body::Body;
use crate::fields::{FieldError, Fields};
use crate::ids::{Epoch, LobbyId, Millis, Seq, UserId};
use crate::writer::ObjectWriter;

/// One sequenced event of a lobby.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LobbyEvent {
    pub lobby: LobbyId,
    pub epoch: Epoch,
    pub seq: Seq,
    pub at: Millis,
    pub change: Change,
}

impl LobbyEvent {
    /// The same message with another body; a deleted one keeps its place, with an empty text or null in it.
    /// `None`: it is no message.
    #[must_use]
    pub fn with_body(&self, new: Option<&Body>) -> Option<LobbyEvent> {
        let mut event = self.clone();
        let Change::Message { body, .. } = &mut event.change else { return None };
        *body = match new {
            Some(new) => new.clone(),
            None if body.as_text().is_some() => Body::text(""),
            None => Body::json(&Value::Null),
        };
        Some(event)
    }

    /// Whose words the event carries, unless they are moves of a game.
    #[must_use]
    pub fn speaker(&self) -> Option<&UserId> {
        match &self.change {
            Change::Message { kind, from, .. } if !kind.is_game() => from.as_ref(),
            Change::Edited { by, .. } => Some(by),
            Change::Reacted { user, .. } => Some(user),
            _ => None,
        }
    }

    /// The event without its speaker's words, for somebody whom they are not to reach: it keeps its place.
    #[must_use]
    pub fn without_words(&self) -> LobbyEvent {
        let mut event = self.with_body(None).unwrap_or_else(|| self.clone());
        match &mut event.change {
            Change::Edited { body, .. } => *body = Body::text(""),
            Change::Reacted { emoji, .. } => emoji.clear(),
            _ => {}
        }
        event
    }

    /// Which message this event edits or deletes, and its new body.
    #[must_use]
    pub fn alters(&self) -> Option<(Seq, Option<&Body>)> {
        match &self.change {
            Change::Edited { of, body, .. } => Some((*of, Some(body))),
            Change::Deleted { of, .. } => Some((*of, None)),
            _ => None,
        }
    }

    /// Writes the event's fields into an object, `ev` first.
    pub fn write(&self, w: &mut ObjectWriter) {
        w.field("ev", self.change.name()).field("lobby", &self.lobby);
        w.field("epoch", &self.epoch).field("seq", &self.seq).field("at", &self.at);
        match &self.change {
            Change::Message { kind, from, body, nonce, key } => {
                w.field("kind", kind).field("from", from).body("body", body);
                w.option("nonce", nonce.as_ref()).option("key", key.as_ref());
            }
            Change::Joined { user, name, role } => {
                w.field("user", user).field("name", name).field("role", role);
            }
            Change::Left { user, reason } => {
                w.field("user", user).option("reason", reason.as_ref());
            }
            Change::HostChanged { user, by } => {
                w.field("user", user).option("by", by.as_ref());
            }
            Change::Updated { by, settings, user, role, attributes } => {
                w.option("by", by.as_ref())
                    .option("settings", settings.as_ref())
                    .option("user", user.as_ref());
                w.option("role", role.as_ref()).option("attributes", attributes.as_ref());
            }
            Change::Locked { by, hash } => {
                w.field("locked", &hash.is_some()).option("by", by.as_ref());
            }
            Change::Invited { invite, by, uses, until } => {
                w.field("invite", invite).option("by", by.as_ref());
                w.option("uses", uses.as_ref()).option("until", until.as_ref());
            }
            Change::InviteUsed { invite, user } => {
                w.field("invite", invite).field("user", user);
            }
            Change::Ready { user, ready } => {
                w.field("user", user).field("ready", ready);
            }
            Change::GameStarted { game, by } => {
                w.field("game", game).option("by", by.as_ref());
            }
            Change::Reported { game, user, stat, amount, by } => {
                w.field("game", game).field("user", user).field("stat", stat).field("amount", amount);
                w.option("by", by.as_ref());
            }
            Change::GameFinished { game, by, players, results } => {
                w.field("game", game).option("by", by.as_ref()).field("players", players);
                if let Some(results) = results {
                    w.body("results", results);
                }
            }
            Change::Kicked { user, by, reason } => {
                w.field("user", user).option("by", by.as_ref()).option("reason", reason.as_ref());
            }
            Change::Banned { user, by, until, reason } | Change::Muted { user, by, until, reason } => {
                w.field("user", user).option("by", by.as_ref());
                w.option("until", until.as_ref()).option("reason", reason.as_ref());
            }
            Change::Unbanned { user, by } | Change::Unmuted { user, by } => {
                w.field("user", user).option("by", by.as_ref());
            }
            Change::Edited { of, by, body } => {
                w.field("of", of).field("by", by).body("body", body);
            }
            Change::Deleted { of, by } => {
                w.field("of", of).field("by", by);
            }
            Change::Reacted { of, user, emoji } => {
                w.field("of", of).field("user", user).field("emoji", emoji);
            }
            Change::Closed { by, reason } => {
                w.option("by", by.as_ref()).option("reason", reason.as_ref());
            }
        }
    }

    pub(super) fn read(name: &str, fields: &Fields<'_>) -> Result<Option<LobbyEvent>, FieldError> {
        let change = match name {
            "message" => Change::Message {
                kind: fields.need("kind")?,
                from: fields.get("from")?,
                body: fields.body("body")?.ok_or(FieldError::Missing("body"))?,
                nonce: fields.get("nonce")?,
                key: fields.get("key")?,
            },
            "joined" => Change::Joined {
                user: fields.need("user")?,
                name: fields.need("name")?,
                role: fields.need("role")?,
            },
            "left" => Change::Left { user: fields.need("user")?, reason: fields.get("reason")? },
            "host_changed" => Change::HostChanged { user: fields.get("user")?, by: fields.get("by")? },
            "updated" => Change::Updated {
                by: fields.get("by")?,
                settings: fields.get("settings")?,
                user: fields.get("user")?,
                role: fields.get("role")?,
                attributes: fields.get("attributes")?,
            },
            "locked" => {
                // Whoever reads what was told knows that there is a lock, not which.
                let locked: bool = fields.need("locked")?;
                Change::Locked { by: fields.get("by")?, hash: locked.then(String::new) }
            }
            "invited" => Change::Invited {
                invite: fields.need("invite")?,
                by: fields.get("by")?,
                uses: fields.get("uses")?,
                until: fields.get("until")?,
            },
            "invite_used" => {
                Change::InviteUsed { invite: fields.need("invite")?, user: fields.need("user")? }
            }
            "ready" => Change::Ready { user: fields.need("user")?, ready: fields.need("ready")? },
            "game_started" => Change::GameStarted { game: fields.need("game")?, by: fields.get("by")? },
            "reported" => Change::Reported {
                game: fields.need("game")?,
                user: fields.need("user")?,
                stat: fields.need("stat")?,
                amount: fields.need("amount")?,
                by: fields.get("by")?,
            },
            "game_finished" => Change::GameFinished {
                game: fields.need("game")?,
                by: fields.get("by")?,
                players: fields.get("players")?.unwrap_or_default(),
                results: fields.body("results")?,
            },
            "kicked" => Change::Kicked {
                user: fields.need("user")?,
                by: fields.get("by")?,
                reason: fields.get("reason")?,
            },
            "banned" => Change::Banned {
                user: fields.need("user")?,
                by: fields.get("by")?,
                until: fields.get("until")?,
                reason: fields.get("reason")?,
            },
            "unbanned" => Change::Unbanned { user: fields.need("user")?, by: fields.get("by")? },
            "muted" => Change::Muted {
                user: fields.need("user")?,
                by: fields.get("by")?,
                until: fields.get("until")?,
                reason: fields.get("reason")?,
            },
            "unmuted" => Change::Unmuted { user: fields.need("user")?, by: fields.get("by")? },
            "edited" => Change::Edited {
                of: fields.need("of")?,
                by: fields.need("by")?,
                body: fields.body("body")?.ok_or(FieldError::Missing("body"))?,
            },
            "deleted" => Change::Deleted { of: fields.need("of")?, by: fields.need("by")? },
            "reacted" => Change::Reacted {
                of: fields.need("of")?,
                user: fields.need("user")?,
                emoji: fields.need("emoji")?,
            },
            "closed" => Change::Closed { by: fields.get("by")?, reason: fields.get("reason")? },
            _ => return Ok(None),
        };
        Ok(Some(LobbyEvent {
            lobby: fields.need("lobby")?,
            epoch: fields.need("epoch")?,
            seq: fields.need("seq")?,
            at: fields.need("at")?,
            change,
        }))
    }
}

/// A field that is a list of sequenced events; ones that this release does not know are left out.
pub(crate) fn read_events(fields: &Fields<'_>, name: &'static str) -> Result<Vec<LobbyEvent>, FieldError> {
    let mut events = Vec::new();
    for item in fields.list(name)? {
        let ev: String = item.need("ev")?;
        events.extend(LobbyEvent::read(&ev, &item)?);
    }
    Ok(events)
}
