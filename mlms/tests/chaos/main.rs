//! Real processes that die, freeze, drain and lose their Redis while players talk, judged by the checker.
//!
//! Each test starts one fleet and lets several faults happen to it, one after the other. Every fault must be seen to
//! have been reached (an owner changed, a client came back into a gap, a nonce was repeated), or the run counts for
//! nothing. `MLMS_CHAOS=N` repeats each test's faults N times; a failed run leaves its history behind.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed; what it measured is printed"
)]

mod books;
mod budget;
mod crowd;
mod deaths;
mod direct;
mod evening;
mod fleet;
mod games;
mod measure;
mod operator;
mod recorder;
mod redis_away;
mod redis_empty;
mod rolling;
mod servers;
mod service;
mod story;
mod waiting;
