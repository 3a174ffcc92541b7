//! The tunnel: after the 101 raw bytes both ways between a player and a node, on a trunk or over a connection of its own.
//! One small future carries both directions. It holds no buffer while nothing waits: bytes pass over the stack of whoever
//! polls it, and only what the other side did not take is kept; until that is gone, nothing more is read (back-pressure).
//! What comes on a trunk goes to the player by the trunk's own hand; the future has only what the socket did not take.

use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use mlms_process::trunk::Stream;
use prometheus::IntCounter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::runtime::Handle;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use crate::carriers;
use crate::metrics::Metrics;

/// Bytes moved at once, and so the most that one direction keeps for a side that does not read.
pub(crate) const CHUNK_BYTES: usize = 16 * 1024;

/// How long the second half stays open after the first has ended: enough for the last frames, too short to collect
/// half-open connections.
const LINGER: Duration = Duration::from_secs(10);

/// One end of the tunnel, and what was read from it before the tunnel began.
pub(crate) struct End {
    pub(crate) stream: TcpStream,
    pub(crate) early: Bytes,
}

impl End {
    /// The same end, on another event loop.
    pub(crate) fn taken_over(self, by: &Handle) -> io::Result<End> {
        Ok(End { stream: carriers::take_over(self.stream, by)?, early: self.early })
    }
}

/// Who ended a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Client,
    Node,
    /// One side ended, and the other did not follow in time.
    Lingered,
    /// The broker stops.
    Cut,
    /// The client went away between the node's 101 and its own.
    NeverOpened,
}

impl Ending {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Ending::Client => "client",
            Ending::Node => "node",
            Ending::Lingered => "linger",
            Ending::Cut => "cut",
            Ending::NeverOpened => "never_opened",
        }
    }
}

/// One direction.
struct Flow {
    /// What the receiving side did not take yet.
    waiting: Bytes,
    /// The sending side has ended; what waits is still passed on.
    ended: bool,
    /// Nothing more will pass, because of this side.
    over: Option<Side>,
}

/// A side of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Sender,
    Receiver,
}

impl Flow {
    fn new(early: Bytes) -> Self {
        Flow { waiting: early, ended: false, over: None }
    }

    /// Carries what can be carried now; ready with whose doing it is when nothing more will pass. An error of the sender counts as its
    /// end, an error of the receiver ends this direction only: what the receiver sent before must still arrive.
    fn poll_carry(
        &mut self,
        context: &mut Context<'_>,
        from: &mut TcpStream,
        to: &mut TcpStream,
        carried: &IntCounter,
    ) -> Poll<Side> {
        if let Some(side) = self.over {
            return Poll::Ready(side);
        }
        let mut bytes = 0;
        let poll = self.poll_chunks(context, from, to, &mut bytes);
        if bytes > 0 {
            carried.inc_by(bytes);
        }
        // Only writing fails: a failed read is an end of the sender.
        poll.map(|done| *self.over.insert(if done.is_ok() { Side::Sender } else { Side::Receiver }))
    }

    fn poll_chunks(
        &mut self,
        context: &mut Context<'_>,
        from: &mut TcpStream,
        to: &mut TcpStream,
        carried: &mut u64,
    ) -> Poll<io::Result<()>> {
        loop {
            while self.waiting.has_remaining() {
                let written = ready!(Pin::new(&mut *to).poll_write(context, &self.waiting))?;
                self.waiting.advance(written);
                *carried += written as u64;
            }
            // An empty `Bytes` that was advanced still holds its allocation.
            self.waiting = Bytes::new();
            if self.ended {
                return Pin::new(&mut *to).poll_shutdown(context);
            }
            // On the stack and not cleared: costs nothing while the tunnel waits, and nothing to set up.
            let mut space = [const { MaybeUninit::<u8>::uninit() }; CHUNK_BYTES];
            let mut chunk = ReadBuf::uninit(&mut space);
            if ready!(Pin::new(&mut *from).poll_read(context, &mut chunk)).is_err()
                || chunk.filled().is_empty()
            {
                self.ended = true;
                continue;
            }
            let chunk = chunk.filled();
            let written = match Pin::new(&mut *to).poll_write(context, chunk)? {
                Poll::Ready(written) => written,
                Poll::Pending => 0,
            };
            *carried += written as u64;
            if written < chunk.len() {
                self.waiting = Bytes::copy_from_slice(&chunk[written..]);
            }
        }
    }
}

/// Both directions of a tunnel, and how far they are.
struct Course {
    first: Option<Ending>,
    linger: Option<Pin<Box<Sleep>>>,
}

impl Course {
    const NEW: Course = Course { first: None, linger: None };

    /// Ready when both directions are over, or one has been for too long.
    fn poll_end(&mut self, context: &mut Context<'_>, (up, down): (Poll<Side>, Poll<Side>)) -> Poll<Ending> {
        let ending = match (up, down) {
            (Poll::Pending, Poll::Pending) => return Poll::Pending,
            (Poll::Ready(Side::Sender), _) | (_, Poll::Ready(Side::Receiver)) => Ending::Client,
            (Poll::Ready(Side::Receiver), _) | (_, Poll::Ready(Side::Sender)) => Ending::Node,
        };
        let first = *self.first.get_or_insert(ending);
        if up.is_ready() && down.is_ready() {
            return Poll::Ready(first);
        }
        let linger = self.linger.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        linger.as_mut().poll(context).map(|()| Ending::Lingered)
    }
}

/// Carries bytes until both sides have ended, one has ended and the other lingers too long, or `cut` says so.
/// `cut` is the tunnel's own child of the broker's, because every poll takes its lock.
pub(crate) async fn carry(
    mut client: End,
    mut node: End,
    metrics: &Metrics,
    cut: CancellationToken,
) -> Ending {
    let mut up = Flow::new(std::mem::take(&mut client.early));
    let mut down = Flow::new(std::mem::take(&mut node.early));
    let mut course = Course::NEW;
    let mut cut = pin!(cut.cancelled());
    std::future::poll_fn(move |context| {
        if cut.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ending::Cut);
        }
        let up = up.poll_carry(context, &mut client.stream, &mut node.stream, &metrics.bytes_to_node);
        let down = down.poll_carry(context, &mut node.stream, &mut client.stream, &metrics.bytes_to_client);
        course.poll_end(context, (up, down))
    })
    .await
}

/// [`carry`] on a trunk.
pub(crate) async fn carry_on_trunk(
    client: End,
    node: Stream,
    metrics: &Metrics,
    cut: CancellationToken,
) -> Ending {
    let (mut from, to) = client.stream.into_split();
    node.deliver_to(to);
    let mut up = Upward { waiting: client.early, is_over: false };
    let mut down = None;
    let mut course = Course::NEW;
    let mut cut = pin!(cut.cancelled());
    std::future::poll_fn(move |context| {
        if cut.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ending::Cut);
        }
        let up = up.poll_carry(context, &mut from, &node, &metrics.bytes_to_node);
        let down = match down {
            Some(side) => Poll::Ready(side),
            None => node
                .poll_delivered(context)
                .map(|done| *down.insert(if done.is_ok() { Side::Sender } else { Side::Receiver })),
        };
        course.poll_end(context, (up, down))
    })
    .await
}

/// The direction from a player onto a trunk.
struct Upward {
    /// What the trunk did not take yet.
    waiting: Bytes,
    /// The player says no more.
    is_over: bool,
}

impl Upward {
    /// Carries what can be carried now; ready when the player says no more.
    fn poll_carry(
        &mut self,
        context: &mut Context<'_>,
        from: &mut OwnedReadHalf,
        node: &Stream,
        carried: &IntCounter,
    ) -> Poll<Side> {
        if self.is_over {
            return Poll::Ready(Side::Sender);
        }
        let mut bytes = 0;
        let poll = self.poll_chunks(context, from, node, &mut bytes);
        if bytes > 0 {
            carried.inc_by(bytes);
        }
        self.is_over = poll.is_ready();
        poll.map(|()| Side::Sender)
    }

    fn poll_chunks(
        &mut self,
        context: &mut Context<'_>,
        from: &mut OwnedReadHalf,
        node: &Stream,
        carried: &mut u64,
    ) -> Poll<()> {
        loop {
            while self.waiting.has_remaining() {
                let Ok(written) = ready!(node.poll_write(context, &self.waiting)) else { break };
                self.waiting.advance(written);
                *carried += written as u64;
            }
            self.waiting = Bytes::new();
            let room = match node.poll_room(context) {
                Poll::Ready(Ok(room)) => room.min(CHUNK_BYTES),
                // What the player still says is for nobody. It is read all the same: a connection that is closed over
                // unread bytes is reset, and the node's last words may be lost with it.
                Poll::Ready(Err(_)) => CHUNK_BYTES,
                Poll::Pending => return Poll::Pending,
            };
            let mut space = [const { MaybeUninit::<u8>::uninit() }; CHUNK_BYTES];
            let mut chunk = ReadBuf::uninit(&mut space[..room]);
            if ready!(Pin::new(&mut *from).poll_read(context, &mut chunk)).is_err()
                || chunk.filled().is_empty()
            {
                // A read that fails is an end of the player's, too.
                node.end();
                return Poll::Ready(());
            }
            let chunk = chunk.filled();
            let written = match node.write_slice(chunk) {
                Ok(written) => written,
                // Other streams may have filled the trunk meanwhile.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(_) => continue,
            };
            *carried += written as u64;
            if written < chunk.len() {
                self.waiting = Bytes::copy_from_slice(&chunk[written..]);
            }
        }
    }
}
