//! A trunk: one connection between two processes that carries the bytes of many streams. What all of them have to say
//! leaves together, and bytes that are for many streams cross once. Each stream has a window each way: whoever does not
//! read holds up nobody else. The side that made the connection opens the streams, the other takes or refuses them.
//!
//! It knows nothing of what the streams are for.

mod frame;
mod outgoing;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use prometheus::IntCounter;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::tcp;
use frame::{Frame, Kind, PAYLOAD_MAX};
use outgoing::{Gathered, Outgoing};
use stream::Shared;

pub use stream::Stream;

/// What a connection is upgraded to (RFC 9110, section 7.8).
pub const PROTOCOL: &str = "mlms-trunk/1";

/// Bytes that may be under way to a stream that nobody reads.
pub const WINDOW: u32 = 64 * 1024;

/// Streams at once, those that are ending included.
const STREAMS_MAX: usize = 1 << 20;

/// Bytes read at once.
const READ_BYTES: usize = 128 * 1024;

/// Room that a buffer keeps for what is gathered next; more is given back.
const KEPT_BYTES: usize = 256 * 1024;

/// Deliveries in one go: then others on the same thread have their turn.
const TURN: usize = 1_024;

/// As many deliveries as the opening of a stream takes the time of.
const OPENING: usize = 16;

/// Streams that are looked up together.
const TOGETHER: usize = 16;

/// How long what is gathered may take to leave when the trunk ends.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The other side does not keep to the format; nothing of what it says can be trusted any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Broken(pub(crate) &'static str);

/// Why a stream did not come to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unopened {
    /// The other side does not take it; the status is its word for why.
    #[error("it is refused with {0}")]
    Refused(u16),
    #[error("the trunk has ended")]
    Over,
}

/// One side of a trunk; cloning shares it.
#[derive(Clone)]
pub struct Trunk(Arc<Inner>);

struct Inner {
    outgoing: Outgoing,
    streams: Mutex<Streams>,
    /// Counts bytes that went to the streams' sockets.
    delivered: Option<IntCounter>,
}

#[derive(Default)]
struct Streams {
    by_number: HashMap<u32, Arc<Shared>>,
    /// Who waits for the answer to an opening.
    asking: HashMap<u32, oneshot::Sender<Result<(), u16>>>,
    next: u32,
    is_over: bool,
}

/// A stream that the other side wants to open. Dropped, it is refused.
#[derive(Debug)]
pub struct Opening {
    stream: Option<Stream>,
    number: u32,
    inner: Answering,
    /// What the other side says of it.
    pub request: Bytes,
}

struct Answering(Arc<Inner>);

impl std::fmt::Debug for Answering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Trunk")
    }
}

/// The status of an opening that was dropped, or is one too many.
const UNAVAILABLE: u16 = 503;
/// The status of a request that is too long for a frame.
const TOO_LONG: u16 = 413;

impl Opening {
    /// Takes the stream.
    #[must_use]
    pub fn accept(mut self) -> Stream {
        self.inner.0.outgoing.tell(Kind::Accept, self.number, &[]);
        self.stream.take().expect("an opening is answered once")
    }

    /// Refuses the stream.
    pub fn refuse(mut self, status: u16) {
        if let Some(stream) = self.stream.take() {
            stream.refuse(status);
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            stream.refuse(UNAVAILABLE);
        }
    }
}

impl std::fmt::Debug for Trunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trunk").field("streams", &self.streams()).finish_non_exhaustive()
    }
}

impl Trunk {
    /// A side that counts the bytes which go to its streams' sockets.
    #[must_use]
    pub fn new(delivered: Option<IntCounter>) -> Trunk {
        Trunk(Arc::new(Inner { outgoing: Outgoing::default(), streams: Mutex::default(), delivered }))
    }

    /// Opens a stream. Cancel safe: a dropped attempt closes it.
    ///
    /// # Errors
    /// See [`Unopened`].
    pub async fn open(&self, request: &[u8]) -> Result<Stream, Unopened> {
        if request.len() > PAYLOAD_MAX {
            return Err(Unopened::Refused(TOO_LONG));
        }
        let mut asked = None;
        if std::future::poll_fn(|cx| self.0.outgoing.poll_room(cx, &mut asked)).await == Gathered::Over {
            return Err(Unopened::Over);
        }
        let (asking, answer) = oneshot::channel();
        let stream = {
            let mut streams = self.0.lock();
            let shared = streams.begin(&self.0)?;
            streams.asking.insert(shared.number, asking);
            self.0.outgoing.tell(Kind::Open, shared.number, request);
            Stream::new(shared)
        };
        match answer.await {
            Ok(Ok(())) => Ok(stream),
            Ok(Err(status)) => Err(Unopened::Refused(status)),
            Err(_) => Err(Unopened::Over),
        }
    }

    /// Whether the connection is gone.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.outgoing.is_over()
    }

    /// Streams at present, those that are ending included.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.0.lock().by_number.len()
    }

    /// Carries everything, until the connection ends, or after `stop` what was said until then. `early` has come already;
    /// `opened` answers whoever opens a stream.
    ///
    /// # Errors
    /// When the other side does not keep to the format.
    pub fn run(
        &self,
        socket: TcpStream,
        early: Bytes,
        opened: impl FnMut(Opening),
        stop: CancellationToken,
    ) -> impl Future<Output = Result<(), Broken>> {
        // Dropped in the middle, or before it has begun, the streams end all the same.
        let end = End(&self.0);
        async move {
            let End(inner) = &end;
            tcp::watch(&socket);
            let (from, to) = socket.into_split();
            let stopping = async {
                stop.cancelled().await;
                inner.outgoing.finish();
                tokio::time::sleep(LAST_WORDS).await;
            };
            tokio::select! {
                outcome = inner.read(from, &early, opened) => outcome,
                never = inner.write(to) => match never {},
                () = inner.outgoing.flooded() => {
                    Err(Broken("the other side asks and does not hear the answers"))
                }
                () = stopping => Ok(()),
            }
        }
    }
}

/// Ends all streams when the connection has ended.
struct End<'a>(&'a Arc<Inner>);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.outgoing.end();
        let streams = {
            let mut streams = self.0.lock();
            std::mem::replace(&mut *streams, Streams { is_over: true, ..Streams::default() })
        };
        for stream in streams.by_number.values() {
            stream.note_close();
        }
    }
}

impl Streams {
    /// A new stream with a number that is free.
    fn begin(&mut self, inner: &Arc<Inner>) -> Result<Arc<Shared>, Unopened> {
        if self.is_over {
            return Err(Unopened::Over);
        }
        if self.by_number.len() >= STREAMS_MAX {
            return Err(Unopened::Refused(UNAVAILABLE));
        }
        while self.by_number.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let shared = Shared::new(self.next, Arc::clone(inner));
        self.by_number.insert(self.next, Arc::clone(&shared));
        self.next = self.next.wrapping_add(1);
        Ok(shared)
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().expect("no holder of a trunk's streams panics")
    }

    fn stream(&self, number: u32) -> Option<Arc<Shared>> {
        self.lock().by_number.get(&number).cloned()
    }

    /// Both sides have closed the stream. Its number may be another's by now.
    fn forget(&self, stream: &Arc<Shared>) {
        let mut streams = self.lock();
        if streams.by_number.get(&stream.number).is_some_and(|known| Arc::ptr_eq(known, stream)) {
            streams.by_number.remove(&stream.number);
            streams.asking.remove(&stream.number);
        }
    }

    fn count(&self, bytes: usize) {
        if let Some(delivered) = &self.delivered {
            delivered.inc_by(bytes as u64);
        }
    }

    /// Writes what is gathered, for as long as that goes. The end is for the reader to find, behind all that has come: a
    /// connection that is closed over unread bytes is reset, and what either side said last may be lost with it.
    async fn write(&self, mut to: OwnedWriteHalf) -> Infallible {
        let mut frames = Vec::new();
        while std::future::poll_fn(|cx| self.outgoing.poll_take(cx, &mut frames)).await {
            if to.write_all(&frames).await.is_err() {
                break;
            }
            frames.clear();
            if frames.capacity() > KEPT_BYTES {
                frames = Vec::new();
            }
        }
        // What has failed has nothing left to end.
        let _ = to.shutdown().await;
        std::future::pending().await
    }

    async fn read(
        self: &Arc<Self>,
        mut from: OwnedReadHalf,
        early: &[u8],
        mut opened: impl FnMut(Opening),
    ) -> Result<(), Broken> {
        let mut bytes = BytesMut::with_capacity(READ_BYTES);
        bytes.extend_from_slice(early);
        let mut turn = 0;
        loop {
            let mut done = 0;
            while let Some((frame, length)) = Frame::read(&bytes[done..])? {
                turn += if frame.kind == Kind::Open { OPENING } else { frame.streams().len() };
                self.take(&frame, &mut opened)?;
                done += length;
                if turn >= TURN {
                    turn = 0;
                    tokio::task::yield_now().await;
                }
            }
            bytes.advance(done);
            bytes.reserve(READ_BYTES);
            // A connection that is lost has ended.
            if from.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return Ok(());
            }
        }
    }

    fn take(self: &Arc<Self>, frame: &Frame<'_>, opened: &mut impl FnMut(Opening)) -> Result<(), Broken> {
        match frame.kind {
            Kind::Data => return self.deliver(frame),
            Kind::Open => {
                let opening = self.take_opening(frame)?;
                opened(opening);
            }
            Kind::Accept => {
                let asking = self.lock().asking.remove(&frame.stream());
                if let Some(asking) = asking {
                    // Whoever asked may have stopped waiting.
                    let _ = asking.send(Ok(()));
                }
            }
            Kind::Refuse => {
                let status = u16::try_from(frame.number()?).map_err(|_| Broken("a status is no status"))?;
                self.close(frame.stream(), status);
            }
            Kind::Window => {
                let bytes = frame.number()?;
                if let Some(stream) = self.stream(frame.stream()) {
                    stream.widen(bytes)?;
                }
            }
            Kind::End => {
                if let Some(stream) = self.stream(frame.stream()) {
                    stream.note_end();
                }
            }
            Kind::Close => self.close(frame.stream(), UNAVAILABLE),
        }
        Ok(())
    }

    fn take_opening(self: &Arc<Self>, frame: &Frame<'_>) -> Result<Opening, Broken> {
        let number = frame.stream();
        let shared = Shared::new(number, Arc::clone(self));
        let mut streams = self.lock();
        // The last word of the one before may be out before its number is forgotten.
        let is_taken = streams.by_number.get(&number).is_some_and(|known| !known.is_gone());
        if is_taken || streams.by_number.len() >= STREAMS_MAX {
            return Err(Broken("a stream is opened that is one already, or one too many"));
        }
        // The lock goes first: whatever is replaced may be held by nobody else.
        let _gone = streams.by_number.insert(number, Arc::clone(&shared));
        drop(streams);
        let stream = Some(Stream::new(shared));
        let inner = Answering(Arc::clone(self));
        Ok(Opening { stream, number, inner, request: Bytes::copy_from_slice(frame.payload) })
    }

    /// The other side has closed the stream. Whoever still waits for it to be taken hears this status.
    fn close(&self, number: u32, status: u16) {
        let (stream, asking) = {
            let mut streams = self.lock();
            (streams.by_number.get(&number).cloned(), streams.asking.remove(&number))
        };
        if let Some(asking) = asking {
            let _ = asking.send(Err(status));
        }
        if let Some(stream) = stream
            && stream.note_close()
        {
            self.forget(&stream);
        }
    }

    fn deliver(&self, frame: &Frame<'_>) -> Result<(), Broken> {
        let mut numbers = frame.streams();
        let mut sent = 0;
        while numbers.len() > 0 {
            let mut together: [Option<Arc<Shared>>; TOGETHER] = Default::default();
            {
                let streams = self.lock();
                for (place, number) in together.iter_mut().zip(numbers.by_ref()) {
                    *place = streams.by_number.get(&number).cloned();
                }
            }
            for stream in together.iter().flatten() {
                sent += stream.deliver(frame.payload)?;
            }
        }
        self.count(sent);
        Ok(())
    }
}
