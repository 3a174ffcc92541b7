//! The one place of fan-out: the members of a lobby who are connected to this node. Events are staged while the
//! worker is busy and leave in one write a member. Every member's socket gets the same shared bytes. Here is who is
//! seated; what is staged for them, how it leaves, and how a member catches up is in `audience/`.

mod delivery;
mod pull;
mod staging;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use mlms_protocol::{LobbyId, Seq, UserId};

use self::delivery::Spread;
use self::pull::Pull;
pub(crate) use self::pull::Pulled;
use self::staging::{Staged, slot};
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::session::SessionHandle;

/// A lobby's members on this node.
pub(crate) struct Audience {
    lobby: LobbyId,
    seats: Vec<Option<Seat>>,
    free: Vec<u32>,
    by_session: HashMap<u64, u32>,
    by_user: HashMap<UserId, Vec<u32>>,
    /// Seats by encoding.
    counts: [usize; 2],
    staged: Vec<Staged>,
    /// The newest sequenced event that was staged, or that everyone here has.
    head: Seq,
    /// Seats that leave when the staged events are out.
    leaving: Vec<u32>,
    /// Seats whose run differs from everybody's in this flush.
    special: Vec<u32>,
    /// Seats whose users block somebody.
    blockers: Vec<u32>,
    /// What is still on its way to a very large audience.
    spread: Option<Box<Spread>>,
    metrics: Arc<Metrics>,
}

struct Seat {
    session: Arc<SessionHandle>,
    /// The session's: a delivery gets there without reading the session.
    outbox: Arc<Outbox>,
    wants_saved: bool,
    /// The run of staged events that is this seat's.
    from: u32,
    until: u32,
    special: bool,
    pull: Option<Box<Pull>>,
}

impl Audience {
    pub(crate) fn new(lobby: LobbyId, metrics: Arc<Metrics>) -> Self {
        Audience {
            lobby,
            seats: Vec::new(),
            free: Vec::new(),
            by_session: HashMap::new(),
            by_user: HashMap::new(),
            counts: [0; 2],
            staged: Vec::new(),
            head: Seq(0),
            leaving: Vec::new(),
            special: Vec::new(),
            blockers: Vec::new(),
            spread: None,
            metrics,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_session.is_empty()
    }

    pub(crate) fn sessions(&self) -> impl Iterator<Item = &Arc<SessionHandle>> {
        self.seats.iter().flatten().filter(|seat| seat.until == u32::MAX).map(|seat| &seat.session)
    }

    /// Seats a session: from now on it gets what is staged. With `behind`, it first pulls the events after that
    /// seq, and hears `caught_up` behind the other. `false`: the session has ended meanwhile.
    pub(crate) fn seat(
        &mut self,
        session: &Arc<SessionHandle>,
        wants_saved: bool,
        behind: Option<(Seq, Option<Seq>)>,
    ) -> bool {
        if behind.is_some() || self.by_session.contains_key(&session.number) {
            // What it was to get in its old seat, which it may be about to leave, comes before the reply that gives it
            // the new one.
            self.flush();
        }
        self.finish_spread();
        self.unseat(session);
        if !session.enter(&self.lobby) {
            return false;
        }
        let from = u32::try_from(self.staged.len()).expect("a flush comes long before 2^32 staged events");
        let pull = behind.map(|(at, announce)| {
            Box::new(Pull { at, seen: self.head, announce, ends_at: None, held: Vec::new(), held_bytes: 0 })
        });
        let special = from > 0 || pull.is_some();
        let outbox = Arc::clone(&session.outbox);
        let seat =
            Seat { session: Arc::clone(session), outbox, wants_saved, from, until: u32::MAX, special, pull };
        let index = match self.free.pop() {
            Some(index) => {
                self.seats[index as usize] = Some(seat);
                index
            }
            None => {
                self.seats.push(Some(seat));
                u32::try_from(self.seats.len() - 1).expect("an audience is bounded by its lobby's capacity")
            }
        };
        if special {
            self.special.push(index);
        }
        self.counts[slot(session.outbox.encoding())] += 1;
        if session.blocked.anybody() {
            self.blockers.push(index);
        }
        self.by_session.insert(session.number, index);
        self.by_user.entry(session.caller.user.clone()).or_default().push(index);
        true
    }

    /// Takes a session out; it still gets what was staged before.
    pub(crate) fn unseat(&mut self, session: &SessionHandle) -> bool {
        let Some(index) = self.by_session.remove(&session.number) else { return false };
        self.finish_spread();
        self.forget_name(&session.caller.user, index);
        session.leave(&self.lobby);
        let until = u32::try_from(self.staged.len()).expect("a flush comes long before 2^32 staged events");
        if let Some(seat) = &mut self.seats[index as usize] {
            seat.until = until;
            seat.special = true;
            self.special.push(index);
        }
        self.leaving.push(index);
        if until == 0 {
            self.clear_leaving();
        }
        true
    }

    /// A session's user blocks other users than before.
    pub(crate) fn note_blocks(&mut self, session: &SessionHandle) {
        if let Some(&index) = self.by_session.get(&session.number)
            && session.blocked.anybody()
            && !self.blockers.contains(&index)
        {
            self.blockers.push(index);
        }
    }

    /// Seats that somebody's words are not to reach; hardly ever any.
    fn closed_to(&self, speaker: Option<&UserId>) -> Vec<u32> {
        let Some(speaker) = speaker.filter(|_| !self.blockers.is_empty()) else { return Vec::new() };
        let blocks = |index: &&u32| {
            self.seats[**index as usize].as_ref().is_some_and(|seat| seat.session.blocked.contains(speaker))
        };
        self.blockers.iter().filter(blocks).copied().collect()
    }

    fn forget_name(&mut self, user: &UserId, index: u32) {
        if let Some(seats) = self.by_user.get_mut(user) {
            seats.retain(|seat| *seat != index);
            if seats.is_empty() {
                self.by_user.remove(user);
            }
        }
    }

    /// Takes all sessions of a user out, or everybody, behind the event that ended the membership: nothing that is
    /// staged from now on is for them.
    pub(crate) fn part(&mut self, user: Option<&UserId>, last: Seq) {
        let sessions: Vec<_> = match user {
            None => self.sessions().cloned().collect(),
            Some(user) => {
                let seats = self.by_user.get(user).into_iter().flatten();
                let seats = seats.filter_map(|index| self.seats[*index as usize].as_ref());
                seats.map(|seat| Arc::clone(&seat.session)).collect()
            }
        };
        let staged = u32::try_from(self.staged.len()).expect("a flush comes long before 2^32 staged events");
        for session in sessions {
            let Some(&index) = self.by_session.get(&session.number) else { continue };
            match self.seats[index as usize].as_mut() {
                // It is still being told what came before; it pulls up to its last event, and then it is out.
                Some(Seat { until, pull: Some(pull), .. }) => {
                    (pull.ends_at, *until) = (Some(last), staged);
                    self.forget_name(&session.caller.user, index);
                }
                _ => _ = self.unseat(&session),
            }
        }
    }

    fn clear_leaving(&mut self) {
        for index in std::mem::take(&mut self.leaving) {
            if let Some(seat) = self.seats[index as usize].take() {
                self.counts[slot(seat.session.outbox.encoding())] -= 1;
                self.free.push(index);
            }
            self.special.retain(|special| *special != index);
            self.blockers.retain(|blocker| *blocker != index);
        }
    }

    /// Says where the lobby's events stand for everyone who is seated from now on.
    pub(crate) fn set_head(&mut self, head: Seq) {
        self.head = head;
    }

    pub(crate) fn head(&self) -> Seq {
        self.head
    }

    /// Whether a member asked for `saved` events.
    pub(crate) fn wants_saved(&self, session: &SessionHandle) -> bool {
        let seat =
            self.by_session.get(&session.number).and_then(|index| self.seats[*index as usize].as_ref());
        seat.is_some_and(|seat| seat.wants_saved)
    }
}
