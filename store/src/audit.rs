//! What was done to users by the service's own powers: bans, disconnections, exports, erasures. Written by whoever does
//! it, read by moderators; never changed.

use mlms_protocol::{Millis, UserId};
use serde::Serialize;

use crate::store::{Backend, Store, StoreError};

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditEntry {
    /// Ascends with time; at most 32 characters.
    pub id: String,
    pub at: Millis,
    /// Who did it.
    pub by: UserId,
    /// At most 32 characters.
    pub action: String,
    /// To whom.
    pub user: UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Events of a lobby by what they are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// `game_finished`.
    Results,
    /// What moderators and hosts decided.
    Moderation,
}

impl Topic {
    pub(crate) fn holds(self, kind: &str) -> bool {
        match self {
            Topic::Results => kind == "game_finished",
            Topic::Moderation => matches!(
                kind,
                "kicked"
                    | "banned"
                    | "unbanned"
                    | "muted"
                    | "unmuted"
                    | "host_changed"
                    | "deleted"
                    | "locked"
                    | "invited"
                    | "closed"
            ),
        }
    }
}

impl Store {
    /// Notes what was done to a user.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn add_audit(&self, entry: &AuditEntry) -> Result<(), StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.add_audit(entry).await,
            Backend::Memory(memory) => {
                memory.add_audit(entry);
                Ok(())
            }
        }
    }

    /// What was done (to a user), the newest first, from before an entry's id.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn audit(
        &self,
        user: Option<&UserId>,
        before: Option<&str>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.audit(user, before, limit).await,
            Backend::Memory(memory) => Ok(memory.audit(user, before, limit)),
        }
    }
}
