//! `loadtest run`: prepares tokens and addresses, starts the parts, injects faults, watches, and writes the reports.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail, ensure};
use rustls::ClientConfig;

use crate::chaos::{self, Done, Stage};
use crate::live::{Live, Totals};
use crate::outcome::{Gathered, Look, Outcome};
use crate::part::{Common, Running};
use crate::plan::Plan;
use crate::preflight;
use crate::rng::Rng;
use crate::scenario::{Chaos, Scenario};
use crate::server::{self, Probe, Servers, Usage};
use crate::target::{Sources, Target, local_ports};
use crate::tls::Trust;
use crate::token::{Credential, TokenSource};
use crate::verdict::{Decision, Verdict};
use crate::worker;

/// Time for threads and workers to get ready before the first connection.
const HEAD_START: Duration = Duration::from_millis(200);

/// How long a target may take to answer at all.
const REACH_WITHIN: Duration = Duration::from_secs(5);
const REACH_AGAIN: Duration = Duration::from_secs(1);

/// How long a command of the tester's may go on when the run is over.
const FAULT_PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Validity of minted tokens beyond the run.
const TOKEN_SPARE: Duration = Duration::from_secs(3_600);

pub(crate) struct Settings {
    pub(crate) scenario: Scenario,
    pub(crate) targets: Vec<String>,
    pub(crate) trust: Trust,
    pub(crate) tokens: TokenSource,
    pub(crate) sources: Vec<String>,
    pub(crate) threads: Option<usize>,
    pub(crate) workers: Vec<String>,
    pub(crate) worker_key: String,
    pub(crate) probes: Vec<Probe>,
    pub(crate) out: Option<PathBuf>,
    pub(crate) is_quiet: bool,
    /// How long somebody may take to be there.
    pub(crate) wait: Duration,
}

/// Sees that MLMS is there and takes the tokens, or will be and do within `wait`.
async fn look(
    targets: &[Target],
    tls: &Arc<ClientConfig>,
    credentials: &[Credential],
    settings: &Settings,
) -> anyhow::Result<()> {
    let end = Instant::now() + settings.wait;
    let with_tickets = settings.scenario.clients.tickets;
    for (target, url) in targets.iter().zip(&settings.targets) {
        while let Err(error) = preflight::look(target, tls, credentials, with_tickets) {
            ensure!(Instant::now() < end, error.context(url.clone()));
            tokio::time::sleep(REACH_AGAIN).await;
        }
    }
    Ok(())
}

/// The targets, as soon as somebody answers there; workers find out for themselves.
async fn reach(urls: &[String], is_here: bool, wait: Duration) -> anyhow::Result<Vec<Target>> {
    let end = Instant::now() + wait;
    loop {
        let one = |url: &String| {
            let mut target = Target::resolve(url)?;
            if is_here {
                target.reach(REACH_WITHIN)?;
            }
            Ok(target)
        };
        match urls.iter().map(one).collect::<anyhow::Result<Vec<_>>>() {
            Err(_) if Instant::now() < end => tokio::time::sleep(REACH_AGAIN).await,
            outcome => return outcome,
        }
    }
}

/// Runs it all, writes the reports, and says how it went.
///
/// # Errors
/// The scenario cannot be run: a bad target, no tokens, nobody there.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<Decision> {
    let scenario = &settings.scenario;
    if let Some(folder) = &settings.out {
        crate::report::prepare(folder)?;
    }
    let targets = reach(&settings.targets, settings.workers.is_empty(), settings.wait).await?;
    if settings.workers.is_empty() {
        crate::limits::raise_files(scenario.clients.count)?;
    }
    let Some(target) = targets.first() else { bail!("name a --target") };
    let tls = settings.trust.config(&targets)?;
    for probe in &settings.probes {
        server::look_at(probe)?;
    }
    let sources = Sources::new(&settings.sources, target, scenario.clients.count)?;
    if settings.workers.is_empty() {
        sources.are_here()?;
        sources.suffice(scenario.clients.count, targets.len(), local_ports())?;
    }
    let started_at =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("the clock is before 1970")?;
    let run = format!("lt{}", base36(Rng::new(started_at.as_nanos() as u64).next() % 36u64.pow(6)));
    let ttl = Duration::from_secs_f64(scenario.seconds()) + TOKEN_SPARE;
    let credentials = settings.tokens.credentials(target, &tls, &run, scenario.clients.count, ttl)?;
    if settings.workers.is_empty() {
        look(&targets, &tls, &credentials, &settings).await?;
    }

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
        tls,
        trust: settings.trust.clone(),
        sources,
        source_texts: settings.sources.clone(),
        credentials,
    };
    let mut servers = Servers::new(settings.probes.clone());
    let first_look = servers.look();
    let prepared = worker::prepare(
        &settings.workers[..parts.min(settings.workers.len())],
        &settings.worker_key,
        &common,
    )?;
    let start = Instant::now() + HEAD_START;
    let running = match prepared.is_empty() {
        true => {
            (0..parts).map(|part| Running::here(&common, part, start)).collect::<anyhow::Result<Vec<_>>>()?
        }
        false => prepared.into_iter().map(|part| part.go(start)).collect::<anyhow::Result<Vec<_>>>()?,
    };
    let watched = watch(&settings, running, start, servers, first_look).await?;
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
        lost: watched.lost,
        interrupted: watched.interrupted,
        parts: watched.parts,
        chaos: watched.chaos,
        looks: watched.looks,
    });
    outcome.verdict = Verdict::of(&outcome);
    // The files first: they are there even when nobody reads the output.
    let written = settings.out.as_ref().map_or(Ok(()), |folder| crate::report::write(&outcome, folder));
    crate::report::print(&outcome);
    written?;
    Ok(outcome.verdict.decision)
}

struct Watched {
    parts: Vec<crate::engine::PartResult>,
    /// Why parts have no result.
    lost: Vec<String>,
    chaos: Vec<Done>,
    looks: Vec<Look>,
    interrupted: bool,
}

/// Shows the run, injects its faults, and stops it on Ctrl-C.
async fn watch(
    settings: &Settings,
    running: Vec<Running>,
    start: Instant,
    servers: Servers,
    first_look: Usage,
) -> anyhow::Result<Watched> {
    let plan = Plan::new(&settings.scenario, 1);
    let mut live = Live::new(&settings.scenario, settings.is_quiet);
    let mut waiting: Vec<Chaos> = settings.scenario.chaos.clone();
    waiting.sort_by(|one, other| one.at.total_cmp(&other.at));
    let mut waiting = waiting.into_iter().peekable();
    let mut under_way = tokio::task::JoinSet::new();
    let (stage, told_stage) = tokio::sync::watch::channel(Stage::Running);
    let mut interrupted = false;
    let mut looks = Looks::new(servers, first_look);
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
                    under_way.spawn(chaos::inflict(chaos, start.elapsed().as_secs_f64(), told_stage.clone()));
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
            stage.send_replace(Stage::Interrupted);
        }
        let totals = Totals::of(&running);
        let at = start.elapsed();
        live.show(at.as_secs_f64(), &plan.phases, &totals);
        looks.look(at, totals.joined).await?;
    }
    live.finish();
    let looks = looks.finish(start.elapsed()).await?;
    let mut chaos = Vec::new();
    let patience = tokio::time::sleep(FAULT_PATIENCE);
    tokio::pin!(patience);
    loop {
        tokio::select! {
            done = under_way.join_next() => match done {
                Some(done) => chaos.push(done.context("a fault")?),
                None => break,
            },
            () = &mut patience, if *stage.borrow() == Stage::Running => drop(stage.send_replace(Stage::Over)),
            _ = interrupts.recv() => drop(stage.send_replace(Stage::Interrupted)),
            _ = terminations.recv() => drop(stage.send_replace(Stage::Interrupted)),
        }
    }
    chaos.sort_by(|one: &Done, other| one.at.total_cmp(&other.at));
    let (mut parts, mut lost) = (Vec::new(), Vec::new());
    for outcome in running.into_iter().map(Running::join) {
        match outcome {
            Ok(part) => parts.push(part),
            Err(error) => lost.push(format!("{error:#}")),
        }
    }
    if parts.is_empty() {
        bail!("{}", lost.join("; "));
    }
    Ok(Watched { parts, lost, chaos, looks, interrupted })
}

/// Looks at the servers, one at a time on a thread of its own: one that does not answer holds up no fault.
struct Looks {
    taken: Vec<Look>,
    idle: Option<Servers>,
    under_way: Option<tokio::task::JoinHandle<(Servers, Usage)>>,
    begun: (Duration, u64),
}

impl Looks {
    fn new(servers: Servers, first: Usage) -> Looks {
        let taken = match servers.is_empty() {
            true => Vec::new(),
            false => vec![Look { at: 0, joined: 0, usage: first }],
        };
        Looks { taken, idle: Some(servers), under_way: None, begun: (Duration::ZERO, 0) }
    }

    /// Takes what the last look saw, when it is through, and begins the next.
    async fn look(&mut self, at: Duration, joined: u64) -> anyhow::Result<()> {
        if self.under_way.as_ref().is_some_and(|look| look.is_finished()) {
            self.take().await?;
        }
        if let Some(mut servers) = self.idle.take_if(|servers| !servers.is_empty()) {
            self.begun = (at, joined);
            self.under_way = Some(tokio::task::spawn_blocking(move || {
                let usage = servers.look();
                (servers, usage)
            }));
        }
        Ok(())
    }

    async fn take(&mut self) -> anyhow::Result<()> {
        let Some(look) = self.under_way.take() else { return Ok(()) };
        let (servers, usage) = look.await.context("a look at the servers")?;
        let (at, joined) = self.begun;
        self.taken.push(Look { at: at.as_micros() as u64, joined, usage });
        self.idle = Some(servers);
        Ok(())
    }

    /// The last look, at the end.
    async fn finish(mut self, at: Duration) -> anyhow::Result<Vec<Look>> {
        self.take().await?;
        self.look(at, 0).await?;
        self.take().await?;
        Ok(self.taken)
    }
}

fn base36(mut number: u64) -> String {
    let mut digits = Vec::new();
    while number > 0 || digits.is_empty() {
        digits.push(char::from_digit((number % 36) as u32, 36).unwrap_or('0'));
        number /= 36;
    }
    digits.iter().rev().collect()
}
