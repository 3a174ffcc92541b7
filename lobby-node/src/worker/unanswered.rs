//! The commands of one lobby that this node's sessions and callers have given and that have no answer yet, in their
//! order: which may go to the present owner, which wait for a former one's word, and which an answer speaks of. Kept by
//! the lobby's attachment; it sends nothing itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mlms_protocol::{Class, LobbyCommand, SessionId};
use tokio::time::Instant;

use super::{Envelope, Origin};

/// How long a former owner's word about the commands that it was sent is awaited.
const WORD_TIME: Duration = Duration::from_millis(500);

/// Numbers that one command may be sent under: its token, and how often it was sent.
pub(super) const NUMBERS: u64 = 64;

/// The commands of one lobby without an answer.
#[derive(Default)]
pub(super) struct Unanswered {
    by_token: BTreeMap<u64, Waiting>,
    /// Each session's tokens.
    by_session: BTreeSet<(u64, u64)>,
}

/// A command that waits for an owner's answer.
pub(super) struct Waiting {
    pub(super) envelope: Envelope,
    pub(super) sent: Sent,
}

/// Where a command without an answer stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    No,
    /// To the present owner.
    Present,
    /// To one before; until then its word is awaited.
    Former {
        until: Instant,
    },
    /// To one before, and what its sender sent later has gone to the present one: it cannot be sent again in its order.
    Overtaken,
}

/// What is to be expected of an owner that is one no more.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Former {
    /// It answers or refuses what it was sent.
    Lives,
    Gone,
}

/// An answer that is nobody's.
pub(super) enum Stray {
    /// Of an earlier sending of a command that waits for another answer.
    SentAgain,
    /// Of a command that was given up.
    Unknown,
}

impl Waiting {
    fn session(&self) -> Option<u64> {
        match &self.envelope.origin {
            Origin::Session(session, _) => Some(session.number),
            _ => None,
        }
    }
}

impl Unanswered {
    pub(super) fn is_empty(&self) -> bool {
        self.by_token.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.by_token.len()
    }

    /// A command waits here in its turn, until it is answered.
    pub(super) fn insert(&mut self, envelope: Envelope) {
        let (token, waiting) = (envelope.turn.token, Waiting { envelope, sent: Sent::No });
        self.by_session.extend(waiting.session().map(|session| (session, token)));
        self.by_token.insert(token, waiting);
    }

    pub(super) fn remove(&mut self, token: u64) -> Option<Waiting> {
        let waiting = self.by_token.remove(&token)?;
        if let Some(session) = waiting.session() {
            self.by_session.remove(&(session, token));
        }
        if self.by_token.is_empty() {
            // An emptied map keeps a node, with room for eleven commands, and most lobbies are idle.
            *self = Unanswered::default();
        }
        Some(waiting)
    }

    /// Takes out the first one if its time is over. They are in the order of their deadlines.
    pub(super) fn pop_late(&mut self, now: Instant) -> Option<Waiting> {
        let (token, first) = self.by_token.first_key_value()?;
        if first.envelope.deadline > now {
            return None;
        }
        self.remove(*token)
    }

    /// The command of the same session before this one that may still be carried out.
    fn before(&self, token: u64) -> Option<u64> {
        let session = self.by_token.get(&token)?.session()?;
        let mut before = self.by_session.range((session, 0)..(session, token)).rev().map(|(_, token)| *token);
        before.find(|token| self.by_token.get(token).is_some_and(|one| one.sent != Sent::Overtaken))
    }

    /// The owner is gone, or is another one now.
    pub(super) fn lose_owner(&mut self, former: Former) {
        let now = Instant::now();
        for Waiting { sent, .. } in self.by_token.values_mut() {
            if *sent == Sent::Present {
                let until = if former == Former::Lives { now + WORD_TIME } else { now };
                *sent = Sent::Former { until };
            }
        }
    }

    /// Sessions that are not here yet, and whose joins are on their way to the owner or back.
    pub(super) fn joining(&self) -> Vec<SessionId> {
        let joins = self.by_token.values().filter_map(|Waiting { envelope, .. }| match &envelope.origin {
            Origin::Session(session, _) if matches!(envelope.command, LobbyCommand::Join(_)) => Some(session),
            _ => None,
        });
        joins.map(|session| session.caller.session.clone()).collect()
    }

    /// Whether the session has sent a `leave` after this command.
    pub(super) fn leaves_after(&self, token: u64, session: u64) -> bool {
        self.by_token.range(token + 1..).any(|(_, waiting)| {
            matches!(waiting.envelope.command, LobbyCommand::Leave) && waiting.session() == Some(session)
        })
    }

    /// The next command that may go to the present owner. Nothing overtakes what a former owner may still have
    /// carried out, or will refuse: `Err` until that is known, or its time is over.
    pub(super) fn next_unsent(&mut self, now: Instant) -> Result<Option<u64>, ()> {
        let mut next = None;
        for (token, Waiting { envelope, sent }) in &mut self.by_token {
            match *sent {
                Sent::No => next = Some(*token),
                Sent::Former { until } if until > now => return Err(()),
                // What has no seq may have been delivered: it is sent again only when it was refused.
                Sent::Former { .. } if !passes(envelope) => {
                    *sent = Sent::No;
                    next = Some(*token);
                }
                Sent::Former { .. } | Sent::Overtaken | Sent::Present => {}
            }
            if next.is_some() {
                break;
            }
        }
        let Some(next) = next else { return Ok(None) };
        let sender = self.by_token[&next].envelope.caller.user.clone();
        for Waiting { envelope, sent } in self.by_token.range_mut(..next).map(|(_, waiting)| waiting) {
            if matches!(sent, Sent::Former { .. }) && envelope.caller.user == sender {
                *sent = Sent::Overtaken;
            }
        }
        Ok(Some(next))
    }

    /// A command goes to the present owner, under a number that tells this sending from those before. With the command
    /// before it that is not answered either.
    pub(super) fn send(&mut self, token: u64) -> Option<(u64, Option<u64>, &Envelope)> {
        let before = self.before(token);
        let Waiting { envelope, sent } = self.by_token.get_mut(&token)?;
        *sent = Sent::Present;
        envelope.turn.sendings = envelope.turn.sendings % (NUMBERS - 1) + 1;
        Some((token + envelope.turn.sendings, before, envelope))
    }

    /// The command that an owner speaks of. Not where it was sent once more meanwhile.
    pub(super) fn last_sent(&mut self, number: u64) -> Option<&mut Waiting> {
        let (sending, token) = (number % NUMBERS, number - number % NUMBERS);
        self.by_token.get_mut(&token).filter(|waiting| waiting.envelope.turn.sendings == sending)
    }

    /// The command that has been carried out or refused. The refusal of one that was sent once more means nothing: the
    /// other may be carried out, and its answer is to come.
    pub(super) fn take_answered(&mut self, number: u64, is_refused: bool) -> Result<Envelope, Stray> {
        let token = number - number % NUMBERS;
        if is_refused && self.by_token.contains_key(&token) && self.last_sent(number).is_none() {
            return Err(Stray::SentAgain);
        }
        self.remove(token).map(|waiting| waiting.envelope).ok_or(Stray::Unknown)
    }

    /// What may be sent to the present owner once more.
    pub(super) fn unsend(&mut self) {
        for Waiting { envelope, sent } in self.by_token.values_mut() {
            if *sent == Sent::Present && !passes(envelope) {
                *sent = Sent::No;
            }
        }
    }
}

/// Whether a command passes through the lobby without being journaled.
pub(super) fn passes(envelope: &Envelope) -> bool {
    match &envelope.command {
        LobbyCommand::Send(send) => send.class != Class::Durable,
        command => matches!(command, LobbyCommand::Typing),
    }
}

#[cfg(test)]
mod tests;
