//! The tickets that were used here: each opens one session.

use std::collections::HashMap;

use mlms_protocol::SessionId;
use mlms_protocol::ticket::TICKET_TTL_MS;

/// So many are kept without a look at their age.
const KEPT_MIN: usize = 4_096;

/// Sessions whose tickets were used, at least until nobody could use them again, and at most twice as many as that.
#[derive(Default)]
pub(super) struct UsedTickets {
    until: HashMap<SessionId, u64>,
    /// How many there may be before the old ones are looked for: twice as many as were left the last time, so that a
    /// ticket costs the same however many come at once.
    room: usize,
}

impl UsedTickets {
    /// Marks a session's ticket as used; `now` in Unix milliseconds. `false`: it was used before.
    pub(super) fn use_up(&mut self, session: &SessionId, now: u64) -> bool {
        if self.until.len() >= self.room.max(KEPT_MIN) {
            self.until.retain(|_, until| *until > now);
            self.room = 2 * self.until.len();
        }
        if self.until.contains_key(session) {
            return false;
        }
        self.until.insert(session.clone(), now + 2 * TICKET_TTL_MS);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_used_once_while_it_lives_and_the_old_ones_go() {
        let mut used = UsedTickets::default();
        let first = SessionId::generate();
        assert!(used.use_up(&first, 1_000));
        assert!(!used.use_up(&first, 1_000 + TICKET_TTL_MS));
        for _ in 0..2 * KEPT_MIN {
            assert!(used.use_up(&SessionId::generate(), 2_000));
        }
        assert!(used.until.len() > 2 * KEPT_MIN, "all of them live");
        let later = 3_000 + 2 * TICKET_TTL_MS;
        for _ in 0..2 * KEPT_MIN {
            assert!(used.use_up(&SessionId::generate(), later));
        }
        assert!(used.until.len() <= 2 * KEPT_MIN + 1, "{}", used.until.len());
        assert!(!used.until.contains_key(&first));
    }
}
