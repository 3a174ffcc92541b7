//! Bans from the service, the audit, a lobby's events by topic, and what becomes of a player who is to be forgotten.

use mlms_protocol::{LobbyEvent, LobbyId, Millis, Seq, UserId};

use super::connection::{Row, Value};
use super::events::read_all;
use super::fault::Fault;
use super::{READ_TIMEOUT, SAVE_TIMEOUT, SqlStore, damaged, within};
use crate::audit::{AuditEntry, Topic};
use crate::bans::{BansMark, ServiceBan};
use crate::forgetting::quoted;
use crate::row::{EventRow, clamped, unsigned};
use crate::store::StoreError;

const SET_BAN: &str = "UPDATE service_bans SET at = ?, actor = ?, reason = ?, until = NULL WHERE user = ?";
const ADD_BAN: &str = "INSERT INTO service_bans (at, actor, reason, user) VALUES (?, ?, ?, ?)";
const SET_UNTIL: &str = "UPDATE service_bans SET until = ? WHERE user = ?";
const LIFT_BAN: &str = "DELETE FROM service_bans WHERE user = ?";
const FIND_BAN: &str = "SELECT user, at, COALESCE(until, -1), actor, reason FROM service_bans WHERE user = ?";
const BANS_AFTER: &str = "SELECT user, at, COALESCE(until, -1), actor, reason FROM service_bans \
     WHERE user > ? ORDER BY user LIMIT ?";
const BANS_MARK: &str = "SELECT COUNT(*), COALESCE(MAX(at), 0) FROM service_bans";

const ADD_AUDIT: &str =
    "INSERT INTO audit_entries (at, id, actor, action, user, detail) VALUES (?, ?, ?, ?, ?, ?)";
const AUDIT_BEFORE: &str = "SELECT id, at, actor, action, user, detail FROM audit_entries \
     WHERE id < ? ORDER BY id DESC LIMIT ?";
const AUDIT_OF: &str = "SELECT id, at, actor, action, user, detail FROM audit_entries \
     WHERE user = ? AND id < ? ORDER BY id DESC LIMIT ?";
/// Behind every id: digits and letters sort before it.
const LAST_ID: &str = "~";

const RESULTS: &str = "SELECT kind, payload, packed, seq, lobby FROM lobby_events \
     WHERE lobby = ? AND seq < ? AND kind = 'game_finished' ORDER BY seq DESC LIMIT ?";
const MODERATION: &str = "SELECT kind, payload, packed, seq, lobby FROM lobby_events \
     WHERE lobby = ? AND seq < ? AND kind IN ('kicked', 'banned', 'unbanned', 'muted', 'unmuted', 'host_changed', \
     'deleted', 'locked', 'invited', 'closed') ORDER BY seq DESC LIMIT ?";

/// Each with the user.
const FORGET: [&str; 9] = [
    "DELETE FROM player_statistics WHERE user = ?",
    "DELETE FROM lobby_statistics WHERE user = ?",
    "DELETE FROM game_totals WHERE user = ?",
    "DELETE FROM player_achievements WHERE user = ?",
    "DELETE FROM user_blocks WHERE user = ?",
    "DELETE FROM user_blocks WHERE blocked = ?",
    "DELETE FROM message_reports WHERE user = ?",
    "DELETE FROM message_reports WHERE reporter = ?",
    "UPDATE service_bans SET reason = NULL WHERE user = ?",
];
/// Each with the user's id as it stands in JSON: what was said around a reported message, and events that were set aside.
const FORGET_MENTIONS: [&str; 2] = [
    // {"context":[]}, as bytes.
    "UPDATE message_reports SET context = X'7B22636F6E74657874223A5B5D7D' WHERE INSTR(context, ?) > 0",
    "DELETE FROM refused_events WHERE INSTR(payload, ?) > 0",
];
/// Each with the alias and the user.
const FORGET_AUDIT: [&str; 2] = [
    "UPDATE audit_entries SET user = ?, detail = NULL WHERE user = ?",
    "UPDATE audit_entries SET actor = ? WHERE actor = ?",
];
const MENTIONS: &str = "SELECT kind, payload, packed, seq, lobby FROM lobby_events \
     WHERE lobby = ? AND INSTR(payload, ?) > 0 ORDER BY seq LIMIT ?";
const RENAME: &str = "UPDATE lobby_events SET user = ?, nonce = NULL, payload = ?, packed = NULL \
     WHERE lobby = ? AND seq = ? AND epoch = ?";

fn user(text: &str) -> Result<UserId, StoreError> {
    UserId::new(text).map_err(|error| damaged(error.to_string()))
}

fn millis(number: i64) -> Result<Millis, StoreError> {
    Ok(Millis(unsigned(number).map_err(damaged)?))
}

fn maybe_text(row: &Row, column: usize) -> Result<Option<String>, StoreError> {
    let bytes = row.maybe_bytes(column)?;
    let text = bytes.map(String::from_utf8).transpose();
    text.map_err(|error| damaged(error.to_string()))
}

fn ban(row: &Row) -> Result<ServiceBan, StoreError> {
    let until = match row.int(2)? {
        ..0 => None,
        until => Some(millis(until)?),
    };
    Ok(ServiceBan {
        user: user(&row.text(0)?)?,
        at: millis(row.int(1)?)?,
        until,
        by: user(&row.text(3)?)?,
        reason: maybe_text(row, 4)?,
    })
}

fn entry(row: &Row) -> Result<AuditEntry, StoreError> {
    Ok(AuditEntry {
        id: row.text(0)?,
        at: millis(row.int(1)?)?,
        by: user(&row.text(2)?)?,
        action: row.text(3)?,
        user: user(&row.text(4)?)?,
        detail: maybe_text(row, 5)?,
    })
}

impl SqlStore {
    pub(crate) async fn set_ban(&self, ban: &ServiceBan) -> Result<(), StoreError> {
        let user = Value::Text(ban.user.as_str());
        let values = [
            Value::Int(clamped(ban.at.0)),
            Value::Text(ban.by.as_str()),
            Value::MaybeText(ban.reason.as_deref()),
            user,
        ];
        within(SAVE_TIMEOUT, async {
            let mut tx = self.database.begin().await?;
            if tx.execute(SET_BAN, values).await? == 0 {
                match tx.execute(ADD_BAN, values).await {
                    // MySQL does not count a row that is as it should be.
                    Err(error) if Fault::of(&error) == Fault::Duplicate => {}
                    other => _ = other?,
                }
            }
            if let Some(until) = ban.until {
                tx.execute(SET_UNTIL, [Value::Int(clamped(until.0)), user]).await?;
            }
            tx.commit().await
        })
        .await
    }

    pub(crate) async fn lift_ban(&self, user: &UserId) -> Result<bool, StoreError> {
        within(SAVE_TIMEOUT, async {
            let mut tx = self.database.begin().await?;
            let lifted = tx.execute(LIFT_BAN, [Value::Text(user.as_str())]).await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(lifted > 0)
        })
        .await
    }

    pub(crate) async fn ban(&self, user: &UserId) -> Result<Option<ServiceBan>, StoreError> {
        let rows = within(READ_TIMEOUT, self.database.rows(FIND_BAN, [Value::Text(user.as_str())])).await?;
        rows.first().map(ban).transpose()
    }

    pub(crate) async fn bans(
        &self,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Vec<ServiceBan>, StoreError> {
        let values = [Value::Text(after.map_or("", UserId::as_str)), Value::Int(limit.into())];
        within(READ_TIMEOUT, self.database.rows(BANS_AFTER, values)).await?.iter().map(ban).collect()
    }

    pub(crate) async fn bans_mark(&self) -> Result<BansMark, StoreError> {
        let rows = within(READ_TIMEOUT, self.database.rows(BANS_MARK, [])).await?;
        let Some(row) = rows.first() else { return Ok(BansMark::default()) };
        Ok(BansMark(unsigned(row.int(0)?).map_err(damaged)?, unsigned(row.int(1)?).map_err(damaged)?))
    }

    pub(crate) async fn add_audit(&self, entry: &AuditEntry) -> Result<(), StoreError> {
        let at = [Value::Int(clamped(entry.at.0))];
        let texts = [&entry.id, entry.by.as_str(), &entry.action, entry.user.as_str()].map(Value::Text);
        let values = at.into_iter().chain(texts).chain([Value::MaybeText(entry.detail.as_deref())]);
        within(SAVE_TIMEOUT, async {
            let mut tx = self.database.begin().await?;
            tx.execute(ADD_AUDIT, values).await?;
            tx.commit().await
        })
        .await
    }

    pub(crate) async fn audit(
        &self,
        user: Option<&UserId>,
        before: Option<&str>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        let page = [Value::Text(before.unwrap_or(LAST_ID)), Value::Int(limit.into())];
        let of: Vec<_> = user.iter().map(|user| Value::Text(user.as_str())).collect();
        let sql = if user.is_some() { AUDIT_OF } else { AUDIT_BEFORE };
        let values = of.into_iter().chain(page);
        within(READ_TIMEOUT, self.database.rows(sql, values)).await?.iter().map(entry).collect()
    }

    pub(crate) async fn events_about(
        &self,
        lobby: &LobbyId,
        topic: Topic,
        before: Seq,
        limit: u32,
    ) -> Result<Vec<LobbyEvent>, StoreError> {
        let sql = match topic {
            Topic::Results => RESULTS,
            Topic::Moderation => MODERATION,
        };
        let bounds = [Value::Int(clamped(before.0)), Value::Int(limit.into())];
        let values = [Value::Text(lobby.as_str())].into_iter().chain(bounds);
        read_all(&within(READ_TIMEOUT, self.database.rows(sql, values)).await?)
    }

    pub(crate) async fn mentions(
        &self,
        lobby: &LobbyId,
        quoted: &str,
        limit: u32,
    ) -> Result<Vec<LobbyEvent>, StoreError> {
        let values = [Value::Text(lobby.as_str()), Value::Text(quoted), Value::Int(limit.into())];
        read_all(&within(READ_TIMEOUT, self.database.rows(MENTIONS, values)).await?)
    }

    pub(crate) async fn forget(
        &self,
        user: &UserId,
        alias: &UserId,
        events: &[LobbyEvent],
    ) -> Result<(), StoreError> {
        let quoted = quoted(user);
        let rows: Result<Vec<_>, _> = events.iter().map(EventRow::of).collect();
        let rows = rows.map_err(StoreError::Incompatible)?;
        within(SAVE_TIMEOUT, async {
            let mut tx = self.database.begin().await?;
            for sql in FORGET {
                tx.execute(sql, [Value::Text(user.as_str())]).await?;
            }
            for sql in FORGET_MENTIONS {
                tx.execute(sql, [Value::Text(&quoted)]).await?;
            }
            for sql in FORGET_AUDIT {
                tx.execute(sql, [Value::Text(alias.as_str()), Value::Text(user.as_str())]).await?;
            }
            for row in &rows {
                let content = [Value::MaybeText(row.user), Value::Text(&row.payload)];
                let place = [Value::Text(row.lobby.as_str()), Value::Int(row.seq), Value::Int(row.epoch)];
                tx.execute(RENAME, content.into_iter().chain(place)).await?;
            }
            tx.commit().await
        })
        .await
    }
}
