//! A player as a library: one user's session with the service, kept alive.
//!
//! [`Client::connect`] gives a cheap handle with a verb per command, and [`Events`], the stream of what happens. The
//! client comes back by itself after a lost connection, resumes every lobby it is in, repeats the state-changing
//! commands that were not answered (with their nonce, in their order), and passes on each sequenced event
//! exactly once.
//!
//! It reads the clock only through `tokio::time` and draws randomness from [`Options::seed`], so that a simulation
//! can run it over pipes of its own ([`Connector`]) under a paused clock.

mod backoff;
mod client;
mod connect;
mod driver;
mod ledger;
mod options;
mod pace;
mod renewal;

pub use client::{Client, Error, Events, Incoming, Message, Sent};
pub use connect::{Connector, Target, Transport};
pub use driver::{ClosedReason, State};
pub use mlms_protocol as protocol;
pub use options::{InvalidOptions, Options, Tap, Tapped, TokenError, TokenSource};
