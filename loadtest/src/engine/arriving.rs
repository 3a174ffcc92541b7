//! What comes from the server: bytes into frames, frames into replies and events, each held against the rules.

use mlms_checker::online::fingerprint;
use mlms_checker::{Fault, Position};
use serde_json::Value;

use super::client::{Pending, Stage, What};
use super::message::Message;
use super::{Engine, Tick, sending};
use crate::json::{Frame, number, unquoted};
use crate::scenario::{Class, Latency, To};
use crate::websocket::{Opcode, header};

impl Engine {
    /// A socket has bytes.
    pub(super) fn readable(&mut self, place: usize, scratch: &mut [u8], is_ending: bool) {
        let Some(client) = self.clients.get(place) else { return };
        if client.is_slow && matches!(client.stage, Stage::In | Stage::Leaving) {
            return;
        }
        // A short reading means that the socket is dry (epoll(7)); only the end has no event of its own.
        while self.read_once(place, scratch) {}
        if is_ending {
            while self.clients[place].socket.is_some() && self.read_once(place, scratch) {}
            if self.clients[place].socket.is_some() && self.clients[place].stage.is_open() {
                self.read_once(place, scratch);
            }
        }
    }

    /// Takes bytes of one connection, which may hold parts of frames.
    pub(super) fn arrived(&mut self, place: usize, bytes: &[u8]) {
        let client = &mut self.clients[place];
        client.last_heard = self.now;
        let Some(socket) = &mut client.socket else { return };
        if socket.inbox.is_empty() {
            let used = self.frames(place, bytes);
            if let (Some(used), Some(socket)) = (used, &mut self.clients[place].socket) {
                socket.inbox.extend_from_slice(&bytes[used..]);
            }
            return;
        }
        socket.inbox.extend_from_slice(bytes);
        let inbox = std::mem::take(&mut socket.inbox);
        let used = self.frames(place, &inbox);
        if let (Some(used), Some(socket)) = (used, &mut self.clients[place].socket) {
            socket.inbox = inbox;
            socket.inbox.drain(..used);
            if socket.inbox.is_empty() {
                socket.inbox = Vec::new();
            }
        }
    }

    /// Gives the bytes that were whole; `None`: this connection is over.
    fn frames(&mut self, place: usize, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        if self.clients[place].stage.is_handshake() {
            at = self.answered(place, bytes)?;
            if at == 0 {
                return Some(0);
            }
        }
        let connection = self.clients[place].connection;
        loop {
            let rest = &bytes[at..];
            let header = match header(rest) {
                Ok(Some(header)) if rest.len() >= header.length + header.payload => header,
                Ok(_) => return Some(at),
                Err(reason) => {
                    self.broken(place, reason);
                    return None;
                }
            };
            let payload = &rest[header.length..header.length + header.payload];
            at += header.length + header.payload;
            match header.opcode {
                Opcode::Text if header.is_final => self.text_frame(place, payload),
                Opcode::Text | Opcode::Continuation => self.fragment(place, payload, header.is_final),
                Opcode::Binary => self.broken(place, "a binary frame on a session of JSON"),
                Opcode::Ping => self.pong(place, payload),
                Opcode::Pong => {}
                Opcode::Close => {
                    let code = payload.first_chunk().map_or(1005, |bytes| u16::from_be_bytes(*bytes));
                    self.lost(place, &format!("close {code}"));
                }
            }
            if self.clients[place].connection != connection {
                return None;
            }
        }
    }

    fn fragment(&mut self, place: usize, payload: &[u8], is_final: bool) {
        let Some(socket) = &mut self.clients[place].socket else { return };
        socket.fragments.extend_from_slice(payload);
        if is_final {
            let whole = std::mem::take(&mut socket.fragments);
            self.text_frame(place, &whole);
        }
    }

    /// The server spoke against the protocol.
    fn broken(&mut self, place: usize, reason: &str) {
        let number = self.clients[place].number;
        self.result.faults.add("protocol", 1, || format!("client {number}: {reason}"));
        self.lost(place, "protocol error");
    }

    fn text_frame(&mut self, place: usize, payload: &[u8]) {
        let Some(frame) = Frame::read(payload) else {
            return self.broken(place, "a frame that is no object");
        };
        match frame.ev {
            Some(b"\"message\"") => self.message(place, &frame),
            Some(event) => self.event(place, event, &frame, payload),
            None => match frame.id.and_then(number) {
                Some(id) => self.reply(place, id as u32, &frame),
                None => self.broken(place, "a frame with neither event nor id"),
            },
        }
    }

    /// The hot road: one delivery.
    fn message(&mut self, place: usize, frame: &Frame<'_>) {
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
            lobby.saw_epoch(epoch);
            if client.left_at.is_none() {
                faults[0] = client.member.chain.delivered(epoch, seq, self.now).err();
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
                .heard(&mut client.member, client.number, message.key(), message.index, is_ordered)
                .err();
        }
        if let Some(since) = lobby.last_delivery.replace(self.now)
            && self.now - since > 1_000_000
            && self.result.silences.len() < 10_000
        {
            self.result.silences.push((since, self.now));
        }
        let is_mine = message.sender == client.number;
        let counts = &mut self.measure.counts;
        if is_live {
            counts.deliveries += 1;
        } else {
            counts.caught_up += 1;
        }
        if is_live && !client.is_slow {
            self.measure.time(Latency::Delivery, self.now.saturating_sub(message.intended));
        }
        let bytes = match stream {
            Some(sender) => sender.bytes.range(),
            None => self.body_bytes(message.stream),
        };
        self.result.checked_bytes += body.len() as u64;
        let sender_at = self.places.get(&message.sender).copied();
        let is_whole = message.is_whole(body, padding_at, bytes)
            && sender_at.is_some_and(|at| self.clients[at].user_text == from)
            && (frame.seq.is_some() == (class == Class::Durable));
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

    fn event(&mut self, place: usize, event: &[u8], frame: &Frame<'_>, payload: &[u8]) {
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
                if value["code"] == "degraded" {
                    self.lobbies.iter_mut().for_each(|lobby| lobby.is_disturbed = true);
                }
            }
            b"\"error\"" => self.error(place, payload),
            b"\"achievement\"" => self.achievement(place, payload),
            _ => {
                let Some(seq) = frame.seq.and_then(number).filter(|_| event != b"\"saved\"") else { return };
                let epoch = frame.epoch.and_then(number).unwrap_or(0);
                let client = &mut self.clients[place];
                let lobby = &mut self.lobbies[client.lobby];
                lobby.saw_epoch(epoch);
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

    fn welcome(&mut self, place: usize, payload: &[u8]) {
        let value: Value = serde_json::from_slice(payload).unwrap_or_default();
        let client = &mut self.clients[place];
        if !matches!(client.stage, Stage::Greeting) {
            return self.broken(place, "welcome came twice");
        }
        client.heartbeat = value["heartbeat_ms"].as_u64().unwrap_or(0) * 1_000;
        self.measure.time(Latency::Connect, self.now.saturating_sub(client.begun));
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
        if self.position(place, &value, "snapshot") {
            self.entered(place, Some(begun));
        }
    }

    /// Takes a position: of a snapshot, or of the ok of a join or resume. False: it is none.
    fn position(&mut self, place: usize, value: &Value, status: &str) -> bool {
        let (Some(epoch), Some(seq)) = (value["epoch"].as_u64(), value["seq"].as_u64()) else {
            self.broken(place, "a position without epoch and seq");
            return false;
        };
        let client = &mut self.clients[place];
        let lobby = &mut self.lobbies[client.lobby];
        lobby.saw_epoch(epoch);
        let position = Position { epoch, seq };
        let fault = match status {
            "resumed" => {
                let missed = value["missed"].as_u64().unwrap_or(0);
                client.member.chain.chain().resumed(position, missed, None)
            }
            _ => client.member.chain.entered(position),
        };
        if let Err(fault) = fault {
            self.fault(place, &fault);
        }
        if let Some(messages) = value["state"]["messages"].as_array() {
            self.observe(place, messages);
        }
        true
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
            self.join_refused(place, &code, value["retry_ms"].as_u64());
        } else {
            self.measure.counts.errors += 1;
            self.measure.reason(code);
        }
    }

    /// A join got an error. It is tried again when that can help, and now and then when not.
    fn join_refused(&mut self, place: usize, code: &str, retry_ms: Option<u64>) {
        self.measure.reason(format!("join {code}"));
        match retry_ms {
            Some(_) => self.measure.counts.retries += 1,
            None => self.measure.counts.errors += 1,
        }
        let client = &mut self.clients[place];
        client.stage = Stage::Out;
        let connection = client.connection;
        let wait = 1_000 * retry_ms.unwrap_or(2_000) + self.rng.below(100_000);
        self.arm(self.now + wait, place, Tick::Rejoin { connection });
    }

    fn reply(&mut self, place: usize, id: u32, frame: &Frame<'_>) {
        let Some(pending) = self.clients[place].take_pending(id) else {
            let number = self.clients[place].number;
            return self
                .result
                .faults
                .add("protocol", 1, || format!("client {number} got a reply to nothing: id {id}"));
        };
        let refusal = frame.err.map(|text| serde_json::from_slice::<Value>(text).unwrap_or_default());
        if refusal.is_none() && frame.ok.is_none() {
            return self.broken(place, "a reply with neither ok nor err");
        }
        if let What::Send(message) = pending.what {
            return self.sent(place, message, frame, refusal.as_ref());
        }
        let ok: Value = frame.ok.and_then(|text| serde_json::from_slice(text).ok()).unwrap_or_default();
        let Pending { what, begun, .. } = pending;
        match (what, refusal) {
            (What::Send(_), _) => {}
            (What::Join, None) => {
                let status = ok["status"].as_str().unwrap_or("joined").to_owned();
                if self.position(place, &ok, &status) {
                    self.note_host(place, &ok);
                    self.entered(place, Some(begun));
                }
            }
            (What::Resume, None) => self.resumed(place, &ok["lobbies"][0], begun),
            (What::Leave, None) => {
                let client = &mut self.clients[place];
                client.stage = Stage::Out;
                client.left_at = Some(self.now);
                self.joined -= 1;
                self.lobbies[client.lobby].gone(&mut client.member);
                self.arm_comeback(place);
            }
            (What::History, None) => {
                if let Some(events) = ok["events"].as_array() {
                    self.observe(place, events);
                }
            }
            (What::Game(it), refusal) => self.moved(place, it, refusal.as_ref()),
            (What::Join | What::Resume, Some(error)) => {
                self.join_refused(place, &told(&error), error["retry_ms"].as_u64());
            }
            (What::Leave, Some(error)) => {
                self.clients[place].stage = Stage::In;
                self.refused("leave", &error);
            }
            (What::History, Some(error)) => self.refused("history", &error),
        }
    }

    pub(super) fn refused(&mut self, what: &str, error: &Value) {
        self.measure.reason(format!("{what} {}", told(error)));
        match error["retry_ms"].is_null() {
            true => self.measure.counts.errors += 1,
            false => self.measure.counts.retries += 1,
        }
    }

    fn resumed(&mut self, place: usize, answer: &Value, begun: u64) {
        if answer["err"].is_object() {
            let code = answer["err"]["code"].as_str().unwrap_or("?").to_owned();
            // It fell asleep or was closed meanwhile: join it anew.
            return match &*code {
                "not_found" | "lobby_closed" | "not_member" => self.join(place),
                _ => self.join_refused(place, &code, answer["err"]["retry_ms"].as_u64()),
            };
        }
        let status = answer["status"].as_str().unwrap_or("?").to_owned();
        if self.position(place, answer, &status) {
            self.note_host(place, answer);
            self.entered(place, Some(begun));
        }
    }

    /// The reply to a message.
    fn sent(&mut self, place: usize, message: Message, frame: &Frame<'_>, refusal: Option<&Value>) {
        let class = sending::class(&self.scenario, message.stream);
        let lobby = self.clients[place].lobby;
        let Some(error) = refusal else {
            self.measure.counts.ok += 1;
            self.measure.time(Latency::Ok, self.now.saturating_sub(message.intended));
            match class {
                Class::Durable => self.acknowledged(place, message, frame.ok.unwrap_or_default()),
                Class::Ordered => self.lobbies[lobby].ordered_ok(message.key(), message.index),
                Class::Ephemeral => {}
            }
            if !self.hears_itself(message.stream)
                && self.scenario.senders[usize::from(message.stream)].under_way > 0
            {
                self.arm(self.now, place, Tick::Send { stream: message.stream });
            }
            return;
        };
        self.measure.reason(told(error));
        if class == Class::Durable
            && let Some(retry_ms) = error["retry_ms"].as_u64()
        {
            self.measure.counts.retries += 1;
            let wait = 1_000 * retry_ms.max(1) + self.rng.below(20_000);
            return self.retry_later(place, message, wait);
        }
        self.measure.counts.errors += 1;
        // Not a refusal: it may have happened.
        let is_unknown = matches!(error["code"].as_str(), Some("timeout" | "internal"));
        match class {
            Class::Durable if is_unknown => {}
            Class::Durable => {
                let event = self.event_of(place, message);
                if let Err(fault) = self.lobbies[lobby].rules.refused(event) {
                    self.fault(place, &fault);
                }
            }
            Class::Ordered => self.lobbies[lobby].ordered_not_ok(message.key(), message.index),
            Class::Ephemeral => {}
        }
        if self.scenario.senders.get(usize::from(message.stream)).is_some_and(|sender| sender.under_way > 0) {
            self.arm(self.now + 100_000, place, Tick::Send { stream: message.stream });
        }
    }

    fn acknowledged(&mut self, place: usize, message: Message, ok: &[u8]) {
        let mut seq = None;
        crate::json::fields(ok, |key, value| {
            if key == b"seq" {
                seq = number(value);
            }
        });
        let Some(seq) = seq else { return self.broken(place, "the ok of a durable message has no seq") };
        let event = self.event_of(place, message);
        let lobby = self.clients[place].lobby;
        if let Err(fault) = self.lobbies[lobby].rules.acked(event, seq) {
            self.fault(place, &fault);
        }
    }
}

/// An error's code, with its words where the code alone says little.
fn told(error: &Value) -> String {
    let code = error["code"].as_str().unwrap_or("?");
    match (code, error["message"].as_str()) {
        ("bad_request" | "forbidden" | "conflict" | "internal", Some(message)) => {
            format!("{code} ({message})")
        }
        _ => code.to_owned(),
    }
}
