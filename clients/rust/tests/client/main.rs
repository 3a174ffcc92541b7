//! The client against a scripted server, over pipes, under the paused clock.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod chaos;
mod coming_back;
mod commands;
mod order;
mod rates;
mod script;
