//! Lobby nodes from outside, over in-memory sockets and under a paused clock: stories, and random runs that the
//! checker judges.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod access;
mod blind;
mod doors;
mod epochs;
mod evening;
mod finding;
mod fleet;
mod history;
mod lasting;
mod line;
mod mixed;
mod moderation;
mod oddities;
mod older;
mod owners;
mod planted;
mod player;
mod powers;
mod races;
mod simulation;
mod stories;
mod trimming;
mod trunk;
