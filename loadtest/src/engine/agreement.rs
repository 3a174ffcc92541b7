//! One order of a lobby's ordered messages for all its members, whoever sent them: each member's is held against that
//! of one of them. Bounded; what has left the windows is not compared.

use std::collections::{HashMap, VecDeque};

/// Messages whose place in the order is remembered.
const PLACES_MAX: usize = 4_096;

/// Messages of a member that the one whose order counts has not got yet.
const WAITING_MAX: usize = 256;

/// The order in which one member, the reader, got the messages.
#[derive(Debug, Default)]
pub(crate) struct Agreement {
    reader: Option<u32>,
    places: HashMap<u64, u64>,
    remembered: VecDeque<u64>,
    next: u64,
    /// Of the reader; what was heard before it is compared with nothing.
    round: u64,
}

/// What another member has got.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    round: u64,
    last: Option<u64>,
    waiting: VecDeque<u64>,
}

impl Agreement {
    /// Whose order counts.
    pub(crate) fn reader(&self) -> Option<u32> {
        self.reader
    }

    /// Takes a message that a member got; false: somebody got it in another order. `may_read`: its order may count.
    pub(crate) fn heard(&mut self, member: u32, heard: &mut Heard, message: u64, may_read: bool) -> bool {
        if may_read {
            self.reader.get_or_insert(member);
        }
        if self.reader == Some(member) {
            self.place(message);
            return true;
        }
        if heard.round != self.round {
            *heard = Heard { round: self.round, ..Heard::default() };
        }
        heard.waiting.push_back(message);
        if heard.waiting.len() > WAITING_MAX {
            heard.waiting.pop_front();
        }
        let mut is_same = true;
        while let Some(place) = heard.waiting.front().and_then(|message| self.places.get(message)).copied() {
            heard.waiting.pop_front();
            is_same &= heard.last.is_none_or(|last| last < place);
            heard.last = heard.last.max(Some(place));
        }
        is_same
    }

    fn place(&mut self, message: u64) {
        let place = self.next;
        if self.places.insert(message, place).is_none() {
            self.remembered.push_back(message);
        }
        self.next += 1;
        if self.remembered.len() > PLACES_MAX
            && let Some(oldest) = self.remembered.pop_front()
        {
            self.places.remove(&oldest);
        }
    }

    /// A member's connection is lost: another one reads from now on, if it was the reader.
    pub(crate) fn gone(&mut self, member: u32) {
        if self.reader == Some(member) {
            self.begin_anew();
        }
    }

    /// Another owner gives another order.
    pub(crate) fn begin_anew(&mut self) {
        *self = Agreement { round: self.round + 1, ..Agreement::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Members get messages in turn, `(member, message)`; gives who got something in another order.
    fn differing(got: &[(u32, u64)]) -> Vec<u32> {
        let (mut agreement, mut heard) = (Agreement::default(), HashMap::<u32, Heard>::new());
        let differs =
            |(member, message)| !agreement.heard(member, heard.entry(member).or_default(), message, true);
        let mut differs = differs;
        got.iter().filter(|it| differs(**it)).map(|(member, _)| *member).collect()
    }

    #[test]
    fn the_same_order_is_agreed_on_whoever_is_first() {
        assert!(
            differing(&[(1, 10), (2, 10), (2, 11), (2, 12), (1, 11), (1, 12), (2, 13), (1, 13)]).is_empty()
        );
        // The second one came later, and misses one.
        assert!(differing(&[(1, 10), (1, 11), (1, 12), (2, 11), (1, 13), (2, 13)]).is_empty());
    }

    #[test]
    fn another_order_is_found_before_and_behind_the_reader() {
        assert_eq!(differing(&[(1, 10), (1, 11), (2, 11), (2, 10)]), [2]);
        assert_eq!(differing(&[(1, 10), (2, 12), (2, 11), (1, 11), (1, 12), (2, 13), (1, 13), (2, 14)]), [2]);
    }

    #[test]
    fn what_a_new_reader_has_not_heard_is_compared_with_nothing() {
        let (mut agreement, mut second) = (Agreement::default(), Heard::default());
        assert!(
            agreement.heard(1, &mut Heard::default(), 10, true) && agreement.heard(2, &mut second, 11, true)
        );
        agreement.gone(2);
        agreement.gone(1);
        assert!(
            agreement.heard(3, &mut Heard::default(), 12, true) && agreement.heard(2, &mut second, 12, true)
        );
        assert!(
            agreement.heard(3, &mut Heard::default(), 13, true) && agreement.heard(2, &mut second, 13, true)
        );
        assert!(!agreement.heard(2, &mut second, 12, true));
    }

    #[test]
    fn memory_is_bounded() {
        let (mut agreement, mut other) = (Agreement::default(), Heard::default());
        agreement.heard(1, &mut Heard::default(), u64::MAX, true);
        for message in 0..10_000 {
            assert!(agreement.heard(2, &mut other, message, true));
        }
        assert_eq!(other.waiting.len(), WAITING_MAX);
        for message in 0..10_000 {
            agreement.heard(1, &mut Heard::default(), message, true);
        }
        assert_eq!((agreement.places.len(), agreement.remembered.len()), (PLACES_MAX, PLACES_MAX));
    }
}
