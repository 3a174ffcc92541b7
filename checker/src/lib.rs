//! The rules by which a recorded history of players is judged against the promises of the wire protocol.
//!
//! It shares no code with the service, so that one mistake cannot hide in both. Two ways in:
//! [`check_text`] and [`check_records`] judge a whole history with its final reading (the format is [`Record`], a
//! JSON line each; the README describes it), and [`online`] holds the rules that cost a few numbers an
//! event, for load tests with millions of deliveries. It does no I/O; `main.rs` is the command-line tool.

pub mod chain;
mod judge;
pub mod online;
mod record;
mod report;
mod rule;

pub use crate::judge::{Judge, Options, ReadError, check_records, check_text};
pub use crate::record::{Class, Entry, Event, History, Invoke, Position, Record, What};
pub use crate::report::{Counts, Report, Requirement, Verdict, Violation};
pub use crate::rule::{Fault, Rule};
