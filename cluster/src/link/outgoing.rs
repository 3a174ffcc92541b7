//! The sending half of a link: numbered batches, kept until the peer has acknowledged them. Pure: time is passed
//! in, and what to publish next is asked for.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use super::LinkConfig;
use super::batch::{Acknowledged, Data, Messages};

pub(super) struct Outgoing {
    /// 0: nothing was sent since the start or since the peer was forgotten.
    pub(super) generation: u64,
    /// Number of the front of `unacked`.
    first: u64,
    unacked: VecDeque<Messages>,
    /// Next number to be published for the first time, or again because its publish failed.
    cursor: u64,
    /// Numbers below the cursor that the peer misses.
    again: BTreeSet<u64>,
    /// The peer's count of taking this generation up; 0 before it says one.
    adoption: u64,
    /// When the peer is asked for a sign next; set while there is a generation.
    pub(super) ask_at: Option<Instant>,
    ask_pause: Duration,
    /// When a new batch was last taken.
    used_at: Option<Instant>,
}

/// What an acknowledgement says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Bytes that need not be kept any longer.
    Acknowledged { bytes: usize },
    /// Out of date, or nonsense.
    Nothing,
    /// The peer has lost what it knew of this generation.
    Lost,
}

impl Outgoing {
    pub(super) fn idle() -> Outgoing {
        Outgoing {
            generation: 0,
            first: 1,
            unacked: VecDeque::new(),
            cursor: 1,
            again: BTreeSet::new(),
            adoption: 0,
            ask_at: None,
            ask_pause: Duration::ZERO,
            used_at: None,
        }
    }

    /// Begins a generation; the peer is asked for a sign at `ask_at`.
    pub(super) fn begin(generation: u64, ask_at: Instant, config: &LinkConfig) -> Outgoing {
        Outgoing { generation, ask_at: Some(ask_at), ask_pause: config.probe, ..Outgoing::idle() }
    }

    /// The highest number published.
    pub(super) fn top(&self) -> u64 {
        self.cursor - 1
    }

    pub(super) fn waits(&self) -> bool {
        !self.unacked.is_empty()
    }

    /// Whether something taken earlier is to be published.
    pub(super) fn must_repeat(&self) -> bool {
        !self.again.is_empty() || self.cursor < self.next_number()
    }

    pub(super) fn has_room(&self, config: &LinkConfig) -> bool {
        self.unacked.len() < config.window_batches_max
    }

    /// From when on a batch that is not full may leave.
    pub(super) fn gathered_at(&self, now: Instant, config: &LinkConfig) -> Instant {
        self.used_at.map_or(now, |used| used + config.gather)
    }

    /// The next batch to publish of those already taken, and whether it was published before.
    pub(super) fn repeat(&mut self) -> Option<(Data, bool)> {
        let (number, repeated) = match self.again.pop_first() {
            Some(number) => (number, true),
            None if self.cursor < self.next_number() => {
                self.cursor += 1;
                (self.cursor - 1, false)
            }
            None => return None,
        };
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let messages = self.unacked.get(index)?.clone();
        Some((Data { number, messages }, repeated))
    }

    /// Gives new messages their number and publishes them.
    pub(super) fn publish(&mut self, messages: Messages, now: Instant, config: &LinkConfig) -> Data {
        if self.unacked.is_empty() {
            self.ask_soon(now, config);
        }
        let number = self.next_number();
        self.unacked.push_back(messages.clone());
        self.cursor = number + 1;
        self.used_at = Some(now);
        Data { number, messages }
    }

    /// A publish failed or reached nobody: everything from there on goes out again.
    pub(super) fn failed(&mut self, generation: u64, number: u64) {
        if generation == self.generation {
            self.cursor = self.cursor.min(number.max(self.first));
            self.again.split_off(&self.cursor);
        }
    }

    pub(super) fn acknowledge(
        &mut self,
        acknowledged: Acknowledged,
        now: Instant,
        config: &LinkConfig,
    ) -> Progress {
        if acknowledged.generation != self.generation || acknowledged.adoption < self.adoption {
            return Progress::Nothing;
        }
        if acknowledged.adoption > self.adoption && (self.adoption != 0 || self.first > 1) {
            return Progress::Lost;
        }
        self.adoption = acknowledged.adoption;
        if acknowledged.number < self.first || acknowledged.number >= self.next_number() {
            return Progress::Nothing;
        }
        let mut bytes = 0;
        while self.first <= acknowledged.number {
            bytes += self.unacked.pop_front().map_or(0, |messages| messages.len());
            self.first += 1;
        }
        self.cursor = self.cursor.max(self.first);
        self.again = self.again.split_off(&self.first);
        self.ask_soon(now, config);
        Progress::Acknowledged { bytes }
    }

    /// Notes numbers that the peer misses.
    pub(super) fn miss(&mut self, missing: &[Range<u64>]) {
        for range in missing {
            self.again.extend(range.start.max(self.first)..range.end.min(self.cursor));
        }
    }

    /// The peer has just been asked; says when the next time is.
    pub(super) fn asked(&mut self, peer_known: bool, now: Instant, config: &LinkConfig) {
        let pause = if self.waits() || !peer_known {
            let pause = self.ask_pause;
            self.ask_pause = (pause * 2).min(config.heartbeat);
            pause
        } else if self.used_at.is_some_and(|used| now < used + 10 * config.heartbeat) {
            config.heartbeat
        } else {
            config.heartbeat_idle
        };
        self.ask_at = Some(now + pause);
    }

    fn ask_soon(&mut self, now: Instant, config: &LinkConfig) {
        self.ask_pause = config.probe;
        let pause = if self.waits() { config.probe } else { config.heartbeat };
        self.ask_at = Some(now + pause);
    }

    fn next_number(&self) -> u64 {
        self.first + self.unacked.len() as u64
    }
}
