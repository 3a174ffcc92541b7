//! Which lobbies were created with which `Idempotency-Key`, where the caller names the lobby: each name has an owner of
//! its own, who knows of no other. A broker remembers its own callers' keys; the owners' memory is what holds for all.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mlms_protocol::LobbyId;

/// How long a key is remembered, as an owner does.
const WINDOW: Duration = Duration::from_secs(300);
/// Keys remembered at once; beyond it the oldest are forgotten.
const KEYS_MAX: usize = 10_000;

#[derive(Default)]
pub(crate) struct Created(Mutex<Memory>);

#[derive(Default)]
struct Memory {
    lobbies: HashMap<String, (LobbyId, Instant)>,
    by_age: VecDeque<(String, Instant)>,
}

impl Created {
    /// Notes that the key goes with this lobby. `false`: it goes with another.
    pub(crate) fn note(&self, key: &str, lobby: &LobbyId, now: Instant) -> bool {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Memory { lobbies, by_age } = &mut *memory;
        let is_over = |at: Instant| now.saturating_duration_since(at) >= WINDOW;
        while by_age.len() >= KEYS_MAX || by_age.front().is_some_and(|(_, at)| is_over(*at)) {
            let Some((oldest, at)) = by_age.pop_front() else { break };
            if lobbies.get(&oldest).is_some_and(|(_, noted)| *noted == at) {
                lobbies.remove(&oldest);
            }
        }
        match lobbies.get(key) {
            Some((known, _)) => known == lobby,
            None => {
                lobbies.insert(key.to_owned(), (lobby.clone(), now));
                by_age.push_back((key.to_owned(), now));
                true
            }
        }
    }

    /// The lobby was not created: the key is free again.
    pub(crate) fn give_back(&self, key: &str, lobby: &LobbyId) {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if memory.lobbies.get(key).is_some_and(|(known, _)| known == lobby) {
            memory.lobbies.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_goes_with_one_lobby_until_its_window_ends() {
        let (created, now) = (Created::default(), Instant::now());
        let [a, b] = ["a", "b"].map(|id| LobbyId::new(id).unwrap());
        assert!(created.note("k", &a, now) && created.note("k", &a, now) && created.note("l", &b, now));
        assert!(!created.note("k", &b, now));
        created.give_back("k", &b);
        assert!(!created.note("k", &b, now), "it is not b's to give back");
        created.give_back("k", &a);
        assert!(created.note("k", &b, now) && created.note("k", &a, now + WINDOW));
        for number in 0..2 * KEYS_MAX {
            assert!(created.note(&number.to_string(), &a, now + WINDOW));
        }
        let memory = created.0.lock().unwrap();
        assert!(memory.lobbies.len() <= KEYS_MAX && memory.by_age.len() <= KEYS_MAX);
    }
}
