//! Messages that members reported, for those who moderate the service.

use mlms_protocol::encoding::Encoding;
use mlms_protocol::writer::ObjectWriter;
use mlms_protocol::{Change, LobbyEvent, LobbyId, Millis, Seq, UserId};
use serde::Serialize;
use serde_json::Value;

use crate::row::event_json;
use crate::store::{Backend, Store, StoreError};

/// A member brings a message to notice.
#[derive(Debug, Clone, PartialEq)]
pub struct MessageReport {
    pub by: UserId,
    pub at: Millis,
    pub reason: Option<String>,
    pub message: LobbyEvent,
    /// What was said around it.
    pub context: Vec<LobbyEvent>,
}

/// A report as a moderator reads it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FiledReport {
    /// Reports are in the order of `at` and this; a cursor is both.
    pub id: String,
    pub lobby: LobbyId,
    pub seq: Seq,
    /// Who said it; null: the system.
    pub user: Option<UserId>,
    /// Who reported it.
    pub by: UserId,
    pub at: Millis,
    pub reason: Option<String>,
    /// The message as it was when it was reported, whatever became of it later.
    pub message: Value,
    pub context: Value,
}

impl MessageReport {
    /// One report of a user about one message: repeating it changes nothing.
    pub(crate) fn id(&self) -> String {
        format!("{}/{}/{}", self.message.lobby, self.message.seq, self.by)
    }

    pub(crate) fn user(&self) -> Option<&UserId> {
        match &self.message.change {
            Change::Message { from, .. } => from.as_ref(),
            _ => None,
        }
    }

    /// The message and its context as JSON.
    pub(crate) fn texts(&self) -> (Vec<u8>, Vec<u8>) {
        let mut writer = ObjectWriter::new(Encoding::Json);
        writer.objects("context", self.context.iter(), |w, event| event.write(w));
        (event_json(&self.message), writer.finish())
    }

    pub(crate) fn filed(&self) -> FiledReport {
        let (message, context) = self.texts();
        FiledReport {
            id: self.id(),
            lobby: self.message.lobby.clone(),
            seq: self.message.seq,
            user: self.user().cloned(),
            by: self.by.clone(),
            at: self.at,
            reason: self.reason.clone(),
            message: serde_json::from_slice(&message).unwrap_or_default(),
            context: context_of(&context),
        }
    }
}

/// The list in a stored context.
pub(crate) fn context_of(stored: &[u8]) -> Value {
    let stored: Value = serde_json::from_slice(stored).unwrap_or_default();
    stored.get("context").cloned().unwrap_or_default()
}

impl Store {
    /// Keeps a reported message for the moderators; a user's report of one message is kept once.
    ///
    /// # Errors
    /// `Unavailable`, or `Rejected` where it is too large.
    pub async fn file_report(&self, report: &MessageReport) -> Result<(), StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.file_report(report).await,
            Backend::Memory(memory) => {
                memory.file_report(report);
                Ok(())
            }
        }
    }

    /// Reports, the newest first, from before the one of this time and id.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn reports(
        &self,
        before: Option<(Millis, &str)>,
        limit: u32,
    ) -> Result<Vec<FiledReport>, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.reports(before, limit).await,
            Backend::Memory(memory) => Ok(memory.reports(before, limit)),
        }
    }
}
