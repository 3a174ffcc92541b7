//! A node's subscription: a bounded queue of batches, some of which are due only later.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mlms_protocol::NodeName;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Relay;

/// Batches that may wait in an inbox. A node that takes nothing loses what comes beyond, as a subscriber that
/// stops reading does elsewhere; links ask for it again.
const BATCHES_MAX: usize = 4096;
/// Bytes that may wait in an inbox, for the same reason.
const BYTES_MAX: usize = 32 * 1024 * 1024;

/// What one node receives. Bounded: what does not fit is dropped and counted.
pub struct Inbox {
    relay: Relay,
    node: NodeName,
    mailbox: Arc<Mailbox>,
}

impl Inbox {
    pub(super) fn new(relay: Relay, node: NodeName, mailbox: Arc<Mailbox>) -> Inbox {
        Inbox { relay, node, mailbox }
    }

    /// Waits for the next batch; `None` once a newer subscription has replaced this one. Cancel safe.
    pub async fn recv(&mut self) -> Option<Bytes> {
        tokio::task::coop::consume_budget().await;
        loop {
            // Created before the look, so that what is put in between wakes it.
            let arrival = self.mailbox.arrival.notified();
            let next_due = match self.mailbox.take(Instant::now()) {
                Taken::Batch(batch) => return Some(batch),
                Taken::Closed => return None,
                Taken::Nothing { next_due } => next_due,
            };
            match next_due {
                None => arrival.await,
                Some(due) => {
                    tokio::select! {
                        () = arrival => {}
                        () = tokio::time::sleep_until(due) => {}
                    }
                }
            }
        }
    }

    /// Batches dropped so far because this inbox was full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.mailbox.state().dropped
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.relay.unsubscribe(&self.node, &self.mailbox);
    }
}

/// The shared side of an inbox, into which publishers put.
#[derive(Default)]
pub(crate) struct Mailbox {
    state: Mutex<State>,
    arrival: Notify,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Bytes>,
    /// Delayed batches by the time they are due; the number keeps equal times apart.
    delayed: BTreeMap<(Instant, u64), Bytes>,
    delayed_count: u64,
    bytes: usize,
    dropped: u64,
    closed: bool,
}

enum Taken {
    Batch(Bytes),
    Nothing { next_due: Option<Instant> },
    Closed,
}

impl Mailbox {
    pub(crate) fn put(&self, batch: Bytes) {
        let mut state = self.state();
        if state.admit(&batch) {
            state.ready.push_back(batch);
            drop(state);
            self.arrival.notify_one();
        }
    }

    pub(super) fn put_at(&self, due: Instant, batch: Bytes) {
        let mut state = self.state();
        if state.admit(&batch) {
            state.delayed_count += 1;
            let key = (due, state.delayed_count);
            state.delayed.insert(key, batch);
            drop(state);
            self.arrival.notify_one();
        }
    }

    pub(crate) fn close(&self) {
        *self.state() = State { closed: true, ..State::default() };
        self.arrival.notify_one();
    }

    /// Notes that batches were lost on their way here.
    pub(crate) fn count_dropped(&self, batches: u64) {
        self.state().dropped += batches;
    }

    fn take(&self, now: Instant) -> Taken {
        let mut state = self.state();
        if state.closed {
            return Taken::Closed;
        }
        let next_due = state.delayed.keys().next().copied();
        let batch = match next_due {
            Some(key) if key.0 <= now => state.delayed.remove(&key),
            _ => state.ready.pop_front(),
        };
        match batch {
            Some(batch) => {
                state.bytes -= batch.len();
                Taken::Batch(batch)
            }
            None => Taken::Nothing { next_due: next_due.map(|(due, _)| due) },
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether the batch may wait here; counts it in, or counts it as dropped.
    fn admit(&mut self, batch: &Bytes) -> bool {
        if self.closed {
            return false;
        }
        let waiting = self.ready.len() + self.delayed.len();
        if waiting >= BATCHES_MAX || self.bytes + batch.len() > BYTES_MAX {
            self.dropped += 1;
            return false;
        }
        self.bytes += batch.len();
        true
    }
}
