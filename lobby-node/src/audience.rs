//! The one place of fan-out: the members of a lobby who are connected to this node. Events are staged while the
//! worker is busy and leave in one write a member. Every member's socket gets the same shared bytes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use mlms_protocol::{Class, Encoding, Event, LobbyEvent, LobbyId, Millis, Seq, UserId};

use crate::lobby::{Passing, Target};
use crate::metrics::Metrics;
use crate::outbox::{LatestKey, Shed};
use crate::session::SessionHandle;

#[cfg(test)]
mod tests;

/// Members to whom a worker writes in one go. What is for more of them leaves in slices, and what other lobbies have to
/// say goes between.
const SLICE: usize = 512;
/// Up to here one go is short enough for everybody: some milliseconds.
const ONE_GO: usize = 1_024;
/// Bytes of missed events that are written before the connection has to drain.
const PAGE_BYTES: usize = 64 * 1024;

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

/// What is for everyone, and who has not got it yet. Seats neither come nor go before it is out.
struct Spread {
    staged: Vec<Staged>,
    joined: [Bytes; 2],
    seats: std::vec::IntoIter<u32>,
}

struct Seat {
    session: Arc<SessionHandle>,
    wants_saved: bool,
    /// The run of staged events that is this seat's.
    from: u32,
    until: u32,
    special: bool,
    pull: Option<Box<Pull>>,
}

/// A member that is still being brought up to date.
struct Pull {
    /// The last event it was given.
    at: Seq,
    /// The newest event that everyone else was given meanwhile.
    seen: Seq,
    /// The last of the missed events: `caught_up` follows it, and only then what is live.
    announce: Option<Seq>,
    /// The event that ended the membership: the last one for this member.
    ends_at: Option<Seq>,
    /// Unsequenced frames that came meanwhile, with the event they follow.
    held: Vec<(Seq, Bytes, Shed)>,
    held_bytes: usize,
}

struct Staged {
    payload: Payload,
    class: Class,
    key: Option<Arc<LatestKey>>,
    to: To,
    frames: [Option<Bytes>; 2],
}

enum Payload {
    Lobby(Arc<LobbyEvent>),
    Event(Box<Event>),
    /// Encoded already, for one session.
    Ready,
}

enum To {
    Everyone,
    EveryoneBut(Vec<u32>),
    Only(Vec<u32>),
}

/// How a pull went on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pulled {
    /// The member is live now, or has got its last event.
    Live,
    /// More follows when the connection has drained.
    Later,
    /// What it needs is behind the memory: it needs a snapshot.
    OutOfReach,
    NotSeated,
}

fn slot(encoding: Encoding) -> usize {
    match encoding {
        Encoding::Json => 0,
        Encoding::Msgpack => 1,
    }
}

impl Staged {
    fn frame(&mut self, encoding: Encoding) -> &Bytes {
        self.frames[slot(encoding)].get_or_insert_with(|| {
            let payload = match &self.payload {
                Payload::Lobby(event) => encode_lobby_event(event, encoding),
                Payload::Event(event) => event.encode(encoding),
                Payload::Ready => Vec::new(),
            };
            encoding.websocket_frame(&payload)
        })
    }

    fn ready(&self, encoding: Encoding) -> &Bytes {
        self.frames[slot(encoding)].as_ref().expect("flush encodes for every encoding in the audience")
    }

    /// When its owner decided it, where that is said.
    fn at(&self) -> Option<Millis> {
        match &self.payload {
            Payload::Lobby(event) => Some(event.at),
            Payload::Event(event) => match event.as_ref() {
                Event::Message(message) => Some(message.at),
                _ => None,
            },
            Payload::Ready => None,
        }
    }

    fn is_for(&self, seat: u32) -> bool {
        match &self.to {
            To::Everyone => true,
            To::EveryoneBut(seats) => !seats.contains(&seat),
            To::Only(seats) => seats.contains(&seat),
        }
    }

    fn shed(&self, lobby: &LobbyId) -> Shed {
        match self.class {
            Class::Ephemeral => Shed::Ephemeral { lobby: lobby.clone(), key: self.key.clone() },
            Class::Durable | Class::Ordered => Shed::Never,
        }
    }
}

/// Seconds from a time that an owner gave until now. The machines' clocks are taken to agree.
fn since(at: Millis) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_millis(at.0)).as_secs_f64()
}

fn encode_lobby_event(event: &LobbyEvent, encoding: Encoding) -> Vec<u8> {
    let mut writer = mlms_protocol::writer::ObjectWriter::new(encoding);
    event.write(&mut writer);
    writer.finish()
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
        let seat = Seat { session: Arc::clone(session), wants_saved, from, until: u32::MAX, special, pull };
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

    /// Stages a sequenced event for everyone.
    pub(crate) fn stage_event(&mut self, event: Arc<LobbyEvent>) {
        self.head = event.seq;
        let closed = self.closed_to(event.speaker());
        if closed.is_empty() {
            return self.stage(Payload::Lobby(event), Class::Durable, None, To::Everyone);
        }
        // It keeps its place for everybody.
        let silent = Arc::new(event.without_words());
        self.stage(Payload::Lobby(event), Class::Durable, None, To::EveryoneBut(closed.clone()));
        self.stage(Payload::Lobby(silent), Class::Durable, None, To::Only(closed));
    }

    /// Stages an unsequenced event.
    pub(crate) fn stage_passing(&mut self, passing: Passing) {
        let closed = self.closed_to(passing.event.speaker());
        let to = match &passing.to {
            Target::Everyone => To::Everyone,
            Target::EveryoneBut(user) => To::EveryoneBut(self.by_user.get(user).cloned().unwrap_or_default()),
            Target::Users(users) => {
                To::Only(users.iter().filter_map(|user| self.by_user.get(user)).flatten().copied().collect())
            }
            Target::Savers => To::Only(
                self.seats
                    .iter()
                    .zip(0..)
                    .filter(|(seat, _)| seat.as_ref().is_some_and(|seat| seat.wants_saved))
                    .map(|(_, index)| index)
                    .collect(),
            ),
        };
        let to = match to {
            to if closed.is_empty() => to,
            To::Everyone => To::EveryoneBut(closed),
            To::EveryoneBut(seats) => To::EveryoneBut(seats.into_iter().chain(closed).collect()),
            To::Only(seats) => To::Only(seats.into_iter().filter(|seat| !closed.contains(seat)).collect()),
        };
        if matches!(&to, To::Only(seats) if seats.is_empty()) {
            return;
        }
        let key = passing.key.map(|key| {
            Arc::new(LatestKey { lobby: self.lobby.clone(), from: passing.event.from().cloned(), key })
        });
        self.stage(Payload::Event(Box::new(passing.event.into_event())), passing.class, key, to);
    }

    /// Stages a frame for one session, in line with the lobby's events.
    pub(crate) fn stage_ready(&mut self, session: &SessionHandle, frame: &Bytes) {
        let Some(&index) = self.by_session.get(&session.number) else {
            session.outbox.push(frame);
            return;
        };
        // A reply is never held back behind missed events; only what the lobby says is.
        if self.seats[index as usize].as_ref().is_some_and(|seat| seat.pull.is_some()) {
            session.outbox.push(frame);
            return;
        }
        self.stage(Payload::Ready, Class::Ordered, None, To::Only(vec![index]));
        let staged = self.staged.last_mut().expect("it was just staged");
        staged.frames[slot(session.outbox.encoding())] = Some(frame.clone());
    }

    fn stage(&mut self, payload: Payload, class: Class, key: Option<Arc<LatestKey>>, to: To) {
        if let To::EveryoneBut(seats) | To::Only(seats) = &to {
            for index in seats {
                if let Some(seat) = &mut self.seats[*index as usize]
                    && !seat.special
                {
                    seat.special = true;
                    self.special.push(*index);
                }
            }
        }
        self.staged.push(Staged { payload, class, key, to, frames: [None, None] });
    }

    pub(crate) fn has_staged(&self) -> bool {
        !self.staged.is_empty()
    }

    /// Writes what is staged: one write a member. To a very large audience it leaves in slices: until [`Audience::spread`]
    /// says that all is out, there is more to write.
    pub(crate) fn flush(&mut self) {
        if self.staged.is_empty() {
            return;
        }
        self.finish_spread();
        let mut staged = std::mem::take(&mut self.staged);
        for encoding in Encoding::ALL {
            if self.counts[slot(encoding)] == 0 {
                continue;
            }
            for item in &mut staged {
                item.frame(encoding);
            }
        }
        let joined = Encoding::ALL.map(|encoding| match self.counts[slot(encoding)] {
            0 => Bytes::new(),
            _ => join(staged.iter().filter(shared).map(|item| item.ready(encoding))),
        });
        let lobby = &self.lobby;
        let plain = self.seats.iter().zip(0_u32..).filter_map(|(seat, index)| Some((seat.as_ref()?, index)));
        let plain = plain
            .filter(|(seat, _)| !seat.special && !joined[slot(seat.session.outbox.encoding())].is_empty());
        let mut later = Vec::new();
        let plain = if self.by_session.len() > ONE_GO {
            later.extend(plain.map(|(_, index)| index));
            later.len() as u64
        } else {
            plain.map(|(seat, _)| deliver_plain(lobby, &staged, &joined, seat)).count() as u64
        };
        for class in [Class::Durable, Class::Ordered, Class::Ephemeral] {
            let items = staged.iter().filter(shared).filter(|item| item.class == class).count() as u64;
            if items > 0 && plain > 0 {
                self.metrics.deliveries.of(class).inc_by(items * plain);
            }
        }
        for index in std::mem::take(&mut self.special) {
            let Some(seat) = &mut self.seats[index as usize] else { continue };
            if !seat.special {
                continue;
            }
            deliver_special(lobby, &staged, index, seat, &self.metrics);
            seat.special = seat.pull.is_some();
            seat.from = 0;
            if seat.pull.as_ref().is_some_and(|pull| pull.ends_at.is_some()) {
                seat.until = 0;
            }
            if seat.special {
                self.special.push(index);
            }
        }
        if later.is_empty() {
            self.time_delivery(&staged);
            staged.clear();
            self.staged = staged;
        } else {
            self.spread = Some(Box::new(Spread { staged, joined, seats: later.into_iter() }));
            self.spread();
        }
        self.clear_leaving();
    }

    /// Writes to the next slice of a very large audience. `true`: all is out.
    pub(crate) fn spread(&mut self) -> bool {
        let Some(mut spread) = self.spread.take() else { return true };
        for index in spread.seats.by_ref().take(SLICE) {
            if let Some(seat) = &self.seats[index as usize] {
                deliver_plain(&self.lobby, &spread.staged, &spread.joined, seat);
            }
        }
        let is_out = spread.seats.len() == 0;
        if is_out {
            self.time_delivery(&spread.staged);
        } else {
            self.spread = Some(spread);
        }
        is_out
    }

    fn time_delivery(&self, staged: &[Staged]) {
        if let Some(at) = staged.iter().find_map(Staged::at) {
            self.metrics.delivery_seconds.observe(since(at));
        }
    }

    /// Whether something is still on its way to a very large audience.
    pub(crate) fn is_spreading(&self) -> bool {
        self.spread.is_some()
    }

    /// Writes what is on its way to all who have not got it.
    fn finish_spread(&mut self) {
        while !self.spread() {}
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

    /// Gives a member the next page of what it missed. `events` are those in memory behind the member's place, up to the head, or none if they reach not far enough.
    pub(crate) fn pull(
        &mut self,
        session: &Arc<SessionHandle>,
        events: impl FnOnce(Seq) -> Option<Vec<Arc<LobbyEvent>>>,
    ) -> Pulled {
        self.flush();
        self.finish_spread();
        let Some(&index) = self.by_session.get(&session.number) else { return Pulled::NotSeated };
        let Some(seat) = self.seats[index as usize].as_mut() else { return Pulled::NotSeated };
        let Some(pull) = seat.pull.as_mut() else { return Pulled::Live };
        let head = pull.ends_at.map_or(self.head, |last| last.min(self.head));
        let outbox = &seat.session.outbox;
        let encoding = outbox.encoding();
        let missed = if pull.at < head { events(pull.at) } else { Some(Vec::new()) };
        let Some(missed) = missed else { return Pulled::OutOfReach };
        let mut page = BytesMut::new();
        let began_at = pull.at;
        say_caught_up(pull, &self.lobby, encoding, &mut page);
        for event in missed {
            if event.seq > head {
                // The owner is ahead of what was passed on here: the rest comes live.
                break;
            }
            if event.seq != pull.at.next() {
                return Pulled::OutOfReach;
            }
            release_held(pull, event.seq, &mut page);
            let silent = event.speaker().is_some_and(|speaker| seat.session.blocked.contains(speaker));
            let payload = match silent {
                true => encode_lobby_event(&event.without_words(), encoding),
                false => encode_lobby_event(&event, encoding),
            };
            page.extend_from_slice(&encoding.websocket_frame(&payload));
            pull.at = event.seq;
            say_caught_up(pull, &self.lobby, encoding, &mut page);
            if page.len() >= PAGE_BYTES {
                break;
            }
        }
        let done = pull.at >= head;
        if done {
            pull.announce = pull.announce.map(|last| last.min(pull.at));
            say_caught_up(pull, &self.lobby, encoding, &mut page);
            release_held(pull, Seq(u64::MAX), &mut page);
        }
        if !page.is_empty() {
            outbox.push(&page.freeze());
        }
        if done && pull.ends_at.is_some() {
            self.unseat(session);
            return Pulled::Live;
        }
        if done {
            seat.pull = None;
            seat.special = false;
            self.special.retain(|special| *special != index);
            return Pulled::Live;
        }
        if pull.at == began_at {
            // The owner knows less than was passed on here: what it took over has lost its end.
            return Pulled::OutOfReach;
        }
        outbox.pull_later(&self.lobby);
        Pulled::Later
    }

    /// Where a member's pull stands, if it is pulling.
    pub(crate) fn pulling_at(&self, session: &SessionHandle) -> Option<Seq> {
        let index = self.by_session.get(&session.number)?;
        self.seats[*index as usize].as_ref()?.pull.as_ref().map(|pull| pull.at)
    }

    /// Whether a member asked for `saved` events.
    pub(crate) fn wants_saved(&self, session: &SessionHandle) -> bool {
        let seat =
            self.by_session.get(&session.number).and_then(|index| self.seats[*index as usize].as_ref());
        seat.is_some_and(|seat| seat.wants_saved)
    }
}

fn say_caught_up(pull: &mut Pull, lobby: &LobbyId, encoding: Encoding, page: &mut BytesMut) {
    if pull.announce.take_if(|last| pull.at >= *last).is_some() {
        let caught_up = Event::CaughtUp { lobby: lobby.clone(), seq: pull.at };
        page.extend_from_slice(&encoding.websocket_frame(&caught_up.encode(encoding)));
    }
}

/// Writes what has no seq and follows an event before this one. What precedes a missed event was said while the member
/// was away: it does not get it.
fn release_held(pull: &mut Pull, before: Seq, page: &mut BytesMut) {
    let ready = pull.held.iter().take_while(|(after, ..)| *after < before).count();
    for (_, frame, _) in pull.held.drain(..ready) {
        pull.held_bytes -= frame.len();
        if pull.announce.is_none() {
            page.extend_from_slice(&frame);
        }
    }
}

fn join<'a>(frames: impl Iterator<Item = &'a Bytes> + Clone) -> Bytes {
    let mut rest = frames.clone();
    match (rest.next(), rest.next()) {
        (None, _) => Bytes::new(),
        (Some(only), None) => only.clone(),
        _ => {
            let mut joined = BytesMut::with_capacity(frames.clone().map(Bytes::len).sum());
            for frame in frames {
                joined.extend_from_slice(frame);
            }
            joined.freeze()
        }
    }
}

/// What everybody gets, or everybody but a few.
fn shared(item: &&Staged) -> bool {
    !matches!(item.to, To::Only(_))
}

/// Writes what is for everyone to one of them.
fn deliver_plain(lobby: &LobbyId, staged: &[Staged], joined: &[Bytes; 2], seat: &Seat) {
    let encoding = seat.session.outbox.encoding();
    seat.session.outbox.push_joined(&joined[slot(encoding)], || {
        staged.iter().filter(shared).map(|item| (item.ready(encoding).clone(), item.shed(lobby)))
    });
}

/// Writes the run of a seat that differs from everybody's: it was seated or taken out meanwhile, is named or left out
/// by a message, or is still pulling.
fn deliver_special(lobby: &LobbyId, staged: &[Staged], index: u32, seat: &mut Seat, metrics: &Metrics) {
    let encoding = seat.session.outbox.encoding();
    let run = staged.iter().zip(0_u32..).filter(|(_, place)| (seat.from..seat.until).contains(place));
    let mine = run.map(|(item, _)| item).filter(|item| item.is_for(index));
    let Some(pull) = &mut seat.pull else {
        for class in [Class::Durable, Class::Ordered, Class::Ephemeral] {
            let counted = |item: &&Staged| item.class == class && !matches!(item.payload, Payload::Ready);
            let items = mine.clone().filter(counted).count() as u64;
            if items > 0 {
                metrics.deliveries.of(class).inc_by(items);
            }
        }
        let joined = join(mine.clone().map(|item| item.ready(encoding)));
        if !joined.is_empty() {
            let frames = || mine.map(|item| (item.ready(encoding).clone(), item.shed(lobby)));
            seat.session.outbox.push_joined(&joined, frames);
        }
        return;
    };
    // Sequenced events are read again by the pull; what has no seq waits for its place behind them.
    for item in mine {
        match &item.payload {
            Payload::Lobby(event) => pull.seen = pull.seen.max(event.seq),
            _ => {
                let frame = item.ready(encoding).clone();
                pull.held_bytes += frame.len();
                pull.held.push((pull.seen, frame, item.shed(lobby)));
            }
        }
    }
    if pull.held_bytes > seat.session.outbox.bytes_max() {
        seat.session.outbox.close_slow();
    }
}
