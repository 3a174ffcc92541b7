//! What a lobby needs to know before it can decide, and what takes time to find out: whether a password opens the
//! lock, and what an old message is. The command waits outside the lobby and comes again with the answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mlms_protocol::placement::shard_of;
use mlms_protocol::{Answer, Body, ErrorCode, LobbyCommand, LobbyEvent, Millis, Refusal, Seq, UserId};
use mlms_store::{MessageReport, Range, StoreError};

use super::live::LobbySlot;
use super::shard::ShardSlot;
use super::{Done, Envelope, Worker};

/// Wrong passwords of one user, and of all, in a lobby and a minute.
const GUESSES_MAX: u32 = 5;
const GUESSES_OF_ALL_MAX: u32 = 60;
const GUESS_TIME: Duration = Duration::from_secs(60);

/// How a command's question came out.
pub(super) enum Examined {
    Password { lock: String, result: Result<bool, Refusal> },
    Message(Result<Option<Arc<LobbyEvent>>, StoreError>),
}

/// Wrong passwords of the last minute. Kept beside the lobby: another owner begins anew.
#[derive(Default)]
pub(super) struct Guesses {
    since: Millis,
    of_all: u32,
    of_user: HashMap<UserId, u32>,
}

impl Guesses {
    /// Counts a try in advance, so that many at once are not more than one after the other.
    pub(super) fn may_try(&mut self, user: &UserId, now: Millis) -> Result<(), Refusal> {
        if self.since.after(GUESS_TIME) <= now {
            *self = Guesses { since: now, ..Guesses::default() };
        }
        let own = self.of_user.get(user).copied().unwrap_or(0);
        if own >= GUESSES_MAX || self.of_all >= GUESSES_OF_ALL_MAX {
            let ms = self.since.after(GUESS_TIME).0.saturating_sub(now.0);
            let refusal = Refusal::new(ErrorCode::RateLimited, "too many wrong passwords");
            return Err(refusal.retry_after(ms.max(1)));
        }
        self.of_all += 1;
        self.of_user.insert(user.clone(), own + 1);
        Ok(())
    }

    fn was_right(&mut self, user: &UserId) {
        self.of_all = self.of_all.saturating_sub(1);
        if let Some(own) = self.of_user.get_mut(user) {
            *own = own.saturating_sub(1);
        }
    }
}

/// Gives messages the bodies that later events gave them.
pub(super) fn alter_all(events: &mut [LobbyEvent], altered: &[(Seq, Option<Body>)]) {
    for (of, body) in altered {
        if let Ok(place) = events.binary_search_by_key(of, |event| event.seq)
            && let Some(event) = events[place].with_body(body.as_ref())
        {
            events[place] = event;
        }
    }
}

impl Worker {
    pub(super) fn try_password(&mut self, envelope: Envelope, lock: String) {
        let LobbyCommand::Join(join) = &envelope.command else { return };
        let password = join.password.clone().unwrap_or_default();
        let node = Arc::clone(&self.node);
        self.spawn(async move {
            let result = node.sealing.opens(password, lock.clone()).await;
            Done::Examined { envelope: Box::new(envelope), outcome: Examined::Password { lock, result } }
        });
    }

    pub(super) fn recall(&mut self, envelope: Envelope, of: Seq, altered: Vec<(Seq, Option<Body>)>) {
        let store = self.node.store.clone();
        self.spawn(async move {
            let range = Range::After(Seq(of.0.saturating_sub(1)));
            let found = store.history(&envelope.lobby, range, Seq(0), 1).await;
            let found = found.map(|mut events| {
                alter_all(&mut events, &altered);
                events.into_iter().find(|event| event.seq == of).map(Arc::new)
            });
            Done::Examined { envelope: Box::new(envelope), outcome: Examined::Message(found) }
        });
    }

    pub(super) fn file(&mut self, envelope: Envelope, report: Box<MessageReport>) {
        let store = self.node.store.clone();
        self.spawn(async move {
            let result = store.file_report(&report).await;
            Done::Filed { envelope: Box::new(envelope), result }
        });
    }

    pub(super) fn on_filed(&mut self, envelope: Envelope, result: Result<(), StoreError>) {
        match result {
            Ok(()) => self.answer_session(envelope, Ok(Answer::Done)),
            Err(error) => {
                tracing::warn!(lobby = %envelope.lobby, %error, "a report cannot be kept");
                let text = "reports cannot be taken at the moment";
                self.refuse(&envelope, ErrorCode::Degraded, text, Some(1_000));
            }
        }
    }

    pub(super) fn on_examined(&mut self, mut envelope: Envelope, outcome: Examined) {
        match outcome {
            Examined::Password { lock, result: Ok(true) } => {
                let user = envelope.caller.user.clone();
                if let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard_of(&envelope.lobby))
                    && let Some(LobbySlot::Live(lobby)) = owned.lobbies.get_mut(&envelope.lobby)
                {
                    lobby.guesses.was_right(&user);
                }
                if let LobbyCommand::Join(join) = &mut envelope.command {
                    join.opened = Some(lock);
                }
            }
            Examined::Password { result: Ok(false), .. } => {
                // It is decided like a join without a password.
                if let LobbyCommand::Join(join) = &mut envelope.command {
                    join.password = None;
                }
            }
            Examined::Password { result: Err(refusal), .. } => {
                return self.answer_session(envelope, Err(refusal));
            }
            Examined::Message(Ok(found)) => envelope.found = Some(found),
            Examined::Message(Err(error)) => {
                tracing::warn!(lobby = %envelope.lobby, %error, "a message cannot be read");
                return self.refuse(
                    &envelope,
                    ErrorCode::Degraded,
                    "the lobby's past is out of reach",
                    Some(1_000),
                );
            }
        }
        self.on_command(envelope);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_passwords_are_counted_by_user_and_by_lobby_and_forgotten() {
        let mut guesses = Guesses::default();
        let (ann, bob) = (UserId::new("ann").unwrap(), UserId::new("bob").unwrap());
        let now = Millis(1_000_000);
        for _ in 0..GUESSES_MAX {
            guesses.may_try(&ann, now).unwrap();
        }
        let refusal = guesses.may_try(&ann, now).unwrap_err();
        assert_eq!((refusal.code, refusal.retry_ms), (ErrorCode::RateLimited, Some(60_000)));
        guesses.may_try(&bob, now).unwrap();
        guesses.was_right(&bob);
        for number in 0..GUESSES_OF_ALL_MAX - GUESSES_MAX {
            guesses.may_try(&UserId::new(&format!("user-{number}")).unwrap(), now).unwrap();
        }
        assert!(guesses.may_try(&bob, now).is_err(), "the lobby has had enough");
        guesses.may_try(&ann, Millis(1_060_000)).unwrap();
    }
}
