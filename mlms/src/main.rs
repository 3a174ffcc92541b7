//! The one server binary: every role of the service, and the tools around it.

// The layout of the futures that wait on a database within a transaction nests deeper than the compiler's 128.
#![recursion_limit = "256"]

mod attendants;
mod events;
mod frame;
mod job;
mod migrate;
mod operator;
mod patience;
mod replay;
mod roles;
mod standalone;
mod status;
mod token;
mod tool;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use mlms_process::config::{ConfigErrors, SharedFlags, Sources, default_config};
use mlms_process::{Live, ProcessRole, Settings, install_crypto_provider, logging};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How long threads that are still busy may go on when the process ends.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// MLMS, the multi lobby message service
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: SharedFlags,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole service in this process, nothing else to install (the default)
    Standalone(SharedFlags),
    /// Run a broker: the public listener of a deployment over Redis
    Broker(SharedFlags),
    /// Run a lobby node of a deployment over Redis
    LobbyNode(SharedFlags),
    /// Look at a deployment over Redis
    Cluster {
        #[command(subcommand)]
        command: ClusterCommand,
    },
    /// Count games and award achievements, fed by the lobby nodes over AMQP
    Achievements(SharedFlags),
    /// Bring the event store's schema up to date
    Migrate(SharedFlags),
    /// Award an achievement for what has happened before its rule was there
    Replay(replay::Arguments),
    /// What a scheduler runs now and then
    #[command(subcommand)]
    Job(job::Job),
    /// Print a token for a user
    Token(token::Arguments),
    /// Check the settings and print what they come to, secrets hidden
    CheckConfig {
        /// The role to check them for
        #[arg(long, default_value = "standalone")]
        role: Role,
        #[command(flatten)]
        flags: SharedFlags,
    },
    /// Print a configuration file with every setting, its default and its meaning
    DefaultConfig,
    /// Print the version
    Version,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Print its nodes with what they carry, and its shards with their owners
    Status(status::Arguments),
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Role {
    Standalone,
    Broker,
    LobbyNode,
    Achievements,
}

impl From<Role> for ProcessRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Standalone => ProcessRole::Standalone,
            Role::Broker => ProcessRole::Broker,
            Role::LobbyNode => ProcessRole::LobbyNode,
            Role::Achievements => ProcessRole::Achievements,
        }
    }
}

fn main() -> ExitCode {
    install_crypto_provider();
    let Arguments { command, flags } = Arguments::parse();
    let outcome = match command.unwrap_or(Command::Standalone(flags)) {
        Command::Standalone(flags) => serve(ProcessRole::Standalone, &flags, standalone::run),
        Command::Broker(flags) => serve(ProcessRole::Broker, &flags, roles::broker),
        Command::LobbyNode(flags) => serve(ProcessRole::LobbyNode, &flags, roles::lobby_node),
        Command::Cluster { command: ClusterCommand::Status(arguments) } => status::print(&arguments),
        Command::Achievements(flags) => serve(ProcessRole::Achievements, &flags, roles::achievements),
        Command::Migrate(flags) => migrate::run(&flags),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Job(job) => job::run(&job),
        Command::Token(arguments) => token::print(&arguments),
        Command::CheckConfig { role, flags } => check_config(role.into(), &flags),
        Command::DefaultConfig => print(&default_config()),
        Command::Version => print(&format!("mlms {}\n", env!("CARGO_PKG_VERSION"))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<ConfigErrors>() => complain(&error.to_string(), 2),
        Err(error) => complain(&format!("mlms: {error:#}"), 1),
    }
}

fn serve<F: Future<Output = anyhow::Result<()>>>(
    role: ProcessRole,
    flags: &SharedFlags,
    run: impl FnOnce(Live) -> F,
) -> anyhow::Result<()> {
    let mut settings = Settings::load(role, &Sources::of_this_process(flags))?;
    settings.prepare()?;
    let log = logging::init(&settings.log)?;
    for warning in settings.warnings() {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    let flags = flags.clone();
    let live = Live::new(settings, Some(log.clone()), move || Sources::of_this_process(&flags));
    let outcome = runtime.block_on(run(live));
    // Everything that had to come to rest has; a thread that does not turn must not keep the process.
    runtime.shutdown_timeout(LAST_MOMENT);
    log.flush();
    outcome
}

fn check_config(role: ProcessRole, flags: &SharedFlags) -> anyhow::Result<()> {
    let settings = Settings::load(role, &Sources::of_this_process(flags))?;
    for warning in settings.warnings() {
        complain(&format!("warning: {warning}"), 0);
    }
    print(&settings.effective())
}

#[expect(clippy::print_stdout, reason = "the output of a command line tool")]
fn print(text: &str) -> anyhow::Result<()> {
    print!("{text}");
    Ok(())
}

#[expect(clippy::print_stderr, reason = "the complaint of a command line tool")]
fn complain(text: &str, code: u8) -> ExitCode {
    eprintln!("{text}");
    ExitCode::from(code)
}
