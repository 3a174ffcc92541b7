//! How a session hears what became of its commands: by reply, by event, or as one part of a resume.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use mlms_protocol::reply::{Joined, encode_reply};
use mlms_protocol::{Answer, Change, ErrorCode, LobbyEvent, LobbyId, Refusal};

use super::handle::SessionHandle;
use super::quick::Attempt;

/// Bytes of messages in all the snapshots of one resume's reply.
const RESUME_MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How a session wants to hear the outcome of a command.
#[derive(Clone)]
pub(crate) enum ReplyTo {
    /// The command had no id: only a failure is told, as an `error` event.
    Nobody,
    Id(u32),
    /// The outcome comes as a `snapshot` or `error` event.
    Snapshot,
    /// One of several lobbies of a `resume`.
    Resume(Arc<Gather>, usize),
    /// One try of a quick match.
    Quick(Arc<Attempt>),
}

type LobbyOutcome = Result<Joined, (LobbyId, Refusal)>;

/// Gathers the outcomes of a resume; the last one sends the reply, and then the missed events may flow.
pub(crate) struct Gather {
    id: Option<u32>,
    session: Arc<SessionHandle>,
    lobbies: Vec<LobbyId>,
    outcomes: Mutex<Vec<Option<LobbyOutcome>>>,
    /// The reply is out.
    answered: AtomicBool,
}

impl Gather {
    pub(super) fn new(id: Option<u32>, session: Arc<SessionHandle>, lobbies: Vec<LobbyId>) -> Self {
        let outcomes = Mutex::new(vec![None; lobbies.len()]);
        Gather { id, session, lobbies, outcomes, answered: AtomicBool::new(false) }
    }

    /// Whether the reply is out. Before it, the session gets nothing of the lobbies that it resumes.
    pub(crate) fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Acquire)
    }

    /// Takes the outcome of the lobby at a place.
    pub(super) fn complete(&self, place: usize, outcome: Result<Answer, Refusal>) {
        let lobby = self.lobbies[place].clone();
        let outcome = match outcome {
            Ok(Answer::Joined(joined)) => Ok(joined),
            Ok(_) => Err((lobby, Refusal::new(ErrorCode::Internal, "the lobby gave no position"))),
            Err(refusal) => Err((lobby, refusal)),
        };
        let mut outcomes = self.outcomes.lock().expect("no holder of the outcomes panics");
        outcomes[place] = Some(outcome);
        if !outcomes.iter().all(Option::is_some) {
            return;
        }
        let mut outcomes: Vec<_> = outcomes.drain(..).flatten().collect();
        shorten(outcomes.iter_mut().flatten());
        let outbox = &self.session.outbox;
        let joined: Vec<_> = outcomes.iter().flatten().map(|joined| joined.lobby.clone()).collect();
        if let Some(id) = self.id {
            let reply = encode_reply(id, &Ok(Answer::Resumed(outcomes)), outbox.encoding());
            outbox.push(&outbox.encoding().websocket_frame(&reply));
        }
        // Before the pulls are asked for: whoever finds it unanswered is called again by one.
        self.answered.store(true, Ordering::Release);
        for lobby in joined {
            outbox.pull_later(&lobby);
        }
    }
}

/// Takes the oldest messages out of snapshots that are too large together. They are in the history.
fn shorten<'a>(snapshots: impl Iterator<Item = &'a mut Joined>) {
    let mut room = RESUME_MESSAGE_BYTES_MAX;
    for messages in snapshots.filter_map(|joined| joined.state.as_mut()).map(|state| &mut state.messages) {
        let fits = |event: &&LobbyEvent| match &event.change {
            Change::Message { body, .. } if body.byte_len() > room => false,
            Change::Message { body, .. } => {
                room -= body.byte_len();
                true
            }
            _ => true,
        };
        let kept = messages.iter().rev().take_while(fits).count();
        messages.drain(..messages.len() - kept);
    }
}
