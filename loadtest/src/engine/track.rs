//! The ordered messages of one sender's stream: when they were sent, and which of them are owed. A lobby keeps one for each.

use std::collections::{BTreeSet, VecDeque};

use crate::plan::Micros;

/// Sends of a stream whose time and order among the lobby's others are remembered.
const ORDINALS_MAX: usize = 1_024;

#[derive(Default)]
pub(super) struct Track {
    next: u64,
    /// The lobby's count and the time at each of the last sends.
    ordinals: VecDeque<(u64, Micros)>,
    pub(super) last_ok: Option<u64>,
    /// Refused, or without an answer: nobody is owed them.
    pub(super) not_ok: BTreeSet<u64>,
    /// The client who sends; it may owe itself nothing.
    pub(super) sender: u32,
    pub(super) to_others: bool,
}

/// Messages of a stream that were sent at one time, or at times that are not remembered.
pub(super) struct Piece {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) sent_at: Option<Micros>,
}

impl Track {
    /// Before a message leaves; `ordinal` is the lobby's count.
    pub(super) fn sent(&mut self, index: u64, ordinal: u64, now: Micros) {
        self.next = index + 1;
        self.ordinals.push_back((ordinal, now));
        if self.ordinals.len() > ORDINALS_MAX {
            self.ordinals.pop_front();
        }
    }

    pub(super) fn sent_at(&self, index: u64) -> Option<Micros> {
        Some(self.last(index)?.1)
    }

    /// All messages of a range, each that is remembered by itself.
    pub(super) fn pieces(&self, from: u64, to: u64) -> impl Iterator<Item = Piece> {
        let known = self.first_known().clamp(from.min(to), to);
        let forgotten = (from < known).then_some(Piece { from, to: known, sent_at: None });
        let each =
            (known..to).map(|index| Piece { from: index, to: index + 1, sent_at: self.sent_at(index) });
        forgotten.into_iter().chain(each)
    }

    pub(super) fn owed(&self, from: u64, to: u64) -> u64 {
        (to - from) - self.not_ok.range(from..to).count() as u64
    }

    /// The first message that was sent after a member had come in, at that count of the lobby's.
    pub(super) fn first_owed(&self, entered_at: u64, before: u64) -> u64 {
        let mut first = before;
        while first > 0 && self.last(first - 1).is_some_and(|(ordinal, _)| ordinal > entered_at) {
            first -= 1;
        }
        first
    }

    fn first_known(&self) -> u64 {
        self.next - self.ordinals.len() as u64
    }

    fn last(&self, index: u64) -> Option<(u64, Micros)> {
        self.ordinals.get(usize::try_from(index.checked_sub(self.first_known())?).ok()?).copied()
    }
}
