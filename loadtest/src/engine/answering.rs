//! Replies of the server: positions of joins and resumes, oks and refusals of messages.

use mlms_checker::Position;
use serde_json::Value;

use super::arriving::told;
use super::client::{Pending, Stage, What};
use super::message::Message;
use super::{Engine, Tick, sending};
use crate::json::{Frame, number};
use crate::scenario::{Class, Latency};

/// Messages that a snapshot holds, the last ones. That many seqs hold no more of them.
const STATE_MESSAGES: u64 = 50;

impl Engine {
    pub(super) fn reply(&mut self, place: usize, id: u32, frame: &Frame<'_>) {
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
            (What::Leave, None) => self.left(place),
            (What::History, None) => {
                if let Some(events) = ok["events"].as_array() {
                    self.observe(place, events);
                }
            }
            (What::Game(it), refusal) => self.moved(place, it, refusal.as_ref()),
            (What::Join | What::Resume, Some(error)) => {
                self.join_refused(place, begun, &told(&error), error["retry_ms"].as_u64());
            }
            (What::Leave, Some(error)) if error["code"] == "not_member" => self.left(place),
            (What::Leave, Some(error)) => {
                self.refused("leave", &error);
                match error["retry_ms"].as_u64() {
                    // It may have happened: nothing is known until it is asked again.
                    Some(retry_ms) => {
                        let connection = self.clients[place].connection;
                        self.arm(self.now + 1_000 * retry_ms.max(1), place, Tick::LeaveAgain { connection });
                    }
                    None => self.clients[place].stage = Stage::In,
                }
            }
            (What::History, Some(error)) => self.refused("history", &error),
        }
    }

    fn left(&mut self, place: usize) {
        let client = &mut self.clients[place];
        client.stage = Stage::Out;
        client.left_at = Some(self.now);
        self.joined -= 1;
        let lobby = &mut self.lobbies[client.lobby];
        lobby.present -= 1;
        lobby.gone(&mut client.member, client.number);
        self.arm_comeback(place);
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
                _ => self.join_refused(place, begun, &code, answer["err"]["retry_ms"].as_u64()),
            };
        }
        let status = answer["status"].as_str().unwrap_or("?").to_owned();
        if status == "snapshot" {
            self.measure.reason("a resume ended as a snapshot".to_owned());
        }
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
            self.measure.time(Latency::Ok, message.intended, self.now);
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

    /// Takes a position: of a snapshot, or of the ok of a join or resume. False: it is none.
    pub(super) fn position(&mut self, place: usize, value: &Value, status: &str) -> bool {
        let (Some(epoch), Some(seq)) = (value["epoch"].as_u64(), value["seq"].as_u64()) else {
            self.broken(place, "a position without epoch and seq");
            return false;
        };
        let client = &mut self.clients[place];
        let lobby = &mut self.lobbies[client.lobby];
        lobby.saw_epoch(epoch, self.now);
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
            self.held_back(place, seq, messages);
        }
        true
    }

    /// What got its ok is in every reading after it: a snapshot has the lobby's last messages.
    fn held_back(&mut self, place: usize, seq: u64, messages: &[Value]) {
        let client = &self.clients[place];
        let lobby = &self.lobbies[client.lobby];
        let acked = lobby.rules.acked_between((seq + 1).saturating_sub(STATE_MESSAGES), seq);
        let missing: Vec<u64> =
            acked.filter(|seq| !messages.iter().any(|message| message["seq"] == *seq)).collect();
        if let Some(first) = missing.iter().min() {
            let (number, count) = (client.number, missing.len());
            self.result.faults.add("stale_read", count as u64, || {
                format!("client {number}: the snapshot at seq {seq} lacks {count} acknowledged messages, seq {first} first")
            });
        }
    }

    /// A join got an error. It is tried again when that can help, and now and then when not.
    pub(super) fn join_refused(&mut self, place: usize, begun: u64, code: &str, retry_ms: Option<u64>) {
        self.measure.reason(format!("join {code}"));
        match retry_ms {
            Some(_) => self.measure.counts.retries += 1,
            None => self.measure.counts.errors += 1,
        }
        let client = &mut self.clients[place];
        client.stage = Stage::Out;
        client.entering_since.get_or_insert(begun);
        let connection = client.connection;
        let wait = 1_000 * retry_ms.unwrap_or(2_000) + self.rng.below(100_000);
        self.arm(self.now + wait, place, Tick::Rejoin { connection });
    }
}
