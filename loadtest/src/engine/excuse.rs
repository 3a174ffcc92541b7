//! What excuses the loss of an ordered message: an owner that died, or a node that said it was cut off. A loss is excused
//! when one of them falls between the sending of the message and the moment at which a later one, or the end, shows that
//! it is lost; the checker excuses recorded faults by the same measure. The lobby and the engine tell what is seen.

use crate::plan::Micros;

/// Changes of a lobby's owner that are remembered, the first ones.
const CHANGES_MAX: usize = 10_000;

/// Spans in which nodes were degraded, the first ones; the last of them takes what comes after it.
const SPANS_MAX: usize = 1_000;

/// An owner may have changed so long before anything carries its epoch: ordered messages carry none. A new owner gives
/// lost members 60 s, and then says that they left.
const UNSEEN_MAX: Micros = 65_000_000;

/// Members of other nodes hear an owner so long after it serves, or has recovered, at the latest: nodes look who owns what
/// every 2 s, and a slow machine takes as long again.
const ATTACHES: Micros = 5_000_000;

/// A change of owner happened somewhere in here.
struct Change {
    /// The epoch that ended.
    of: u64,
    from: Micros,
    to: Micros,
}

/// The owners of one lobby, as their epochs tell of them.
#[derive(Default)]
pub(super) struct Owners {
    epoch: u64,
    /// The last time at which the owner is known to have been one.
    owned_at: Micros,
    changes: Vec<Change>,
}

impl Owners {
    /// An epoch was read anywhere. True: it is that of another owner.
    pub(super) fn saw(&mut self, epoch: u64, now: Micros) -> bool {
        if epoch <= self.epoch {
            return false;
        }
        let of = std::mem::replace(&mut self.epoch, epoch);
        if of != 0 && self.changes.len() < CHANGES_MAX {
            let from = self.owned_at.max(now.saturating_sub(UNSEEN_MAX));
            self.changes.push(Change { of, from, to: now });
        }
        of != 0
    }

    /// A durable message that was sent at a time got this epoch: its owner was one at that time still, whenever it arrives.
    pub(super) fn owned(&mut self, epoch: u64, sent_at: Micros) {
        if epoch == self.epoch {
            self.owned_at = self.owned_at.max(sent_at);
        } else if let Some(change) = self.changes.iter_mut().rev().find(|change| change.of == epoch) {
            change.from = change.from.max(sent_at).min(change.to);
        }
    }

    /// Whether another owner explains that a message was lost that was sent at a time, and known to be lost at a later one.
    /// `None`: it is not remembered when it was sent.
    pub(super) fn explains(&self, sent_at: Option<Micros>, seen_at: Micros) -> bool {
        let touches = |change: &Change| {
            change.from <= seen_at && sent_at.is_none_or(|sent_at| sent_at <= change.to + ATTACHES)
        };
        self.changes.iter().any(touches)
    }
}

/// The times in which a client had been told `degraded`, and not yet `recovered`.
#[derive(Default)]
pub(super) struct Degraded {
    clients: u64,
    spans: Vec<(Micros, Micros)>,
}

impl Degraded {
    pub(super) fn begin(&mut self, now: Micros) {
        self.clients += 1;
        if self.clients > 1 {
            return;
        }
        let is_full = self.spans.len() >= SPANS_MAX;
        match self.spans.last_mut() {
            Some((_, to)) if is_full => *to = Micros::MAX,
            _ => self.spans.push((now, Micros::MAX)),
        }
    }

    /// A client's node has recovered, or its connection is lost.
    pub(super) fn end(&mut self, now: Micros) {
        self.clients -= 1;
        if self.clients == 0
            && let Some((_, to)) = self.spans.last_mut()
        {
            *to = now;
        }
    }

    /// As [`Owners::explains`].
    pub(super) fn explains(&self, sent_at: Option<Micros>, seen_at: Micros) -> bool {
        let touches = |(from, to): &(Micros, Micros)| {
            *from <= seen_at && sent_at.is_none_or(|sent_at| sent_at <= to.saturating_add(ATTACHES))
        };
        self.spans.iter().any(touches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Micros = 1_000_000;

    #[test]
    fn a_change_lies_between_the_last_message_of_one_owner_and_the_first_sign_of_the_next() {
        let mut owners = Owners::default();
        assert!(!owners.saw(3, S));
        owners.owned(3, 100 * S);
        owners.owned(3, 99 * S);
        assert!(owners.saw(4, 108 * S));
        assert!(!owners.explains(Some(90 * S), 99 * S), "the old owner lived on");
        assert!(owners.explains(Some(90 * S), 100 * S), "it may have died on the way");
        assert!(owners.explains(Some(108 * S), 109 * S));
        assert!(owners.explains(Some(108 * S + ATTACHES), 200 * S));
        assert!(!owners.explains(Some(108 * S + ATTACHES + 1), 200 * S), "the new owner served");
        assert!(owners.explains(None, 100 * S) && !owners.explains(None, 99 * S));
    }

    #[test]
    fn what_arrives_late_still_tells_who_owned_when() {
        let mut owners = Owners::default();
        owners.saw(3, S);
        owners.saw(4, 50 * S);
        assert!(owners.explains(Some(2 * S), 3 * S), "nobody saw the old one after that");
        owners.owned(3, 45 * S);
        assert!(!owners.explains(Some(2 * S), 44 * S));
        assert!(owners.explains(Some(2 * S), 45 * S));
        assert!(!owners.saw(3, 60 * S), "a resume brings old events");
        assert!(!owners.explains(Some(56 * S), 70 * S));
    }

    #[test]
    fn a_change_that_is_seen_too_late_explains_nothing_of_before() {
        let mut owners = Owners::default();
        owners.saw(1, 0);
        owners.saw(2, UNSEEN_MAX + 20 * S);
        assert!(!owners.explains(Some(10 * S), 19 * S));
        assert!(owners.explains(Some(10 * S), 20 * S));
    }

    #[test]
    fn nodes_are_degraded_until_the_last_client_hears_otherwise() {
        let mut degraded = Degraded::default();
        degraded.begin(10 * S);
        degraded.begin(11 * S);
        degraded.end(12 * S);
        assert!(degraded.explains(Some(13 * S), 14 * S));
        degraded.end(20 * S);
        let last = 20 * S + ATTACHES;
        assert!(degraded.explains(Some(last), 26 * S) && !degraded.explains(Some(last + 1), 30 * S));
        assert!(degraded.explains(Some(S), 10 * S) && !degraded.explains(Some(S), 10 * S - 1));
        degraded.begin(40 * S);
        assert!(degraded.explains(Some(39 * S), 41 * S) && !degraded.explains(Some(last + 1), 39 * S));
    }
}
