//! `loadtest worker`: runs parts for a `loadtest run` somewhere else. Lines of JSON over TCP, one connection a part:
//! who speaks, the order, the start once all workers are ready, progress five times a second, `stop` in the other
//! direction, and the result.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

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

/// Longest first line, before it is known who speaks.
const HELLO_BYTES_MAX: u64 = 4_096;

/// Connections at once; more are closed.
const CONNECTIONS_MAX: usize = 64;

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
    reader: BufReader<TcpStream>,
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
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(READY_WITHIN))?;
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
    say(&mut stream, &Hello { format: FORMAT, key: key.to_owned() })?;
    let mut reader = BufReader::new(stream);
    until_ready(&mut reader)?;
    say(reader.get_mut(), &wanted)?;
    until_ready(&mut reader)?;
    reader.get_ref().set_read_timeout(Some(SILENCE_MAX))?;
    Ok(Prepared { address: address.to_owned(), reader })
}

impl Prepared {
    /// Starts it. A thread of this process follows it.
    pub(crate) fn go(self, start: Instant) -> anyhow::Result<Running> {
        let Prepared { address, mut reader } = self;
        let start_in_ms = start.saturating_duration_since(Instant::now()).as_millis() as u64;
        say(reader.get_mut(), &Go { start_in_ms }).with_context(|| format!("worker {address}"))?;
        let shared = Arc::new(Shared::default());
        let followed = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name(format!("worker {address}"))
            .spawn(move || follow(reader, &followed).with_context(|| format!("worker {address}")))
            .context("no thread")?;
        Ok(Running { shared, thread })
    }
}

fn until_ready(reader: &mut impl BufRead) -> anyhow::Result<()> {
    match hear(reader)? {
        Said::Ready => Ok(()),
        Said::Error(error) => bail!(error),
        Said::Progress(_) | Said::Result(_) => bail!("it speaks out of turn"),
    }
}

fn hear<T: DeserializeOwned>(reader: &mut impl BufRead) -> anyhow::Result<T> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    ensure!(!line.is_empty(), "it closed the connection");
    serde_json::from_str(&line).context("what it says cannot be read")
}

fn follow(reader: BufReader<TcpStream>, shared: &Shared) -> anyhow::Result<PartResult> {
    let mut writer = reader.get_ref().try_clone()?;
    let mut told_to_stop = false;
    for line in reader.lines() {
        match serde_json::from_str(&line?)? {
            Said::Progress(values) => {
                places(shared)
                    .iter()
                    .zip(values)
                    .for_each(|(place, value)| place.store(value, Ordering::Relaxed));
            }
            Said::Result(result) => return Ok(*result),
            Said::Error(error) => bail!(error),
            Said::Ready => bail!("it speaks out of turn"),
        }
        if shared.stop.load(Ordering::Relaxed) && !told_to_stop {
            told_to_stop = true;
            writer.write_all(b"\"stop\"\n")?;
        }
    }
    bail!("it ended without a result")
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
    let connections = Arc::new(());
    loop {
        let (stream, peer) = listener.accept()?;
        if Arc::strong_count(&connections) > CONNECTIONS_MAX {
            crate::report::note(&format!("{peer}: {CONNECTIONS_MAX} connections are enough"));
            continue;
        }
        let (key, held) = (key.to_owned(), Arc::clone(&connections));
        std::thread::spawn(move || {
            let mut writer = match stream.try_clone() {
                Ok(writer) => writer,
                Err(error) => return crate::report::note(&format!("{peer}: {error}")),
            };
            let said = match work(stream, &key) {
                Ok(result) => Said::Result(Box::new(result)),
                Err(error) => {
                    crate::report::note(&format!("{peer}: {error:#}"));
                    Said::Error(format!("{error:#}"))
                }
            };
            if let Err(error) = say(&mut writer, &said) {
                crate::report::note(&format!("{peer}: {error}"));
            }
            drop(held);
        });
    }
}

fn work(stream: TcpStream, key: &str) -> anyhow::Result<PartResult> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(HELLO_WITHIN))?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let hello: Hello = hear(&mut (&mut reader).take(HELLO_BYTES_MAX))?;
    ensure!(same(&hello.key, key), "the key is another");
    ensure!(hello.format == FORMAT, "it speaks version {FORMAT}, the order version {}", hello.format);
    say(&mut writer, &Said::Ready)?;
    reader.get_ref().set_read_timeout(Some(READY_WITHIN))?;
    let wanted: Wanted = hear(&mut reader)?;
    let part = wanted.part;
    let common = common(wanted)?;
    say(&mut writer, &Said::Ready)?;
    let go: Go = hear(&mut reader)?;
    reader.get_ref().set_read_timeout(None)?;
    let running = Running::here(&common, part, Instant::now() + Duration::from_millis(go.start_in_ms))?;
    let shared = Arc::clone(&running.shared);
    std::thread::spawn(move || {
        // A line, or the end of the connection: either way nobody wants more.
        let _ = reader.read_line(&mut String::new());
        shared.stop.store(true, Ordering::Relaxed);
    });
    while !running.thread.is_finished() {
        std::thread::park_timeout(PROGRESS_EVERY);
        let values = places(&running.shared).map(|place| place.load(Ordering::Relaxed));
        if say(&mut writer, &Said::Progress(values)).is_err() {
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

fn say<T: Serialize>(writer: &mut TcpStream, what: &T) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    Ok(writer.write_all(&line)?)
}
