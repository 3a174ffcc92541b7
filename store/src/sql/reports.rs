//! Reported messages, and whom users block.

use mlms_protocol::{LobbyId, Millis, Seq, UserId};

use super::connection::{Row, Value};
use super::fault::Fault;
use super::{READ_TIMEOUT, SAVE_TIMEOUT, SqlStore, damaged, within};
use crate::blocks::BLOCKERS_MAX;
use crate::report::{FiledReport, MessageReport, context_of};
use crate::row::{clamped, unsigned};
use crate::store::StoreError;

const FILE: &str = "INSERT INTO message_reports (id, lobby, seq, user, reporter, at, reason, message, context) \
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
pub(super) const REPORTS: &str = "SELECT id, lobby, seq, user, reporter, at, reason, message, context FROM message_reports \
     WHERE at <= ? AND (at < ? OR id < ?) ORDER BY at DESC, id DESC LIMIT ?";
const BLOCK: &str = "INSERT INTO user_blocks (user, blocked, at) VALUES (?, ?, ?)";
const UNBLOCK: &str = "DELETE FROM user_blocks WHERE user = ? AND blocked = ?";
pub(super) const BLOCKED_BY: &str =
    "SELECT blocked FROM user_blocks WHERE user = ? ORDER BY at, blocked LIMIT ?";
/// One look for so many users; fewer are filled up with the last one.
pub(super) const BLOCKED_BY_EACH: &str = "SELECT user, blocked FROM user_blocks WHERE user IN \
     (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

fn user_in(row: &Row, column: usize) -> Result<UserId, StoreError> {
    UserId::new(&row.text(column)?).map_err(|error| damaged(error.to_string()))
}

fn report_in(row: &Row) -> Result<FiledReport, StoreError> {
    let user = row.maybe_bytes(3)?.map(|bytes| {
        let text = String::from_utf8(bytes).map_err(|error| damaged(error.to_string()))?;
        UserId::new(&text).map_err(|error| damaged(error.to_string()))
    });
    let reason = row.maybe_bytes(6)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok(FiledReport {
        id: row.text(0)?,
        lobby: LobbyId::new(&row.text(1)?).map_err(|error| damaged(error.to_string()))?,
        seq: Seq(unsigned(row.int(2)?).map_err(damaged)?),
        user: user.transpose()?,
        by: user_in(row, 4)?,
        at: Millis(unsigned(row.int(5)?).map_err(damaged)?),
        reason,
        message: serde_json::from_slice(&row.bytes(7)?).unwrap_or_default(),
        context: context_of(&row.bytes(8)?),
    })
}

impl SqlStore {
    /// Runs one insert; what is there already stays.
    async fn add<'a>(
        &self,
        sql: &'static str,
        values: impl IntoIterator<Item = Value<'a>>,
    ) -> Result<(), StoreError> {
        within(SAVE_TIMEOUT, async {
            let mut tx = self.database.begin().await?;
            match tx.execute(sql, values).await {
                Err(error) if Fault::of(&error) == Fault::Duplicate => return Ok(()),
                other => _ = other?,
            }
            tx.commit().await
        })
        .await
    }

    pub(crate) async fn file_report(&self, report: &MessageReport) -> Result<(), StoreError> {
        let (id, (message, context)) = (report.id(), report.texts());
        let values = [
            Value::Text(&id),
            Value::Text(report.message.lobby.as_str()),
            Value::Int(clamped(report.message.seq.0)),
            Value::MaybeText(report.user().map(UserId::as_str)),
            Value::Text(report.by.as_str()),
            Value::Int(clamped(report.at.0)),
            Value::MaybeText(report.reason.as_deref()),
            Value::Bytes(&message),
            Value::Bytes(&context),
        ];
        self.add(FILE, values).await
    }

    pub(crate) async fn reports(
        &self,
        before: Option<(Millis, &str)>,
        limit: u32,
    ) -> Result<Vec<FiledReport>, StoreError> {
        let (at, id) = before.map_or((i64::MAX, ""), |(at, id)| (clamped(at.0), id));
        let values = [Value::Int(at), Value::Int(at), Value::Text(id), Value::Int(limit.into())];
        let rows = within(READ_TIMEOUT, self.database.rows(REPORTS, values)).await?;
        rows.iter().map(report_in).collect()
    }

    pub(crate) async fn block(&self, user: &UserId, blocked: &UserId, at: Millis) -> Result<(), StoreError> {
        let values = [Value::Text(user.as_str()), Value::Text(blocked.as_str()), Value::Int(clamped(at.0))];
        self.add(BLOCK, values).await
    }

    pub(crate) async fn unblock(&self, user: &UserId, blocked: &UserId) -> Result<(), StoreError> {
        within(SAVE_TIMEOUT, async {
            let mut tx = self.database.begin().await?;
            tx.execute(UNBLOCK, [Value::Text(user.as_str()), Value::Text(blocked.as_str())]).await?;
            tx.commit().await
        })
        .await
    }

    pub(crate) async fn blocked_by(&self, user: &UserId, limit: u32) -> Result<Vec<UserId>, StoreError> {
        let values = [Value::Text(user.as_str()), Value::Int(limit.into())];
        let rows = within(READ_TIMEOUT, self.database.rows(BLOCKED_BY, values)).await?;
        rows.iter().map(|row| user_in(row, 0)).collect()
    }

    pub(crate) async fn blocked_by_each(
        &self,
        users: &[UserId],
    ) -> Result<Vec<(UserId, UserId)>, StoreError> {
        let mut pairs = Vec::new();
        for users in users.chunks(BLOCKERS_MAX) {
            let last = users.last().into_iter().cycle();
            let values = users.iter().chain(last).take(BLOCKERS_MAX).map(|user| Value::Text(user.as_str()));
            let rows = within(READ_TIMEOUT, self.database.rows(BLOCKED_BY_EACH, values)).await?;
            for row in &rows {
                pairs.push((user_in(row, 0)?, user_in(row, 1)?));
            }
        }
        Ok(pairs)
    }
}
