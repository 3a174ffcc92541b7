//! A lobby that is not in the journal: it is rebuilt from what the event store has, a snapshot and the events behind it.
//! Usually there are none, for a lobby is saved before it leaves memory; after the loss of a whole journal there are.

use std::sync::Arc;
use std::time::Duration;

use mlms_protocol::{Change, Limits, LobbyEvent, LobbyId, Seq};
use mlms_store::{Range, Store, StoreError};

use crate::lobby::{CommandKey, Entry, Recorded, State};

/// Events in one page.
const PAGE: u32 = 1_000;
/// Attempts before those who wait for the lobby are told to come again.
const ATTEMPTS: u32 = 5;
/// Pause before the second attempt; it doubles.
const PAUSE: Duration = Duration::from_millis(50);

/// What the event store has of a lobby, up to where the journal's entries begin. The inner error: it cannot be rebuilt.
pub(super) type Cold = Result<Result<Box<State>, String>, StoreError>;

pub(super) async fn read(store: Store, lobby: LobbyId, until: Option<Seq>, limits: Arc<Limits>) -> Cold {
    let mut pause = PAUSE;
    for _ in 1..ATTEMPTS {
        match try_read(&store, &lobby, until, &limits).await {
            Err(StoreError::Unavailable(_)) => tokio::time::sleep(pause).await,
            outcome => return outcome,
        }
        pause *= 2;
    }
    try_read(&store, &lobby, until, &limits).await
}

async fn try_read(store: &Store, lobby: &LobbyId, until: Option<Seq>, limits: &Limits) -> Cold {
    let mut state = Box::new(match store.load_lobby(lobby).await? {
        None => State::new(lobby.clone()),
        Some((_, bytes)) => match State::from_snapshot(&bytes) {
            Ok(state) => state,
            Err(error) => return Ok(Err(error.to_string())),
        },
    });
    let is_wanted = |event: &LobbyEvent| until.is_none_or(|until| event.seq < until);
    loop {
        let page = store.history(lobby, Range::After(state.seq), Seq(0), PAGE).await?;
        let is_last = page.len() < PAGE as usize;
        for event in page {
            if !is_wanted(&event) {
                return Ok(Ok(state));
            }
            if event.seq > state.seq.next() {
                tracing::warn!(%lobby, from = %state.seq.next(), to = %event.seq, "the event store has a hole here");
                state.pass_over(Seq(event.seq.0 - 1));
            }
            state.apply_entry(entry(event));
        }
        state.trim_recent(limits, state.seq, state.at);
        if is_last {
            return Ok(Ok(state));
        }
    }
}

/// The event as an entry of the journal, with the key under which its sender may repeat it.
fn entry(event: LobbyEvent) -> Entry {
    let (key, recorded) = match &event.change {
        Change::Message { from: Some(from), nonce: Some(nonce), .. } => {
            (Some((from.clone(), CommandKey::Nonce(nonce.clone()))), Recorded::Sent)
        }
        _ => (None, Recorded::Changed),
    };
    Entry { events: vec![event], key, recorded, reads: Vec::new() }
}
