//! What the handles and the task of one node's links share: a queue a peer, the list of queues with news, and
//! the counts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use mlms_protocol::NodeName;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::queue::{Backlog, Queue};
use super::{LinkConfig, LinkCounts, LinkStats};

pub(super) struct Shared {
    batch_bytes_max: usize,
    buffer_bytes_max: usize,
    /// Bounded by the nodes that callers name and, for the rest, by `peers_max`.
    queues: RwLock<HashMap<NodeName, Arc<Queue>>>,
    /// Peers whose queues have news for the task; each at most once.
    news: Mutex<Vec<NodeName>>,
    /// Wakes the task when there are news.
    pub(super) wake: Notify,
    counts: Mutex<LinkCounts>,
}

impl Shared {
    pub(super) fn new(config: &LinkConfig) -> Shared {
        Shared {
            batch_bytes_max: config.batch_bytes_max,
            buffer_bytes_max: config.buffer_bytes_max,
            queues: RwLock::default(),
            news: Mutex::default(),
            wake: Notify::new(),
            counts: Mutex::default(),
        }
    }

    pub(super) fn send(&self, to: &NodeName, payload: &[u8]) {
        let queues = self.queues.read().unwrap_or_else(PoisonError::into_inner);
        let must_tell = match queues.get(to) {
            Some(queue) => queue.put(payload),
            None => {
                drop(queues);
                self.queue(to).put(payload)
            }
        };
        if must_tell {
            self.tell(to);
        }
    }

    pub(super) fn forget(&self, peer: &NodeName) {
        let queues = self.queues.read().unwrap_or_else(PoisonError::into_inner);
        if queues.get(peer).is_some_and(|queue| queue.forget()) {
            drop(queues);
            self.tell(peer);
        }
    }

    fn tell(&self, peer: &NodeName) {
        self.lock_news().push(peer.clone());
        self.wake.notify_one();
    }

    /// Takes the peers whose queues have news.
    pub(super) fn news(&self) -> Vec<NodeName> {
        std::mem::take(&mut *self.lock_news())
    }

    /// The queue of a peer, made if there is none.
    pub(super) fn queue(&self, peer: &NodeName) -> Arc<Queue> {
        let mut queues = self.queues.write().unwrap_or_else(PoisonError::into_inner);
        let queue = queues
            .entry(peer.clone())
            .or_insert_with(|| Arc::new(Queue::new(self.batch_bytes_max, self.buffer_bytes_max)));
        Arc::clone(queue)
    }

    /// Drops the queue of a peer that is given up, unless something was put in meanwhile.
    pub(super) fn drop_queue(&self, peer: &NodeName) -> bool {
        let mut queues = self.queues.write().unwrap_or_else(PoisonError::into_inner);
        let is_empty = queues.get(peer).is_none_or(|queue| queue.backlog() == Backlog::Empty);
        if is_empty {
            queues.remove(peer);
        }
        is_empty
    }

    pub(super) fn heard_ago(&self, peer: &NodeName) -> Option<Duration> {
        let queues = self.queues.read().unwrap_or_else(PoisonError::into_inner);
        Some(queues.get(peer)?.traffic().heard_at?.elapsed())
    }

    pub(super) fn stats(&self) -> Vec<LinkStats> {
        let now = Instant::now();
        let queues = self.queues.read().unwrap_or_else(PoisonError::into_inner);
        let mut stats: Vec<LinkStats> = queues
            .iter()
            .filter_map(|(peer, queue)| {
                let (unacked_bytes, traffic) = queue.listing()?;
                let heard = traffic.heard_at.map(|at| now.saturating_duration_since(at));
                Some(LinkStats {
                    peer: peer.clone(),
                    unacked_bytes,
                    resent: traffic.resent,
                    resets: traffic.resets,
                    heard_ms_ago: heard.map(|ago| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
                })
            })
            .collect();
        stats.sort_by(|a, b| a.peer.cmp(&b.peer));
        stats
    }

    pub(super) fn counts(&self) -> LinkCounts {
        *self.lock_counts()
    }

    /// Replaces the counts; only the task does.
    pub(super) fn set_counts(&self, counts: LinkCounts) {
        *self.lock_counts() = counts;
    }

    fn lock_news(&self) -> MutexGuard<'_, Vec<NodeName>> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_counts(&self) -> MutexGuard<'_, LinkCounts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
