//! Bans from the service: who is not let in, as the store keeps it, and the list of them that every broker and node
//! holds in memory and keeps up to date. Who asks the list never waits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mlms_protocol::{Millis, UserId};
use serde::Serialize;
use tokio::sync::watch;

use crate::store::{Backend, Store, StoreError};

/// How often the list is looked at: a ban is known everywhere within so long.
const PAUSE: Duration = Duration::from_secs(1);
/// Looks after which the list is read in any case.
const READ_EVERY: u32 = 30;
/// Bans that are read at once.
const PAGE: u32 = 1_000;
/// Bans that a process holds; a list beyond it is cut, which is told.
const BANS_MAX: usize = 200_000;

/// One ban.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceBan {
    pub user: UserId,
    pub at: Millis,
    /// `None`: for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Millis>,
    pub by: UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What is known of all bans without reading them: their number, and when the newest was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BansMark(pub u64, pub u64);

type Banned = HashMap<UserId, Option<Millis>>;

/// The bans as this process knows them. Clones share the list.
#[derive(Debug, Clone)]
pub struct BanList(Arc<watch::Sender<Arc<Banned>>>);

impl Default for BanList {
    fn default() -> Self {
        BanList(Arc::new(watch::Sender::new(Arc::default())))
    }
}

impl BanList {
    /// Whether a user is kept out now.
    #[must_use]
    pub fn holds(&self, user: &UserId, now: Millis) -> bool {
        match self.0.borrow().get(user) {
            Some(until) => until.is_none_or(|until| until > now),
            None => false,
        }
    }

    /// Tells of every change of the list.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<HashMap<UserId, Option<Millis>>>> {
        self.0.subscribe()
    }

    /// Reads the list now.
    ///
    /// # Errors
    /// As [`Store::ban`]; the list stays as it is.
    pub async fn read(&self, store: &Store) -> Result<(), StoreError> {
        let mut banned = Banned::new();
        let mut after: Option<UserId> = None;
        loop {
            let page = store.bans(after.as_ref(), PAGE).await?;
            after = page.last().map(|ban| ban.user.clone());
            let is_last = page.len() < PAGE as usize;
            banned.extend(page.into_iter().map(|ban| (ban.user, ban.until)));
            if banned.len() >= BANS_MAX {
                tracing::error!(
                    bans = banned.len(),
                    "there are more bans than a process holds; the rest is not enforced"
                );
                break;
            }
            if is_last {
                break;
            }
        }
        self.0.send_if_modified(|known| {
            let changed = **known != banned;
            *known = Arc::new(banned);
            changed
        });
        Ok(())
    }

    /// Keeps the list up to date for ever. While the store is away it stays as it was.
    pub async fn follow(&self, store: &Store) {
        let (mut known, mut looks) = (None, 0_u32);
        loop {
            match store.bans_mark().await {
                Ok(mark) if known == Some(mark) && looks % READ_EVERY != 0 => {}
                Ok(mark) => match self.read(store).await {
                    Ok(()) => known = Some(mark),
                    Err(error) => tracing::debug!(%error, "the bans cannot be read"),
                },
                Err(error) => tracing::debug!(%error, "the bans cannot be looked at"),
            }
            looks = looks.wrapping_add(1);
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Store {
    /// Keeps a user out of the service; a ban that is there is replaced.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn set_ban(&self, ban: &ServiceBan) -> Result<(), StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.set_ban(ban).await,
            Backend::Memory(memory) => {
                memory.set_ban(ban);
                Ok(())
            }
        }
    }

    /// Lets a user in again; `false`: nobody kept it out.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn lift_ban(&self, user: &UserId) -> Result<bool, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.lift_ban(user).await,
            Backend::Memory(memory) => Ok(memory.lift_ban(user)),
        }
    }

    /// A user's ban, also one that has run out.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn ban(&self, user: &UserId) -> Result<Option<ServiceBan>, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.ban(user).await,
            Backend::Memory(memory) => Ok(memory.ban(user)),
        }
    }

    /// Bans by their users, from behind `after`.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn bans(&self, after: Option<&UserId>, limit: u32) -> Result<Vec<ServiceBan>, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.bans(after, limit).await,
            Backend::Memory(memory) => Ok(memory.bans(after, limit)),
        }
    }

    /// What tells whether the bans have changed.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn bans_mark(&self) -> Result<BansMark, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.bans_mark().await,
            Backend::Memory(memory) => Ok(memory.bans_mark()),
        }
    }
}
