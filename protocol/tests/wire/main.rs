//! The wire format of protocol version 1, from outside: golden files, round trips, hostile input.

mod generators;
mod golden;
mod hostile;
mod journal;
mod roundtrip;
mod samples;
