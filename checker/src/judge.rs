//! Judges a whole recorded history, record after record in the order of time, then as a whole.
//!
//! Tools and tests call [`check_text`] or [`check_records`]. It never changes what it reads, and needs near-linear
//! time: what depends on the future is kept as numbers and judged at the end (`verdict.rs`).

mod calls;
mod delivery;
mod lobby;
mod names;
mod process;
mod reading;
mod stays;
mod verdict;

use std::collections::HashMap;

use self::lobby::Lobby;
use self::names::Names;
use self::process::{At, Process};
use crate::record::{Record, What};
use crate::report::{Report, Requirement};

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
        self.recovered(process, self.last_t);
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
        match code {
            "degraded" => {
                self.report.counts.degraded += 1;
                let process = &mut self.processes[process];
                process.degraded_until = Some(u64::MAX);
                if process.excuse.is_none() {
                    process.excuse = Some(self.excuses.len());
                    self.excuses.push((at.t, u64::MAX));
                }
            }
            "recovered" => self.recovered(process, at.t),
            _ => {}
        }
    }

    /// What a process was told of its node ends with its connection, too: the next one is told anew.
    fn recovered(&mut self, process: usize, t: u64) {
        let process = &mut self.processes[process];
        process.degraded_until = process.degraded_until.map(|until| until.min(t));
        if let Some(excuse) = process.excuse.take() {
            self.excuses[excuse].1 = t;
        }
    }
}
