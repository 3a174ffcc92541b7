//! What comes to a player: replies and events, each noted, and where the player stands by them.

use mlms_checker::What;
use mlms_protocol::command::Position;
use mlms_protocol::reply::Joined;
use mlms_protocol::{Answer, Change, ErrorCode, Event, JoinStatus, LobbyId, Refusal, ServerFrame, UserId};

use super::{Inside, Open, Player, note_page};
use crate::history::{self, text};

impl Player {
    pub(super) fn take(&mut self, frame: ServerFrame) {
        match frame {
            ServerFrame::Reply { id, outcome } => {
                let open = self.open.remove(&id).expect("each command is answered once");
                self.take_reply(open, outcome);
            }
            ServerFrame::Event(event) => self.take_event(event),
            ServerFrame::Unknown => panic!("an event that nobody knows"),
        }
    }

    fn take_reply(&mut self, open: Open, outcome: Result<Answer, Refusal>) {
        match (open, outcome) {
            (Open::Join(call, _), Ok(Answer::Joined(joined))) => self.entered(call, &joined),
            (Open::Resume(calls), Ok(Answer::Resumed(outcomes))) => {
                assert_eq!(calls.len(), outcomes.len(), "one outcome each");
                for ((call, lobby), outcome) in calls.into_iter().zip(outcomes) {
                    match outcome {
                        Ok(joined) => self.entered(call, &joined),
                        Err((of, refusal)) => {
                            assert_eq!(of, lobby);
                            self.not_entered(call, &lobby, &refusal);
                        }
                    }
                }
            }
            (Open::Join(call, lobby), Err(refusal)) => self.not_entered(call, &lobby, &refusal),
            (Open::Resume(calls), Err(refusal)) => {
                for (call, lobby) in calls {
                    self.not_entered(call, &lobby, &refusal);
                }
            }
            (Open::Leave(call, lobby), Ok(_)) => {
                self.note(What::Ok { call, epoch: None, seq: None, dup: false });
                if let Some(mangler) = &mut self.mangler {
                    mangler.left(&lobby);
                }
                self.outside(&lobby);
            }
            (Open::Leave(call, lobby), Err(refusal)) => {
                self.refused(call, &refusal);
                if refusal.retry_ms.is_none() {
                    self.outside(&lobby);
                }
            }
            (Open::Durable(call, message), Ok(Answer::Sent { epoch, seq, dup, .. })) => {
                self.note(What::Ok { call, epoch: Some(epoch.0), seq: Some(seq.0), dup });
                self.unanswered.retain(|one| one.nonce != message.nonce);
                self.answered = Some(message);
            }
            (Open::Durable(call, message), Err(refusal)) => {
                self.refused(call, &refusal);
                if let Some(one) = self.unanswered.iter_mut().find(|one| one.nonce == message.nonce) {
                    one.sent = false;
                }
                // Nobody waits until it may talk again.
                if refusal.retry_ms.is_none() || refusal.code == ErrorCode::Muted {
                    self.unanswered.retain(|one| one.nonce != message.nonce);
                }
            }
            (Open::History { call, lobby, after, started }, Ok(Answer::History { events, more })) => {
                self.note(What::Ok { call, epoch: None, seq: None, dup: false });
                note_page(&self.history, &lobby, started, after, more, false, &events);
            }
            (Open::Plain(call), Ok(Answer::Changed { seq, .. })) => {
                self.note(What::Ok { call, epoch: None, seq: Some(seq.0), dup: false });
            }
            (Open::Plain(call), Ok(_)) => {
                self.note(What::Ok { call, epoch: None, seq: None, dup: false });
            }
            (Open::Plain(call) | Open::History { call, .. }, Err(refusal)) => self.refused(call, &refusal),
            (_, Ok(answer)) => panic!("{answer:?} is no answer to what was asked"),
        }
    }

    fn refused(&self, call: u64, refusal: &Refusal) {
        self.note(What::Error { call, code: text(refusal.code.as_str()), definite: None });
    }

    fn entered(&mut self, call: u64, joined: &Joined) {
        let entry = history::entry(Some(call), joined);
        self.note(match joined.status {
            JoinStatus::Joined => What::Joined(entry),
            JoinStatus::Resumed => What::Resumed(entry),
            JoinStatus::Snapshot => What::Snapshot(entry),
        });
        let position = Position { epoch: joined.epoch, seq: joined.seq };
        self.inside.insert(joined.lobby.clone(), Inside { position, live: true });
    }

    fn not_entered(&mut self, call: u64, lobby: &LobbyId, refusal: &Refusal) {
        self.refused(call, refusal);
        // A full lobby may have a place later, but this player does not wait for it.
        if refusal.retry_ms.is_none() || refusal.code == ErrorCode::LobbyFull {
            self.outside(lobby);
        }
    }

    fn outside(&mut self, lobby: &LobbyId) {
        self.inside.remove(lobby);
        self.unanswered.retain(|message| message.lobby != *lobby || message.sent);
    }

    fn take_event(&mut self, event: Event) {
        match event {
            Event::Lobby(event) => {
                self.note(What::Delivered { lobby: text(&event.lobby), event: history::event(&event) });
                if let Some(inside) = self.inside.get_mut(&event.lobby) {
                    inside.position = Position { epoch: event.epoch, seq: event.seq };
                }
                match &event.change {
                    Change::Closed { .. } => self.outside(&event.lobby),
                    Change::Left { user, .. } | Change::Kicked { user, .. } | Change::Banned { user, .. }
                        if *user == self.role.user =>
                    {
                        self.outside(&event.lobby);
                    }
                    _ => {}
                }
            }
            Event::Message(message) => {
                let event = history::passing(&message);
                self.note(What::Delivered { lobby: text(&message.lobby), event });
            }
            Event::Away { lobby, user } => self.seen(&lobby, "away", &user),
            Event::Back { lobby, user } => self.seen(&lobby, "back", &user),
            Event::Typing { lobby, user } => self.seen(&lobby, "typing", &user),
            Event::CaughtUp { lobby, seq } => {
                self.note(What::CaughtUp { lobby: text(&lobby), seq: seq.0 });
            }
            Event::Snapshot { lobby, epoch, seq, .. } => {
                self.note(What::Snapshot(history::position(None, &lobby, epoch, seq, 0)));
                let position = Position { epoch, seq };
                self.inside.insert(lobby, Inside { position, live: true });
            }
            Event::Error { lobby: Some(lobby), .. } => {
                // The service could not keep the player inside: it comes back by itself.
                if let Some(inside) = self.inside.get_mut(&lobby) {
                    inside.live = false;
                }
            }
            Event::Notice { code, .. } => {
                self.note(What::Notice { code: text(code.as_str()) });
            }
            Event::Welcome { .. }
            | Event::Saved { .. }
            | Event::Lag { .. }
            | Event::Bye { .. }
            | Event::Error { .. }
            | Event::Read { .. }
            | Event::Achievement { .. } => {}
        }
    }

    fn seen(&self, lobby: &LobbyId, ev: &'static str, user: &UserId) {
        self.note(What::Delivered { lobby: text(lobby), event: history::about(ev, user) });
    }
}
