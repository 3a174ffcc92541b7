//! The real program against a real service, and against servers that lie.

#![expect(clippy::unwrap_used, reason = "in a test an error that was not expected is a failure")]

mod bench;
mod faults;
mod games;
mod liar;
mod lies;
mod service;
mod verdicts;
