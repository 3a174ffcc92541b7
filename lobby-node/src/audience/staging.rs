//! What waits to be written to an audience: sequenced events, what has no seq, and frames for one member in line with
//! them; and for whom each is. The lobby's owner and a node's attachment stage; `delivery.rs` beside this file writes.

use std::sync::Arc;

use bytes::Bytes;
use mlms_protocol::{Class, Encoding, Event, LobbyEvent, LobbyId, Millis};

use super::Audience;
use crate::lobby::{Passing, Target};
use crate::outbox::{LatestKey, Shed};
use crate::session::SessionHandle;

pub(super) struct Staged {
    pub(super) payload: Payload,
    pub(super) class: Class,
    pub(super) key: Option<Arc<LatestKey>>,
    pub(super) to: To,
    pub(super) frames: [Option<Bytes>; 2],
}

pub(super) enum Payload {
    Lobby(Arc<LobbyEvent>),
    Event(Box<Event>),
    /// Encoded already, for one session.
    Ready,
}

pub(super) enum To {
    Everyone,
    EveryoneBut(Vec<u32>),
    Only(Vec<u32>),
}

pub(super) fn slot(encoding: Encoding) -> usize {
    match encoding {
        Encoding::Json => 0,
        Encoding::Msgpack => 1,
    }
}

impl Staged {
    pub(super) fn frame(&mut self, encoding: Encoding) -> &Bytes {
        self.frames[slot(encoding)].get_or_insert_with(|| {
            let payload = match &self.payload {
                Payload::Lobby(event) => encode_lobby_event(event, encoding),
                Payload::Event(event) => event.encode(encoding),
                Payload::Ready => Vec::new(),
            };
            encoding.websocket_frame(&payload)
        })
    }

    pub(super) fn ready(&self, encoding: Encoding) -> &Bytes {
        self.frames[slot(encoding)].as_ref().expect("flush encodes for every encoding in the audience")
    }

    /// When its owner decided it, where that is said.
    pub(super) fn at(&self) -> Option<Millis> {
        match &self.payload {
            Payload::Lobby(event) => Some(event.at),
            Payload::Event(event) => match event.as_ref() {
                Event::Message(message) => Some(message.at),
                _ => None,
            },
            Payload::Ready => None,
        }
    }

    pub(super) fn is_for(&self, seat: u32) -> bool {
        match &self.to {
            To::Everyone => true,
            To::EveryoneBut(seats) => !seats.contains(&seat),
            To::Only(seats) => seats.contains(&seat),
        }
    }

    pub(super) fn shed(&self, lobby: &LobbyId) -> Shed {
        match self.class {
            Class::Ephemeral => Shed::Ephemeral { lobby: lobby.clone(), key: self.key.clone() },
            Class::Durable | Class::Ordered => Shed::Never,
        }
    }
}

pub(super) fn encode_lobby_event(event: &LobbyEvent, encoding: Encoding) -> Vec<u8> {
    let mut writer = mlms_protocol::writer::ObjectWriter::new(encoding);
    event.write(&mut writer);
    writer.finish()
}

/// What everybody gets, or everybody but a few.
pub(super) fn shared(item: &&Staged) -> bool {
    !matches!(item.to, To::Only(_))
}

impl Audience {
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

    pub(super) fn stage(&mut self, payload: Payload, class: Class, key: Option<Arc<LatestKey>>, to: To) {
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
}
