//! The socket of one connection, and what waits for it: ready WebSocket bytes go straight to the socket while it takes
//! them, and wait here, bounded in bytes, while it does not. Lobbies and the session itself write through it from any
//! thread; none of them ever waits. The connection's task reads through it.

mod backlog;
#[cfg(test)]
mod tests;
mod wire;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use mlms_protocol::{CloseCode, Encoding, Event, LobbyId, Reconnect};
use tokio::io::ReadBuf;

use crate::metrics::Metrics;
use backlog::{Backlog, Flow};

pub(crate) use backlog::{LatestKey, Shed};
pub(crate) use wire::{Line, Wire};

/// Bytes of large frames that may wait.
const LARGE_BYTES_MAX: usize = 16 * 1024 * 1024;

const SLOW: &str = "the connection does not keep up";

/// A connection's socket with its backlog. What each delivery reads stands first, in as few lines of the
/// processor's caches as it needs.
#[repr(C)]
pub(crate) struct Outbox {
    encoding: Encoding,
    wire: Wire,
    backlog: Mutex<Backlog>,
    bytes_max: usize,
    metrics: Arc<Metrics>,
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
        Outbox { encoding, wire, backlog: Mutex::default(), bytes_max, metrics }
    }

    pub(crate) fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Reads what has come; for the connection's task alone.
    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.wire.poll_read(cx, buf)
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
                backlog.note_dropped(lobby.clone());
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
        for (lobby, dropped) in backlog.take_dropped() {
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
        let pulls = backlog.pulls.get_or_insert_default();
        if !pulls.contains(lobby) {
            pulls.push(lobby.clone());
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
                (Flow::Open, true) if backlog.has_dropped() => {
                    self.tell_lag(&mut backlog);
                    continue;
                }
                (Flow::Open, true) if backlog.pulls.is_some() => {
                    backlog.pulls.take().map(|pulls| Drained::Pulls(*pulls))
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
    pub(crate) fn push_raw(&self, bytes: &[u8]) {
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
