//! The boundary of the cluster from outside: the same behaviour on the embedded parts and on real Redis, and what
//! only a real server can do: die, freeze, and drop its subscribers.

#![expect(clippy::unwrap_used, reason = "in a test an error that was not expected is a failure")]

mod cluster;
mod directory;
mod faults;
mod journal;
mod measure;
mod relay;
mod server;
mod stage;
mod start;
