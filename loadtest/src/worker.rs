//! `loadtest worker`: runs parts for a `loadtest run` somewhere else. Lines of JSON over TCP, one connection a part:
//! the order, progress five times a second, `stop` in the other direction, and the result.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::engine::{PartResult, Shared};
use crate::part::{Common, Running};
use crate::scenario::Scenario;
use crate::target::{Sources, Target};
use crate::token::Credential;

/// Version of what both sides say.
const FORMAT: u32 = 1;

/// Between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

#[derive(Serialize, Deserialize)]
struct Wanted {
    format: u32,
    key: String,
    scenario: Scenario,
    run: String,
    part: usize,
    parts: usize,
    targets: Vec<String>,
    sources: Vec<String>,
    credentials: HashMap<u32, Credential>,
    start_in_ms: u64,
}

#[derive(Serialize, Deserialize)]
enum Said {
    Progress([u64; 8]),
    Result(Box<PartResult>),
    Error(String),
}

fn places(shared: &Shared) -> [&AtomicU64; 8] {
    let Shared { stop: _, connected, joined, sent, ok, deliveries, errors, faults, settling } = shared;
    [connected, joined, sent, ok, deliveries, errors, faults, settling]
}

/// Starts a part at a worker. A thread of this process follows it.
pub(crate) fn start(
    address: &str,
    key: &str,
    common: &Common,
    part: usize,
    start: Instant,
) -> anyhow::Result<Running> {
    let stream = TcpStream::connect(address).with_context(|| format!("worker {address}"))?;
    stream.set_nodelay(true)?;
    let wanted = Wanted {
        format: FORMAT,
        key: key.to_owned(),
        scenario: common.scenario.clone(),
        run: common.run.clone(),
        part,
        parts: common.parts,
        targets: common.target_urls.clone(),
        sources: common.source_texts.clone(),
        credentials: common.credentials_of(part),
        start_in_ms: start.saturating_duration_since(Instant::now()).as_millis() as u64,
    };
    let mut writer = stream.try_clone()?;
    say(&mut writer, &wanted)?;
    let shared = Arc::new(Shared::default());
    let followed = Arc::clone(&shared);
    let name = address.to_owned();
    let thread = std::thread::Builder::new()
        .name(format!("worker {part}"))
        .spawn(move || follow(stream, &followed).with_context(|| format!("worker {name}")))
        .context("no thread")?;
    Ok(Running { shared, thread })
}

fn follow(stream: TcpStream, shared: &Shared) -> anyhow::Result<PartResult> {
    let mut writer = stream.try_clone()?;
    let mut told_to_stop = false;
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str(&line?)? {
            Said::Progress(values) => {
                places(shared)
                    .iter()
                    .zip(values)
                    .for_each(|(place, value)| place.store(value, Ordering::Relaxed));
            }
            Said::Result(result) => return Ok(*result),
            Said::Error(error) => bail!(error),
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
    loop {
        let (stream, peer) = listener.accept()?;
        let key = key.to_owned();
        std::thread::spawn(move || {
            let mut writer = match stream.try_clone() {
                Ok(writer) => writer,
                Err(error) => return crate::report::note(&format!("{peer}: {error}")),
            };
            let said = match work(stream, &key) {
                Ok(result) => Said::Result(Box::new(result)),
                Err(error) => Said::Error(format!("{error:#}")),
            };
            if let Err(error) = say(&mut writer, &said) {
                crate::report::note(&format!("{peer}: {error}"));
            }
        });
    }
}

fn work(stream: TcpStream, key: &str) -> anyhow::Result<PartResult> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let wanted: Wanted = serde_json::from_str(&line).context("the order cannot be read")?;
    ensure!(wanted.format == FORMAT, "it speaks version {FORMAT}, the order version {}", wanted.format);
    ensure!(same(&wanted.key, key), "the key is another");
    let targets =
        wanted.targets.iter().map(|url| Target::resolve(url)).collect::<anyhow::Result<Vec<_>>>()?;
    let Some(target) = targets.first() else { bail!("the order names no target") };
    let clients = wanted.scenario.clients.count;
    crate::limits::raise_files(clients / wanted.parts.max(1) as u32)?;
    let sources = Sources::new(&wanted.sources, target, clients)?;
    let common = Common {
        run: wanted.run,
        parts: wanted.parts,
        sources,
        source_texts: Vec::new(),
        target_urls: Vec::new(),
        targets,
        credentials: by_number(wanted.credentials, clients),
        scenario: wanted.scenario,
    };
    let start = Instant::now() + Duration::from_millis(wanted.start_in_ms);
    let running = Running::here(&common, wanted.part, start)?;
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
