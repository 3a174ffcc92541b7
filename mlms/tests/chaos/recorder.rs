//! Writes down what passes on every client's connection, as the checker reads it, and counts what a run has reached.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use mlms_checker::{Class, Entry, Event, History, Invoke, Position, Record, What};
use mlms_client::{Tap, Tapped};
use serde_json::Value;
use tokio::time::Instant;

/// The record of one run; time and order are those in which records come in.
pub(crate) struct Recorder {
    began: Instant,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    records: Vec<Record<'static>>,
    /// The highest seq that anybody knows, by lobby.
    heads: HashMap<String, u64>,
    /// Where each process stands in each of its lobbies.
    positions: BTreeMap<(String, String), u64>,
    epochs: HashMap<String, BTreeSet<u64>>,
    nonces: HashSet<String>,
    reached: Reached,
    /// What the checker does not read and people want to know: who was on which node, why something was refused.
    remarks: Vec<String>,
}

/// What a run has met so far; the difference of two tells what a fault caused.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Reached {
    pub(crate) owner_changes: u64,
    pub(crate) resume_gaps: u64,
    pub(crate) retried_nonces: u64,
    pub(crate) reconnects: u64,
    pub(crate) snapshots: u64,
    /// Refusals that say to come again.
    pub(crate) put_off: u64,
    /// Notices that a node has lost touch, and that it is back.
    pub(crate) degraded: u64,
    pub(crate) recovered: u64,
    /// Sessions that were asked to come back on another node.
    pub(crate) rebalanced: u64,
}

impl std::ops::Sub for Reached {
    type Output = Reached;

    fn sub(self, before: Reached) -> Reached {
        Reached {
            owner_changes: self.owner_changes - before.owner_changes,
            resume_gaps: self.resume_gaps - before.resume_gaps,
            retried_nonces: self.retried_nonces - before.retried_nonces,
            reconnects: self.reconnects - before.reconnects,
            snapshots: self.snapshots - before.snapshots,
            put_off: self.put_off - before.put_off,
            degraded: self.degraded - before.degraded,
            recovered: self.recovered - before.recovered,
            rebalanced: self.rebalanced - before.rebalanced,
        }
    }
}

/// One client's side of the record.
struct Process {
    name: String,
    user: String,
    /// Reads whole histories at the end.
    is_reader: bool,
    connections: u64,
    /// The server has said `bye`: nothing follows on this connection.
    is_over: bool,
    calls: u64,
    open: BTreeMap<u64, Open>,
}

/// A command without its answer. By its id on the wire; a `resume` is one a lobby.
struct Open {
    op: String,
    calls: Vec<(u64, String)>,
    after: u64,
    started: u64,
}

impl Recorder {
    pub(crate) fn new() -> Arc<Recorder> {
        Arc::new(Recorder { began: Instant::now(), book: Mutex::default() })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    /// Notes something that no client saw.
    pub(crate) fn note(&self, process: &str, what: What<'static>) -> u64 {
        let mut book = self.book();
        self.write(&mut book, process, what)
    }

    fn write(&self, book: &mut Book, process: &str, what: What<'static>) -> u64 {
        let now = u64::try_from(self.began.elapsed().as_micros()).unwrap();
        // Every record has a time of its own: their order is the true one.
        let t = book.records.last().map_or(now, |last| now.max(last.t + 1));
        book.records.push(Record { t, process: Cow::Owned(process.to_owned()), what });
        t
    }

    /// Notes a fault that began earlier and whose consequences end now.
    pub(crate) fn fault(&self, name: &str, began: Instant) {
        let micros = |instant: Instant| u64::try_from((instant - self.began).as_micros()).unwrap();
        let (t, for_us) = (micros(began), micros(Instant::now()) - micros(began));
        let what = What::Fault { name: Cow::Owned(name.to_owned()), for_us };
        let mut book = self.book();
        let place = book.records.partition_point(|record| record.t <= t);
        book.records.insert(place, Record { t, process: Cow::Borrowed(""), what });
    }

    pub(crate) fn reached(&self) -> Reached {
        self.book().reached
    }

    /// The processes that have not seen the newest known event of a lobby that they are in.
    pub(crate) fn behind(&self) -> Vec<String> {
        let book = self.book();
        let is_behind = |((_, lobby), seq): &(&(String, String), &u64)| book.heads[lobby] > **seq;
        book.positions
            .iter()
            .filter(is_behind)
            .map(|((name, lobby), seq)| format!("{name} in {lobby} at {seq} of {}", book.heads[lobby]))
            .collect()
    }

    pub(crate) fn remarks(&self) -> String {
        self.book().remarks.join("\n")
    }

    pub(crate) fn take(&self) -> Vec<Record<'static>> {
        std::mem::take(&mut self.book().records)
    }

    /// A tap that writes down what a client sends and gets.
    pub(crate) fn tap(self: &Arc<Self>, name: &str, user: &str, is_reader: bool) -> Tap {
        let recorder = Arc::clone(self);
        let process = Mutex::new(Process {
            name: name.to_owned(),
            user: user.to_owned(),
            is_reader,
            connections: 0,
            is_over: false,
            calls: 0,
            open: BTreeMap::new(),
        });
        Tap::new(move |tapped| {
            let mut process = process.lock().unwrap();
            let frame = |bytes| serde_json::from_slice(bytes).expect("a frame is JSON");
            match tapped {
                Tapped::Opened => recorder.opened(&mut process),
                Tapped::Sending(bytes) => recorder.sending(&mut process, &frame(bytes)),
                Tapped::Received(bytes) => recorder.received(&mut process, &frame(bytes)),
                Tapped::Lost => recorder.lost(&mut process),
            }
        })
    }

    fn opened(&self, process: &mut Process) {
        let mut book = self.book();
        book.reached.reconnects += u64::from(process.connections > 0);
        process.connections += 1;
        process.is_over = false;
        let user = Cow::Owned(process.user.clone());
        self.write(&mut book, &process.name, What::Connected { user });
    }

    fn lost(&self, process: &mut Process) {
        let mut book = self.book();
        self.end(&mut book, process);
    }

    /// The connection brings nothing more.
    fn end(&self, book: &mut Book, process: &mut Process) {
        for open in std::mem::take(&mut process.open).into_values() {
            for (call, _) in open.calls {
                self.write(book, &process.name, What::Unknown { call });
            }
        }
        if !std::mem::replace(&mut process.is_over, true) {
            self.write(book, &process.name, What::Disconnected {});
        }
    }

    fn sending(&self, process: &mut Process, frame: &Value) {
        let (Some(id), Some(op)) = (frame["id"].as_u64(), frame["op"].as_str()) else { return };
        let lobbies: Vec<&Value> = match frame["lobbies"].as_array() {
            Some(lobbies) => lobbies.iter().collect(),
            None => vec![frame],
        };
        let mut book = self.book();
        let mut open = Open { op: op.to_owned(), calls: Vec::new(), after: 0, started: 0 };
        for one in lobbies {
            let Some(lobby) = text(one, "lobby") else { return };
            let since = if op == "resume" { Some(one) } else { frame.get("since") };
            process.calls += 1;
            if let Some(nonce) = frame["nonce"].as_str() {
                let again = !book.nonces.insert(format!("{} {nonce}", process.user));
                book.reached.retried_nonces += u64::from(again);
            }
            open.calls.push((process.calls, lobby.to_string()));
            open.after = frame["after"].as_u64().unwrap_or(0);
            let invoke = Invoke {
                call: process.calls,
                op: Cow::Owned(op.to_owned()),
                lobby,
                nonce: text(frame, "nonce"),
                kind: text(frame, "kind"),
                class: match frame["class"].as_str() {
                    Some("durable") => Some(Class::Durable),
                    Some("ordered") => Some(Class::Ordered),
                    Some("ephemeral") => Some(Class::Ephemeral),
                    _ => None,
                },
                body: text(frame, "body"),
                user: text(frame, "user"),
                since: since.and_then(position),
                ..Invoke::default()
            };
            open.started = self.write(&mut book, &process.name, What::Invoke(invoke));
        }
        process.open.insert(id, open);
    }

    fn received(&self, process: &mut Process, frame: &Value) {
        let mut book = self.book();
        match frame["id"].as_u64() {
            Some(id) => {
                let Some(open) = process.open.remove(&id) else { return };
                self.reply(&mut book, process, &open, frame);
            }
            None => {
                self.event(&mut book, process, frame);
                if frame["ev"] == "bye" {
                    self.end(&mut book, process);
                }
            }
        }
    }

    fn reply(&self, book: &mut Book, process: &Process, open: &Open, frame: &Value) {
        if let Some(refusal) = frame.get("err") {
            book.reached.put_off += u64::from(refusal.get("retry_ms").is_some());
            for (call, lobby) in &open.calls {
                let t = self.write(book, &process.name, refused(*call, refusal));
                book.remarks.push(format!("{t} {} {} {lobby}: {refusal}", process.name, open.op));
            }
            return;
        }
        let ok = &frame["ok"];
        match open.op.as_str() {
            "join" => self.entered(book, process, open.calls[0].0, ok),
            "resume" => {
                for outcome in ok["lobbies"].as_array().into_iter().flatten() {
                    let named = open.calls.iter().find(|(_, lobby)| outcome["lobby"] == **lobby);
                    let (call, _) = named.expect("an answer for a lobby that was asked for");
                    match outcome.get("err") {
                        Some(refusal) => {
                            let t = self.write(book, &process.name, refused(*call, refusal));
                            book.remarks
                                .push(format!("{t} {} resume {}: {refusal}", process.name, outcome["lobby"]));
                        }
                        None => self.entered(book, process, *call, outcome),
                    }
                }
            }
            op => {
                let (call, lobby) = &open.calls[0];
                let (epoch, seq) = (ok["epoch"].as_u64(), ok["seq"].as_u64());
                if let Some(seq) = seq {
                    book.knows(lobby, seq);
                }
                let dup = ok["dup"].as_bool().unwrap_or(false);
                self.write(book, &process.name, What::Ok { call: *call, epoch, seq, dup });
                if op == "history" {
                    let events = ok["events"].as_array().into_iter().flatten().map(event).collect();
                    let page = History {
                        lobby: Cow::Owned(lobby.clone()),
                        started: open.started,
                        after: open.after,
                        more: ok["more"].as_bool().unwrap_or(false),
                        is_final: process.is_reader,
                        events,
                    };
                    self.write(book, "", What::History(page));
                }
            }
        }
    }

    fn entered(&self, book: &mut Book, process: &Process, call: u64, ok: &Value) {
        let entry = entry(Some(call), ok);
        let what = match ok["status"].as_str() {
            Some("resumed") => {
                book.reached.resume_gaps += u64::from(entry.missed > 0);
                What::Resumed(entry)
            }
            status => {
                book.stands(process, &entry.lobby, entry.seq);
                if status == Some("snapshot") {
                    book.reached.snapshots += 1;
                    What::Snapshot(entry)
                } else {
                    What::Joined(entry)
                }
            }
        };
        self.write(book, &process.name, what);
    }

    fn event(&self, book: &mut Book, process: &Process, frame: &Value) {
        let Some(lobby) = text(frame, "lobby") else {
            match (frame["ev"].as_str(), text(frame, "code")) {
                (Some("notice"), Some(code)) => {
                    book.reached.degraded += u64::from(code == "degraded");
                    book.reached.recovered += u64::from(code == "recovered");
                    self.write(book, &process.name, What::Notice { code });
                }
                (Some("welcome" | "bye" | "error"), _) => {
                    book.reached.rebalanced += u64::from(frame["ev"] == "bye" && frame["code"] == 4001);
                    let t = self.began.elapsed().as_micros();
                    book.remarks.push(format!("{t} {} {frame}", process.name));
                }
                _ => {}
            }
            return;
        };
        let what = match frame["ev"].as_str().unwrap_or_default() {
            "caught_up" => What::CaughtUp { lobby, seq: frame["seq"].as_u64().unwrap_or(0) },
            "snapshot" => {
                let entry = entry(None, frame);
                book.reached.snapshots += 1;
                book.stands(process, &entry.lobby, entry.seq);
                What::Snapshot(entry)
            }
            "saved" | "lag" | "error" => return,
            _ => {
                let event = event(frame);
                if let (Some(epoch), Some(seq)) = (event.epoch, event.seq) {
                    let epochs = book.epochs.entry(lobby.to_string()).or_default();
                    let is_change = epochs.insert(epoch) && epochs.len() > 1;
                    book.reached.owner_changes += u64::from(is_change);
                    book.stands(process, &lobby, seq);
                }
                What::Delivered { lobby, event }
            }
        };
        self.write(book, &process.name, what);
    }
}

impl Book {
    fn knows(&mut self, lobby: &str, seq: u64) {
        let head = self.heads.entry(lobby.to_owned()).or_default();
        *head = seq.max(*head);
    }

    fn stands(&mut self, process: &Process, lobby: &str, seq: u64) {
        self.knows(lobby, seq);
        if !process.is_reader {
            self.positions.insert((process.name.clone(), lobby.to_owned()), seq);
        }
    }
}

fn text(value: &Value, key: &str) -> Option<Cow<'static, str>> {
    match value.get(key)? {
        Value::Null => None,
        Value::String(text) => Some(Cow::Owned(text.clone())),
        other => Some(Cow::Owned(other.to_string())),
    }
}

fn position(value: &Value) -> Option<Position> {
    Some(Position { epoch: value["epoch"].as_u64()?, seq: value["seq"].as_u64()? })
}

fn refused(call: u64, refusal: &Value) -> What<'static> {
    What::Error { call, code: text(refusal, "code").unwrap_or_default(), definite: None }
}

fn entry(call: Option<u64>, ok: &Value) -> Entry<'static> {
    let number = |key: &str| ok[key].as_u64().unwrap_or(0);
    Entry {
        call,
        lobby: text(ok, "lobby").unwrap_or_default(),
        epoch: number("epoch"),
        seq: number("seq"),
        missed: number("missed"),
    }
}

fn event(frame: &Value) -> Event<'static> {
    Event {
        ev: text(frame, "ev").unwrap_or_default(),
        epoch: frame["epoch"].as_u64(),
        seq: frame["seq"].as_u64(),
        kind: text(frame, "kind"),
        from: text(frame, "from"),
        nonce: text(frame, "nonce"),
        body: text(frame, "body"),
        user: text(frame, "user"),
        by: text(frame, "by"),
        of: frame["of"].as_u64(),
        role: text(frame, "role"),
    }
}
