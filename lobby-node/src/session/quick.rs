//! The session's side of `find`: a list, or at once into the best match.

use std::sync::{Arc, Mutex};

use mlms_protocol::command::{Find, Join};
use mlms_protocol::{ErrorCode, LobbyCommand, LobbyId, Refusal};
use tokio::sync::oneshot;

use super::{COMMAND_TIME, ReplyTo, Session};
use crate::search::{Query, Quick};

/// Lobbies of the list that a quick match tries, and lobbies of its own kind. Each is a join that was refused because
/// others were quicker; when all are gone the player is told to come again.
const CANDIDATES_MAX: usize = 8;
const PLACES_MAX: usize = 64;

/// One join of a quick match: only a success is told to the player, a refusal leads to the next.
pub(crate) struct Attempt {
    pub(super) id: Option<u32>,
    outcome: Mutex<Option<oneshot::Sender<Result<(), Refusal>>>>,
}

impl Attempt {
    pub(super) fn done(&self, outcome: Result<(), Refusal>) {
        let waiting = self.outcome.lock().expect("no holder of an outcome panics").take();
        if let Some(waiting) = waiting {
            // The session may have ended meanwhile.
            let _ = waiting.send(outcome);
        }
    }
}

/// Whether another lobby may have room where this one refused.
fn leads_on(refusal: &Refusal) -> bool {
    matches!(
        refusal.code,
        ErrorCode::LobbyFull
            | ErrorCode::LobbyClosed
            | ErrorCode::NotFound
            | ErrorCode::Forbidden
            | ErrorCode::WrongPassword
            | ErrorCode::Banned
            | ErrorCode::Conflict
    )
}

impl Session {
    pub(super) async fn find(&mut self, id: Option<u32>, find: &Find) {
        if let Err(refusal) = self.find_or_enter(id, find).await {
            self.refuse(id, "find", None, refusal);
        }
    }

    async fn find_or_enter(&mut self, id: Option<u32>, find: &Find) -> Result<(), Refusal> {
        let query = Query::read(find)?;
        let list = self.node.index.list(&self.node.directory).await.map_err(|_| {
            Refusal::new(ErrorCode::Degraded, "the list of lobbies is out of reach").retry_after(1_000)
        })?;
        let quick = match &find.quick {
            None | Some(serde_json::Value::Bool(false)) => {
                self.answer(id, query.answer(&list));
                return Ok(());
            }
            Some(quick) => Quick::read(quick, &query)?,
        };
        let candidates = query.candidates(&list).into_iter().take(CANDIDATES_MAX).map(|lobby| (lobby, None));
        let places = quick.places(&list).take(PLACES_MAX);
        let places = places.map(|lobby| (lobby, Some(quick.settings.clone())));
        for (lobby, create) in candidates.chain(places) {
            if self.handle.is_in(&lobby) {
                continue;
            }
            let creates = create.is_some();
            match self.attempt(id, lobby, Join { create, ..Join::default() }).await {
                // The name is a new one: it is creating that is forbidden, there and everywhere.
                Err(refusal) if creates && refusal.code == ErrorCode::Forbidden => return Err(refusal),
                Err(refusal) if leads_on(&refusal) => {}
                outcome => return outcome,
            }
        }
        Err(Refusal::new(ErrorCode::Overloaded, "others were quicker everywhere").retry_after(500))
    }

    async fn attempt(&mut self, id: Option<u32>, lobby: LobbyId, join: Join) -> Result<(), Refusal> {
        let (answer, answered) = oneshot::channel();
        let attempt = Arc::new(Attempt { id, outcome: Mutex::new(Some(answer)) });
        self.forward(lobby, ReplyTo::Quick(attempt), None, LobbyCommand::Join(join)).await;
        match tokio::time::timeout(2 * COMMAND_TIME, answered).await {
            Ok(Ok(outcome)) => outcome,
            _ => Err(Refusal::new(ErrorCode::Timeout, "the lobby's node did not answer").retry_after(500)),
        }
    }
}
