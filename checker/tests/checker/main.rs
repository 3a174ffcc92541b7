//! The checker held against histories whose verdict is known.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod faults;
mod online;
mod service;
mod tool;
mod valid;
mod void;
