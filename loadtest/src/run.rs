//! `loadtest run`: prepares tokens and addresses, starts the parts, injects faults, watches, and writes the reports.

use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail, ensure};

use crate::chaos::{self, Done};
use crate::live::{Live, Totals};
use crate::outcome::{Gathered, Look, Outcome};
use crate::part::{Common, Running};
use crate::plan::Plan;
use crate::rng::Rng;
use crate::scenario::{Chaos, Scenario};
use crate::server::{self, Probe};
use crate::target::{Sources, Target};
use crate::token::TokenSource;
use crate::verdict::{Decision, Verdict};
use crate::worker;

/// Time for threads and workers to get ready before the first connection.
const HEAD_START: Duration = Duration::from_millis(200);

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Validity of minted tokens beyond the run.
const TOKEN_SPARE: Duration = Duration::from_secs(3_600);

pub(crate) struct Settings {
    pub(crate) scenario: Scenario,
    pub(crate) targets: Vec<String>,
    pub(crate) tokens: TokenSource,
    pub(crate) sources: Vec<String>,
    pub(crate) threads: Option<usize>,
    pub(crate) workers: Vec<String>,
    pub(crate) worker_key: String,
    pub(crate) probes: Vec<Probe>,
    pub(crate) out: Option<PathBuf>,
    pub(crate) is_quiet: bool,
}

/// Runs it all, writes the reports, and says how it went.
///
/// # Errors
/// The scenario cannot be run: a bad target, no tokens, nobody there.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<Decision> {
    let scenario = &settings.scenario;
    let targets =
        settings.targets.iter().map(|url| Target::resolve(url)).collect::<anyhow::Result<Vec<_>>>()?;
    let Some(target) = targets.first() else { bail!("name a --target") };
    for probe in &settings.probes {
        server::look_at(probe)?;
    }
    let sources = Sources::new(&settings.sources, target, scenario.clients.count)?;
    crate::limits::raise_files(scenario.clients.count)?;
    for target in targets.iter().filter(|_| settings.workers.is_empty()) {
        TcpStream::connect_timeout(&target.address, Duration::from_secs(5))
            .with_context(|| format!("{} cannot be reached", target.authority))?;
    }
    let started_at =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("the clock is before 1970")?;
    let run = format!("lt{}", base36(Rng::new(started_at.as_nanos() as u64).next() % 36u64.pow(6)));
    let ttl = Duration::from_secs_f64(scenario.seconds()) + TOKEN_SPARE;
    let credentials = settings.tokens.credentials(target, &run, scenario.clients.count, ttl)?;

    let parts = if settings.workers.is_empty() {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        settings.threads.unwrap_or(cores / 2).max(1)
    } else {
        settings.workers.len()
    };
    let lobbies = Plan::new(scenario, 1).lobbies.len();
    ensure!(
        parts <= lobbies || settings.threads.is_none(),
        "{parts} threads for {lobbies} lobbies: a lobby stays on one"
    );
    let parts = parts.min(lobbies);
    let common = Common {
        scenario: scenario.clone(),
        run: run.clone(),
        parts,
        targets,
        target_urls: settings.targets.clone(),
        sources,
        source_texts: settings.sources.clone(),
        credentials,
    };
    let first_look = server::look(&settings.probes);
    let start = Instant::now() + HEAD_START;
    let mut running = Vec::new();
    for part in 0..parts {
        running.push(match settings.workers.get(part) {
            None => Running::here(&common, part, start)?,
            Some(address) => worker::start(address, &settings.worker_key, &common, part, start)?,
        });
    }
    let watched = watch(&settings, running, start, first_look).await?;
    let ever_connected: u64 = watched.parts.iter().map(|part| part.ever_connected).sum();
    if ever_connected == 0 && !watched.interrupted {
        let why = watched.parts.iter().find_map(|part| part.first_failure.clone());
        bail!("no client got in: {}", why.unwrap_or_else(|| "no answer".to_owned()));
    }
    let mut outcome = Outcome::new(Gathered {
        scenario,
        run,
        started_at: started_at.as_millis() as u64,
        targets: settings.targets.clone(),
        workers: settings.workers.clone(),
        interrupted: watched.interrupted,
        parts: watched.parts,
        chaos: watched.chaos,
        looks: watched.looks,
    });
    outcome.verdict = Verdict::of(&outcome);
    crate::report::print(&outcome)?;
    if let Some(folder) = &settings.out {
        crate::report::write(&outcome, folder)?;
    }
    Ok(outcome.verdict.decision)
}

struct Watched {
    parts: Vec<crate::engine::PartResult>,
    chaos: Vec<Done>,
    looks: Vec<Look>,
    interrupted: bool,
}

/// Shows the run, injects its faults, and stops it on Ctrl-C.
async fn watch(
    settings: &Settings,
    running: Vec<Running>,
    start: Instant,
    first_look: Option<server::Usage>,
) -> anyhow::Result<Watched> {
    let plan = Plan::new(&settings.scenario, 1);
    let mut live = Live::new(settings.scenario.seconds(), settings.is_quiet);
    let mut waiting: Vec<Chaos> = settings.scenario.chaos.clone();
    waiting.sort_by(|one, other| one.at.total_cmp(&other.at));
    let mut waiting = waiting.into_iter().peekable();
    let mut under_way = tokio::task::JoinSet::new();
    let mut interrupted = false;
    let mut looks: Vec<Look> = first_look.map(|usage| Look { at: 0, joined: 0, usage }).into_iter().collect();
    let mut interrupts = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let mut terminations = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interval = tokio::time::interval(LOOK_EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    while running.iter().any(|part| !part.thread.is_finished()) {
        let next_fault = waiting.peek().map(|chaos| start + Duration::from_secs_f64(chaos.at));
        let fault = async {
            match next_fault {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interval.tick() => {}
            () = fault => {
                if let Some(chaos) = waiting.next_if(|_| !interrupted) {
                    under_way.spawn(chaos::inflict(chaos, start.elapsed().as_secs_f64()));
                }
                continue;
            }
            _ = interrupts.recv() => {
                ensure!(!interrupted, "interrupted twice: no report");
                interrupted = true;
            }
            _ = terminations.recv() => interrupted = true,
        }
        if interrupted {
            running.iter().for_each(Running::stop);
            waiting = Vec::new().into_iter().peekable();
        }
        let totals = Totals::of(&running);
        let at = start.elapsed();
        live.show(at.as_secs_f64(), &plan.phases, &totals);
        if !settings.probes.is_empty()
            && let Some(usage) = server::look(&settings.probes)
        {
            looks.push(Look { at: at.as_micros() as u64, joined: totals.joined, usage });
        }
    }
    live.finish();
    let mut chaos = Vec::new();
    while let Some(done) = under_way.join_next().await {
        chaos.push(done.context("a fault")?);
    }
    chaos.sort_by(|one: &Done, other| one.at.total_cmp(&other.at));
    let parts = running.into_iter().map(Running::join).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Watched { parts, chaos, looks, interrupted })
}

fn base36(mut number: u64) -> String {
    let mut digits = Vec::new();
    while number > 0 || digits.is_empty() {
        digits.push(char::from_digit((number % 36) as u32, 36).unwrap_or('0'));
        number /= 36;
    }
    digits.iter().rev().collect()
}
