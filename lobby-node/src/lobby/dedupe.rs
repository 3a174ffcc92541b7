//! The memory of commands that were carried out, so that a repeat gets the first answer and changes nothing.

use std::collections::{HashMap, VecDeque};
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

/// The outcomes of the last five minutes. Its size is bounded by what the rate limits let through.
#[derive(Debug, Clone, Default)]
pub(super) struct Dedupe {
    outcomes: HashMap<(UserId, CommandKey), Outcome>,
    by_age: VecDeque<(UserId, CommandKey)>,
}

impl Dedupe {
    pub(super) fn get(&self, user: &UserId, key: &CommandKey, now: Millis) -> Option<Outcome> {
        let outcome = self.outcomes.get(&(user.clone(), key.clone()))?;
        (outcome.at.after(WINDOW) > now).then_some(*outcome)
    }

    pub(super) fn insert(&mut self, user: UserId, key: CommandKey, outcome: Outcome) {
        while let Some(oldest) = self.by_age.front() {
            match self.outcomes.get(oldest) {
                Some(known) if known.at.after(WINDOW) > outcome.at => break,
                _ => {
                    let oldest = self.by_age.pop_front().expect("it was just looked at");
                    // A key used again after the window has a younger outcome, which stays.
                    if self.outcomes.get(&oldest).is_some_and(|known| known.at.after(WINDOW) <= outcome.at) {
                        self.outcomes.remove(&oldest);
                    }
                }
            }
        }
        self.by_age.push_back((user.clone(), key.clone()));
        self.outcomes.insert((user, key), outcome);
    }

    /// Oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&UserId, &CommandKey, &Outcome)> {
        self.by_age
            .iter()
            .filter_map(|entry| self.outcomes.get(entry).map(|outcome| (&entry.0, &entry.1, outcome)))
    }
}
