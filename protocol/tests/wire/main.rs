//! The wire format of protocol version 1, from outside: golden files, round trips, hostile input.
#![expect(clippy::unwrap_used, reason = "samples are fixed and valid, and a test may panic")]

mod asyncapi;
mod generators;
mod golden;
mod hostile;
mod journal;
mod roundtrip;
mod samples;
