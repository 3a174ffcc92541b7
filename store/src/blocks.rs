//! Whom users block: remembered here, minded by the lobby nodes.

use mlms_protocol::{Millis, UserId};

use crate::store::{Backend, Store, StoreError};

/// Users of whom one statement tells whom they block.
pub const BLOCKERS_MAX: usize = 32;

impl Store {
    /// Remembers that a user blocks another.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn block(&self, user: &UserId, blocked: &UserId, at: Millis) -> Result<(), StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.block(user, blocked, at).await,
            Backend::Memory(memory) => {
                memory.block(user, blocked, at);
                Ok(())
            }
        }
    }

    /// Forgets that a user blocks another.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn unblock(&self, user: &UserId, blocked: &UserId) -> Result<(), StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.unblock(user, blocked).await,
            Backend::Memory(memory) => {
                memory.unblock(user, blocked);
                Ok(())
            }
        }
    }

    /// Whom a user blocks, the longest ago first.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn blocked_by(&self, user: &UserId, limit: u32) -> Result<Vec<UserId>, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.blocked_by(user, limit).await,
            Backend::Memory(memory) => Ok(memory.blocked_by(user, limit)),
        }
    }

    /// Whom each of these users blocks, as pairs of who blocks and who is blocked. Best asked for [`BLOCKERS_MAX`] of them.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn blocked_by_each(&self, users: &[UserId]) -> Result<Vec<(UserId, UserId)>, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.blocked_by_each(users).await,
            Backend::Memory(memory) => Ok(memory.blocked_by_each(users)),
        }
    }
}
