//! One stream of a trunk: bytes both ways, each way with a window of its own, so that whoever does not read holds up
//! nobody else.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::ReadBuf;
use tokio::net::tcp::OwnedWriteHalf;

use super::frame::Kind;
use super::outgoing::{Asked, Gathered};
use super::{Broken, Inner, WINDOW};

/// Bytes that were taken before the other side is told: few words for many bytes.
const TELL: u32 = WINDOW / 2;

/// This side's end of a stream. Dropped, it is closed: what was written still arrives.
pub struct Stream(Arc<Shared>);

pub(super) struct Shared {
    pub(super) number: u32,
    inner: Arc<Inner>,
    state: Mutex<State>,
}

struct State {
    /// Bytes that the other side still takes.
    credit: u32,
    /// What has come and nobody has taken.
    inbox: BytesMut,
    /// Where what comes goes, if it has somewhere to go at once.
    outlet: Outlet,
    /// Bytes taken that the other side does not know of.
    taken: u32,
    peer: Peer,
    has_ended: bool,
    /// This side's end is dropped.
    is_dropped: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// When it last waited for room on the trunk.
    asked: Option<Asked>,
}

enum Outlet {
    None,
    Socket(OwnedWriteHalf),
    /// The socket takes nothing any more.
    Failed,
}

/// What the other side has said of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Peer {
    Open,
    /// It has no more bytes.
    Ended,
    /// It takes none either.
    Closed,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stream({})", self.0.number)
    }
}

impl Stream {
    pub(super) fn new(shared: Arc<Shared>) -> Stream {
        Stream(shared)
    }

    /// Passes on what the other side still takes of these bytes, and tells how many that are.
    ///
    /// # Errors
    /// `WouldBlock` when it takes none now, `BrokenPipe` when it never will.
    pub fn write(&self, bytes: &Bytes) -> io::Result<usize> {
        self.write_with(bytes.len(), |stream, length| match length == bytes.len() {
            true => stream.inner.outgoing.shared(stream.number, bytes),
            false => stream.inner.outgoing.data(stream.number, &bytes[..length]),
        })
    }

    /// [`Stream::write`], for bytes that no other stream gets.
    ///
    /// # Errors
    /// As there.
    pub fn write_slice(&self, bytes: &[u8]) -> io::Result<usize> {
        self.write_with(bytes.len(), |stream, length| {
            stream.inner.outgoing.data(stream.number, &bytes[..length])
        })
    }

    fn write_with(&self, length: usize, write: impl FnOnce(&Shared, usize) -> Gathered) -> io::Result<usize> {
        let mut state = self.0.lock();
        if state.peer == Peer::Closed || state.has_ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let most = u32::try_from(length).unwrap_or(u32::MAX).min(state.credit);
        if most == 0 && length > 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match write(&self.0, most as usize) {
            Gathered::Taken => {
                state.credit -= most;
                Ok(most as usize)
            }
            Gathered::Full => Err(io::ErrorKind::WouldBlock.into()),
            Gathered::Over => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// [`Stream::write`] that wakes its task when it is worth another try.
    pub fn poll_write(&self, cx: &Context<'_>, bytes: &Bytes) -> Poll<io::Result<usize>> {
        loop {
            match self.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Err(error) = ready!(self.poll_room(cx)) {
                        return Poll::Ready(Err(error));
                    }
                }
                outcome => return Poll::Ready(outcome),
            }
        }
    }

    /// How many bytes can be written now; at least one.
    pub fn poll_room(&self, cx: &Context<'_>) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock();
        if state.peer == Peer::Closed || state.has_ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if state.credit == 0 {
            note(&mut state.writer, cx);
            return Poll::Pending;
        }
        match ready!(self.0.inner.outgoing.poll_room(cx, &mut state.asked)) {
            Gathered::Over => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            _ => Poll::Ready(Ok(state.credit as usize)),
        }
    }

    /// Reads what has come. Nothing read: the other side has ended. Like a socket it gives others their turn after many
    /// reads: what comes may be endless, and come as fast as it is read.
    pub fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<()> {
        let turn = ready!(tokio::task::coop::poll_proceed(cx));
        let mut state = self.0.lock();
        if state.inbox.is_empty() {
            if state.peer != Peer::Open {
                turn.made_progress();
                return Poll::Ready(());
            }
            note(&mut state.reader, cx);
            return Poll::Pending;
        }
        turn.made_progress();
        let length = state.inbox.len().min(buf.remaining());
        buf.put_slice(&state.inbox[..length]);
        state.take_inbox(length);
        self.0.give_back(&mut state);
        Poll::Ready(())
    }

    /// From here on what comes goes to this socket, by whoever it comes to; what the socket does not take waits for
    /// [`Stream::poll_delivered`].
    pub fn deliver_to(&self, socket: OwnedWriteHalf) {
        self.0.lock().outlet = Outlet::Socket(socket);
    }

    /// Carries what waits to the socket. Ready when the other side has ended and all is out; then the socket is shut
    /// down.
    ///
    /// # Errors
    /// When the socket takes nothing any more.
    pub fn poll_delivered(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut guard = self.0.lock();
        let state = &mut *guard;
        loop {
            let Outlet::Socket(socket) = &state.outlet else {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            };
            if state.inbox.is_empty() {
                if state.peer == Peer::Open {
                    note(&mut state.reader, cx);
                    return Poll::Pending;
                }
                // Dropped, this half ends the connection's one direction.
                state.outlet = Outlet::None;
                return Poll::Ready(Ok(()));
            }
            let socket = socket.as_ref();
            let sent = match ready!(socket.poll_write_ready(cx)) {
                Ok(()) => socket.try_write(&state.inbox),
                Err(error) => Err(error),
            };
            match sent {
                Ok(sent) => {
                    state.take_inbox(sent);
                    self.0.inner.count(sent);
                    self.0.give_back(state);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    state.fail();
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    /// Says that nothing more comes from this side.
    pub fn end(&self) {
        let mut state = self.0.lock();
        if !std::mem::replace(&mut state.has_ended, true) && state.peer != Peer::Closed {
            self.0.tell(Kind::End, &[]);
        }
    }

    /// Says that the stream is not taken, and why.
    pub(super) fn refuse(self, status: u16) {
        if self.0.leave(Some(status)) {
            self.0.inner.forget(&self.0);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.0.leave(None) {
            self.0.inner.forget(&self.0);
        }
    }
}

impl Shared {
    pub(super) fn new(number: u32, inner: Arc<Inner>) -> Arc<Shared> {
        let state = State {
            credit: WINDOW,
            inbox: BytesMut::new(),
            outlet: Outlet::None,
            taken: 0,
            peer: Peer::Open,
            has_ended: false,
            is_dropped: false,
            reader: None,
            writer: None,
            asked: None,
        };
        Arc::new(Shared { number, inner, state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of a stream panics")
    }

    fn tell(&self, kind: Kind, payload: &[u8]) {
        self.inner.outgoing.tell(kind, self.number, payload);
    }

    /// Says this side's last word: with a status that the stream was never taken. `true`: the other side has no more to
    /// say, so that the number is free for another stream.
    pub(super) fn leave(&self, refused: Option<u16>) -> bool {
        let mut state = self.lock();
        if std::mem::replace(&mut state.is_dropped, true) {
            return false;
        }
        state.inbox = BytesMut::new();
        state.outlet = Outlet::None;
        // Nobody is there to be woken. They go after the lock: what they drop is not known here.
        let _wakers = (state.reader.take(), state.writer.take(), state.asked.take());
        // Under the lock: once the other side's word is in, too, the number may be another stream's.
        match refused {
            Some(status) => {
                self.tell(Kind::Refuse, &u32::from(status).to_be_bytes());
                state.peer = Peer::Closed;
            }
            None => self.tell(Kind::Close, &[]),
        }
        let is_gone = state.peer == Peer::Closed;
        drop(state);
        is_gone
    }

    /// Whether both sides have said their last word.
    pub(super) fn is_gone(&self) -> bool {
        let state = self.lock();
        state.is_dropped && state.peer == Peer::Closed
    }

    /// Takes in bytes that have come, and tells how many of them are out already.
    ///
    /// # Errors
    /// When they are more than the window lets through.
    pub(super) fn deliver(&self, bytes: &[u8]) -> Result<usize, Broken> {
        let mut state = self.lock();
        if state.is_dropped || state.peer != Peer::Open || matches!(state.outlet, Outlet::Failed) {
            return Ok(0);
        }
        if state.inbox.len() + state.taken as usize + bytes.len() > WINDOW as usize {
            return Err(Broken("a stream has more than its window"));
        }
        let mut sent = 0;
        if let Outlet::Socket(socket) = &state.outlet
            && state.inbox.is_empty()
        {
            match socket.try_write(bytes) {
                Ok(length) => sent = length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    state.fail();
                    wake(&mut state.reader);
                    return Ok(0);
                }
            }
            state.taken += u32::try_from(sent).unwrap_or(u32::MAX);
            self.give_back(&mut state);
        }
        if sent < bytes.len() {
            state.inbox.extend_from_slice(&bytes[sent..]);
            wake(&mut state.reader);
        }
        Ok(sent)
    }

    /// The other side takes so many bytes more.
    ///
    /// # Errors
    /// When that are more than were sent.
    pub(super) fn widen(&self, bytes: u32) -> Result<(), Broken> {
        let mut state = self.lock();
        state.credit = state
            .credit
            .checked_add(bytes)
            .filter(|credit| *credit <= WINDOW)
            .ok_or(Broken("a window is wider than it can be"))?;
        wake(&mut state.writer);
        Ok(())
    }

    /// The other side has no more bytes.
    pub(super) fn note_end(&self) {
        let mut state = self.lock();
        if state.peer == Peer::Open {
            state.peer = Peer::Ended;
        }
        wake(&mut state.reader);
    }

    /// The other side has closed the stream. `true`: this side had, too.
    pub(super) fn note_close(&self) -> bool {
        let mut state = self.lock();
        state.peer = Peer::Closed;
        wake(&mut state.reader);
        wake(&mut state.writer);
        state.is_dropped
    }

    /// Tells the other side of what was taken, when it is worth a word.
    fn give_back(&self, state: &mut State) {
        if state.taken >= TELL && state.peer == Peer::Open {
            let taken = std::mem::take(&mut state.taken);
            self.tell(Kind::Window, &taken.to_be_bytes());
        }
    }
}

impl State {
    fn take_inbox(&mut self, length: usize) {
        self.inbox.advance(length);
        if self.inbox.is_empty() {
            // Most of the time nothing waits: then it takes no room either.
            self.inbox = BytesMut::new();
        }
        self.taken += u32::try_from(length).unwrap_or(u32::MAX);
    }

    fn fail(&mut self) {
        self.outlet = Outlet::Failed;
        self.inbox = BytesMut::new();
    }
}

fn note(waker: &mut Option<Waker>, cx: &Context<'_>) {
    if waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
        *waker = Some(cx.waker().clone());
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use super::super::frame::{self, Frame};
    use super::super::{Opening, Trunk};
    use super::*;

    /// Lets a side hear a word about stream 1; gives what that opens.
    fn hear(trunk: &Trunk, kind: Kind) -> Result<Option<Opening>, Broken> {
        let mut bytes = Vec::new();
        frame::append(&mut bytes, kind, 1, b"");
        let (frame, _) = Frame::read(&bytes).unwrap().unwrap();
        let mut opened = None;
        trunk.0.take(&frame, &mut |opening| opened = Some(opening))?;
        Ok(opened)
    }

    fn open(trunk: &Trunk) -> Opening {
        hear(trunk, Kind::Open).expect("the number is free").unwrap()
    }

    #[test]
    fn a_number_is_free_with_the_last_word_and_not_before() {
        let trunk = Trunk::new(None);
        let taken = open(&trunk).accept();
        hear(&trunk, Kind::Close).unwrap();
        assert!(hear(&trunk, Kind::Open).is_err(), "this side still speaks");
        // The other side may hear the last word, and use the number, before the next line runs.
        assert!(taken.0.leave(None));
        let mut refused = open(&trunk);
        trunk.0.forget(&taken.0);
        assert_eq!(trunk.streams(), 1, "what is forgotten is not the stream that has the number now");

        let refused = refused.stream.take().unwrap();
        assert!(refused.0.leave(Some(403)));
        let last = open(&trunk).accept();
        trunk.0.forget(&refused.0);
        drop((taken, refused));
        assert_eq!(trunk.streams(), 1);

        drop(last);
        assert!(hear(&trunk, Kind::Open).is_err(), "the other side has not closed it");
        hear(&trunk, Kind::Close).unwrap();
        assert_eq!(trunk.streams(), 0);
    }

    struct Sleeper;

    impl Wake for Sleeper {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn a_dropped_stream_keeps_nobody_s_waker() {
        let trunk = Trunk::new(None);
        let stream = open(&trunk).accept();
        let sleepers = [(); 3].map(|()| Arc::new(Sleeper));
        let [asks, writes, reads] = sleepers.each_ref().map(|sleeper| Waker::from(Arc::clone(sleeper)));
        let held = || sleepers.each_ref().map(Arc::strong_count);

        while trunk.0.outgoing.data(2, &[0; WINDOW as usize]) == Gathered::Taken {}
        assert!(stream.poll_room(&Context::from_waker(&asks)).is_pending());
        let _ = trunk.0.outgoing.poll_take(&Context::from_waker(Waker::noop()), &mut Vec::new());
        assert_eq!(stream.write_slice(&[0; WINDOW as usize]).unwrap(), WINDOW as usize);
        assert!(stream.poll_room(&Context::from_waker(&writes)).is_pending());
        let mut space = [0];
        assert!(
            stream.poll_read(&mut Context::from_waker(&reads), &mut ReadBuf::new(&mut space)).is_pending()
        );
        drop((asks, writes, reads));
        assert_eq!(held(), [2, 2, 2]);
        drop(stream);
        assert_eq!((held(), trunk.streams()), ([1, 1, 1], 1));
    }
}
