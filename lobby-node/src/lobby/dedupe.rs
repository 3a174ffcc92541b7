//! The memory of commands that were carried out, so that a repeat gets the first answer and changes nothing.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use mlms_protocol::{Epoch, LobbyCommand, Millis, Nonce, Seq, SessionId, UserId};
use serde::{Deserialize, Serialize};

/// How long a repeat is recognised (protocol: 5 minutes).
pub(crate) const WINDOW: Duration = Duration::from_secs(300);

/// What makes two commands of a user the same: the client's nonce, else the session's own count.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum CommandKey {
    Nonce(Nonce),
    Counted(SessionId, u64),
}

/// Length of what a nonce made from an `Idempotency-Key` begins with, and of the print of the request's body behind a dot.
const STEM: usize = 20;
const PRINT: usize = 15;

impl CommandKey {
    /// What is the same in all commands with one `Idempotency-Key`, whatever their bodies.
    fn stem(&self) -> Option<&str> {
        let CommandKey::Nonce(nonce) = self else { return None };
        let (stem, print) = nonce.as_str().split_once('.')?;
        let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_one = stem.len() == STEM && print.len() == PRINT && is_hex(stem) && is_hex(print);
        is_one.then_some(stem)
    }
}

/// What kind of answer a command got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Recorded {
    Sent,
    Changed,
    /// A change of the game of this number.
    Game(u64),
    Done,
}

impl Recorded {
    /// Whether a command like this one can have left this record. Another one with the same nonce is no repeat.
    pub(crate) fn answers(self, command: &LobbyCommand) -> bool {
        let is_game = matches!(
            command,
            LobbyCommand::Start | LobbyCommand::Report { .. } | LobbyCommand::Finish { .. }
        );
        match (self, command) {
            (Recorded::Sent, LobbyCommand::Send(_)) => true,
            (Recorded::Done, LobbyCommand::Leave) => true,
            (Recorded::Game(_), _) => is_game,
            (Recorded::Changed, LobbyCommand::Send(_) | LobbyCommand::Leave) => false,
            (Recorded::Changed, _) => !is_game,
            (Recorded::Sent | Recorded::Done, _) => false,
        }
    }
}

/// The answer that a repeat gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub recorded: Recorded,
    pub epoch: Epoch,
    pub seq: Seq,
    pub at: Millis,
}

/// A command that was carried out. Each member's join is one: it is kept once, and known to the index and to the queue.
#[derive(Debug)]
struct Record {
    by: (UserId, CommandKey),
    outcome: Outcome,
}

/// A record as the index finds it: by its user and key.
#[derive(Debug, Clone)]
struct Indexed(Arc<Record>);

impl Borrow<(UserId, CommandKey)> for Indexed {
    fn borrow(&self) -> &(UserId, CommandKey) {
        &self.0.by
    }
}

impl Hash for Indexed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.by.hash(state);
    }
}

impl PartialEq for Indexed {
    fn eq(&self, other: &Self) -> bool {
        self.0.by == other.0.by
    }
}

impl Eq for Indexed {}

/// The outcomes of the last five minutes. Its size is bounded by what the rate limits let through.
#[derive(Debug, Clone, Default)]
pub(super) struct Dedupe {
    outcomes: HashSet<Indexed>,
    by_age: VecDeque<Arc<Record>>,
    /// Commands with an `Idempotency-Key`, by its stem; each is one of `outcomes`.
    stems: HashMap<(UserId, String), CommandKey>,
}

impl Dedupe {
    pub(super) fn get(&self, user: &UserId, key: &CommandKey, now: Millis) -> Option<Outcome> {
        let Indexed(record) = self.outcomes.get(&(user.clone(), key.clone()))?;
        (record.outcome.at.after(WINDOW) > now).then_some(record.outcome)
    }

    /// Whether the same `Idempotency-Key` came with another body.
    pub(super) fn is_reused(&self, user: &UserId, key: &CommandKey, now: Millis) -> bool {
        let before = key.stem().and_then(|stem| self.stems.get(&(user.clone(), stem.to_owned())));
        before.is_some_and(|before| before != key && self.get(user, before, now).is_some())
    }

    pub(super) fn insert(&mut self, user: UserId, key: CommandKey, outcome: Outcome) {
        while self.by_age.front().is_some_and(|oldest| oldest.outcome.at.after(WINDOW) <= outcome.at) {
            let oldest = self.by_age.pop_front().expect("it was just looked at");
            // A key used again after the window has a younger outcome, which stays.
            if self.outcomes.get(&oldest.by).is_some_and(|Indexed(known)| Arc::ptr_eq(known, &oldest)) {
                self.outcomes.remove(&oldest.by);
                self.forget_stem(&oldest.by);
            }
        }
        if let Some(stem) = key.stem() {
            self.stems.insert((user.clone(), stem.to_owned()), key.clone());
        }
        let record = Arc::new(Record { by: (user, key), outcome });
        self.by_age.push_back(Arc::clone(&record));
        self.outcomes.replace(Indexed(record));
    }

    fn forget_stem(&mut self, (user, key): &(UserId, CommandKey)) {
        let Some(stem) = key.stem() else { return };
        let place = (user.clone(), stem.to_owned());
        // A younger command may have taken it.
        if self.stems.get(&place) == Some(key) {
            self.stems.remove(&place);
        }
    }

    /// Forgets what a user has done: a repeat is a command like another.
    pub(super) fn forget(&mut self, user: &UserId) {
        self.outcomes.retain(|Indexed(record)| record.by.0 != *user);
        self.by_age.retain(|record| record.by.0 != *user);
        self.stems.retain(|(of, _), _| of != user);
    }

    /// Oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&UserId, &CommandKey, &Outcome)> {
        let known = |record: &&Arc<Record>| {
            self.outcomes.get(&record.by).is_some_and(|Indexed(known)| Arc::ptr_eq(known, record))
        };
        self.by_age.iter().filter(known).map(|record| (&record.by.0, &record.by.1, &record.outcome))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_comes_again_with_another_body_is_no_repeat_until_the_window_ends() {
        let (ann, bob) = (UserId::new("ann").unwrap(), UserId::new("bob").unwrap());
        let key = |text: &str| CommandKey::Nonce(Nonce::new(text).unwrap());
        let first = key("0123456789abcdef0123.0123456789abcde");
        let other = key("0123456789abcdef0123.fffffffffffffff");
        let outcome =
            |at: u64| Outcome { recorded: Recorded::Sent, epoch: Epoch(1), seq: Seq(1), at: Millis(at) };
        let mut dedupe = Dedupe::default();
        dedupe.insert(ann.clone(), first.clone(), outcome(0));
        let later = Millis(0).after(WINDOW);
        assert!(!dedupe.is_reused(&ann, &first, Millis(1)), "a repeat");
        assert!(dedupe.is_reused(&ann, &other, Millis(1)));
        assert!(!dedupe.is_reused(&bob, &other, Millis(1)) && !dedupe.is_reused(&ann, &other, later));
        for plain in ["0123456789abcdef0123", "0123456789abcdef0123.x", "order-66.7"] {
            dedupe.insert(ann.clone(), key(plain), outcome(1));
        }
        assert_eq!(dedupe.stems.len(), 1, "a socket's nonces have none");
        dedupe.insert(ann.clone(), key("plain"), outcome(later.0 + 2));
        assert!(dedupe.stems.is_empty(), "it goes with its command");
    }
}
