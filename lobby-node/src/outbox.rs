//! The write half of one connection: ready WebSocket bytes go straight to the socket while it takes them, and
//! wait here, bounded in bytes, while it does not. Lobbies and the session itself write through it from any
//! thread; none of them ever waits.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use mlms_protocol::{CloseCode, Encoding, Event, LobbyId, Reconnect, UserId};
use tokio::io::{AsyncWrite, DuplexStream, WriteHalf};
use tokio::net::tcp::OwnedWriteHalf;

use crate::metrics::Metrics;

/// Bytes that are joined into one write when a backlog drains.
const JOIN_BYTES: usize = 16 * 1024;

/// A frame that is larger holds a reply with a snapshot or a page, that its reader asked for: such ones count apart.
const LARGE_MIN: usize = 256 * 1024;
/// Bytes of large frames that may wait.
const LARGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// So many emptied entries are not worth taking out.
const EMPTIED_MIN: usize = 32;

const SLOW: &str = "the connection does not keep up";

/// What a frame on its way to a connection is: only ephemeral ones may be shed.
#[derive(Debug, Clone)]
pub(crate) enum Shed {
    Never,
    /// Dropped when the connection is slow, and counted for the lobby's `lag`.
    Ephemeral {
        lobby: LobbyId,
        key: Option<Arc<LatestKey>>,
    },
}

/// Of ephemeral frames with the same key only the newest waits.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct LatestKey {
    pub lobby: LobbyId,
    pub from: Option<UserId>,
    pub key: String,
}

/// Where the bytes go.
pub(crate) enum Wire {
    Tcp(OwnedWriteHalf),
    /// An in-memory pipe, for tests under a paused clock.
    Pipe(Mutex<WriteHalf<DuplexStream>>),
}

impl Wire {
    /// Writes what fits now.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Tcp(half) => half.try_write(bytes),
            Wire::Pipe(half) => match poll_pipe(half, bytes, &mut Context::from_waker(Waker::noop())) {
                Poll::Ready(written) => written,
                Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
            },
        }
    }

    /// Waits until the wire may take something, and lets `write` try. What is to be written may change until then.
    async fn when_writable<T>(&self, mut write: impl FnMut(&mut Context<'_>) -> Poll<T>) -> io::Result<T> {
        match self {
            Wire::Tcp(half) => loop {
                half.writable().await?;
                if let Poll::Ready(outcome) = write(&mut Context::from_waker(Waker::noop())) {
                    return Ok(outcome);
                }
            },
            Wire::Pipe(_) => Ok(std::future::poll_fn(write).await),
        }
    }

    /// Writes what fits now; where nothing does, a pipe wakes the context's task when it is worth another try.
    fn poll_write(&self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self {
            Wire::Tcp(half) => match half.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                outcome => Poll::Ready(outcome),
            },
            Wire::Pipe(half) => poll_pipe(half, bytes, cx),
        }
    }
}

fn poll_pipe(
    half: &Mutex<WriteHalf<DuplexStream>>,
    bytes: &[u8],
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut half = half.lock().expect("no holder of a pipe panics");
    Pin::new(&mut *half).poll_write(cx, bytes)
}

/// A connection's write half with its backlog.
pub(crate) struct Outbox {
    encoding: Encoding,
    bytes_max: usize,
    wire: Wire,
    backlog: Mutex<Backlog>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Backlog {
    queue: VecDeque<Waiting>,
    /// Bytes of the queue still to be written.
    bytes: usize,
    /// Bytes of the large frames of the queue, written or not.
    large_bytes: usize,
    /// Bytes of the front that are written already.
    front_written: usize,
    /// How many entries have left the front: an entry's number minus this is its place.
    left: u64,
    latest: HashMap<Arc<LatestKey>, u64>,
    /// Entries whose bytes a newer one of their key has replaced.
    emptied: usize,
    dropped: HashMap<LobbyId, u64>,
    state: Flow,
    /// Lobbies whose missed events are to be pulled when the backlog has drained.
    pulls: Vec<LobbyId>,
    /// Wakes the connection's task when there is a backlog to write, or an order to close.
    waker: Option<Waker>,
}

struct Waiting {
    bytes: Bytes,
    shed: Shed,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Flow {
    #[default]
    Open,
    /// The close frame is queued; nothing may follow it.
    Closing(u16),
    /// The socket is gone.
    Broken,
}

/// What the connection's task has to do next for its outbox.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Drained {
    /// Nothing waits, and these lobbies have missed events to pull.
    Pulls(Vec<LobbyId>),
    /// The close frame is out; the peer has a moment to answer it.
    Closed(u16),
    Broken,
}

impl Outbox {
    pub(crate) fn new(encoding: Encoding, bytes_max: usize, wire: Wire, metrics: Arc<Metrics>) -> Self {
        Outbox { encoding, bytes_max, wire, backlog: Mutex::default(), metrics }
    }

    pub(crate) fn encoding(&self) -> Encoding {
        self.encoding
    }

    fn lock(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().expect("no holder of a backlog panics")
    }

    /// Writes one frame, or queues it.
    pub(crate) fn push(&self, frame: &Bytes) {
        self.push_joined(frame, || std::iter::once((frame.clone(), Shed::Never)));
    }

    /// Encodes and writes one event.
    pub(crate) fn push_event(&self, event: &Event) {
        self.push(&self.encoding.websocket_frame(&event.encode(self.encoding)));
    }

    /// Writes frames that are already joined into one buffer. Only if the socket does not take them are the
    /// single frames looked at.
    pub(crate) fn push_joined<I>(&self, joined: &Bytes, frames: impl FnOnce() -> I)
    where
        I: Iterator<Item = (Bytes, Shed)>,
    {
        let mut backlog = self.lock();
        if backlog.state != Flow::Open {
            return;
        }
        if backlog.queue.is_empty() {
            match self.wire.try_write(joined) {
                Ok(written) if written == joined.len() => return,
                Ok(written) if written > 0 => {
                    self.queue_behind(&mut backlog, written, frames());
                    backlog.wake();
                    return;
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    backlog.break_off();
                    backlog.wake();
                    return;
                }
                _ => {}
            }
        }
        for (bytes, shed) in frames() {
            self.queue(&mut backlog, bytes, shed);
        }
        backlog.wake();
    }

    /// Queues what is left of frames of which so many bytes are out. The one that was cut must be finished.
    fn queue_behind(
        &self,
        backlog: &mut Backlog,
        written: usize,
        frames: impl Iterator<Item = (Bytes, Shed)>,
    ) {
        let mut end = 0;
        for (bytes, shed) in frames {
            let begin = end;
            end += bytes.len();
            if begin >= written {
                self.queue(backlog, bytes, shed);
            } else if end > written {
                backlog.append(bytes, Shed::Never);
                backlog.advance(written - begin);
            }
        }
    }

    fn queue(&self, backlog: &mut Backlog, bytes: Bytes, shed: Shed) {
        if backlog.state != Flow::Open {
            return;
        }
        if let Shed::Ephemeral { lobby, key } = &shed {
            let replaced = key.as_ref().map_or(0, |key| backlog.replace(key));
            // The newest of a key takes the room of the one it replaces, however slow the connection is.
            if bytes.len() > replaced && backlog.bytes + bytes.len() > self.bytes_max / 4 {
                *backlog.dropped.entry(lobby.clone()).or_default() += 1;
                self.metrics.shed.inc();
                return;
            }
        }
        backlog.append(bytes, shed);
        let counted = backlog.bytes.saturating_sub(backlog.large_bytes);
        if counted > self.bytes_max || backlog.large_bytes > LARGE_BYTES_MAX {
            self.give_up(backlog);
        }
    }

    /// Closes a connection that does not keep up: of what waits it still gets the frame that is cut, and how much
    /// that may be dropped was.
    fn give_up(&self, backlog: &mut Backlog) {
        self.metrics.slow_consumers.inc();
        backlog.keep_only_the_cut_frame();
        self.tell_lag(backlog);
        self.close_in(backlog, CloseCode::SlowConsumer, SLOW, Reconnect::Now, None);
    }

    fn tell_lag(&self, backlog: &mut Backlog) {
        for (lobby, dropped) in std::mem::take(&mut backlog.dropped) {
            let lag = Event::Lag { lobby, dropped }.encode(self.encoding);
            backlog.append(self.encoding.websocket_frame(&lag), Shed::Never);
        }
    }

    /// Sends `bye` and a close frame behind what waits; nothing can follow them.
    pub(crate) fn close(
        &self,
        code: CloseCode,
        reason: &str,
        reconnect: Reconnect,
        window_ms: Option<(u64, u64)>,
    ) {
        let mut backlog = self.lock();
        self.close_in(&mut backlog, code, reason, reconnect, window_ms);
        backlog.wake();
    }

    fn close_in(
        &self,
        backlog: &mut Backlog,
        code: CloseCode,
        reason: &str,
        reconnect: Reconnect,
        window_ms: Option<(u64, u64)>,
    ) {
        if backlog.state != Flow::Open {
            return;
        }
        let bye = Event::Bye { code: code.number(), reason: reason.to_owned(), reconnect, window_ms };
        let mut frames = BytesMut::from(self.encoding.websocket_frame(&bye.encode(self.encoding)).as_ref());
        frames.extend_from_slice(&close_frame(code.number(), reason));
        backlog.append(frames.freeze(), Shed::Never);
        backlog.state = Flow::Closing(code.number());
        self.metrics.closes.with_label_values(&[code.as_str()]).inc();
    }

    /// Sends only a close frame (RFC 6455 section 7.4.1), for a peer that broke the WebSocket protocol.
    pub(crate) fn close_plain(&self, code: u16, reason: &str, label: &str) {
        let mut backlog = self.lock();
        if backlog.state == Flow::Open {
            backlog.append(Bytes::from(close_frame(code, reason)), Shed::Never);
            backlog.state = Flow::Closing(code);
            self.metrics.closes.with_label_values(&[label]).inc();
        }
        backlog.wake();
    }

    /// Sends a ping (RFC 6455 section 5.5.2).
    pub(crate) fn ping(&self) {
        self.push(&Bytes::from_static(&[0x89, 0]));
    }

    /// Notes that a lobby's missed events go on as soon as the backlog has drained.
    pub(crate) fn pull_later(&self, lobby: &LobbyId) {
        let mut backlog = self.lock();
        if !backlog.pulls.contains(lobby) {
            backlog.pulls.push(lobby.clone());
        }
        backlog.wake();
    }

    /// Bytes that wait.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.lock().bytes
    }

    pub(crate) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Closes a connection that does not keep up.
    pub(crate) fn close_slow(&self) {
        let mut backlog = self.lock();
        if backlog.state == Flow::Open {
            self.give_up(&mut backlog);
        }
        backlog.wake();
    }

    /// Writes the backlog as the socket takes it, until something is for the connection's task to do. Cancel safe:
    /// what is written is noted before the next wait.
    pub(crate) async fn drain(&self) -> Drained {
        loop {
            if let Some(drained) = std::future::poll_fn(|cx| self.poll_due(cx)).await {
                return drained;
            }
            // Boxed: most sessions never wait for their socket.
            Box::pin(self.drain_once()).await;
        }
    }

    /// Waits until there is something to do for the connection's task. `None`: bytes wait to be written.
    fn poll_due(&self, cx: &Context<'_>) -> Poll<Option<Drained>> {
        let mut backlog = self.lock();
        loop {
            return Poll::Ready(match (backlog.state, backlog.queue.is_empty()) {
                (Flow::Broken, _) => Some(Drained::Broken),
                (_, false) => None,
                (Flow::Closing(code), true) => Some(Drained::Closed(code)),
                (Flow::Open, true) if !backlog.dropped.is_empty() => {
                    self.tell_lag(&mut backlog);
                    continue;
                }
                (Flow::Open, true) if !backlog.pulls.is_empty() => {
                    Some(Drained::Pulls(std::mem::take(&mut backlog.pulls)))
                }
                (Flow::Open, true) => {
                    if backlog.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
                        backlog.waker = Some(cx.waker().clone());
                    }
                    return Poll::Pending;
                }
            });
        }
    }

    /// Gets what waits out, in at most this time.
    pub(crate) async fn finish(&self, time: std::time::Duration) {
        if self.waiting_bytes() > 0 {
            let drain = async {
                while self.waiting_bytes() > 0 && !matches!(self.drain_once().await, Flow::Broken) {}
            };
            // A peer that does not take its last words in time does without them.
            let _ = tokio::time::timeout(time, drain).await;
        }
    }

    /// Writes some of what waits. The bytes are chosen only when the wire takes them: while it does not, frames behind
    /// the cut one may be replaced or dropped.
    async fn drain_once(&self) -> Flow {
        let outcome = self.wire.when_writable(|cx| {
            let mut backlog = self.lock();
            if backlog.queue.is_empty() || backlog.state == Flow::Broken {
                return Poll::Ready(backlog.state);
            }
            match self.wire.poll_write(&backlog.chunk(), cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(written)) => backlog.advance(written),
                Poll::Ready(Err(_)) => backlog.break_off(),
            }
            Poll::Ready(backlog.state)
        });
        match outcome.await {
            Ok(state) => state,
            Err(_) => {
                let mut backlog = self.lock();
                backlog.break_off();
                backlog.state
            }
        }
    }

    /// Ends the connection at once, as if the socket were gone.
    pub(crate) fn break_off(&self) {
        let mut backlog = self.lock();
        backlog.break_off();
        backlog.wake();
    }

    /// Whether the socket is known to be gone, or a close frame is on its way.
    pub(crate) fn is_closing(&self) -> bool {
        self.lock().state != Flow::Open
    }

    /// Takes bytes of the WebSocket library: pongs and answers to a close. Nothing follows such an answer (RFC 6455
    /// section 5.5.1), whatever the session's lobbies say until they hear of it.
    fn push_raw(&self, bytes: &[u8]) {
        let copied = Bytes::copy_from_slice(bytes);
        let [0x88, _, payload @ ..] = bytes else { return self.push(&copied) };
        let mut backlog = self.lock();
        if backlog.state == Flow::Open {
            backlog.append(copied, Shed::Never);
            backlog.state =
                Flow::Closing(payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code)));
        }
        backlog.wake();
    }

    /// Counts a close that the WebSocket library answered for us.
    pub(crate) fn count_close(&self, label: &str) {
        self.metrics.closes.with_label_values(&[label]).inc();
    }
}

/// The bytes of a frame, if it is a large one.
fn large(bytes: &Bytes) -> usize {
    if bytes.len() > LARGE_MIN { bytes.len() } else { 0 }
}

impl Backlog {
    /// Whoever waits looks again.
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn append(&mut self, bytes: Bytes, shed: Shed) {
        if let Shed::Ephemeral { key: Some(key), .. } = &shed {
            self.latest.insert(Arc::clone(key), self.left + self.queue.len() as u64);
        }
        self.bytes += bytes.len();
        self.large_bytes += large(&bytes);
        self.queue.push_back(Waiting { bytes, shed });
    }

    /// Empties the older frame of the same key, if it waits whole, and tells its length.
    fn replace(&mut self, key: &Arc<LatestKey>) -> usize {
        let Some(number) = self.latest.remove(key) else { return 0 };
        let Some(place) = number.checked_sub(self.left).and_then(|place| usize::try_from(place).ok()) else {
            return 0;
        };
        if place == 0 && self.front_written > 0 {
            return 0;
        }
        let Some(waiting) = self.queue.get_mut(place) else { return 0 };
        let length = waiting.bytes.len();
        self.bytes -= length;
        self.large_bytes -= large(&waiting.bytes);
        *waiting = Waiting { bytes: Bytes::new(), shed: Shed::Never };
        self.emptied += 1;
        if self.emptied > EMPTIED_MIN && self.emptied > self.queue.len() / 2 {
            self.compact();
        }
        length
    }

    /// Takes the emptied entries out, so that their number is bounded like the others'.
    fn compact(&mut self) {
        let mut place = 0;
        self.queue.retain(|waiting| {
            place += 1;
            (place == 1) || !waiting.bytes.is_empty()
        });
        self.emptied = 0;
        self.latest.clear();
        for (waiting, number) in self.queue.iter().zip(self.left..) {
            if let Shed::Ephemeral { key: Some(key), .. } = &waiting.shed {
                self.latest.insert(Arc::clone(key), number);
            }
        }
    }

    /// Copies the next bytes to write: several small frames together.
    fn chunk(&self) -> Bytes {
        let front = self.queue.front().expect("the caller saw an entry").bytes.slice(self.front_written..);
        if front.len() >= JOIN_BYTES || self.queue.len() == 1 {
            return front;
        }
        let mut joined = BytesMut::with_capacity(JOIN_BYTES);
        joined.extend_from_slice(&front);
        for waiting in self.queue.iter().skip(1) {
            if joined.len() + waiting.bytes.len() > JOIN_BYTES {
                break;
            }
            joined.extend_from_slice(&waiting.bytes);
        }
        joined.freeze()
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while let Some(front) = self.queue.front() {
            let rest = front.bytes.len() - self.front_written;
            if written < rest || (rest > 0 && written == 0) {
                self.front_written += written;
                return;
            }
            written -= rest;
            self.front_written = 0;
            if let Shed::Ephemeral { key: Some(key), .. } = &front.shed
                && self.latest.get(key) == Some(&self.left)
            {
                self.latest.remove(key);
            }
            if rest == 0 && front.bytes.is_empty() {
                self.emptied = self.emptied.saturating_sub(1);
            }
            self.large_bytes -= large(&front.bytes);
            self.queue.pop_front();
            self.left += 1;
        }
    }

    fn keep_only_the_cut_frame(&mut self) {
        let keep = usize::from(self.front_written > 0);
        for waiting in self.queue.drain(keep..) {
            if let Shed::Ephemeral { lobby, .. } = waiting.shed {
                *self.dropped.entry(lobby).or_default() += 1;
            }
        }
        self.latest.clear();
        self.emptied = 0;
        self.bytes = self.queue.front().map_or(0, |front| front.bytes.len() - self.front_written);
        self.large_bytes = self.queue.front().map_or(0, |front| large(&front.bytes));
    }

    fn break_off(&mut self) {
        *self = Backlog { state: Flow::Broken, waker: self.waker.take(), ..Backlog::default() };
    }
}

/// A close frame with its code and reason, cut to the 125 bytes of a control frame (RFC 6455 section 5.5).
fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    let mut end = reason.len().min(123);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut frame = vec![0x88, u8::try_from(end + 2).expect("at most 125")];
    frame.extend_from_slice(&code.to_be_bytes());
    frame.extend_from_slice(&reason.as_bytes()[..end]);
    frame
}

/// The writing side that the WebSocket library sees: everything goes to the outbox, whole and at once.
pub(crate) struct RawWriter(pub(crate) Arc<Outbox>);

impl RawWriter {
    pub(crate) fn write(&self, bytes: &[u8]) -> usize {
        self.0.push_raw(bytes);
        bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::Registry;
    use tokio::io::AsyncReadExt as _;

    fn ephemeral(key: &str) -> Shed {
        let lobby = LobbyId::new("den").unwrap();
        let key = LatestKey { lobby: lobby.clone(), from: None, key: key.to_owned() };
        Shed::Ephemeral { lobby, key: Some(Arc::new(key)) }
    }

    /// An outbox whose peer has a window of so many bytes, and the peer.
    fn outbox(window: usize, bytes_max: usize) -> (Outbox, DuplexStream) {
        let (near, far) = tokio::io::duplex(window);
        let wire = Wire::Pipe(Mutex::new(tokio::io::split(near).1));
        let metrics = Arc::new(Metrics::new(&Registry::new()));
        (Outbox::new(Encoding::Json, bytes_max, wire, metrics), far)
    }

    fn push(outbox: &Outbox, bytes: &'static str, shed: Shed) {
        let bytes = Bytes::from_static(bytes.as_bytes());
        outbox.push_joined(&bytes, || std::iter::once((bytes.clone(), shed)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_replaced_while_a_write_waits_is_not_written() {
        let (outbox, mut far) = outbox(4, 1 << 20);
        push(&outbox, "abcdef", Shed::Never);
        push(&outbox, "old", ephemeral("place"));
        push(&outbox, "GHI", Shed::Never);
        let drain = outbox.drain();
        tokio::pin!(drain);
        assert!(tokio::time::timeout(std::time::Duration::from_secs(1), &mut drain).await.is_err());
        push(&outbox, "new", ephemeral("place"));
        let mut bytes = vec![0; 12];
        tokio::select! {
            read = far.read_exact(&mut bytes) => assert_eq!(read.unwrap(), 12),
            drained = &mut drain => panic!("{drained:?}"),
        }
        assert_eq!(String::from_utf8(bytes).unwrap(), "abcdefGHInew");
        assert_eq!(outbox.waiting_bytes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_is_sent_for_ever_takes_the_room_of_one_frame() {
        let (outbox, mut far) = outbox(4, 100);
        push(&outbox, "abcdef", Shed::Never);
        push(&outbox, "0123456789012345678", ephemeral("other"));
        for _ in 0..10_000 {
            push(&outbox, "old", ephemeral("place"));
        }
        push(&outbox, "new", ephemeral("place"));
        assert!(outbox.lock().queue.len() <= 2 * EMPTIED_MIN, "{}", outbox.lock().queue.len());
        // Over the soft bound nothing more is taken, and the newest of a key still is.
        push(&outbox, "shed", ephemeral("third"));
        push(&outbox, "now", ephemeral("place"));
        let mut bytes = Vec::new();
        let all = async {
            let mut chunk = [0; 4];
            while !bytes.ends_with(b"}") {
                let count = far.read(&mut chunk).await.unwrap();
                bytes.extend_from_slice(&chunk[..count]);
            }
        };
        tokio::select! {
            () = all => {}
            drained = outbox.drain() => panic!("{drained:?}"),
        }
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("abcdef0123456789012345678now"), "{text}");
        assert!(text.contains(r#""ev":"lag""#) && text.ends_with(r#""dropped":1}"#), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_follows_the_answer_to_a_close() {
        let (outbox, mut far) = outbox(100, 100);
        let outbox = Arc::new(outbox);
        let library = RawWriter(Arc::clone(&outbox));
        library.write(&[0x8a, 0]);
        library.write(&[0x88, 2, 0x03, 0xe8]);
        push(&outbox, "what a lobby says meanwhile", Shed::Never);
        outbox.close(CloseCode::Draining, "and its node", Reconnect::Now, None);
        assert_eq!(outbox.drain().await, Drained::Closed(1000));
        let mut bytes = vec![0; 6];
        far.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes, [0x8a, 0, 0x88, 2, 0x03, 0xe8]);
        drop((library, outbox));
        assert_eq!(far.read(&mut bytes).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_reply_counts_apart_and_only_one_such_bound_may_wait() {
        let (outbox, _far) = outbox(4, 100);
        let reply = Bytes::from(vec![b'r'; LARGE_BYTES_MAX / 2]);
        outbox.push(&reply);
        push(&outbox, "an event behind it", Shed::Never);
        outbox.push(&reply);
        assert!(!outbox.is_closing(), "what was asked for may wait");
        outbox.push(&reply);
        assert!(outbox.is_closing(), "without an end it may not");
        assert!(outbox.waiting_bytes() < LARGE_BYTES_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn of_joined_frames_only_the_cut_one_must_be_finished() {
        let (outbox, mut far) = outbox(8, 100);
        let frames = [("abcdef", Shed::Never), ("ghi", Shed::Never), ("dropped", ephemeral("place"))];
        let joined = Bytes::from(frames.iter().map(|(text, _)| *text).collect::<String>());
        let frames = || frames.clone().into_iter().map(|(text, shed)| (Bytes::from(text), shed));
        outbox.push_joined(&joined, frames);
        push(&outbox, "newest.", ephemeral("place"));
        let mut bytes = vec![0; 16];
        tokio::select! {
            read = far.read_exact(&mut bytes) => assert_eq!(read.unwrap(), 16),
            drained = outbox.drain() => panic!("{drained:?}"),
        }
        assert_eq!(String::from_utf8(bytes).unwrap(), "abcdefghinewest.");
        assert_eq!(outbox.waiting_bytes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_gets_its_cut_frame_whole_and_then_the_close() {
        let (outbox, mut far) = outbox(4, 10);
        push(&outbox, "abcdef", Shed::Never);
        push(&outbox, "x", ephemeral("dropped"));
        push(&outbox, "dropped", Shed::Never);
        let drain = outbox.drain();
        tokio::pin!(drain);
        assert!(tokio::time::timeout(std::time::Duration::from_secs(1), &mut drain).await.is_err());
        // Over the bound while a write waits.
        push(&outbox, "dropped", Shed::Never);
        assert!(outbox.is_closing());
        let mut bytes = vec![0; 6];
        tokio::select! {
            read = far.read_exact(&mut bytes) => assert_eq!(read.unwrap(), 6),
            drained = &mut drain => panic!("{drained:?}"),
        }
        assert_eq!(bytes, b"abcdef");
        let mut rest = Vec::new();
        let all = async {
            let mut chunk = [0; 4];
            while !rest.ends_with(SLOW.as_bytes()) || rest.len() < 100 {
                let count = far.read(&mut chunk).await.unwrap();
                rest.extend_from_slice(&chunk[..count]);
            }
        };
        let (drained, ()) = tokio::join!(drain, all);
        assert_eq!(drained, Drained::Closed(4002));
        let told = String::from_utf8_lossy(&rest);
        let (lag, bye) = (told.find(r#""ev":"lag""#), told.find(r#""ev":"bye","code":4002"#));
        assert!(lag.is_some() && lag < bye, "{told}");
        let close = close_frame(4002, SLOW);
        assert!(rest.ends_with(&close));
    }
}
