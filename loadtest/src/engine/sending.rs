//! What clients send: messages when they are due, joins and resumes, refused messages again.

use std::io::Write as _;
use std::sync::atomic::Ordering;

use super::client::{Pending, Stage, What};
use super::message::Message;
use super::{Engine, Tick, is_to_others};
use crate::msgpack;
use crate::plan::{Micros, next_due};
use crate::scenario::{Arrivals, Class, Scenario};
use crate::websocket::{Opcode, write_frame};
use mlms_checker::online::fingerprint;

/// Bytes that may wait in one connection; more means that the server does not read.
const OUTBOX_BYTES_MAX: usize = 4 << 20;

/// Durable messages that wait for a client's return.
const BACKLOG_MAX: usize = 10_000;

/// Actions of a game come from a stream of their own.
pub(super) const GAME_STREAM: u8 = u8::MAX;
pub(super) const GAME_KIND: &str = "game";

/// The class of a stream's messages.
pub(super) fn class(scenario: &Scenario, stream: u8) -> Class {
    scenario.senders.get(usize::from(stream)).map_or(Class::Ordered, |sender| sender.class())
}

impl Engine {
    pub(super) fn lobby_name(&self, place: usize) -> String {
        self.lobbies[self.clients[place].lobby].name.clone()
    }

    /// Sends a command; `fields` is its object without braces and id. False: there is no connection.
    pub(super) fn command(&mut self, place: usize, what: What, fields: &str) -> bool {
        let client = &mut self.clients[place];
        client.next_id = client.next_id.wrapping_add(1);
        let id = client.next_id;
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        write!(text, "{{\"id\":{id},{fields}}}").expect("memory takes it");
        let sent = self.transmit(place, &text);
        self.text = text;
        if sent {
            self.clients[place].pending.push_back(Pending { id, what, begun: self.now });
        }
        sent
    }

    /// Writes one frame, in the client's encoding.
    fn transmit(&mut self, place: usize, text: &[u8]) -> bool {
        let mask = self.rng.next() as u32;
        self.frame.clear();
        if self.clients[place].is_msgpack {
            let bytes = msgpack::from_json(text).expect("what we write is JSON");
            write_frame(&mut self.frame, Opcode::Binary, &bytes, mask);
        } else {
            write_frame(&mut self.frame, Opcode::Text, text, mask);
        }
        let client = &mut self.clients[place];
        let Some(socket) = client.socket.as_mut().filter(|_| client.stage.is_open()) else { return false };
        self.measure.counts.bytes_out += self.frame.len() as u64;
        match socket.write(&self.frame) {
            Ok(()) => true,
            Err(error) => {
                self.lost(place, &format!("connection: {}", error.kind()));
                false
            }
        }
    }

    pub(super) fn pong(&mut self, place: usize, payload: &[u8]) {
        let mask = self.rng.next() as u32;
        self.frame.clear();
        write_frame(&mut self.frame, Opcode::Pong, payload, mask);
        if let Some(socket) = &mut self.clients[place].socket
            && let Err(error) = socket.write(&self.frame)
        {
            self.lost(place, &format!("connection: {}", error.kind()));
        }
    }

    /// Joins, or resumes where there is a position.
    pub(super) fn enter(&mut self, place: usize) {
        let position = self.clients[place].member.chain.chain().position();
        let Some(position) = position else { return self.join(place) };
        let lobby = self.lobby_name(place);
        let fields = format!(
            "\"op\":\"resume\",\"lobbies\":[{{\"lobby\":\"{lobby}\",\"epoch\":{},\"seq\":{}}}]",
            position.epoch, position.seq
        );
        self.clients[place].stage = Stage::Entering;
        self.command(place, What::Resume, &fields);
    }

    pub(super) fn join(&mut self, place: usize) {
        let lobby = self.lobby_name(place);
        let create = match &self.scenario.lobbies.settings {
            Some(settings) => serde_json::to_string(settings).unwrap_or_default(),
            None => "true".to_owned(),
        };
        self.clients[place].stage = Stage::Entering;
        self.command(
            place,
            What::Join,
            &format!("\"op\":\"join\",\"lobby\":\"{lobby}\",\"create\":{create}"),
        );
    }

    pub(super) fn rejoin(&mut self, place: usize, connection: u32) {
        let client = &self.clients[place];
        if client.connection == connection && matches!(client.stage, Stage::Entering | Stage::Out) {
            self.join(place);
        }
    }

    /// The first message of each stream gets its time.
    pub(super) fn schedule_streams(&mut self, place: usize, at: Micros) {
        for index in 0..self.clients[place].streams.len() {
            let stream = &mut self.clients[place].streams[index];
            let Some(sender) = self.scenario.senders.get(usize::from(stream.sender)) else { continue };
            if sender.under_way > 0 {
                continue;
            }
            stream.is_scheduled = true;
            let work = match sender.arrivals {
                Arrivals::Even => stream.dice.unit(),
                Arrivals::Poisson => stream.dice.exponential(1.0),
            };
            let number = stream.sender;
            if let Some(due) = next_due(&self.phases, at, sender.rate, work) {
                self.arm(due, place, Tick::Send { stream: number });
            }
        }
    }

    /// A client is in for the first time: streams of the closed model begin.
    pub(super) fn begin_closed_streams(&mut self, place: usize) {
        for index in 0..self.clients[place].streams.len() {
            let stream = &mut self.clients[place].streams[index];
            if std::mem::replace(&mut stream.is_scheduled, true) {
                continue;
            }
            let number = stream.sender;
            for _ in 0..self.scenario.senders[usize::from(number)].under_way {
                self.arm(self.now, place, Tick::Send { stream: number });
            }
        }
    }

    /// The time of a stream's next message has come; `due` is the intended one.
    pub(super) fn send_due(&mut self, due: Micros, place: usize, number: u8) {
        if self.is_over {
            return;
        }
        let sender = &self.scenario.senders[usize::from(number)];
        let (rate, arrivals, under_way) = (sender.rate, sender.arrivals, sender.under_way);
        if under_way > 0 {
            // Closed model: the next one comes with the arrival of this one.
            let is_ready = matches!(self.clients[place].stage, Stage::In) && self.load() > 0.0;
            match is_ready {
                true => self.send_next(place, number, self.now),
                false => self.arm(self.now + 20_000, place, Tick::Send { stream: number }),
            }
            return;
        }
        let stream = self.clients[place].streams.iter_mut().find(|stream| stream.sender == number);
        let work = match (arrivals, stream) {
            (Arrivals::Poisson, Some(stream)) => stream.dice.exponential(1.0),
            _ => 1.0,
        };
        if let Some(next) = next_due(&self.phases, due, rate, work) {
            self.arm(next, place, Tick::Send { stream: number });
        }
        self.measure.lag(self.now.saturating_sub(due));
        self.send_next(place, number, due);
    }

    /// Sends the next message of a stream, or keeps it for the client's return.
    pub(super) fn send_next(&mut self, place: usize, number: u8, intended: Micros) {
        let class = class(&self.scenario, number);
        let client = &mut self.clients[place];
        let is_in = matches!(client.stage, Stage::In)
            && client.socket.as_ref().is_some_and(|socket| socket.waiting() < OUTBOX_BYTES_MAX);
        let is_expected = client.has_come && client.is_wanted && !client.is_away;
        if is_expected {
            self.lobbies[client.lobby].owes(intended);
        }
        let is_kept = class == Class::Durable && is_expected && client.backlog.len() < BACKLOG_MAX;
        if !is_in && !is_kept {
            // Who was to be there could not send it: no latency tells of it, so it is counted.
            self.measure.counts.unsent += u64::from(is_expected);
            return;
        }
        let Some(stream) = client.streams.iter_mut().find(|stream| stream.sender == number) else { return };
        client.said += u64::from(class != Class::Ephemeral);
        let said = client.said;
        let message =
            Message { sender: client.number, stream: number, index: stream.next, place: said, intended };
        stream.next += 1;
        // Once for each message, however often it is said.
        self.measure.counts.sent += 1;
        client.backlog.push_back(message);
        if is_in {
            self.flush_backlog(place);
        }
    }

    /// Sends a message, for the first time or again.
    pub(super) fn send(&mut self, place: usize, message: Message) {
        let number = message.stream;
        let class = class(&self.scenario, number);
        let client = &mut self.clients[place];
        client.next_id = client.next_id.wrapping_add(1);
        let id = client.next_id;
        let bytes = self.body_bytes(number);
        let client = &self.clients[place];
        let lobby = &mut self.lobbies[client.lobby];
        let sender = self.scenario.senders.get(usize::from(number));
        let kind = sender.map_or(GAME_KIND, |sender| &sender.kind);
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        write!(
            text,
            "{{\"id\":{id},\"op\":\"send\",\"lobby\":\"{}\",\"kind\":\"{kind}\",\"class\":\"{}\"",
            lobby.name,
            class.name()
        )
        .expect("memory takes it");
        if let Some(key) = sender.and_then(|sender| sender.key.as_ref()) {
            write!(text, ",\"key\":{}", serde_json::Value::from(&**key)).expect("memory takes it");
        }
        if is_to_others(&self.scenario, number) {
            text.extend_from_slice(b",\"to\":\"others\"");
        }
        let nonce = (class == Class::Durable).then(|| message.nonce(&self.run));
        if let Some(nonce) = &nonce {
            write!(text, ",\"nonce\":\"{nonce}\"").expect("memory takes it");
        }
        text.extend_from_slice(b",\"body\":\"");
        let body = text.len();
        message.write_body(&mut text, &self.run, bytes);
        let fault = match (&nonce, class) {
            (Some(nonce), _) => {
                let event = fingerprint(&[&client.user_text, nonce.as_bytes(), &text[body..]]);
                lobby.rules.sent(event).err()
            }
            (None, Class::Ordered) => {
                lobby.ordered_sent(
                    message.key(),
                    message.sender,
                    message.index,
                    is_to_others(&self.scenario, number),
                    self.now,
                );
                None
            }
            _ => {
                let own = u64::from(is_to_others(&self.scenario, number));
                self.measure.counts.ephemeral_owed += lobby.present.saturating_sub(own);
                None
            }
        };
        text.extend_from_slice(b"\"}");
        if let Some(fault) = fault {
            self.fault(place, &fault);
        }
        self.clients[place].pending.push_back(Pending { id, what: What::Send(message), begun: self.now });
        // When the connection breaks now, the message is among what was not answered.
        self.transmit(place, &text);
        self.text = text;
    }

    pub(super) fn body_bytes(&self, stream: u8) -> (u32, u32) {
        match self.scenario.senders.get(usize::from(stream)) {
            Some(sender) => sender.bytes.range(),
            None => self.scenario.game.as_ref().map_or((0, 0), |game| game.bytes.range()),
        }
    }

    /// By what the checks know a durable message.
    pub(super) fn event_of(&self, place: usize, message: Message) -> u64 {
        let mut body = Vec::new();
        message.write_body(&mut body, &self.run, self.body_bytes(message.stream));
        fingerprint(&[&self.clients[place].user_text, message.nonce(&self.run).as_bytes(), &body])
    }

    pub(super) fn flush_backlog(&mut self, place: usize) {
        // Sending may end the connection, and give back what was sent.
        for _ in 0..self.clients[place].backlog.len() {
            if !matches!(self.clients[place].stage, Stage::In) {
                return;
            }
            let Some(message) = self.clients[place].backlog.pop_front() else { return };
            self.send(place, message);
        }
    }

    pub(super) fn retry_later(&mut self, place: usize, message: Message, wait: Micros) {
        let client = &mut self.clients[place];
        let due = self.now + wait;
        client.retries.push((due, message));
        // What was said behind it may come before it now.
        client.unordered_to = client.said;
        let connection = client.connection;
        self.arm(due, place, Tick::Retry { connection });
    }

    pub(super) fn retry(&mut self, place: usize, connection: u32) {
        if self.clients[place].connection != connection {
            return;
        }
        let now = self.now;
        while let Some(at) = self.clients[place].retries.iter().position(|(due, _)| *due <= now) {
            let (_, message) = self.clients[place].retries.swap_remove(at);
            if matches!(self.clients[place].stage, Stage::In) {
                self.send(place, message);
            } else {
                self.clients[place].backlog.push_back(message);
            }
        }
        self.shared.sent.store(self.measure.counts.sent, Ordering::Relaxed);
    }
}
