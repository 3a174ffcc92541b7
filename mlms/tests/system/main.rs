//! The whole service over real sockets: the real binary, started, spoken to, stopped and killed.

#![expect(clippy::unwrap_used, reason = "in a test an error that was not expected is a failure")]

mod access;
mod cluster;
mod connecting;
mod crash;
mod frozen;
mod hostile;
mod jobs;
mod limits;
mod lobbies;
mod measure;
mod observing;
mod player;
mod positions;
mod powers;
mod rest;
mod retuning;
mod slow;
mod stalled;
mod stopping;
mod talking;
mod tool;
mod veteran;
