//! A player who does things at random, by a seed, and notes all it sees. It resumes, repeats what was not answered
//! with its nonce, and sometimes does not read.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use mlms_checker::{Class as NotedClass, History as NotedPage, Invoke, Position as NotedPosition, What};
use mlms_protocol::command::{History as Page, Join, Position, Recipients, ResumePoint, Send};
use mlms_protocol::lobby::Settings;
use mlms_protocol::reply::Joined;
use mlms_protocol::{
    Answer, Body, Change, Class, Command, Encoding, ErrorCode, Event, JoinStatus, Kind, LobbyCommand,
    LobbyId, Nonce, Refusal, Seq, ServerFrame, UserId,
};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use crate::fleet::{Entrance, Fleet};
use crate::history::{self, History, text};
use crate::line::Line;
use crate::planted::Mangler;

/// A lobby that players may enter.
#[derive(Clone)]
pub(crate) struct Place {
    pub lobby: LobbyId,
    pub capacity: Option<u32>,
}

impl Place {
    fn join(&self, since: Option<Position>) -> Join {
        let settings = Settings { capacity: self.capacity, ..Settings::default() };
        Join { create: Some(settings), since, ..Join::default() }
    }
}

/// Who a player is and what it may do.
#[derive(Clone)]
pub(crate) struct Role {
    pub name: String,
    pub user: UserId,
    pub encoding: Encoding,
    pub seed: u64,
    pub nodes: usize,
    pub places: Vec<Place>,
    pub users: Vec<UserId>,
    /// Lobbies are closed now and then.
    pub closes: bool,
}

pub(crate) struct Player {
    pub role: Role,
    fleet: Arc<Fleet>,
    history: Arc<History>,
    pub random: StdRng,
    line: Option<Line>,
    /// Lobbies that the player is in, with its position. Not live: to be resumed.
    inside: BTreeMap<LobbyId, Inside>,
    open: HashMap<u32, Open>,
    /// Durable messages without an answer, in their order.
    unanswered: Vec<Message>,
    /// The last message that got its ok.
    answered: Option<Message>,
    calls: u64,
    bodies: u64,
    /// Stands between the service and this player, and makes a mistake.
    mangler: Option<Mangler>,
}

struct Inside {
    position: Position,
    live: bool,
}

#[derive(Clone)]
pub(crate) struct Message {
    lobby: LobbyId,
    nonce: Nonce,
    kind: Kind,
    body: String,
    /// It is on this connection already.
    sent: bool,
}

/// A command without its answer, with the history's number of it.
pub(crate) enum Open {
    Join(u64, LobbyId),
    Resume(Vec<(u64, LobbyId)>),
    Leave(u64, LobbyId),
    Durable(u64, Message),
    Plain(u64),
    History { call: u64, lobby: LobbyId, after: u64, started: u64 },
}

impl Player {
    pub(crate) fn new(
        role: Role,
        fleet: Arc<Fleet>,
        history: Arc<History>,
        mangler: Option<Mangler>,
    ) -> Self {
        Player {
            mangler,
            random: StdRng::seed_from_u64(role.seed),
            role,
            fleet,
            history,
            line: None,
            inside: BTreeMap::new(),
            open: HashMap::new(),
            unanswered: Vec::new(),
            answered: None,
            calls: 0,
            bodies: 0,
        }
    }

    /// Plays until `end`, settles until `quiet`, and leaves.
    pub(crate) async fn play(mut self, end: Instant, quiet: Instant) {
        while Instant::now() < end {
            if self.line.is_none() {
                self.connect().await;
            }
            let pause = Duration::from_millis(self.random.random_range(5..400));
            self.read_until((Instant::now() + pause).min(end)).await;
            if self.line.is_some() && Instant::now() < end {
                self.act(end).await;
            }
        }
        while Instant::now() < quiet {
            if self.line.is_none() {
                self.connect().await;
            }
            self.mend().await;
            self.read_until((Instant::now() + Duration::from_millis(500)).min(quiet)).await;
        }
        let lost: Vec<_> =
            self.inside.iter().filter(|(_, inside)| !inside.live).map(|(lobby, _)| lobby).collect();
        assert!(
            self.line.is_some() && lost.is_empty() && self.unanswered.is_empty(),
            "{}, when all is quiet: connected {}, not back in {lost:?}, {} not answered",
            self.role.name,
            self.line.is_some(),
            self.unanswered.len(),
        );
        self.note(What::Settled {});
        // Nobody leaves before everybody has settled.
        self.read_until(Instant::now() + Duration::from_secs(1)).await;
        let lobbies: Vec<_> = self.inside.keys().cloned().collect();
        for lobby in lobbies {
            self.leave(lobby).await;
        }
        let answers = Instant::now() + Duration::from_secs(10);
        while !self.open.is_empty() && Instant::now() < answers && self.line.is_some() {
            self.read_until(Instant::now() + Duration::from_millis(100)).await;
        }
        self.lose();
    }

    pub(crate) fn note(&self, what: What<'static>) -> u64 {
        self.history.note(&self.role.name, what)
    }

    pub(crate) fn call(&mut self) -> u64 {
        self.calls += 1;
        self.calls
    }

    fn new_body(&mut self) -> String {
        self.bodies += 1;
        let body = format!("{} {}", self.role.name, self.bodies);
        match self.random.random_range(0..20) {
            0 => format!("{body} {}", "x".repeat(2_000)),
            _ => body,
        }
    }

    // --- the connection

    async fn connect(&mut self) {
        let pause = Duration::from_millis(self.random.random_range(0..300));
        tokio::time::sleep(pause).await;
        let entrance = Entrance {
            encoding: self.role.encoding,
            pipe_bytes: self.random.random_range(1_024..16_384),
            ..Entrance::default()
        };
        let node = self.random.random_range(0..self.role.nodes);
        let Some(line) = self.fleet.enter(node, &self.role.user, entrance).await else { return };
        self.line = Some(line);
        self.note(What::Connected { user: text(&self.role.user) });
        for inside in self.inside.values_mut() {
            inside.live = false;
        }
        for message in &mut self.unanswered {
            message.sent = false;
        }
        self.resume().await;
    }

    /// Resumes all lobbies in one command.
    async fn resume(&mut self) {
        let points: Vec<_> = self
            .inside
            .iter()
            .map(|(lobby, inside)| {
                ResumePoint::new(lobby.clone(), inside.position.epoch, inside.position.seq)
            })
            .collect();
        if points.is_empty() {
            return;
        }
        let mut calls = Vec::new();
        for ResumePoint { lobby, epoch, seq, .. } in &points {
            let call = self.call();
            let since = Some(NotedPosition { epoch: epoch.0, seq: seq.0 });
            let (op, lobby_name) = (text("resume"), text(lobby));
            self.note(What::Invoke(Invoke { call, op, lobby: lobby_name, since, ..Invoke::default() }));
            calls.push((call, lobby.clone()));
        }
        self.send(Command::Resume(points), None, Open::Resume(calls)).await;
    }

    pub(crate) async fn send(&mut self, command: Command, nonce: Option<Nonce>, open: Open) {
        let id = match &mut self.line {
            Some(line) => line.send(command, nonce).await,
            None => None,
        };
        match id {
            Some(id) => _ = self.open.insert(id, open),
            None => {
                self.gone(open);
                self.lose();
            }
        }
    }

    /// The answer to this can no longer come.
    fn gone(&mut self, open: Open) {
        let calls = match open {
            Open::Resume(calls) => calls.into_iter().map(|(call, _)| call).collect(),
            Open::Join(call, _)
            | Open::Leave(call, _)
            | Open::Durable(call, _)
            | Open::Plain(call)
            | Open::History { call, .. } => vec![call],
        };
        for call in calls {
            self.note(What::Unknown { call });
        }
    }

    fn lose(&mut self) {
        if self.line.take().is_none() {
            return;
        }
        for (_, open) in std::mem::take(&mut self.open) {
            self.gone(open);
        }
        self.note(What::Disconnected {});
    }

    async fn read_until(&mut self, until: Instant) {
        loop {
            let Some(line) = &mut self.line else { return };
            tokio::select! {
                biased;
                frame = line.next() => match frame {
                    Some(frame) => {
                        let frames = match &mut self.mangler {
                            Some(mangler) => mangler.mangle(frame),
                            None => vec![frame],
                        };
                        for frame in frames {
                            self.take(frame);
                        }
                    }
                    None => self.lose(),
                },
                () = tokio::time::sleep_until(until) => return,
            }
            self.repeat_unsent().await;
        }
    }

    // --- what comes

    fn take(&mut self, frame: ServerFrame) {
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

    // --- what the player does

    /// Whether the player is on its way into a lobby or out of it: no client asks again before it is answered.
    fn is_under_way(&self, lobby: &LobbyId) -> bool {
        self.open.values().any(|open| match open {
            Open::Join(_, of) | Open::Leave(_, of) => of == lobby,
            Open::Resume(calls) => calls.iter().any(|(_, of)| of == lobby),
            _ => false,
        })
    }

    /// Comes back into lobbies that it dropped out of, and repeats what was not answered.
    async fn mend(&mut self) {
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
    async fn repeat_unsent(&mut self) {
        let ready = |message: &&mut Message| {
            !message.sent && self.inside.get(&message.lobby).is_some_and(|inside| inside.live)
        };
        let Some(message) = self.unanswered.iter_mut().find(ready) else { return };
        message.sent = true;
        let message = message.clone();
        self.send_durable(message).await;
    }

    async fn act(&mut self, end: Instant) {
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

    pub(crate) fn invoke(&mut self, op: &'static str, lobby: &LobbyId) -> u64 {
        let call = self.call();
        self.note(What::Invoke(Invoke { call, op: text(op), lobby: text(lobby), ..Invoke::default() }));
        call
    }

    pub(crate) fn nonce(&mut self) -> Nonce {
        Nonce::new(&format!("{}-{}", self.role.name, self.random.random::<u64>())).unwrap()
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

    async fn leave(&mut self, lobby: LobbyId) {
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

/// Notes a page of a lobby's history.
pub(crate) fn note_page(
    history: &History,
    lobby: &LobbyId,
    started: u64,
    after: u64,
    more: bool,
    is_final: bool,
    events: &[mlms_protocol::LobbyEvent],
) {
    let events = events.iter().map(history::event).collect();
    let page = NotedPage { lobby: text(lobby), started, after, more, is_final, events };
    history.note("", What::History(page));
}
