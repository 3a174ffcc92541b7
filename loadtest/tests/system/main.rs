//! The real program against a real service, and against servers that lie.

#![expect(clippy::unwrap_used, reason = "in a test an error that was not expected is a failure")]

mod bench;
mod encodings;
mod faults;
mod games;
mod liar;
mod lies;
mod proxy;
mod service;
mod verdicts;
