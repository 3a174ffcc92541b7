//! Events of the server, each held against the rules; a delivery is the hot road.

use mlms_checker::Fault;
use mlms_checker::online::fingerprint;
use serde_json::Value;

use super::client::Stage;
use super::message::Message;
use super::{Engine, Tick, sending};
use crate::json::{Frame, number, unquoted};
use crate::plan::Micros;
use crate::scenario::{Class, Latency, To};

/// Silences of lobbies that are told: from a second on, the first ones.
pub(super) const SILENCE_MIN: Micros = 1_000_000;
pub(super) const SILENCES_MAX: usize = 10_000;

impl Engine {
    /// The hot road: one delivery.
    pub(super) fn message(&mut self, place: usize, frame: &Frame<'_>) {
        let client = &mut self.clients[place];
        let lobby = &mut self.lobbies[client.lobby];
        if frame.lobby.and_then(unquoted).is_none_or(|name| name != lobby.name.as_bytes()) {
            return self.broken(place, "a message of another lobby");
        }
        let body = frame.body.and_then(unquoted).unwrap_or_default();
        let message = Message::read(body, &self.run);
        let from = frame.from.unwrap_or_default();
        self.last_arrival = self.now;
        let is_live = client.member.chain.chain().is_live();
        let mut faults: [Option<Fault>; 2] = [None, None];
        if let Some(seq) = frame.seq.and_then(number) {
            let epoch = frame.epoch.and_then(number).unwrap_or(0);
            lobby.saw_epoch(epoch, self.now);
            if client.left_at.is_none() {
                faults[0] = client.member.chain.delivered(epoch, seq, self.now).err();
            }
            if let Some((message, _)) = &message {
                lobby.owned(epoch, message.intended.min(self.now));
            }
            let nonce = frame.nonce.and_then(unquoted).unwrap_or_default();
            let event = fingerprint(&[from, nonce, body]);
            faults[1] = lobby.rules.observed(epoch, seq, event, from != b"null").err();
        }
        let Some((message, padding_at)) = message else {
            let number = client.number;
            self.result
                .faults
                .add("altered", 1, || format!("client {number} got a message that no client sent"));
            return self.tell(place, faults);
        };
        if let Some(left_at) = client.left_at {
            let number = client.number;
            if message.intended > left_at {
                self.result.faults.add("after_leave", 1, || {
                    format!("client {number} had left before a message was sent, and got it")
                });
            }
            return self.tell(place, faults);
        }
        let stream = self.scenario.senders.get(usize::from(message.stream));
        let class = sending::class(&self.scenario, message.stream);
        if frame.seq.is_none() {
            let is_ordered = class == Class::Ordered;
            faults[0] = lobby
                .heard(&mut client.member, client.number, message.key(), message.index, is_ordered, self.now)
                .err();
        }
        if let Some(since) = lobby.broke_silence(self.now)
            && self.now.saturating_sub(since) > SILENCE_MIN
            && self.result.silences.len() < SILENCES_MAX
        {
            self.result.silences.push((since, self.now));
        }
        let sender_at = self.places.get(&message.sender).copied();
        // Who resumes gets the missed ones late, and what was said again has no certain place.
        if self.compares_streams
            && class != Class::Ephemeral
            && is_live
            && !client.member.spoken(message.sender, message.place)
            && sender_at.is_some_and(|at| message.place > self.clients[at].unordered_to)
        {
            let number = self.clients[place].number;
            self.result.faults.add("sender_order", 1, || {
                format!(
                    "client {number} got a message of client {} behind one that was said later",
                    message.sender
                )
            });
        }
        let client = &self.clients[place];
        let is_mine = message.sender == client.number;
        let counts = &mut self.measure.counts;
        if is_live {
            counts.deliveries += 1;
        } else {
            counts.caught_up += 1;
        }
        counts.ephemeral_arrived += u64::from(class == Class::Ephemeral);
        if is_live && !client.is_slow {
            self.measure.time(Latency::Delivery, message.intended, self.now);
        }
        let bytes = match stream {
            Some(sender) => sender.bytes.range(),
            None => self.body_bytes(message.stream),
        };
        self.result.checked_bytes += body.len() as u64;
        let kind = stream.map_or(sending::GAME_KIND, |sender| &sender.kind);
        let is_whole = message.is_whole(body, padding_at, bytes)
            && sender_at.is_some_and(|at| self.clients[at].user_text == from)
            && (frame.seq.is_some() == (class == Class::Durable))
            && frame.kind.and_then(unquoted) == Some(kind.as_bytes());
        let number = message.sender;
        if !is_whole {
            self.result
                .faults
                .add("altered", 1, || format!("a message of client {number} is not as it was sent"));
        }
        if is_mine && stream.is_some_and(|sender| sender.to == To::Others) {
            self.result
                .faults
                .add("misdelivered", 1, || format!("client {number} got its message to others"));
        }
        self.tell(place, faults);
        if is_mine
            && self
                .scenario
                .senders
                .get(usize::from(message.stream))
                .is_some_and(|sender| sender.under_way > 0)
        {
            self.arm(self.now, place, Tick::Send { stream: message.stream });
        }
    }

    fn tell(&mut self, place: usize, faults: [Option<Fault>; 2]) {
        for fault in faults.into_iter().flatten() {
            self.fault(place, &fault);
        }
    }

    pub(super) fn event(&mut self, place: usize, event: &[u8], frame: &Frame<'_>, payload: &[u8]) {
        match event {
            b"\"welcome\"" => self.welcome(place, payload),
            b"\"snapshot\"" => self.snapshot(place, payload),
            b"\"caught_up\"" => {
                let seq = frame.seq.and_then(number).unwrap_or(0);
                if let Err(fault) = self.clients[place].member.chain.chain().caught_up(seq) {
                    self.fault(place, &fault);
                }
            }
            b"\"lag\"" => self.measure.counts.dropped += frame.dropped.and_then(number).unwrap_or(0),
            b"\"bye\"" => {
                let value: Value = serde_json::from_slice(payload).unwrap_or_default();
                let window = &value["window_ms"];
                let window = window[0].as_u64().zip(window[1].as_u64());
                self.clients[place].bye = window.or((value["reconnect"] == "now").then_some((0, 50)));
            }
            b"\"notice\"" => {
                let value: Value = serde_json::from_slice(payload).unwrap_or_default();
                self.measure.reason(format!("notice {}", value["code"].as_str().unwrap_or("?")));
                match value["code"].as_str() {
                    Some("degraded") => self.degraded(place, true),
                    Some("recovered") => self.degraded(place, false),
                    _ => {}
                }
            }
            b"\"error\"" => self.error(place, payload),
            b"\"achievement\"" => self.achievement(place, payload),
            _ => {
                let Some(seq) = frame.seq.and_then(number).filter(|_| event != b"\"saved\"") else { return };
                let epoch = frame.epoch.and_then(number).unwrap_or(0);
                let client = &mut self.clients[place];
                let lobby = &mut self.lobbies[client.lobby];
                lobby.saw_epoch(epoch, self.now);
                let first = match client.left_at {
                    Some(_) => None,
                    None => client.member.chain.delivered(epoch, seq, self.now).err(),
                };
                let what = fingerprint(&[event, frame.user.unwrap_or_default()]);
                let second = lobby.rules.observed(epoch, seq, what, false).err();
                self.last_arrival = self.now;
                self.tell(place, [first, second]);
                self.game_event(place, event, frame.user);
            }
        }
    }

    /// What a client knows of its node; without a connection, nothing.
    pub(super) fn degraded(&mut self, place: usize, is_degraded: bool) {
        let known = std::mem::replace(&mut self.clients[place].is_degraded, is_degraded);
        match (known, is_degraded) {
            (false, true) => self.degraded.begin(self.now),
            (true, false) => self.degraded.end(self.now),
            _ => {}
        }
    }

    fn welcome(&mut self, place: usize, payload: &[u8]) {
        let value: Value = serde_json::from_slice(payload).unwrap_or_default();
        let client = &mut self.clients[place];
        if !matches!(client.stage, Stage::Greeting) {
            return self.broken(place, "welcome came twice");
        }
        client.heartbeat = value["heartbeat_ms"].as_u64().unwrap_or(0) * 1_000;
        self.measure.time(Latency::Connect, client.begun, self.now);
        self.result.ever_connected += 1;
        let by_lobby = self.scenario.clients.enter == crate::scenario::Enter::Lobby && !client.has_come;
        if by_lobby && client.member.chain.chain().position().is_none() {
            client.stage = Stage::Entering;
        } else {
            self.enter(place);
        }
    }

    fn snapshot(&mut self, place: usize, payload: &[u8]) {
        let value: Value = serde_json::from_slice(payload).unwrap_or_default();
        self.note_host(place, &value);
        let begun = self.clients[place].begun;
        if self.clients[place].stage.is_in() {
            self.measure.reason("a snapshot took the place of events".to_owned());
        }
        if self.position(place, &value, "snapshot") {
            self.entered(place, Some(begun));
        }
    }

    /// Takes messages of a snapshot or a history: what is there has happened.
    pub(super) fn observe(&mut self, place: usize, events: &[Value]) {
        for event in events {
            let (Some(epoch), Some(seq)) = (event["epoch"].as_u64(), event["seq"].as_u64()) else { continue };
            if event["ev"] != "message" || event["from"].is_null() {
                continue;
            }
            let from = event["from"].to_string();
            let nonce = event["nonce"].as_str().unwrap_or_default();
            let body = event["body"].as_str().unwrap_or_default();
            let what = fingerprint(&[from.as_bytes(), nonce.as_bytes(), body.as_bytes()]);
            let lobby = self.clients[place].lobby;
            if let Err(fault) = self.lobbies[lobby].rules.observed(epoch, seq, what, true) {
                self.fault(place, &fault);
            }
        }
    }

    fn error(&mut self, place: usize, payload: &[u8]) {
        let value: Value = serde_json::from_slice(payload).unwrap_or_default();
        let code = told(&value);
        if matches!(self.clients[place].stage, Stage::Entering) {
            let begun = self.clients[place].begun;
            self.join_refused(place, begun, &code, value["retry_ms"].as_u64());
        } else {
            self.measure.counts.errors += 1;
            self.measure.reason(code);
        }
    }
}

/// An error's code, with its words where the code alone says little.
pub(super) fn told(error: &Value) -> String {
    let code = error["code"].as_str().unwrap_or("?");
    match (code, error["message"].as_str()) {
        ("bad_request" | "forbidden" | "conflict" | "internal", Some(message)) => {
            format!("{code} ({message})")
        }
        _ => code.to_owned(),
    }
}
