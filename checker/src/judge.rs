//! Judges a whole recorded history, record after record in the order of time, then as a whole.
//!
//! Tools and tests call [`check_text`] or [`check_records`]. It never changes what it reads, and needs near-linear
//! time: what depends on the future is kept as numbers and judged at the end (`verdict.rs`).

mod delivery;
mod lobby;
mod names;
mod process;
mod verdict;

use std::collections::HashMap;

use self::lobby::{Entered, Final, Lobby, Outcome, Removal, Send};
use self::names::Names;
use self::process::{At, Call, Left, Op, Process, Stay};
use crate::record::{Class, Entry, History, Invoke, Position, Record, What};
use crate::report::{Report, Requirement};
use crate::rule::Rule;

/// Reasons for a void run that are kept; a broken recorder would repeat itself without end.
const VOID_REASONS_MAX: usize = 20;

/// Refusals that do not prove that nothing happened: the one who refuses may not know.
const INDEFINITE_CODES: &[&str] = &["timeout", "internal", "owner_unavailable", "degraded"];

/// What a run is held against beside the rules.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the run must have reached to count.
    pub require: Vec<Requirement>,
    /// How long a nonce is surely remembered: five minutes less what may be under way.
    pub dedupe_window_us: u64,
    /// Ordered messages may be lost anywhere, not only while a recorded fault lasts.
    pub allow_ordered_loss: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { require: Vec::new(), dedupe_window_us: 290_000_000, allow_ordered_loss: false }
    }
}

/// A history that is not one.
#[derive(Debug)]
pub struct ReadError {
    pub line: u64,
    pub cause: serde_json::Error,
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.cause)
    }
}

impl std::error::Error for ReadError {}

/// Checks a history of JSON lines. Lines out of the order of time are sorted (stably) first.
///
/// # Errors
/// [`ReadError`] at the first line that is not a [`Record`].
pub fn check_text(text: &str, options: &Options) -> Result<Report, ReadError> {
    #[derive(serde::Deserialize)]
    struct Time {
        t: u64,
    }
    let at = |line: usize, cause| ReadError { line: line as u64 + 1, cause };
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let time: Time = serde_json::from_str(line).map_err(|cause| at(number, cause))?;
        lines.push((time.t, number, line));
    }
    lines.sort_by_key(|(t, ..)| *t);
    let mut judge = Judge::new(options);
    for (_, number, line) in lines {
        let record: Record<'_> = serde_json::from_str(line).map_err(|cause| at(number, cause))?;
        judge.record(number as u64 + 1, &record);
    }
    Ok(judge.finish())
}

/// Checks a history in memory; evidence names the records from 1, in the order given.
pub fn check_records(records: &[Record<'_>], options: &Options) -> Report {
    let mut order: Vec<usize> = (0..records.len()).collect();
    order.sort_by_key(|index| records[*index].t);
    let mut judge = Judge::new(options);
    for index in order {
        judge.record(index as u64 + 1, &records[index]);
    }
    judge.finish()
}

/// Takes a history record after record, for those who do not want to hold it in memory.
pub struct Judge {
    options: Options,
    report: Report,
    names: Names,
    words: Words,
    processes: Vec<Process>,
    process_of: HashMap<u32, usize>,
    lobbies: Vec<Lobby>,
    lobby_of: HashMap<u32, usize>,
    connections: u32,
    /// Times in which ordered messages may be lost.
    excuses: Vec<(u64, u64)>,
    last_t: u64,
}

/// How a join or resume was answered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    Joined,
    Resumed,
    Snapshot,
}

/// Numbers of the words that the rules know.
struct Words {
    message: u32,
    joined: u32,
    left: u32,
    kicked: u32,
    banned: u32,
    closed: u32,
    edited: u32,
    deleted: u32,
    host: u32,
    others: u32,
}

impl Words {
    fn new(names: &mut Names) -> Words {
        let mut word = |text| names.number(text);
        Words {
            message: word("message"),
            joined: word("joined"),
            left: word("left"),
            kicked: word("kicked"),
            banned: word("banned"),
            closed: word("closed"),
            edited: word("edited"),
            deleted: word("deleted"),
            host: word("host"),
            others: word("others"),
        }
    }
}

impl Judge {
    pub fn new(options: &Options) -> Judge {
        let mut names = Names::default();
        // The empty text stands for a body or kind that is not there, and is number 0.
        names.number("");
        let words = Words::new(&mut names);
        Judge {
            options: options.clone(),
            report: Report::default(),
            names,
            words,
            processes: Vec::new(),
            process_of: HashMap::new(),
            lobbies: Vec::new(),
            lobby_of: HashMap::new(),
            connections: 0,
            excuses: Vec::new(),
            last_t: 0,
        }
    }

    /// Takes the next record. Records come in the order of `t`; `line` is what evidence will name.
    pub fn record(&mut self, line: u64, record: &Record<'_>) {
        let at = At { t: record.t, line };
        self.report.counts.records += 1;
        if at.t < self.last_t {
            self.void(line, "goes back in time");
        }
        self.last_t = at.t.max(self.last_t);
        match &record.what {
            What::Capacity { lobby, members, seq } => {
                let lobby = self.lobby(lobby);
                self.lobbies[lobby].capacities.push((*seq, *members));
            }
            What::Roster { lobby, members } => {
                let lobby = self.lobby(lobby);
                self.lobbies[lobby].rosters.push((*members, line));
            }
            What::Fault { name, for_us } => self.fault(at, name, *for_us),
            What::History(history) => self.history(at, history),
            What::Connected { user } => self.connected(&record.process, user),
            what => match self.process(&record.process) {
                Some(process) => self.observed(process, at, what),
                None => self.void(line, "belongs to a process that never connected"),
            },
        }
    }

    /// One line a kind of what a connected process can observe.
    fn observed(&mut self, process: usize, at: At, what: &What<'_>) {
        match what {
            What::Invoke(invoke) => self.invoke(process, at, invoke),
            What::Ok { call, epoch, seq, dup } => self.ok(process, at, *call, (*epoch, *seq, *dup)),
            What::Error { call, code, definite } => self.error(process, at, *call, code, *definite),
            What::Unknown { call } => self.unknown(process, at, *call),
            What::Joined(entry) => self.entered(process, at, entry, Status::Joined),
            What::Resumed(entry) => self.entered(process, at, entry, Status::Resumed),
            What::Snapshot(entry) => self.entered(process, at, entry, Status::Snapshot),
            What::CaughtUp { lobby, seq } => self.caught_up(process, at, lobby, *seq),
            What::Delivered { lobby, event } => self.delivered(process, at, lobby, event),
            What::Notice { code } => self.notice(process, at, code),
            What::Settled {} => self.settled(process, at),
            What::Disconnected {} => self.disconnected(process),
            What::Connected { .. }
            | What::Capacity { .. }
            | What::Roster { .. }
            | What::Fault { .. }
            | What::History(_) => {}
        }
    }

    fn void(&mut self, line: u64, why: &str) {
        if self.report.void.len() < VOID_REASONS_MAX {
            self.report.void.push(format!("line {line} {why}"));
        }
    }

    fn process(&mut self, name: &str) -> Option<usize> {
        let name = self.names.number(name);
        self.process_of.get(&name).copied()
    }

    fn lobby(&mut self, name: &str) -> usize {
        let name = self.names.number(name);
        *self.lobby_of.entry(name).or_insert_with(|| {
            self.lobbies.push(Lobby::new(name));
            self.lobbies.len() - 1
        })
    }

    fn connected(&mut self, name: &str, user: &str) {
        let name = self.names.number(name);
        let user = self.names.number(user);
        let index = *self.process_of.entry(name).or_insert_with(|| {
            self.processes.push(Process::default());
            self.processes.len() - 1
        });
        if self.processes[index].connection > 0 {
            self.report.counts.reconnects += 1;
            self.disconnected(index);
        }
        self.connections += 1;
        let process = &mut self.processes[index];
        process.name = name;
        process.user = user;
        process.connected = true;
        process.connection = self.connections;
    }

    fn disconnected(&mut self, process: usize) {
        let process = &mut self.processes[process];
        process.connected = false;
        for member in process.members.values_mut() {
            member.chain.detached();
            member.live_since = u64::MAX;
        }
    }

    fn fault(&mut self, at: At, name: &str, for_us: u64) {
        *self.report.counts.faults.entry(name.to_owned()).or_default() += 1;
        self.excuses.push((at.t, at.t.saturating_add(for_us)));
    }

    fn notice(&mut self, process: usize, at: At, code: &str) {
        let process = &mut self.processes[process];
        match code {
            "degraded" => {
                self.report.counts.degraded += 1;
                process.degraded_until = Some(u64::MAX);
                self.excuses.push((at.t, u64::MAX));
            }
            "recovered" => {
                process.degraded_until = process.degraded_until.map(|until| until.min(at.t));
                let open = self.excuses.iter_mut().rev().find(|excuse| excuse.1 == u64::MAX);
                open.into_iter().for_each(|excuse| excuse.1 = at.t);
            }
            _ => {}
        }
    }

    fn invoke(&mut self, index: usize, at: At, invoke: &Invoke<'_>) {
        let number = self.lobby(&invoke.lobby);
        let op = Op::of(&invoke.op);
        let nonce = self.names.maybe(invoke.nonce.as_deref());
        let target = self.names.maybe(invoke.user.as_deref());
        let floor = self.lobbies[number].knowledge.before(at.t);
        let user = self.processes[index].user;
        let send = match op {
            Op::Send => Some(self.send(index, number, at, invoke, nonce)),
            _ => None,
        };
        let lobby = &mut self.lobbies[number];
        match (op, target) {
            (Op::Enter, _) => {
                lobby.join_attempts.entry(user).or_insert(at.t);
            }
            (Op::Kick | Op::Ban, Some(target)) => {
                lobby.removal_attempts.entry(target).or_insert(at.t);
            }
            _ => {}
        }
        let process = &mut self.processes[index];
        if op == Op::Leave {
            process.members.entry(number).or_default().leave = Some(at);
        }
        let call = Call { op, lobby: number, nonce, send, target, since: invoke.since, invoked: at, floor };
        if process.calls.insert(invoke.call, call).is_some() {
            self.void(at.line, "uses a call number that is still open");
        }
    }

    fn send(&mut self, index: usize, lobby: usize, at: At, invoke: &Invoke<'_>, nonce: Option<u32>) -> u32 {
        self.report.counts.sends += 1;
        let kind = invoke.kind.as_deref().unwrap_or("chat");
        let default = if kind == "chat" && invoke.to.is_empty() { Class::Durable } else { Class::Ordered };
        let process = &self.processes[index];
        let send = Send {
            user: process.user,
            connection: process.connection,
            place: 0,
            ordinal: 0,
            class: invoke.class.unwrap_or(default),
            kind: self.names.number(kind),
            body: self.names.number(invoke.body.as_deref().unwrap_or("")),
            to: invoke.to.iter().map(|user| self.names.number(user)).collect(),
            invoked: at,
            floor: self.lobbies[lobby].knowledge.before(at.t),
            outcome: Outcome::Open,
            group: None,
            heard: 0,
        };
        self.lobbies[lobby].sent(send, nonce)
    }

    fn close_call(&mut self, process: usize, at: At, call: u64) -> Option<Call> {
        let call = self.processes[process].calls.remove(&call);
        if call.is_none() {
            self.void(at.line, "ends a call that is not open");
        }
        call
    }

    fn ok(&mut self, index: usize, at: At, call: u64, ok: (Option<u64>, Option<u64>, bool)) {
        let (epoch, seq, dup) = ok;
        let Some(call) = self.close_call(index, at, call) else { return };
        let lobby = &mut self.lobbies[call.lobby];
        let user = self.processes[index].user;
        self.report.counts.dups += u64::from(dup);
        if let Some(send) = call.send {
            self.report.counts.acked += 1;
            let send = &mut lobby.sends[send as usize];
            send.outcome = Outcome::Ok { at, epoch: epoch.unwrap_or(0), seq, dup };
        }
        if let Some(seq) = seq {
            lobby.ok_with_seq(seq, at, call.send);
            let group = call.send.and_then(|send| lobby.sends[send as usize].group);
            if let Some(group) = group {
                lobby.groups[group as usize].assign(seq, at.line);
            }
            if let Some(nonce) = call.nonce {
                let first = *lobby.nonce_oks.entry((user, nonce)).or_insert((seq, at.line));
                if first.0 != seq && call.send.is_none() {
                    self.report.add(Rule::NonceOnce, &[first.1, at.line], || {
                        format!("one nonce was answered with seq {} and with seq {seq}", first.0)
                    });
                }
            }
        }
        match (call.op, call.target, seq) {
            (Op::Leave, ..) => {
                let member = self.processes[index].members.entry(call.lobby).or_default();
                // A join that was sent after the leave may be answered before it.
                if member.asked <= call.invoked {
                    member.left = Some(Left { asked: call.invoked, ok: at });
                    member.chain.detached();
                }
            }
            (Op::Kick | Op::Ban, Some(target), Some(seq)) => {
                let is_kick = call.op == Op::Kick;
                self.report.counts.kicks += u64::from(is_kick);
                self.report.counts.bans += u64::from(!is_kick);
                let removal = Removal { seq, invoked: call.invoked, ok: at };
                lobby.removals.entry(target).or_default().push(removal);
                lobby.first_removal = Some(lobby.first_removal.map_or(seq, |first| first.min(seq)));
            }
            _ => {}
        }
    }

    fn error(&mut self, index: usize, at: At, call: u64, code: &str, definite: Option<bool>) {
        let Some(call) = self.close_call(index, at, call) else { return };
        self.report.counts.refused += 1;
        self.report.counts.lobby_full += u64::from(code == "lobby_full");
        let definite = definite.unwrap_or(!INDEFINITE_CODES.contains(&code));
        if let Some(send) = call.send {
            self.lobbies[call.lobby].sends[send as usize].outcome = Outcome::Refused { definite };
        }
        if call.op == Op::Leave && definite {
            let process = &mut self.processes[index];
            let is_other = |open: &&Call| open.op == Op::Leave && open.lobby == call.lobby;
            let other = process.calls.values().filter(is_other).map(|open| open.invoked).max();
            let member = process.members.entry(call.lobby).or_default();
            let left = member.left.map(|left| left.asked).max(other);
            member.leave = left.filter(|leave| *leave > member.asked);
        }
    }

    fn unknown(&mut self, index: usize, at: At, call: u64) {
        let Some(call) = self.close_call(index, at, call) else { return };
        self.report.counts.unknown += 1;
        if let Some(send) = call.send {
            self.lobbies[call.lobby].sends[send as usize].outcome = Outcome::Unknown;
        }
    }

    fn entered(&mut self, index: usize, at: At, entry: &Entry<'_>, status: Status) {
        let resumed = status == Status::Resumed;
        let number = self.lobby(&entry.lobby);
        let call = entry.call.and_then(|call| self.close_call(index, at, call));
        let position = Position { epoch: entry.epoch, seq: entry.seq };
        let lobby = &mut self.lobbies[number];
        let process = &mut self.processes[index];
        let member = process.members.entry(number).or_default();
        let had_position = member.chain.position().is_some();
        let result = if resumed {
            self.report.counts.resumes += 1;
            member.chain.resumed(position, entry.missed, call.as_ref().and_then(|call| call.since))
        } else {
            self.report.counts.snapshots += u64::from(had_position && status == Status::Snapshot);
            lobby.positions.push((entry.seq, entry.epoch, at.line));
            member.chain.entered(position)
        };
        if let Err(fault) = result {
            self.report.add(fault.rule, &[member.last_line, at.line], || fault.text);
        } else if let Some(call) = call.as_ref().filter(|call| !resumed && call.floor.seq > entry.seq) {
            self.report.add(Rule::StaleRead, &[call.floor.line, call.invoked.line, at.line], || {
                let known = call.floor.seq;
                format!("entered at seq {}, but seq {known} was known before it was asked for", entry.seq)
            });
        }
        let asked = call.map_or(at, |call| call.invoked);
        member.asked = asked;
        member.leave = member.leave.filter(|leave| *leave > asked);
        member.left = member.left.filter(|left| left.asked > asked);
        member.live_since = if resumed { u64::MAX } else { at.t };
        member.last_line = at.line;
        member.stays.push(Stay { seq: entry.seq, last: None });
        let entered = Entered { t: at.t, seq: entry.seq, resumed };
        lobby.entries.entry(process.user).or_default().push(entered);
    }

    fn caught_up(&mut self, index: usize, at: At, lobby: &str, seq: u64) {
        let number = self.lobby(lobby);
        let member = self.processes[index].members.entry(number).or_default();
        if member.left.is_some() {
            return;
        }
        match member.chain.caught_up(seq) {
            Ok(missed) => self.report.counts.resume_gaps += u64::from(missed > 0),
            Err(fault) => self.report.add(fault.rule, &[member.last_line, at.line], || fault.text),
        }
        member.live_since = at.t;
    }

    fn settled(&mut self, index: usize, at: At) {
        let process = &mut self.processes[index];
        for (number, member) in process.members.iter_mut().filter(|(_, member)| member.chain.is_in()) {
            let lobby = &self.lobbies[*number];
            let Some(stay) = member.stays.last().filter(|_| member.leave.is_none()) else { continue };
            // Another process of the user may have joined again since: this one is no longer in.
            let end = lobby.end_after(process.user, stay.seq);
            let has_ended = end.is_some();
            let known = lobby.knowledge.before(at.t);
            let due = end.map_or(known.seq, |end| known.seq.min(end));
            let reached = member.chain.position().map_or(0, |position| position.seq);
            if reached < due {
                self.report.add(Rule::Incomplete, &[member.last_line, known.line, at.line], || {
                    let (process, lobby) = (self.names.text(process.name), self.names.text(lobby.name));
                    format!("{process} ended at seq {reached} of lobby {lobby}, which had reached seq {due}")
                });
            } else if !member.chain.is_live() && !has_ended {
                self.report.add(Rule::CaughtUp, &[member.last_line, at.line], || {
                    "a resume was never followed by caught_up".to_owned()
                });
            }
            if !has_ended {
                member.settled = Some((at, member.live_since));
            }
        }
    }

    fn history(&mut self, at: At, history: &History<'_>) {
        self.report.counts.history_reads += 1;
        let number = self.lobby(&history.lobby);
        let mut next = history.after.saturating_add(1);
        for (index, event) in history.events.iter().enumerate() {
            let Some((seq, epoch)) = event.seq.zip(event.epoch) else {
                self.void(at.line, "has an event without epoch and seq");
                continue;
            };
            if index == 0 && seq > next {
                self.lobbies[number].late_starts.push((next, seq, at.line));
            } else if seq != next {
                self.report.add(Rule::HistoryGap, &[at.line], || {
                    format!("a history has seq {seq} where {next} belongs")
                });
            }
            next = seq.saturating_add(1);
            self.sequenced(number, at, (epoch, seq), event, history.is_final);
        }
        let lobby = &mut self.lobbies[number];
        let acked = lobby.acked_before(history.started);
        if !history.more && !history.is_final && acked.seq >= next {
            self.report.add(Rule::AckedLost, &[acked.line, at.line], || {
                format!("a history ends before seq {}, which got its ok before the reading", acked.seq)
            });
        }
        if history.is_final {
            let first = lobby.last_read.get_or_insert(Final {
                after: history.after,
                started: history.started,
                line: at.line,
            });
            first.after = first.after.min(history.after);
            first.started = first.started.min(history.started);
            first.line = at.line;
        }
    }
}
