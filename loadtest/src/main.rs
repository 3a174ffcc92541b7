//! `loadtest`: many players over real sockets, every delivery checked, and a verdict.

mod chaos;
mod compare;
mod engine;
mod forecast;
mod json;
mod limits;
mod live;
mod measure;
mod msgpack;
mod outcome;
mod part;
mod plan;
mod preflight;
mod report;
mod rng;
mod run;
mod scenario;
mod server;
mod target;
mod tls;
mod token;
mod verdict;
mod websocket;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use crate::scenario::{Chaos, PRESETS, Scenario, Threshold};
use crate::server::Probe;
use crate::tls::Trust;
use crate::token::TokenSource;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const EXIT_CODES: &str = "Exit codes: 0 passed; 1 usage or target error; 2 a rule was broken, a threshold missed, or a fault could not be
injected; 3 void because the generator itself was the bottleneck.";

/// What went wrong before there was anything to judge.
const USAGE_OR_TARGET: u8 = 1;

/// Load tests for MLMS: many players, every delivery checked, and a verdict
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a preset or a scenario file
    #[command(after_help = EXIT_CODES)]
    Run(Box<RunArguments>),
    /// Run parts for a `loadtest run --worker` somewhere else
    Worker {
        /// Address to listen on
        #[arg(long, default_value = "127.0.0.1:7400")]
        listen: String,
        /// What a run must know to use this worker; needed beyond loopback
        #[arg(long, env = "LOADTEST_WORKER_KEY", default_value = "", hide_env_values = true)]
        key: String,
    },
    /// Hold the result of a run against that of an earlier one; ends with 0 unless --fail-above says otherwise
    Compare {
        /// result.json of the earlier run
        before: PathBuf,
        /// result.json of the later one
        after: PathBuf,
        /// End with 2 when a time, a cost, a rate or a count is worse by more than this, in per cent, or the later
        /// run had failed; with 3 when one of them was void
        #[arg(long, value_name = "PERCENT", value_parser = compare::bound)]
        fail_above: Option<f64>,
    },
    /// List the presets, or print one as a file to start from
    Presets { name: Option<String> },
}

#[derive(Debug, Args)]
struct RunArguments {
    /// A preset (see `loadtest presets`) or a scenario file
    scenario: String,
    /// The service's WebSocket, ws://host:port or wss://host:port; several are used in turn
    #[arg(long, required_unless_present = "dry_run", value_name = "URL")]
    target: Vec<String>,
    /// Look for mistakes, tell what the scenario asks for, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Wait up to so many seconds for somebody to take connections there
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u64,
    /// Believe certificates of the authorities in this file too (PEM), for wss://
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Believe any certificate
    #[arg(long)]
    insecure: bool,
    /// Sign tokens with this HS256 secret; LOADTEST_SECRET in the environment does the same
    #[arg(long, group = "token")]
    secret: Option<String>,
    /// Sign tokens with the secret in this file
    #[arg(long, value_name = "FILE", group = "token")]
    secret_file: Option<PathBuf>,
    /// Use the tokens in this file, one a line
    #[arg(long, value_name = "FILE", group = "token")]
    tokens: Option<PathBuf>,
    /// Run this with `sh -c` for each client; {user} is replaced, it prints a token
    #[arg(long, value_name = "COMMAND", group = "token")]
    token_command: Option<String>,
    /// Ask the service for guests' tokens; the default where no secret is given
    #[arg(long, group = "token")]
    guests: bool,
    /// Clients, instead of the scenario's number
    #[arg(long)]
    clients: Option<u32>,
    /// Seconds of the longest phase
    #[arg(long)]
    seconds: Option<f64>,
    /// Multiplies all phases' load
    #[arg(long)]
    load: Option<f64>,
    /// Another seed, another plan
    #[arg(long)]
    seed: Option<u64>,
    /// Any other value of the scenario, for example --set senders.0.rate=5
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// One more threshold beside the scenario's, for example --threshold 'hold: delivery.p99_ms < 50'
    #[arg(long, value_name = "THRESHOLD")]
    threshold: Vec<Threshold>,
    /// Inject a fault: SECONDS:ACTION:PID with kill, stop, cont or drain, or SECONDS:command:COMMAND
    #[arg(long, value_name = "FAULT", value_parser = chaos::parse)]
    chaos: Vec<Chaos>,
    /// Local addresses to connect from: one, or first-last
    #[arg(long, value_name = "ADDRESS")]
    source: Vec<String>,
    /// Threads that generate load; default: half of the cores
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    /// Let workers generate the load, one part each: host:port
    #[arg(long, value_name = "ADDRESS")]
    worker: Vec<String>,
    /// What the workers want to hear
    #[arg(long, env = "LOADTEST_WORKER_KEY", default_value = "", hide_env_values = true)]
    worker_key: String,
    /// A server process of this machine, to measure its processor time and memory: its id, or a file that holds it
    #[arg(long, value_name = "PID")]
    pid: Vec<String>,
    /// A server's Prometheus page, for the same
    #[arg(long, value_name = "URL")]
    metrics: Vec<String>,
    /// Folder for result.json, junit.xml and report.html
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Show nothing while it runs
    #[arg(long, short)]
    quiet: bool,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { USAGE_OR_TARGET } else { 0 };
            // A closed terminal: nothing more can be told.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match execute(arguments.command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report::note(&format!("loadtest: {error:#}"));
            ExitCode::from(USAGE_OR_TARGET)
        }
    }
}

fn execute(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Run(arguments) => {
            if arguments.dry_run {
                return forecast(&arguments.scenario()?);
            }
            let settings = arguments.settings()?;
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
            Ok(runtime.block_on(run::run(settings))?.exit_code())
        }
        Command::Worker { listen, key } => worker::serve(&listen, &key).map(|()| 0),
        Command::Compare { before, after, fail_above } => compare::run(&before, &after, fail_above),
        Command::Presets { name } => presets(name.as_deref()).map(|()| 0),
    }
}

#[expect(clippy::print_stdout, reason = "the output of a command line tool")]
fn forecast(scenario: &Scenario) -> anyhow::Result<u8> {
    print!("{}", report::plain(&forecast::text(scenario)));
    Ok(0)
}

#[expect(clippy::print_stdout, reason = "the output of a command line tool")]
fn presets(name: Option<&str>) -> anyhow::Result<()> {
    let Some(name) = name else {
        for preset in PRESETS {
            println!("{:<12}{}", preset.name, Scenario::load(preset.name, &[])?.description);
        }
        return Ok(());
    };
    let preset = PRESETS.iter().find(|preset| preset.name == name).context("there is no such preset")?;
    print!("{}", preset.text);
    Ok(())
}

impl RunArguments {
    /// The scenario with everything that the flags say.
    fn scenario(&self) -> anyhow::Result<Scenario> {
        let mut scenario = Scenario::load(&self.scenario, &self.overrides())?;
        let longest = scenario.phases.iter_mut().max_by(|one, other| one.seconds.total_cmp(&other.seconds));
        if let (Some(phase), Some(seconds)) = (longest, self.seconds) {
            phase.seconds = seconds;
        }
        if let Some(load) = self.load {
            scenario.phases.iter_mut().for_each(|phase| phase.load *= load);
        }
        scenario.chaos.extend(self.chaos.iter().cloned());
        scenario.thresholds.extend(self.threshold.iter().cloned());
        scenario.check_all().context("with what the flags say")?;
        Ok(scenario)
    }

    fn settings(self) -> anyhow::Result<run::Settings> {
        let tokens = self.token_source()?;
        let scenario = self.scenario()?;
        let authorities = match &self.ca {
            Some(file) => Some(std::fs::read_to_string(file).with_context(|| file.display().to_string())?),
            None => None,
        };
        let processes = self.pid.into_iter().map(Probe::Process);
        Ok(run::Settings {
            scenario,
            targets: self.target,
            trust: Trust { authorities, is_insecure: self.insecure },
            tokens,
            sources: self.source,
            threads: self.threads.map(usize::from),
            workers: self.worker,
            worker_key: self.worker_key,
            probes: processes.chain(self.metrics.into_iter().map(Probe::Metrics)).collect(),
            out: self.out,
            is_quiet: self.quiet,
            wait: std::time::Duration::from_secs(self.wait),
        })
    }

    fn overrides(&self) -> Vec<String> {
        let clients = self.clients.map(|clients| format!("clients.count={clients}"));
        let seed = self.seed.map(|seed| format!("seed={seed}"));
        clients.into_iter().chain(seed).chain(self.set.iter().cloned()).collect()
    }

    fn token_source(&self) -> anyhow::Result<TokenSource> {
        Ok(match self {
            RunArguments { secret: Some(secret), .. } => TokenSource::Secret(secret.clone()),
            RunArguments { secret_file: Some(file), .. } => {
                let secret = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
                TokenSource::Secret(secret.trim().to_owned())
            }
            RunArguments { tokens: Some(file), .. } => TokenSource::File(file.clone()),
            RunArguments { token_command: Some(command), .. } => TokenSource::Command(command.clone()),
            RunArguments { guests: true, .. } => TokenSource::Guests,
            _ => std::env::var("LOADTEST_SECRET").map_or(TokenSource::Guests, TokenSource::Secret),
        })
    }
}
