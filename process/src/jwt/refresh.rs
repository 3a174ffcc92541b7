//! Keeps a key set fresh: fetches it at the start, every few minutes, and when a token is of an unknown key; one
//! fetch at a time, whoever waits shares it. When a fetch fails the old keys stay.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fetch::Source;
use super::{KeySet, Remote, Shared};
use crate::health::{Component, State};

/// How often and how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Between two fetches when all is well.
    pub(super) refresh: Duration,
    /// Between a failed fetch and the next.
    pub(super) retry: Duration,
    /// Least time between a fetch and one that an unknown key asks for: made-up key ids must not become a flood.
    pub(super) unknown_key_gap: Duration,
    /// A fetch that takes longer has failed.
    pub(super) fetch_timeout: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            refresh: Duration::from_secs(300),
            retry: Duration::from_secs(10),
            unknown_key_gap: Duration::from_secs(10),
            fetch_timeout: Duration::from_secs(5),
        }
    }
}

/// The task that fetches the key set. With fixed keys only it has nothing to do.
#[must_use = "without it the key set is never fetched"]
pub struct KeyRefresh {
    shared: Arc<Shared>,
    source: Option<Source>,
    rounds: watch::Sender<u64>,
    pace: Pace,
}

impl KeyRefresh {
    pub(super) fn new(
        shared: Arc<Shared>,
        source: Option<Source>,
        rounds: watch::Sender<u64>,
        pace: Pace,
    ) -> KeyRefresh {
        KeyRefresh { shared, source, rounds, pace }
    }

    /// Runs until `stop`; tells `health` whether the key set can be fetched.
    pub async fn run(self, health: Component, stop: CancellationToken) {
        let (Some(source), Some(remote)) = (&self.source, &self.shared.remote) else {
            health.ok();
            return;
        };
        stop.run_until_cancelled(self.refresh(source, remote, &health)).await;
    }

    async fn refresh(&self, source: &Source, remote: &Remote, health: &Component) {
        loop {
            let begun = Instant::now();
            let pause = match self.fetch(source).await {
                Ok(set) => {
                    tracing::debug!(keys = set.keys.len(), "key set fetched");
                    remote.replace(set);
                    health.ok();
                    self.pace.refresh
                }
                Err(why) => {
                    self.keep_old(remote, health, &why);
                    self.pace.retry
                }
            };
            // Whoever asked while the fetch was under way is answered by it.
            std::pin::pin!(remote.wanted.notified()).as_mut().enable();
            self.rounds.send_modify(|round| *round += 1);
            self.wait(remote, begun, pause).await;
        }
    }

    async fn fetch(&self, source: &Source) -> Result<KeySet, String> {
        let text = tokio::time::timeout(self.pace.fetch_timeout, source.fetch())
            .await
            .map_err(|_| format!("no answer within {:?}", self.pace.fetch_timeout))??;
        Ok(KeySet { keys: self.shared.rules.keys_of_set(&text)?.into(), fresh: true })
    }

    fn keep_old(&self, remote: &Remote, health: &Component, why: &str) {
        let old = remote.current();
        let cause = format!("the key set of users' tokens cannot be fetched: {why}");
        if matches!(health.state(), State::Ok | State::Unknown) {
            tracing::warn!(old_keys = old.keys.len(), "{cause}");
        }
        if old.keys.is_empty() {
            health.down(cause);
        } else {
            health.degraded(cause);
        }
        remote.mark_stale();
    }

    /// Waits until the next fetch is due or wanted. Wants that come too early are refused at once.
    async fn wait(&self, remote: &Remote, begun: Instant, pause: Duration) {
        let due = tokio::time::sleep(pause);
        tokio::pin!(due);
        loop {
            tokio::select! {
                () = &mut due => return,
                () = remote.wanted.notified() => {
                    if begun.elapsed() >= self.pace.unknown_key_gap {
                        return;
                    }
                    self.rounds.send_modify(|round| *round += 1);
                }
            }
        }
    }
}
