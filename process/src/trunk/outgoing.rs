//! What a side of a trunk has to say and nobody has written yet. Whoever has something appends it, from any thread; the
//! trunk's task takes all of it at once and writes it.

use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::frame::{self, Kind, STREAMS_MAX};

/// Bytes that may be gathered while the connection takes nothing. Beyond them no stream may add data, and none is opened.
const ROOM: usize = 1024 * 1024;

/// Bytes that may be gathered at all. What is about a stream needs no room, for each stream has little of it; but a peer
/// that opens one after the other and hears none of the answers has no end of them.
const BYTES_MAX: usize = 8 * ROOM;

#[derive(Default)]
pub(super) struct Outgoing {
    state: Mutex<State>,
    flooded: CancellationToken,
}

#[derive(Default)]
struct State {
    gathered: Vec<u8>,
    /// The frame at the end that can get more streams.
    last: Option<Last>,
    /// The trunk's task, while it has nothing to write.
    writer: Option<Waker>,
    /// Tasks with data for which there was no room.
    waiting: Vec<Waker>,
    /// How often all was taken, so that each waits in that list once.
    turns: u64,
    /// The writer ends when it finds nothing gathered; what is appended until then still leaves.
    is_ending: bool,
    /// Nothing leaves any more: the writer has ended, or the connection is gone.
    is_silent: bool,
    /// The connection is gone.
    is_over: bool,
}

/// A frame of data for several streams. The same bytes by their place in memory: they are held, so the place is theirs.
struct Last {
    payload: Bytes,
    start: usize,
    streams: usize,
}

/// Who waits for room, and since which turn.
pub(super) struct Asked {
    turn: u64,
    by: Waker,
}

/// What became of data.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Gathered {
    Taken,
    Full,
    Over,
}

impl Outgoing {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of a trunk's frames panics")
    }

    /// Appends what is about a stream.
    pub(super) fn tell(&self, kind: Kind, stream: u32, payload: &[u8]) {
        let mut state = self.lock();
        if state.is_silent {
            return;
        }
        state.last = None;
        frame::append(&mut state.gathered, kind, stream, payload);
        state.wake_writer();
        if state.gathered.len() > BYTES_MAX {
            self.flooded.cancel();
        }
    }

    /// Appends data for a stream.
    pub(super) fn data(&self, stream: u32, bytes: &[u8]) -> Gathered {
        let mut state = self.lock();
        match state.room() {
            Gathered::Taken => {
                state.last = None;
                frame::append(&mut state.gathered, Kind::Data, stream, bytes);
                state.wake_writer();
                Gathered::Taken
            }
            other => other,
        }
    }

    /// Appends data for a stream. Streams that get the same bytes one after the other share a frame: what a lobby says to
    /// its members crosses the trunk once.
    pub(super) fn shared(&self, stream: u32, bytes: &Bytes) -> Gathered {
        let mut state = self.lock();
        let state = &mut *state;
        if let Some(last) = &mut state.last
            && last.streams < STREAMS_MAX
            && last.payload.as_ptr() == bytes.as_ptr()
            && last.payload.len() == bytes.len()
        {
            last.streams += 1;
            frame::extend(&mut state.gathered, last.start, last.streams, stream);
            return Gathered::Taken;
        }
        match state.room() {
            Gathered::Taken => {
                let start = state.gathered.len();
                frame::append(&mut state.gathered, Kind::Data, stream, bytes);
                state.last = Some(Last { payload: bytes.clone(), start, streams: 1 });
                state.wake_writer();
                Gathered::Taken
            }
            other => other,
        }
    }

    /// Whether data would be taken; if not, the task is woken when it may be. `asked` is the caller's own, to know what it
    /// asked last.
    pub(super) fn poll_room(&self, cx: &Context<'_>, asked: &mut Option<Asked>) -> Poll<Gathered> {
        let mut state = self.lock();
        match state.room() {
            Gathered::Full => {
                let turn = state.turns;
                if !asked.as_ref().is_some_and(|asked| asked.turn == turn && asked.by.will_wake(cx.waker())) {
                    state.waiting.push(cx.waker().clone());
                    *asked = Some(Asked { turn, by: cx.waker().clone() });
                }
                Poll::Pending
            }
            other => Poll::Ready(other),
        }
    }

    /// Takes all that is gathered into an empty buffer, and leaves that one for what comes. `false`: nothing will come.
    pub(super) fn poll_take(&self, cx: &Context<'_>, buffer: &mut Vec<u8>) -> Poll<bool> {
        let mut state = self.lock();
        if state.gathered.is_empty() {
            if state.is_ending || state.is_silent {
                // Nobody is to be woken: as long as nothing is gathered nobody waits for room.
                state.is_silent = true;
                return Poll::Ready(false);
            }
            if state.writer.as_ref().is_none_or(|writer| !writer.will_wake(cx.waker())) {
                state.writer = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        state.last = None;
        state.turns += 1;
        std::mem::swap(&mut state.gathered, buffer);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
        Poll::Ready(true)
    }

    /// Waits until more is gathered than may be.
    pub(super) async fn flooded(&self) {
        self.flooded.cancelled().await;
    }

    /// Lets the writer end when all that is gathered has left.
    pub(super) fn finish(&self) {
        let mut state = self.lock();
        state.is_ending = true;
        state.wake_writer();
    }

    /// The connection is gone.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        let writer = state.writer.take();
        let waiting = std::mem::take(&mut state.waiting);
        *state = State { is_silent: true, is_over: true, ..State::default() };
        drop(state);
        waiting.into_iter().chain(writer).for_each(Waker::wake);
    }

    pub(super) fn is_over(&self) -> bool {
        self.lock().is_over
    }
}

impl State {
    fn room(&self) -> Gathered {
        if self.is_silent {
            Gathered::Over
        } else if self.gathered.len() >= ROOM {
            Gathered::Full
        } else {
            Gathered::Taken
        }
    }

    fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::Frame;
    use super::*;

    fn take(outgoing: &Outgoing) -> Vec<(Kind, Vec<u8>, Vec<u32>)> {
        let mut bytes = Vec::new();
        let _ = outgoing.poll_take(&Context::from_waker(Waker::noop()), &mut bytes);
        let (mut frames, mut rest) = (Vec::new(), &bytes[..]);
        while let Some((frame, length)) = Frame::read(rest).unwrap() {
            frames.push((frame.kind, frame.payload.to_vec(), frame.streams().collect()));
            rest = &rest[length..];
        }
        assert!(rest.is_empty());
        frames
    }

    #[test]
    fn the_same_bytes_for_many_streams_cross_once_and_nothing_is_overtaken() {
        let outgoing = Outgoing::default();
        let (hello, other) = (Bytes::from(vec![1; 5]), Bytes::from(vec![1; 5]));
        for stream in [3, 1, 2] {
            assert_eq!(outgoing.shared(stream, &hello), Gathered::Taken);
        }
        outgoing.shared(1, &other);
        outgoing.tell(Kind::End, 1, &[]);
        outgoing.shared(2, &other);
        outgoing.shared(3, &other.slice(..2));
        let data = |length: usize, streams: &[u32]| (Kind::Data, vec![1; length], streams.to_vec());
        let expected =
            [data(5, &[3, 1, 2]), data(5, &[1]), (Kind::End, vec![], vec![1]), data(5, &[2]), data(2, &[3])];
        assert_eq!(take(&outgoing), expected);
        outgoing.shared(1, &hello);
        assert_eq!(take(&outgoing), [data(5, &[1])], "what was taken is not added to");
    }

    #[test]
    fn a_frame_is_for_so_many_streams_and_no_more() {
        let outgoing = Outgoing::default();
        let bytes = Bytes::from_static(b"all");
        for stream in 0..1_000 {
            outgoing.shared(stream, &bytes);
        }
        let frames = take(&outgoing);
        assert_eq!(frames.iter().map(|(_, _, streams)| streams.len()).collect::<Vec<_>>(), [512, 488]);
        assert!(frames.iter().flat_map(|(_, _, streams)| streams).copied().eq(0..1_000));
    }

    #[tokio::test]
    async fn data_waits_for_room_and_words_do_not() {
        let outgoing = Outgoing::default();
        let waker = std::future::poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
        let cx = Context::from_waker(&waker);
        let block = vec![0; 64 * 1024];
        let taken = (0..100).take_while(|_| outgoing.data(1, &block) == Gathered::Taken).count();
        assert_eq!(taken, 16, "up to the bound, and the one that reaches it");
        assert_eq!(outgoing.shared(2, &Bytes::from_static(b"x")), Gathered::Full);
        let mut asked = None;
        for _ in 0..3 {
            assert_eq!(outgoing.poll_room(&cx, &mut asked), Poll::Pending);
        }
        assert_eq!(outgoing.lock().waiting.len(), 1);
        outgoing.tell(Kind::Close, 1, &[]);
        assert_eq!(take(&outgoing).len(), 17);
        assert_eq!(outgoing.poll_room(&cx, &mut asked), Poll::Ready(Gathered::Taken));
        assert!(!outgoing.flooded.is_cancelled());
        outgoing.finish();
        outgoing.data(1, b"last");
        let mut bytes = Vec::new();
        assert_eq!(outgoing.poll_take(&cx, &mut bytes), Poll::Ready(true));
        // While that is written.
        assert_eq!(outgoing.data(1, b"last of all"), Gathered::Taken);
        bytes.clear();
        assert_eq!(outgoing.poll_take(&cx, &mut bytes), Poll::Ready(true));
        bytes.clear();
        assert_eq!(outgoing.poll_take(&cx, &mut bytes), Poll::Ready(false));
        for is_over in [false, true] {
            assert_eq!(outgoing.is_over(), is_over);
            assert_eq!(outgoing.data(1, b"late"), Gathered::Over);
            assert_eq!(outgoing.shared(1, &Bytes::from_static(b"late")), Gathered::Over);
            assert_eq!(outgoing.poll_room(&cx, &mut asked), Poll::Ready(Gathered::Over));
            outgoing.tell(Kind::Close, 1, &[]);
            assert!(outgoing.lock().gathered.is_empty(), "it would never leave");
            outgoing.end();
        }
    }
}
