//! Messages on their way from any thread to the link task, written one behind the other into batches. A lock is
//! held only to copy a message in or to take a batch out.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::time::Instant;

use super::batch::{Messages, message_bytes, put_message};

/// What one link holds for its peer before it is sent, and the count of what was sent and not acknowledged.
/// Bounded by bytes: what does not fit empties it, and the task resets the link.
pub(super) struct Queue {
    batch_bytes_max: usize,
    buffer_bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: Vec<u8>,
    full: VecDeque<Messages>,
    full_bytes: usize,
    /// Bytes taken out and not yet acknowledged.
    under_way: usize,
    cut: Option<Cut>,
    /// The task has been told and has not looked yet.
    told: bool,
    /// Has had traffic since the peer was last forgotten.
    listed: bool,
    traffic: Traffic,
}

/// What the status page shows besides the bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Traffic {
    pub(super) resent: u64,
    pub(super) resets: u64,
    pub(super) heard_at: Option<Instant>,
}

/// Why a queue was emptied; the task ends the generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    Overflow,
    Forgotten,
}

/// How urgently a queue wants to be taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backlog {
    Empty,
    /// Less than a batch: may gather.
    Gathering,
    /// A full batch.
    Full,
}

impl Queue {
    pub(super) fn new(batch_bytes_max: usize, buffer_bytes_max: usize) -> Queue {
        Queue { batch_bytes_max, buffer_bytes_max, state: Mutex::default() }
    }

    /// Puts a message in and says whether the task must be told.
    pub(super) fn put(&self, payload: &[u8]) -> bool {
        let mut state = self.state();
        state.listed = true;
        let size = message_bytes(payload);
        let news = if state.held() + size > self.buffer_bytes_max {
            state.empty();
            state.cut = Some(Cut::Overflow);
            true
        } else {
            let was_empty = state.open.is_empty() && state.full.is_empty();
            let seals = !state.open.is_empty() && state.open.len() + size > self.batch_bytes_max;
            if seals {
                state.seal();
            }
            put_message(&mut state.open, payload);
            was_empty || seals
        };
        news && !std::mem::replace(&mut state.told, true)
    }

    /// Empties the queue for good and says whether the task must be told.
    pub(super) fn forget(&self) -> bool {
        let mut state = self.state();
        state.empty();
        state.listed = false;
        // An overflow that the task has not seen yet is still reported.
        state.cut.get_or_insert(Cut::Forgotten);
        !std::mem::replace(&mut state.told, true)
    }

    /// The task looks: from now on news are told again.
    pub(super) fn look(&self) {
        self.state().told = false;
    }

    /// Takes the reason why the queue was emptied, if it was.
    pub(super) fn take_cut(&self) -> Option<Cut> {
        self.state().cut.take()
    }

    pub(super) fn backlog(&self) -> Backlog {
        let state = self.state();
        match (state.full.is_empty(), state.open.is_empty()) {
            (false, _) => Backlog::Full,
            (true, false) => Backlog::Gathering,
            (true, true) => Backlog::Empty,
        }
    }

    /// Takes the next batch's messages; they count as held until they are acknowledged. `None` also while a cut
    /// has not been taken, so that nothing behind it goes out in the old generation.
    pub(super) fn take(&self) -> Option<Messages> {
        let mut state = self.state();
        if state.cut.is_some() {
            return None;
        }
        if state.full.is_empty() {
            state.seal();
        }
        let messages = state.full.pop_front()?;
        state.full_bytes -= messages.len();
        state.under_way += messages.len();
        Some(messages)
    }

    /// Counts out what the peer has acknowledged.
    pub(super) fn acknowledged(&self, bytes: usize) {
        let mut state = self.state();
        state.under_way = state.under_way.saturating_sub(bytes);
    }

    /// Empties the queue because the link was reset.
    pub(super) fn reset(&self) {
        let mut state = self.state();
        state.empty();
        state.traffic.resets += 1;
    }

    pub(super) fn heard(&self, now: Instant) {
        let mut state = self.state();
        state.listed = true;
        state.traffic.heard_at = Some(now);
    }

    pub(super) fn resent(&self) {
        self.state().traffic.resent += 1;
    }

    pub(super) fn traffic(&self) -> Traffic {
        self.state().traffic
    }

    /// Bytes held and the traffic, unless the peer is forgotten.
    pub(super) fn listing(&self) -> Option<(usize, Traffic)> {
        let state = self.state();
        state.listed.then(|| (state.held(), state.traffic))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn held(&self) -> usize {
        self.open.len() + self.full_bytes + self.under_way
    }

    fn seal(&mut self) {
        if !self.open.is_empty() {
            let messages = Messages::written(Bytes::from(std::mem::take(&mut self.open)));
            self.full_bytes += messages.len();
            self.full.push_back(messages);
        }
    }

    fn empty(&mut self) {
        self.open.clear();
        self.full.clear();
        self.full_bytes = 0;
        self.under_way = 0;
    }
}
