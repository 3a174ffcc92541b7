//! What waits for a socket that does not take it: frames in order, counted in bytes, of which ephemeral ones can be
//! replaced by a newer one of their key. The outbox decides what may wait and what is shed.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use bytes::{Bytes, BytesMut};
use mlms_protocol::{LobbyId, UserId};

/// Bytes that are joined into one write when a backlog drains.
const JOIN_BYTES: usize = 16 * 1024;

/// A frame that is larger holds a reply with a snapshot or a page, that its reader asked for: such ones count apart.
pub(super) const LARGE_MIN: usize = 256 * 1024;

/// So many emptied entries are not worth taking out.
pub(super) const EMPTIED_MIN: usize = 32;

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

/// What each delivery reads stands first.
#[derive(Default)]
#[repr(C)]
pub(super) struct Backlog {
    pub(super) state: Flow,
    /// Bytes of the front that are written already.
    front_written: u32,
    pub(super) queue: VecDeque<Waiting>,
    /// Bytes of the queue still to be written.
    pub(super) bytes: usize,
    /// Bytes of the large frames of the queue, written or not.
    pub(super) large_bytes: usize,
    /// How many entries have left the front: an entry's number minus this is its place.
    pub(super) left: u64,
    /// Only while ephemeral frames wait, or are to be told of: most connections never need it.
    shedding: Option<Box<Shedding>>,
    /// Lobbies whose missed events are to be pulled when the backlog has drained.
    #[expect(clippy::box_collection, reason = "most connections never pull, and all hold room for it")]
    pub(super) pulls: Option<Box<Vec<LobbyId>>>,
    /// Wakes the connection's task when there is a backlog to write, or an order to close.
    pub(super) waker: Option<Waker>,
}

/// What is known of frames that may be shed.
#[derive(Default)]
struct Shedding {
    /// The entry that holds the newest of a key.
    latest: HashMap<Arc<LatestKey>, u64>,
    /// Entries whose bytes a newer one of their key has replaced.
    emptied: usize,
    /// Frames that were dropped, which their lobbies' readers are still to be told.
    dropped: HashMap<LobbyId, u64>,
}

pub(super) struct Waiting {
    bytes: Bytes,
    shed: Shed,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Flow {
    #[default]
    Open,
    /// The close frame is queued; nothing may follow it.
    Closing(u16),
    /// The socket is gone.
    Broken,
}

impl Backlog {
    fn front_written(&self) -> usize {
        self.front_written as usize
    }

    /// Whoever waits looks again.
    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    pub(super) fn append(&mut self, bytes: Bytes, shed: Shed) {
        if let Shed::Ephemeral { key: Some(key), .. } = &shed {
            let number = self.left + self.queue.len() as u64;
            self.shedding.get_or_insert_default().latest.insert(Arc::clone(key), number);
        }
        self.bytes += bytes.len();
        self.large_bytes += large(&bytes);
        self.queue.push_back(Waiting { bytes, shed });
    }

    /// Empties the older frame of the same key, if it waits whole, and tells its length.
    pub(super) fn replace(&mut self, key: &Arc<LatestKey>) -> usize {
        let Some(shedding) = &mut self.shedding else { return 0 };
        let Some(number) = shedding.latest.remove(key) else { return 0 };
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
        shedding.emptied += 1;
        if shedding.emptied > EMPTIED_MIN && shedding.emptied > self.queue.len() / 2 {
            self.compact();
        }
        length
    }

    /// Takes the emptied entries out, so that their number is bounded like the others'.
    pub(super) fn compact(&mut self) {
        let mut place = 0;
        self.queue.retain(|waiting| {
            place += 1;
            (place == 1) || !waiting.bytes.is_empty()
        });
        let Some(shedding) = &mut self.shedding else { return };
        shedding.emptied = 0;
        shedding.latest.clear();
        for (waiting, number) in self.queue.iter().zip(self.left..) {
            if let Shed::Ephemeral { key: Some(key), .. } = &waiting.shed {
                shedding.latest.insert(Arc::clone(key), number);
            }
        }
    }

    /// Copies the next bytes to write: several small frames together.
    pub(super) fn chunk(&self) -> Bytes {
        let front = self.queue.front().expect("the caller saw an entry").bytes.slice(self.front_written()..);
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

    pub(super) fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while let Some(front) = self.queue.front() {
            let rest = front.bytes.len() - self.front_written as usize;
            if written < rest || (rest > 0 && written == 0) {
                let front_written = self.front_written as usize + written;
                self.front_written = u32::try_from(front_written).expect("a frame is far below 4 GiB");
                return;
            }
            written -= rest;
            self.front_written = 0;
            if let Some(shedding) = &mut self.shedding {
                if let Shed::Ephemeral { key: Some(key), .. } = &front.shed
                    && shedding.latest.get(key) == Some(&self.left)
                {
                    shedding.latest.remove(key);
                }
                if rest == 0 && front.bytes.is_empty() {
                    shedding.emptied = shedding.emptied.saturating_sub(1);
                }
            }
            self.large_bytes -= large(&front.bytes);
            self.queue.pop_front();
            self.left += 1;
        }
        // Whoever was slow once is not to cost more for the rest of its time.
        self.queue = VecDeque::new();
        self.shedding = self.shedding.take().filter(|shedding| !shedding.dropped.is_empty());
    }

    /// Counts a frame of a lobby that was dropped.
    pub(super) fn note_dropped(&mut self, lobby: LobbyId) {
        *self.shedding.get_or_insert_default().dropped.entry(lobby).or_default() += 1;
    }

    pub(super) fn has_dropped(&self) -> bool {
        self.shedding.as_ref().is_some_and(|shedding| !shedding.dropped.is_empty())
    }

    /// How many frames of each lobby were dropped since this was asked last.
    pub(super) fn take_dropped(&mut self) -> HashMap<LobbyId, u64> {
        self.shedding.as_mut().map(|shedding| std::mem::take(&mut shedding.dropped)).unwrap_or_default()
    }

    pub(super) fn keep_only_the_cut_frame(&mut self) {
        let keep = usize::from(self.front_written > 0);
        for waiting in self.queue.split_off(keep) {
            if let Shed::Ephemeral { lobby, .. } = waiting.shed {
                self.note_dropped(lobby);
            }
        }
        if let Some(shedding) = &mut self.shedding {
            shedding.latest.clear();
            shedding.emptied = 0;
        }
        self.bytes = self.queue.front().map_or(0, |front| front.bytes.len() - self.front_written());
        self.large_bytes = self.queue.front().map_or(0, |front| large(&front.bytes));
    }

    pub(super) fn break_off(&mut self) {
        *self = Backlog { state: Flow::Broken, waker: self.waker.take(), ..Backlog::default() };
    }
}

/// The bytes of a frame, if it is a large one.
fn large(bytes: &Bytes) -> usize {
    if bytes.len() > LARGE_MIN { bytes.len() } else { 0 }
}
