//! A member that is still being brought up to date: it gets what it missed in pages as its connection drains, hears
//! `caught_up`, and only then what is live. What has no seq keeps its place behind the event that it followed.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use mlms_protocol::{Encoding, Event, LobbyEvent, LobbyId, Seq};

use super::Audience;
use super::staging::encode_lobby_event;
use crate::outbox::Shed;
use crate::session::SessionHandle;

/// Bytes of missed events that are written before the connection has to drain.
const PAGE_BYTES: usize = 64 * 1024;

/// A member that is still being brought up to date.
pub(super) struct Pull {
    /// The last event it was given.
    pub(super) at: Seq,
    /// The newest event that everyone else was given meanwhile.
    pub(super) seen: Seq,
    /// The last of the missed events: `caught_up` follows it, and only then what is live.
    pub(super) announce: Option<Seq>,
    /// The event that ended the membership: the last one for this member.
    pub(super) ends_at: Option<Seq>,
    /// Unsequenced frames that came meanwhile, with the event they follow.
    pub(super) held: Vec<(Seq, Bytes, Shed)>,
    pub(super) held_bytes: usize,
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

impl Audience {
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
