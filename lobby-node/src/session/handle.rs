//! What the rest of the node holds of a session: who it is, its outbox, and the lobbies it is in.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use mlms_protocol::reply::{Joined, encode_reply};
use mlms_protocol::{Answer, Event, LobbyId, Millis, Refusal, Shard};

use super::reply::ReplyTo;
use crate::blocks::Blocked;
use crate::lobby::Caller;
use crate::outbox::Outbox;

/// What the rest of the node holds of a session.
pub(crate) struct SessionHandle {
    /// Unique in this process; cheaper to hash than the id.
    pub(crate) number: u64,
    pub(crate) caller: Arc<Caller>,
    pub(crate) outbox: Arc<Outbox>,
    /// The shard of the lobby that the connection named: a broker places it by that, else by its user.
    pub(crate) home: Option<Shard>,
    /// When its last command came, in Unix milliseconds; at the start, when it was opened.
    pub(crate) spoke_ms: AtomicU64,
    pub(crate) blocked: Blocked,
    membership: Mutex<Membership>,
}

#[derive(Default)]
struct Membership {
    ended: bool,
    lobbies: Vec<LobbyId>,
}

impl SessionHandle {
    pub(crate) fn new(
        number: u64,
        caller: Caller,
        outbox: Arc<Outbox>,
        home: Option<Shard>,
        now: Millis,
    ) -> Self {
        let (caller, spoke_ms) = (Arc::new(caller), AtomicU64::new(now.0));
        let (blocked, membership) = (Blocked::default(), Mutex::default());
        SessionHandle { number, caller, outbox, home, spoke_ms, blocked, membership }
    }

    fn membership(&self) -> std::sync::MutexGuard<'_, Membership> {
        self.membership.lock().expect("no holder of a membership panics")
    }

    /// Notes that the session is in a lobby. `false`: it has ended, and must not be seated.
    pub(crate) fn enter(&self, lobby: &LobbyId) -> bool {
        let mut membership = self.membership();
        if !membership.ended && !membership.lobbies.contains(lobby) {
            // Most sessions are in one lobby.
            if membership.lobbies.is_empty() {
                membership.lobbies.reserve_exact(1);
            }
            membership.lobbies.push(lobby.clone());
        }
        !membership.ended
    }

    pub(crate) fn leave(&self, lobby: &LobbyId) {
        self.membership().lobbies.retain(|known| known != lobby);
    }

    pub(super) fn is_in(&self, lobby: &LobbyId) -> bool {
        self.membership().lobbies.contains(lobby)
    }

    pub(crate) fn lobbies(&self) -> Vec<LobbyId> {
        self.membership().lobbies.clone()
    }

    pub(super) fn lobby_count(&self) -> usize {
        self.membership().lobbies.len()
    }

    /// Ends the membership: nobody may seat the session any more. Gives the lobbies it was in.
    pub(super) fn end(&self) -> Vec<LobbyId> {
        let mut membership = self.membership();
        membership.ended = true;
        std::mem::take(&mut membership.lobbies)
    }

    fn frame(&self, payload: &[u8]) -> Bytes {
        self.outbox.encoding().websocket_frame(payload)
    }

    /// The frame that tells the session how its command came out, if there is one to send now.
    pub(crate) fn reply_frame(
        &self,
        reply_to: &ReplyTo,
        op: &'static str,
        lobby: Option<&LobbyId>,
        outcome: Result<Answer, Refusal>,
    ) -> Option<Bytes> {
        let encoding = self.outbox.encoding();
        let outcome = outcome.map(|answer| self.blocked.withhold(answer));
        match (reply_to, outcome) {
            (ReplyTo::Id(id), outcome) => Some(self.frame(&encode_reply(*id, &outcome, encoding))),
            (
                ReplyTo::Snapshot,
                Ok(Answer::Joined(Joined { lobby, epoch, seq, state: Some(state), mark, .. })),
            ) => Some(self.frame(&Event::Snapshot { lobby, epoch, seq, state, mark }.encode(encoding))),
            (ReplyTo::Quick(attempt), Err(refusal)) => {
                attempt.done(Err(refusal));
                None
            }
            (ReplyTo::Quick(attempt), Ok(answer)) => {
                attempt.done(Ok(()));
                let reply_to = attempt.id.map_or(ReplyTo::Snapshot, ReplyTo::Id);
                self.reply_frame(&reply_to, op, lobby, Ok(answer))
            }
            (ReplyTo::Resume(gather, place), outcome) => {
                gather.complete(*place, outcome);
                None
            }
            (ReplyTo::Nobody | ReplyTo::Snapshot, Err(Refusal { code, message, retry_ms })) => {
                let (op, lobby) = (Some(op.to_owned()), lobby.cloned());
                Some(self.frame(&Event::Error { code, message, op, lobby, retry_ms }.encode(encoding)))
            }
            (ReplyTo::Nobody | ReplyTo::Snapshot, Ok(_)) => None,
        }
    }
}

#[cfg(test)]
impl SessionHandle {
    /// A session of a user of its own, and the far end of its connection.
    pub(crate) fn of_test(
        number: u64,
        metrics: &Arc<crate::metrics::Metrics>,
    ) -> (Arc<Self>, tokio::io::DuplexStream) {
        use crate::outbox::Wire;
        use mlms_protocol::{Encoding, SessionId, UserId};

        let (near, far) = tokio::io::duplex(64 * 1024);
        let wire = Wire::Pipe(Mutex::new(near));
        let outbox = Outbox::new(Encoding::Json, 1 << 20, wire, Arc::clone(metrics));
        let caller = Caller {
            session: SessionId::generate(),
            user: UserId::new(&format!("user-{number}")).unwrap(),
            name: String::new(),
            roles: Vec::new(),
            system: false,
            expects: None,
        };
        (Arc::new(SessionHandle::new(number, caller, Arc::new(outbox), None, Millis(0))), far)
    }
}
