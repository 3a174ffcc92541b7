//! What a player does by chance, and how it comes back into lobbies that it dropped out of.

use std::time::Duration;

use mlms_checker::{Class as NotedClass, Invoke, Position as NotedPosition, What};
use mlms_protocol::command::{History as Page, Position, Recipients, Send};
use mlms_protocol::{Body, Class, Command, Kind, LobbyCommand, LobbyId, Seq};
use rand::Rng;
use rand::seq::IndexedRandom;
use tokio::time::Instant;

use super::{Message, Open, Place, Player};
use crate::history::text;

impl Player {
    /// Whether the player is on its way into a lobby or out of it: no client asks again before it is answered.
    fn is_under_way(&self, lobby: &LobbyId) -> bool {
        self.open.values().any(|open| match open {
            Open::Join(_, of) | Open::Leave(_, of) => of == lobby,
            Open::Resume(calls) => calls.iter().any(|(_, of)| of == lobby),
            _ => false,
        })
    }

    /// Comes back into lobbies that it dropped out of, and repeats what was not answered.
    pub(super) async fn mend(&mut self) {
        let lost = self.inside.iter().filter(|(lobby, inside)| !inside.live && !self.is_under_way(lobby));
        let lost: Vec<_> = lost.map(|(lobby, inside)| (lobby.clone(), inside.position)).collect();
        for (lobby, position) in lost {
            let place = self.role.places.iter().find(|place| place.lobby == lobby).unwrap().clone();
            self.join(&place, Some(position)).await;
        }
        // What was never answered in a lobby that the player is not in any more stays unknown.
        let Player { inside, unanswered, .. } = self;
        unanswered.retain(|message| message.sent || inside.contains_key(&message.lobby));
        self.repeat_unsent().await;
    }

    /// Sends what this connection has not carried yet, where the player is inside again.
    pub(super) async fn repeat_unsent(&mut self) {
        let ready = |message: &&mut Message| {
            !message.sent && self.inside.get(&message.lobby).is_some_and(|inside| inside.live)
        };
        let Some(message) = self.unanswered.iter_mut().find(ready) else { return };
        message.sent = true;
        let message = message.clone();
        self.send_durable(message).await;
    }

    pub(super) async fn act(&mut self, end: Instant) {
        if self.random.random_bool(0.3) {
            self.mend().await;
        }
        let inside = self.inside.iter().filter(|(_, inside)| inside.live).map(|(lobby, _)| lobby.clone());
        let inside: Vec<_> = inside.collect();
        let Some(lobby) = inside.choose(&mut self.random).cloned() else {
            let place = self.role.places.choose(&mut self.random).unwrap().clone();
            return self.join(&place, None).await;
        };
        match self.random.random_range(0..1_000) {
            0..350 => self.chat(lobby).await,
            350..400 => {
                for _ in 0..self.random.random_range(2..15) {
                    self.chat(lobby.clone()).await;
                }
            }
            400..460 => self.repeat_answered().await,
            460..640 => self.say(lobby, Class::Ordered, None).await,
            640..700 => {
                for _ in 0..self.random.random_range(2..10) {
                    self.say(lobby.clone(), Class::Ordered, None).await;
                    self.chat(lobby.clone()).await;
                }
            }
            700..760 => {
                let key = self.random.random_bool(0.5).then(|| "place".to_owned());
                self.say(lobby, Class::Ephemeral, key).await;
            }
            760..800 => {
                let call = self.invoke("typing", &lobby);
                self.send(Command::Lobby(lobby, LobbyCommand::Typing), None, Open::Plain(call)).await;
            }
            800..850 => self.read_history(lobby).await,
            850..910 => {
                let place = self.role.places.choose(&mut self.random).unwrap().clone();
                let since = self.inside.get(&place.lobby).map(|inside| inside.position);
                let since = since.filter(|_| self.random.random_bool(0.5));
                self.join(&place, since).await;
            }
            910..940 => self.leave(lobby).await,
            940..945 if self.role.closes => {
                let call = self.invoke("close", &lobby);
                let nonce = self.nonce();
                let close = Command::Lobby(lobby, LobbyCommand::Close);
                self.send(close, Some(nonce), Open::Plain(call)).await;
            }
            945..965 => {
                // Not reading, while the service writes.
                let pause = Duration::from_millis(self.random.random_range(500..9_000));
                tokio::time::sleep_until((Instant::now() + pause).min(end)).await;
            }
            965..980 => {
                let pause = match self.random.random_range(0..10) {
                    0..6 => self.random.random_range(0..1_500),
                    6..9 => self.random.random_range(1_500..10_000),
                    _ => self.random.random_range(10_000..40_000),
                };
                if self.random.random_bool(0.3) {
                    if let Some(line) = self.line.take() {
                        for (_, open) in std::mem::take(&mut self.open) {
                            self.gone(open);
                        }
                        self.note(What::Disconnected {});
                        line.close().await;
                    }
                } else {
                    self.lose();
                }
                let until = Instant::now() + Duration::from_millis(pause);
                tokio::time::sleep_until(until.min(end)).await;
            }
            980..993 => self.moderate(lobby).await,
            _ => self.play_game(lobby).await,
        }
    }

    async fn join(&mut self, place: &Place, since: Option<Position>) {
        if self.is_under_way(&place.lobby) {
            return;
        }
        let call = self.call();
        let noted = since.map(|since| NotedPosition { epoch: since.epoch.0, seq: since.seq.0 });
        let (op, lobby) = (text("join"), text(&place.lobby));
        self.note(What::Invoke(Invoke { call, op, lobby, since: noted, ..Invoke::default() }));
        let join = LobbyCommand::Join(place.join(since));
        let lobby = place.lobby.clone();
        self.send(Command::Lobby(lobby.clone(), join), None, Open::Join(call, lobby)).await;
    }

    pub(super) async fn leave(&mut self, lobby: LobbyId) {
        if self.is_under_way(&lobby) {
            return;
        }
        let call = self.invoke("leave", &lobby);
        let leave = Command::Lobby(lobby.clone(), LobbyCommand::Leave);
        self.send(leave, None, Open::Leave(call, lobby)).await;
    }

    async fn chat(&mut self, lobby: LobbyId) {
        let kind = if self.random.random_bool(0.9) { "chat" } else { "score" };
        let (nonce, body) = (self.nonce(), self.new_body());
        let message = Message { lobby, nonce, kind: Kind::new(kind).unwrap(), body, sent: true };
        self.unanswered.push(message.clone());
        self.send_durable(message).await;
    }

    async fn repeat_answered(&mut self) {
        let inside = |message: &Message| self.inside.get(&message.lobby).is_some_and(|inside| inside.live);
        if let Some(message) = self.answered.clone().filter(inside) {
            self.send_durable(message).await;
        }
    }

    async fn send_durable(&mut self, message: Message) {
        let call = self.call();
        self.note(What::Invoke(Invoke {
            call,
            op: text("send"),
            lobby: text(&message.lobby),
            nonce: Some(text(&message.nonce)),
            kind: Some(text(&message.kind)),
            class: Some(NotedClass::Durable),
            body: Some(text(&message.body)),
            ..Invoke::default()
        }));
        let send = Send {
            kind: message.kind.clone(),
            body: Body::text(&message.body),
            class: Class::Durable,
            key: None,
            to: Recipients::Everyone,
        };
        let command = Command::Lobby(message.lobby.clone(), LobbyCommand::Send(send));
        let is_repeat = self.answered.as_ref().is_some_and(|answered| answered.nonce == message.nonce);
        let nonce = match &self.mangler {
            Some(mangler) => mangler.nonce(&message.nonce, is_repeat),
            None => message.nonce.clone(),
        };
        self.send(command, Some(nonce), Open::Durable(call, message)).await;
    }

    async fn say(&mut self, lobby: LobbyId, class: Class, key: Option<String>) {
        let (call, body) = (self.call(), self.new_body());
        let to = match self.random.random_range(0..10) {
            0 => Recipients::Host,
            1 => Recipients::Others,
            2 => {
                let count = self.random.random_range(1..4);
                Recipients::Users(self.role.users.choose_multiple(&mut self.random, count).cloned().collect())
            }
            _ => Recipients::Everyone,
        };
        let named = match &to {
            Recipients::Everyone => Vec::new(),
            Recipients::Host => vec![text("host")],
            Recipients::Others => vec![text("others")],
            Recipients::Users(users) => users.iter().map(text).collect(),
        };
        self.note(What::Invoke(Invoke {
            call,
            op: text("send"),
            lobby: text(&lobby),
            kind: Some(text("game")),
            class: Some(if class == Class::Ordered { NotedClass::Ordered } else { NotedClass::Ephemeral }),
            body: Some(text(&body)),
            to: named,
            ..Invoke::default()
        }));
        let send = Send { kind: Kind::new("game").unwrap(), body: Body::text(&body), class, key, to };
        let command = Command::Lobby(lobby, LobbyCommand::Send(send));
        self.send(command, None, Open::Plain(call)).await;
    }

    async fn read_history(&mut self, lobby: LobbyId) {
        let head = self.inside.get(&lobby).map_or(0, |inside| inside.position.seq.0);
        let after = self.random.random_range(0..=head);
        let call = self.call();
        let invoke = Invoke { call, op: text("history"), lobby: text(&lobby), ..Invoke::default() };
        let started = self.note(What::Invoke(invoke));
        let limit = self.random.random_range(1..=200);
        let page = LobbyCommand::History(Page { before: None, after: Some(Seq(after)), limit });
        let open = Open::History { call, lobby: lobby.clone(), after, started };
        self.send(Command::Lobby(lobby, page), None, open).await;
    }
}
