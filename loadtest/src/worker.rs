//! `loadtest worker`: runs parts for a `loadtest run` somewhere else. Lines of JSON over TCP, one connection a part:
//! who speaks, the order, the start once all workers are ready, progress five times a second, `stop` in the other
//! direction, and the result.

mod lines;
mod strangers;

use std::collections::HashMap;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use self::lines::{Lines, say};
use self::strangers::{Stranger, Strangers};
use crate::engine::{PartResult, Shared};
use crate::part::{Common, Running};
use crate::preflight;
use crate::scenario::Scenario;
use crate::target::{Sources, Target, local_ports};
use crate::tls::Trust;
use crate::token::Credential;

/// Version of what both sides say.
const FORMAT: u32 = 2;

/// Between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// How long the other side may take to say who it is, and a worker to get ready.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
const READY_WITHIN: Duration = Duration::from_secs(120);

/// A worker that is silent for so long is lost: it tells of its progress all the time.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// The same once it was told to stop, which takes it 3 s at most: the tester waits.
const STOPPED_SILENCE_MAX: Duration = Duration::from_secs(5);

/// How soon a worker hears that it is to stop, whether or not it says anything.
const STOP_WITHIN: Duration = Duration::from_millis(100);

/// Longest first line, before it is known who speaks.
const HELLO_BYTES_MAX: usize = 4_096;

/// Connections at once of those who have shown the key; more are refused.
const CONNECTIONS_MAX: usize = 64;

/// Connections at once of those who have not; a further one closes the oldest.
const STRANGERS_MAX: usize = 64;

/// The first line: who speaks.
#[derive(Serialize, Deserialize)]
struct Hello {
    format: u32,
    key: String,
}

/// The second: what is to be done. The third is [`Go`], once everybody is ready.
#[derive(Serialize, Deserialize)]
struct Wanted {
    scenario: Scenario,
    run: String,
    part: usize,
    parts: usize,
    targets: Vec<String>,
    trust: Trust,
    sources: Vec<String>,
    credentials: HashMap<u32, Credential>,
}

#[derive(Serialize, Deserialize)]
struct Go {
    start_in_ms: u64,
}

#[derive(Serialize, Deserialize)]
enum Said {
    Ready,
    Progress([u64; 10]),
    Result(Box<PartResult>),
    Error(String),
}

fn places(shared: &Shared) -> [&AtomicU64; 10] {
    let Shared { stop: _, connected, joined, sent, ok, deliveries, errors, faults, p50, p99, settling } =
        shared;
    [connected, joined, sent, ok, deliveries, errors, faults, p50, p99, settling]
}

/// A worker that has its order and waits for the start.
pub(crate) struct Prepared {
    address: String,
    lines: Lines,
}

/// Gives each worker its part, and waits until all of them are ready: they begin together, however long an order takes.
///
/// # Errors
/// One of them cannot be reached, or does not want it.
pub(crate) fn prepare(addresses: &[String], key: &str, common: &Common) -> anyhow::Result<Vec<Prepared>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = addresses
            .iter()
            .enumerate()
            .map(|(part, address)| {
                let made = move || {
                    prepare_one(address, key, common, part).with_context(|| format!("worker {address}"))
                };
                scope.spawn(made)
            })
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|made| made.unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked")))).collect()
    })
}

fn prepare_one(address: &str, key: &str, common: &Common, part: usize) -> anyhow::Result<Prepared> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let wanted = Wanted {
        scenario: common.scenario.clone(),
        run: common.run.clone(),
        part,
        parts: common.parts,
        targets: common.target_urls.clone(),
        trust: common.trust.clone(),
        sources: common.source_texts.clone(),
        credentials: common.credentials_of(part),
    };
    let mut lines = Lines::new(stream, usize::MAX);
    lines.say(&Hello { format: FORMAT, key: key.to_owned() })?;
    until_ready(&mut lines)?;
    lines.say(&wanted)?;
    until_ready(&mut lines)?;
    Ok(Prepared { address: address.to_owned(), lines })
}

impl Prepared {
    /// Starts it. A thread of this process follows it.
    pub(crate) fn go(self, start: Instant) -> anyhow::Result<Running> {
        let Prepared { address, mut lines } = self;
        let start_in_ms = start.saturating_duration_since(Instant::now()).as_millis() as u64;
        lines.say(&Go { start_in_ms }).with_context(|| format!("worker {address}"))?;
        let shared = Arc::new(Shared::default());
        let followed = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name(format!("worker {address}"))
            .spawn(move || {
                let silences = (SILENCE_MAX, STOPPED_SILENCE_MAX);
                follow(lines, &followed, silences).with_context(|| format!("worker {address}"))
            })
            .context("no thread")?;
        Ok(Running { shared, thread })
    }
}

fn until_ready(lines: &mut Lines) -> anyhow::Result<()> {
    match lines.hear(READY_WITHIN)? {
        Said::Ready => Ok(()),
        Said::Error(error) => bail!(error),
        Said::Progress(_) | Said::Result(_) => bail!("it speaks out of turn"),
    }
}

/// Takes a worker's progress until its result. `silences`: the longest, while it runs and once it was told to stop.
fn follow(mut lines: Lines, shared: &Shared, silences: (Duration, Duration)) -> anyhow::Result<PartResult> {
    let mut stopped_at = None;
    loop {
        match lines.listen(STOP_WITHIN)? {
            Some(Said::Progress(values)) => {
                places(shared)
                    .iter()
                    .zip(values)
                    .for_each(|(place, value)| place.store(value, Ordering::Relaxed));
            }
            Some(Said::Result(result)) => return Ok(*result),
            Some(Said::Error(error)) => bail!(error),
            Some(Said::Ready) => bail!("it speaks out of turn"),
            None => {}
        }
        if shared.stop.load(Ordering::Relaxed) && stopped_at.is_none() {
            stopped_at = Some(Instant::now());
            lines.say(&"stop")?;
        }
        match stopped_at {
            None if lines.heard_at().elapsed() > silences.0 => {
                bail!("silent for {} s", silences.0.as_secs_f64())
            }
            Some(at) if lines.heard_at().max(at).elapsed() > silences.1 => {
                bail!("silent for {} s after it was told to stop", silences.1.as_secs_f64())
            }
            _ => {}
        }
    }
}

/// Serves for ever, a thread each part.
///
/// # Errors
/// It cannot listen.
pub(crate) fn serve(listen: &str, key: &str) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| listen.to_owned())?;
    let address = listener.local_addr()?;
    ensure!(address.ip().is_loopback() || !key.is_empty(), "beyond loopback a worker needs a --key");
    crate::report::note(&format!("worker on {address}"));
    let strangers = Strangers::new(STRANGERS_MAX);
    let seats = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let (stream, peer) = listener.accept()?;
        match strangers.add(&stream) {
            Ok(stranger) => {
                let (key, seats) = (key.to_owned(), Arc::clone(&seats));
                std::thread::spawn(move || {
                    if let Err(error) = serve_one(stream, &key, &stranger, &seats) {
                        crate::report::note(&format!("{peer}: {error:#}"));
                    }
                });
            }
            Err(error) => crate::report::note(&format!("{peer}: {error}")),
        }
    }
}

/// # Errors
/// What came of it, when it was no result; the other side is told it, too.
fn serve_one(stream: TcpStream, key: &str, stranger: &Stranger, seats: &Semaphore) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut lines = Lines::new(stream, HELLO_BYTES_MAX);
    let hello = introduced(&mut lines, key);
    ensure!(stranger.leave(), "closed for a newer one: {STRANGERS_MAX} others had not shown the key either");
    let result = hello.and_then(|()| {
        let _seat = seats.try_acquire().with_context(|| format!("{CONNECTIONS_MAX} parts are enough"))?;
        work(lines, &mut writer)
    });
    match result {
        Ok(result) => say(&mut writer, &Said::Result(Box::new(result))),
        Err(error) => {
            // It may be gone, which is no other error.
            let _ = say(&mut writer, &Said::Error(format!("{error:#}")));
            Err(error)
        }
    }
}

/// Hears who speaks.
fn introduced(lines: &mut Lines, key: &str) -> anyhow::Result<()> {
    let hello: Hello = lines.hear(HELLO_WITHIN)?;
    ensure!(same(&hello.key, key), "the key is another");
    ensure!(hello.format == FORMAT, "it speaks version {FORMAT}, the order version {}", hello.format);
    Ok(())
}

fn work(mut lines: Lines, writer: &mut TcpStream) -> anyhow::Result<PartResult> {
    say(writer, &Said::Ready)?;
    lines.unbound();
    let wanted: Wanted = lines.hear(READY_WITHIN)?;
    let part = wanted.part;
    let common = common(wanted)?;
    say(writer, &Said::Ready)?;
    let go: Go = lines.hear(READY_WITHIN)?;
    let running = Running::here(&common, part, Instant::now() + Duration::from_millis(go.start_in_ms))?;
    let shared = Arc::clone(&running.shared);
    std::thread::spawn(move || {
        // A line, or the end of the connection: either way nobody wants more.
        lines.until_anything();
        shared.stop.store(true, Ordering::Relaxed);
    });
    while !running.thread.is_finished() {
        std::thread::park_timeout(PROGRESS_EVERY);
        let values = places(&running.shared).map(|place| place.load(Ordering::Relaxed));
        if say(writer, &Said::Progress(values)).is_err() {
            running.stop();
        }
    }
    running.join()
}

/// What an order says, as this machine sees it.
fn common(wanted: Wanted) -> anyhow::Result<Common> {
    wanted.scenario.check_all()?;
    ensure!(wanted.part < wanted.parts, "part {} of {}", wanted.part, wanted.parts);
    let mut targets =
        wanted.targets.iter().map(|url| Target::resolve(url)).collect::<anyhow::Result<Vec<_>>>()?;
    targets.iter_mut().try_for_each(|target| target.reach(HELLO_WITHIN))?;
    let Some(target) = targets.first() else { bail!("the order names no target") };
    let clients = wanted.scenario.clients.count;
    crate::limits::raise_files(wanted.credentials.len() as u32)?;
    let sources = Sources::new(&wanted.sources, target, clients)?;
    sources.are_here()?;
    sources.suffice(wanted.credentials.len() as u32, targets.len(), local_ports())?;
    let tls = wanted.trust.config(&targets)?;
    let some: Vec<Credential> = wanted.credentials.values().take(3).cloned().collect();
    let with_tickets = wanted.scenario.clients.tickets;
    targets.iter().try_for_each(|target| preflight::look(target, &tls, &some, with_tickets))?;
    Ok(Common {
        run: wanted.run,
        parts: wanted.parts,
        sources,
        source_texts: Vec::new(),
        target_urls: Vec::new(),
        tls,
        trust: wanted.trust,
        targets,
        credentials: by_number(wanted.credentials, clients),
        scenario: wanted.scenario,
    })
}

fn by_number(credentials: HashMap<u32, Credential>, clients: u32) -> Vec<Credential> {
    let mut list = vec![Credential { user: String::new(), token: String::new() }; clients as usize];
    for (number, credential) in credentials {
        if let Some(place) = list.get_mut(number as usize) {
            *place = credential;
        }
    }
    list
}

fn same(one: &str, other: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(one.as_bytes(), other.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(300);

    /// Follows somebody who says `said` and nothing more; gives the error, and what was said to it.
    fn followed(said: &[u8], is_stopped: bool, silences: (Duration, Duration)) -> (String, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut worker = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        worker.write_all(said).unwrap();
        let lines = Lines::new(listener.accept().unwrap().0, usize::MAX);
        let shared = Shared::default();
        shared.stop.store(is_stopped, Ordering::Relaxed);
        let begun = Instant::now();
        let error = follow(lines, &shared, silences).unwrap_err().to_string();
        assert!(begun.elapsed() >= SHORT && begun.elapsed() < LONG);
        let mut heard = String::new();
        worker.read_to_string(&mut heard).unwrap();
        (error, heard)
    }

    #[test]
    fn a_silent_worker_is_lost() {
        let (error, heard) = followed(b"", false, (SHORT, LONG));
        assert_eq!((&*error, &*heard), ("silent for 0.3 s", ""));
    }

    #[test]
    fn a_silent_worker_is_told_to_stop_and_not_waited_for() {
        // In the middle of a line, too.
        for said in ["", "{\"Progress\":[1,2,3,4,5,6,7,8,9,10]}\n{\"Prog"] {
            let (error, heard) = followed(said.as_bytes(), true, (LONG, SHORT));
            assert_eq!((&*error, &*heard), ("silent for 0.3 s after it was told to stop", "\"stop\"\n"));
        }
    }
}
