//! The edge over real sockets: a broker, players who speak raw HTTP, and nodes that echo.

#![expect(clippy::unwrap_used, reason = "in a test an error that was not expected is a failure")]

mod drain;
mod level;
mod node;
mod refusals;
mod rest;
mod stage;
mod tunnels;
