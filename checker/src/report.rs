//! What a check found, what the run exercised, and the verdict that follows from both.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::rule::Rule;

/// Breaches kept with their evidence, for each rule; the others are only counted.
const KEPT_PER_RULE: u64 = 20;

/// The outcome of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// No rule was broken, and the run reached all that was required of it.
    Passed,
    /// A rule was broken.
    Failed,
    /// No rule was broken, but the run did not reach its fault or cannot be judged.
    Void,
}

/// A breach of a rule with the lines that show it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Violation {
    pub rule: Rule,
    pub text: String,
    /// Numbers of the lines (or records) from 1.
    pub lines: Vec<u64>,
}

/// How much of what a run did.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Counts {
    pub records: u64,
    pub processes: u64,
    pub lobbies: u64,
    pub sends: u64,
    pub acked: u64,
    pub refused: u64,
    pub unknown: u64,
    pub deliveries: u64,
    pub unsequenced: u64,
    pub events: u64,
    /// Changes of epoch along seq, over all lobbies.
    pub owner_changes: u64,
    pub reconnects: u64,
    pub resumes: u64,
    /// Resumes after which missed events came.
    pub resume_gaps: u64,
    /// Snapshots for a process that had a position already.
    pub snapshots: u64,
    /// Nonces that were sent more than once.
    pub retried_nonces: u64,
    /// Oks that said `dup`.
    pub dups: u64,
    pub kicks: u64,
    pub bans: u64,
    /// Events of a lobby after an acknowledged kick or ban in it.
    pub after_removal: u64,
    pub lobby_full: u64,
    pub degraded: u64,
    pub history_reads: u64,
    pub ordered_lost_excused: u64,
    pub faults: BTreeMap<String, u64>,
}

impl Counts {
    fn of(&self, name: &str) -> Option<u64> {
        if let Some(fault) = name.strip_prefix("fault:") {
            return Some(self.faults.get(fault).copied().unwrap_or(0));
        }
        Some(match name {
            "send" => self.sends,
            "ack" => self.acked,
            "refused" => self.refused,
            "unknown" => self.unknown,
            "delivery" => self.deliveries,
            "unsequenced" => self.unsequenced,
            "owner_change" => self.owner_changes,
            "reconnect" => self.reconnects,
            "resume" => self.resumes,
            "resume_gap" => self.resume_gaps,
            "snapshot" => self.snapshots,
            "retried_nonce" => self.retried_nonces,
            "dup" => self.dups,
            "kick" => self.kicks,
            "ban" => self.bans,
            "after_removal" => self.after_removal,
            "lobby_full" => self.lobby_full,
            "degraded" => self.degraded,
            "history_read" => self.history_reads,
            _ => return None,
        })
    }
}

/// Something that a run must have reached: `owner_change`, `resume_gap=3`, `fault:node_killed`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Requirement {
    name: String,
    at_least: u64,
}

impl Requirement {
    fn is_met(&self, counts: &Counts) -> bool {
        counts.of(&self.name).is_some_and(|count| count >= self.at_least)
    }
}

impl std::str::FromStr for Requirement {
    type Err = String;

    fn from_str(text: &str) -> Result<Requirement, String> {
        let (name, at_least) = match text.split_once('=') {
            Some((name, count)) => (name, count.parse().map_err(|_| format!("{text}: not a number"))?),
            None => (text, 1),
        };
        if Counts::default().of(name).is_none() {
            return Err(format!("{name}: nothing of that name is counted"));
        }
        Ok(Requirement { name: name.to_owned(), at_least })
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at least {}", self.name, self.at_least)
    }
}

/// All that a check has to say.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Report {
    /// At most twenty a rule; `totals` counts them all.
    pub violations: Vec<Violation>,
    pub totals: BTreeMap<Rule, u64>,
    /// Why the run counts for nothing, though no rule may be broken.
    pub void: Vec<String>,
    pub counts: Counts,
}

impl Report {
    /// Failed outweighs void: a breach is a breach whatever else the run missed.
    pub fn verdict(&self) -> Verdict {
        if !self.totals.is_empty() {
            Verdict::Failed
        } else if !self.void.is_empty() {
            Verdict::Void
        } else {
            Verdict::Passed
        }
    }

    /// True when the rule was broken.
    pub fn broke(&self, rule: Rule) -> bool {
        self.totals.contains_key(&rule)
    }

    pub(crate) fn add(&mut self, rule: Rule, lines: &[u64], text: impl FnOnce() -> String) {
        let total = self.totals.entry(rule).or_insert(0);
        *total += 1;
        if *total <= KEPT_PER_RULE {
            let mut lines: Vec<u64> = lines.iter().copied().filter(|line| *line > 0).collect();
            lines.dedup();
            self.violations.push(Violation { rule, text: text(), lines });
        }
    }

    pub(crate) fn hold_against(&mut self, requirements: &[Requirement]) {
        if self.counts.deliveries == 0 {
            self.void.push("nothing was delivered to anybody".to_owned());
        }
        for requirement in requirements {
            if !requirement.is_met(&self.counts) {
                self.void.push(format!("the run never reached what it requires: {requirement}"));
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for violation in &self.violations {
            writeln!(f, "{}: {} (lines {:?})", violation.rule, violation.text, violation.lines)?;
        }
        for (rule, total) in &self.totals {
            writeln!(f, "broken: {rule} {total} times")?;
        }
        for reason in &self.void {
            writeln!(f, "void: {reason}")?;
        }
        writeln!(f, "exercised: {}", serde_json::to_string(&self.counts).unwrap_or_default())?;
        writeln!(f, "verdict: {:?}", self.verdict())
    }
}
