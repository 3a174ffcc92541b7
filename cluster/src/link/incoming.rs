//! The receiving half of a link: puts batches in order, remembers what is missing and what must be acknowledged.
//! Pure: time is passed in.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use super::LinkConfig;
use super::batch::{Acknowledged, Data, MISSING_MAX, Messages};

/// Batches after which an acknowledgement does not wait.
const ACKNOWLEDGE_BATCHES: usize = 32;

pub(super) struct Incoming {
    pub(super) generation: u64,
    adoption: u64,
    /// The number that comes next in order.
    next: u64,
    /// The highest number that the peer has published, as far as is known.
    top: u64,
    /// Batches ahead of a gap: at most a window of them, and at most as many bytes as a link may hold.
    ahead: BTreeMap<u64, Messages>,
    ahead_bytes: usize,
    pub(super) acknowledge_at: Option<Instant>,
    unacknowledged_batches: usize,
    unacknowledged_bytes: usize,
    /// When the missing numbers are asked for next; set while there are any.
    pub(super) ask_at: Option<Instant>,
    ask_pause: Duration,
    asked_at: Option<Instant>,
}

impl Incoming {
    /// Takes up a generation from its first batch on.
    pub(super) fn adopt(generation: u64, adoption: u64, config: &LinkConfig) -> Incoming {
        Incoming {
            generation,
            adoption,
            next: 1,
            top: 0,
            ahead: BTreeMap::new(),
            ahead_bytes: 0,
            acknowledge_at: None,
            unacknowledged_batches: 0,
            unacknowledged_bytes: 0,
            ask_at: None,
            ask_pause: config.ask_again,
            asked_at: None,
        }
    }

    /// Notes how far the peer has published, and asks for what is missing.
    pub(super) fn published(&mut self, top: u64, now: Instant, config: &LinkConfig) {
        self.top = self.top.max(top);
        if self.top < self.next {
            self.ask_at = None;
            self.ask_pause = config.ask_again;
            self.asked_at = None;
        } else if self.ask_at.is_none() {
            self.ask_at = Some(self.asked_at.map_or(now, |asked| now.max(asked + config.ask_again)));
        }
    }

    /// Takes a batch in and hands over what is now in order. Says whether the batch was new.
    pub(super) fn receive(
        &mut self,
        data: Data,
        now: Instant,
        config: &LinkConfig,
        mut deliver: impl FnMut(Messages),
    ) -> bool {
        let is_new = data.number >= self.next && !self.ahead.contains_key(&data.number);
        if data.number == self.next {
            self.advance(data.messages, now, config, &mut deliver);
            while let Some(messages) = self.ahead.remove(&self.next) {
                self.ahead_bytes -= messages.len();
                self.advance(messages, now, config, &mut deliver);
            }
        } else if is_new && self.has_room_for(&data, config) {
            self.ahead_bytes += data.messages.len();
            self.ahead.insert(data.number, data.messages);
        } else {
            // The peer repeats what has arrived, so our acknowledgement was lost.
            self.acknowledge_at.get_or_insert(now + config.acknowledge);
        }
        is_new
    }

    fn advance(
        &mut self,
        messages: Messages,
        now: Instant,
        config: &LinkConfig,
        deliver: &mut impl FnMut(Messages),
    ) {
        self.next += 1;
        self.ask_pause = config.ask_again;
        self.ask_at = None;
        self.unacknowledged_batches += 1;
        self.unacknowledged_bytes += messages.len();
        let urgent = self.unacknowledged_batches >= ACKNOWLEDGE_BATCHES
            || self.unacknowledged_bytes >= config.buffer_bytes_max / 16;
        if urgent {
            self.acknowledge_at = Some(now);
        } else {
            self.acknowledge_at.get_or_insert(now + config.acknowledge);
        }
        deliver(messages);
    }

    fn has_room_for(&self, data: &Data, config: &LinkConfig) -> bool {
        data.number - self.next <= config.window_batches_max as u64
            && self.ahead_bytes + data.messages.len() <= config.buffer_bytes_max
    }

    /// What to acknowledge; it has then been done.
    pub(super) fn acknowledge(&mut self) -> Acknowledged {
        self.acknowledge_at = None;
        self.unacknowledged_batches = 0;
        self.unacknowledged_bytes = 0;
        Acknowledged { generation: self.generation, adoption: self.adoption, number: self.next - 1 }
    }

    /// What to ask for; it has then been done.
    pub(super) fn ask(&mut self, now: Instant, config: &LinkConfig) -> Vec<Range<u64>> {
        self.asked_at = Some(now);
        self.ask_at = Some(now + self.ask_pause);
        self.ask_pause = (self.ask_pause * 2).min(config.heartbeat);
        let end = self.top.min(self.next + config.window_batches_max as u64) + 1;
        let mut missing = Vec::new();
        let mut start = self.next;
        for &arrived in self.ahead.keys().chain([&end]) {
            if start < arrived && missing.len() < MISSING_MAX {
                missing.push(start..arrived);
            }
            start = arrived + 1;
        }
        missing
    }

    /// Gives up on what is missing until the peer shows itself again.
    pub(super) fn forget_missing(&mut self) {
        self.top = self.next - 1;
        self.ahead.clear();
        self.ahead_bytes = 0;
        self.ask_at = None;
    }
}
