//! `mlms job`: what a scheduler runs now and then. Each works in small steps, and goes on where it was when it is run
//! again; `--dry-run` only tells.

mod idle;
mod integrity;
mod purge;

use std::time::Duration;

use clap::{Args, Subcommand};
use mlms_process::config::SharedFlags;
use mlms_protocol::LobbyId;
use serde_json::Value;

use crate::token::parse_ttl;

/// Lobbies read at once.
const PAGE: u32 = 200;

#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// Remove old events from the history; those that count for achievements stay
    PurgeHistory(Purge),
    /// Close lobbies in which nothing has happened for long
    CloseIdleLobbies(Idle),
    /// Look for gaps, epochs that go back, states and statistics without events; changes nothing
    CheckIntegrity(Integrity),
}

#[derive(Debug, Args)]
pub(crate) struct Shared {
    /// Change nothing; tell what would be done
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: SharedFlags,
}

#[derive(Debug, Args)]
pub(crate) struct Purge {
    /// Events older than this, for example 90d
    #[arg(long, value_name = "AGE", value_parser = parse_ttl)]
    older_than: Duration,
    /// Go on behind this lobby
    #[arg(long, value_name = "LOBBY")]
    after: Option<LobbyId>,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Debug, Args)]
pub(crate) struct Idle {
    /// Lobbies without an event for this long, for example 30d
    #[arg(long, value_name = "AGE", default_value = "30d", value_parser = parse_ttl)]
    idle_for: Duration,
    /// A broker of the deployment
    #[arg(long, value_name = "URL", default_value = "ws://127.0.0.1:8080")]
    url: String,
    /// A token with the role admin; without one it is made with the secret of the settings
    #[arg(long, value_name = "JWT", env = "MLMS_JOB_TOKEN", hide_env_values = true)]
    token: Option<String>,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Debug, Args)]
pub(crate) struct Integrity {
    /// Go on behind this lobby
    #[arg(long, value_name = "LOBBY")]
    after: Option<LobbyId>,
    #[command(flatten)]
    shared: Shared,
}

pub(crate) fn run(job: &Job) -> anyhow::Result<()> {
    match job {
        Job::PurgeHistory(arguments) => purge::run(arguments),
        Job::CloseIdleLobbies(arguments) => idle::run(arguments),
        Job::CheckIntegrity(arguments) => integrity::run(arguments),
    }
}

/// Prints a report: the object, or its fields as lines.
fn print(shared: &Shared, report: &Value) -> anyhow::Result<()> {
    if shared.json {
        return crate::print(&format!("{report}\n"));
    }
    let fields = report.as_object().into_iter().flatten();
    let lines: String = fields.map(|(name, value)| format!("{name}: {value}\n")).collect();
    crate::print(&lines)
}
