//! Lines to a Graylog server, as GELF 1.1 over UDP (in chunks where a line is long) or TCP (each ended by a null byte).
//! A thread of its own sends them; a line that finds its queue full is dropped and counted, and nobody waits.

use std::io::Write;
use std::net::{TcpStream, ToSocketAddrs, UdpSocket};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use prometheus::{IntCounter, Registry};
use serde_json::{Map, Value};
use tracing::Level;

use super::line::Line;
use crate::config::{GelfTarget, Transport};

/// Lines that may wait for the server.
const QUEUE_MAX: usize = 8_192;

/// Bytes of a datagram; a longer line is cut into chunks. It fits the usual MTU of 1500 with room for tunnels.
const DATAGRAM_BYTES: usize = 1_420;
/// GELF: a line has at most 128 chunks.
const CHUNKS_MAX: usize = 128;
const CHUNK_MAGIC: [u8; 2] = [0x1e, 0x0f];
const CHUNK_HEAD_BYTES: usize = 12;

const CONNECT_TIME: Duration = Duration::from_secs(3);
const WRITE_TIME: Duration = Duration::from_secs(5);
/// Pause between attempts to reach the server.
const PAUSE: Duration = Duration::from_secs(1);
/// A name is looked up again this often: a server's address may change under it.
const LOOK_UP: Duration = Duration::from_secs(60);

enum Job {
    Line(Vec<u8>),
    /// Everything before it has been sent, or given up.
    Flush(SyncSender<()>),
}

/// The way to the server. Clones lead to the same one.
#[derive(Debug, Clone)]
pub(super) struct Gelf {
    jobs: SyncSender<Job>,
    dropped: IntCounter,
    sent: IntCounter,
    host: String,
}

impl Gelf {
    pub(super) fn start(target: &GelfTarget) -> Gelf {
        let (jobs, queue) = sync_channel(QUEUE_MAX);
        let counter =
            |name: &str, help: &str| IntCounter::new(name, help).expect("a metric's name is well-formed");
        let gelf = Gelf {
            jobs,
            dropped: counter(
                "mlms_gelf_lines_dropped_total",
                "Log lines that did not get to the GELF server.",
            ),
            sent: counter("mlms_gelf_lines_total", "Log lines sent to the GELF server."),
            host: host(),
        };
        let sender = Sender { target: target.clone(), road: Road::None, gelf: gelf.clone(), failing: false };
        // The thread ends with the process.
        let started = std::thread::Builder::new().name("gelf".to_owned()).spawn(move || sender.run(&queue));
        started.map(drop).expect("the system gives a thread at the start");
        gelf
    }

    pub(super) fn send(&self, line: &Line) {
        let text = self.message(line).to_string();
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.jobs.try_send(Job::Line(text.into_bytes()))
        {
            self.dropped.inc();
        }
    }

    pub(super) fn count_in(&self, registry: &Registry) {
        for counter in [&self.dropped, &self.sent] {
            // A second time it stands there already.
            let _ = registry.register(Box::new(counter.clone()));
        }
    }

    pub(super) fn flush(&self, patience: Duration) {
        let (done, flushed) = sync_channel(1);
        if self.jobs.try_send(Job::Flush(done)).is_ok() {
            // Whether it came to its end or not, the process goes.
            let _ = flushed.recv_timeout(patience);
        }
    }

    fn message(&self, line: &Line) -> Value {
        let mut message = Map::new();
        let mut put = |name: &str, value: Value| message.insert(name.to_owned(), value);
        put("version", "1.1".into());
        put("host", self.host.as_str().into());
        let first = line.message.lines().next().filter(|first| !first.is_empty()).unwrap_or("-");
        put("short_message", first.into());
        if line.message.trim_end() != first {
            put("full_message", line.message.as_str().into());
        }
        put("timestamp", ((line.seconds() * 1e3).round() / 1e3).into());
        // As syslog counts.
        put(
            "level",
            match line.level {
                Level::ERROR => 3,
                Level::WARN => 4,
                Level::INFO => 6,
                _ => 7,
            }
            .into(),
        );
        put("_target", line.target.as_str().into());
        for (name, fields) in &line.spans {
            put("_span", (*name).into());
            for (name, value) in fields {
                put(&additional(name), plain(value));
            }
        }
        for (name, value) in &line.fields {
            put(&additional(name), plain(value));
        }
        for (name, value) in line.trace_ids() {
            put(&additional(name), plain(value));
        }
        Value::Object(message)
    }
}

/// The name of an additional field: of word characters, dots and dashes, and not `_id`.
fn additional(name: &str) -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') { c } else { '_' };
    let name: String = name.chars().map(fit).collect();
    match name.as_str() {
        "id" => "_id_".to_owned(),
        "target" | "span" => format!("_field_{name}"),
        name => format!("_{name}"),
    }
}

/// Additional fields are texts and numbers.
fn plain(value: &Value) -> Value {
    match value {
        Value::String(_) | Value::Number(_) => value.clone(),
        other => Value::String(other.to_string()),
    }
}

fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "mlms".to_owned() } else { name.trim().to_owned() }
}

enum Road {
    None,
    Udp(UdpSocket, Instant),
    Tcp(TcpStream),
}

/// The thread's side.
struct Sender {
    target: GelfTarget,
    road: Road,
    gelf: Gelf,
    failing: bool,
}

impl Sender {
    fn run(mut self, queue: &Receiver<Job>) {
        let mut flushing: Vec<SyncSender<()>> = Vec::new();
        loop {
            match queue.recv_timeout(PAUSE) {
                Ok(Job::Line(line)) => self.send(&line),
                Ok(Job::Flush(done)) => flushing.push(done),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            for done in flushing.drain(..) {
                // Whoever asked may have gone.
                let _ = done.try_send(());
            }
        }
    }

    /// Sends one line; the second try is for a connection that had ended unseen.
    fn send(&mut self, line: &[u8]) {
        let sent = self.try_send(line).or_else(|_| {
            self.road = Road::None;
            self.try_send(line)
        });
        match sent {
            Ok(()) => {
                self.gelf.sent.inc();
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the GELF server takes lines again");
                }
            }
            Err(error) => {
                self.road = Road::None;
                self.gelf.dropped.inc();
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(address = self.target.address, %error, "the GELF server does not take lines");
                }
                // What comes meanwhile waits in the queue, as far as there is room.
                std::thread::park_timeout(PAUSE);
            }
        }
    }

    fn try_send(&mut self, line: &[u8]) -> std::io::Result<()> {
        if let Road::Udp(_, since) = &self.road
            && since.elapsed() > LOOK_UP
        {
            self.road = Road::None;
        }
        if let Road::None = self.road {
            self.road = open(&self.target)?;
        }
        match &mut self.road {
            Road::Udp(socket, _) => send_datagrams(socket, line),
            Road::Tcp(stream) => {
                let mut framed = Vec::with_capacity(line.len() + 1);
                framed.extend_from_slice(line);
                framed.push(0);
                stream.write_all(&framed)
            }
            Road::None => Ok(()),
        }
    }
}

fn open(target: &GelfTarget) -> std::io::Result<Road> {
    let mut last = std::io::Error::other("the name has no address");
    for address in target.address.to_socket_addrs()? {
        let opened = match target.transport {
            Transport::Udp => {
                let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                UdpSocket::bind(any)
                    .and_then(|socket| socket.connect(address).map(|()| Road::Udp(socket, Instant::now())))
            }
            Transport::Tcp => TcpStream::connect_timeout(&address, CONNECT_TIME)
                .and_then(|stream| stream.set_write_timeout(Some(WRITE_TIME)).map(|()| Road::Tcp(stream))),
        };
        match opened {
            Ok(road) => return Ok(road),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn send_datagrams(socket: &UdpSocket, line: &[u8]) -> std::io::Result<()> {
    if line.len() <= DATAGRAM_BYTES {
        return socket.send(line).map(drop);
    }
    let chunks: Vec<&[u8]> = line.chunks(DATAGRAM_BYTES - CHUNK_HEAD_BYTES).collect();
    let count = u8::try_from(chunks.len()).ok().filter(|count| usize::from(*count) <= CHUNKS_MAX);
    let count = count.ok_or_else(|| std::io::Error::other("the line is too long for GELF over UDP"))?;
    let id: [u8; 8] = rand::random();
    for (number, chunk) in (0..count).zip(chunks) {
        let mut datagram = Vec::with_capacity(DATAGRAM_BYTES);
        datagram.extend_from_slice(&CHUNK_MAGIC);
        datagram.extend_from_slice(&id);
        datagram.extend_from_slice(&[number, count]);
        datagram.extend_from_slice(chunk);
        socket.send(&datagram)?;
    }
    Ok(())
}
