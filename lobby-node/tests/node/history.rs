//! What players saw, in the order in which it happened, as the checker reads it.

use std::borrow::Cow;
use std::sync::Mutex;

use mlms_checker::{Entry, Event, Options, Record, Report, What};
use mlms_protocol::event::PassingMessage;
use mlms_protocol::reply::Joined;
use mlms_protocol::{Body, Change, Epoch, LobbyEvent, LobbyId, Seq, UserId};
use tokio::time::Instant;

/// The record of one run. All of it happens on one thread, so its order is the true one: every record gets a time
/// of its own.
pub(crate) struct History {
    start: Instant,
    records: Mutex<Vec<Record<'static>>>,
}

impl History {
    pub(crate) fn new() -> Self {
        History { start: Instant::now(), records: Mutex::default() }
    }

    /// Notes what a process saw or does, and gives the time of it.
    pub(crate) fn note(&self, process: &str, what: What<'static>) -> u64 {
        let mut records = self.records.lock().unwrap();
        let now = u64::try_from(self.start.elapsed().as_micros()).unwrap();
        let t = records.last().map_or(now, |last| now.max(last.t + 1));
        records.push(Record { t, process: Cow::Owned(process.to_owned()), what });
        t
    }

    pub(crate) fn judge(&self, options: &Options) -> Report {
        mlms_checker::check_records(&self.records.lock().unwrap(), options)
    }

    /// The history as the checker's tool reads it.
    pub(crate) fn lines(&self) -> String {
        let records = self.records.lock().unwrap();
        records.iter().map(|record| record.to_line() + "\n").collect()
    }
}

pub(crate) fn text(text: impl ToString) -> Cow<'static, str> {
    Cow::Owned(text.to_string())
}

pub(crate) fn entry(call: Option<u64>, joined: &Joined) -> Entry<'static> {
    position(call, &joined.lobby, joined.epoch, joined.seq, joined.missed)
}

pub(crate) fn position(
    call: Option<u64>,
    lobby: &LobbyId,
    epoch: Epoch,
    seq: Seq,
    missed: u64,
) -> Entry<'static> {
    Entry { call, lobby: text(lobby), epoch: epoch.0, seq: seq.0, missed }
}

fn body(body: &Body) -> Cow<'static, str> {
    text(body.as_text().expect("these players send texts"))
}

fn user(user: &UserId) -> Option<Cow<'static, str>> {
    Some(text(user))
}

/// A sequenced event as it was received or read.
pub(crate) fn event(event: &LobbyEvent) -> Event<'static> {
    let plain = Event {
        ev: text(event.change.name()),
        epoch: Some(event.epoch.0),
        seq: Some(event.seq.0),
        ..Event::default()
    };
    match &event.change {
        Change::Message { kind, from, body: said, nonce, .. } => Event {
            kind: Some(text(kind)),
            from: from.as_ref().map(text),
            body: Some(body(said)),
            nonce: nonce.as_ref().map(text),
            ..plain
        },
        Change::Joined { user: who, role, .. } => {
            Event { user: user(who), role: Some(text(role.as_str())), ..plain }
        }
        Change::Left { user: who, .. }
        | Change::Kicked { user: who, .. }
        | Change::Banned { user: who, .. }
        | Change::Unbanned { user: who, .. }
        | Change::Muted { user: who, .. }
        | Change::Ready { user: who, .. }
        | Change::Reported { user: who, .. } => Event { user: user(who), ..plain },
        Change::HostChanged { user: who, .. } => Event { user: who.as_ref().map(text), ..plain },
        Change::Updated { by, .. }
        | Change::Closed { by, .. }
        | Change::GameStarted { by, .. }
        | Change::GameFinished { by, .. } => Event { by: by.as_ref().map(text), ..plain },
        other => panic!("nobody here asks for {}", other.name()),
    }
}

/// An unsequenced message.
pub(crate) fn passing(message: &PassingMessage) -> Event<'static> {
    Event {
        ev: text("message"),
        kind: Some(text(&message.kind)),
        from: message.from.as_ref().map(text),
        body: Some(body(&message.body)),
        ..Event::default()
    }
}

/// Another unsequenced event: who is away, back, or typing.
pub(crate) fn about(ev: &'static str, who: &UserId) -> Event<'static> {
    Event { ev: Cow::Borrowed(ev), user: user(who), ..Event::default() }
}
