//! What a part has to do at which time, and the wake-up for it. The engine arms timers and asks what is due; here nothing
//! is done about it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::client::Move;
use crate::plan::Micros;

/// What a timer is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Tick {
    Probe,
    Second,
    /// The next of the plan's steps.
    Plan,
    Dial {
        connection: u32,
    },
    Rejoin {
        connection: u32,
    },
    Send {
        stream: u8,
    },
    Retry {
        connection: u32,
    },
    Leave,
    LeaveAgain {
        connection: u32,
    },
    Disconnect,
    Comeback {
        connection: u32,
    },
    SlowRead {
        connection: u32,
    },
    Game,
    Action {
        round: u32,
    },
    Move {
        it: Move,
    },
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Timer {
    pub(super) due: Micros,
    /// A client's place, or a lobby's for games.
    pub(super) whose: usize,
    pub(super) tick: Tick,
}

/// The timers of a part, and a clock of the system that ends the poll in time: the poll's own waits are whole milliseconds.
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<Timer>>,
    clock: OwnedFd,
}

impl Timers {
    /// # Errors
    /// The system has no more file descriptors.
    pub(super) fn new(registry: &Registry, token: Token) -> std::io::Result<Timers> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let clock = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        registry.register(&mut SourceFd(&clock.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Timers { heap: BinaryHeap::new(), clock })
    }

    pub(super) fn arm(&mut self, due: Micros, whose: usize, tick: Tick) {
        self.heap.push(Reverse(Timer { due, whose, tick }));
    }

    /// Takes the next one whose time has come.
    pub(super) fn due(&mut self, now: Micros) -> Option<Timer> {
        self.heap.peek().filter(|Reverse(timer)| timer.due <= now)?;
        self.heap.pop().map(|Reverse(timer)| timer)
    }

    /// How long a poll may last. Short times are kept to some microseconds by the clock.
    pub(super) fn wait(&self, now: Micros) -> Duration {
        let Some(Reverse(timer)) = self.heap.peek() else { return Duration::from_millis(10) };
        let wait = timer.due.saturating_sub(now);
        if wait == 0 {
            return Duration::ZERO;
        }
        let value = Timespec { tv_sec: 0, tv_nsec: (wait.min(900_000) * 1_000) as _ };
        let spec = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        // Without it the wait is as long as the poll's own, to a millisecond.
        let _ = timerfd_settime(&self.clock, TimerfdTimerFlags::empty(), &spec);
        Duration::from_micros(wait.min(20_000).next_multiple_of(1_000))
    }

    /// The clock ended a poll.
    pub(super) fn rang(&self) {
        let mut count = [0; 8];
        // Nothing to read: another turn has done it.
        let _ = rustix::io::read(&self.clock, &mut count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_comes_in_the_order_of_its_time() {
        let poll = mio::Poll::new().unwrap();
        let mut timers = Timers::new(poll.registry(), Token(0)).unwrap();
        assert_eq!(timers.wait(0), Duration::from_millis(10));
        timers.arm(20, 2, Tick::Leave);
        timers.arm(10, 1, Tick::Game);
        timers.arm(50_000, 3, Tick::Second);
        assert_eq!(timers.wait(20), Duration::ZERO);
        assert!(timers.due(9).is_none());
        let due: Vec<usize> = std::iter::from_fn(|| timers.due(20)).map(|timer| timer.whose).collect();
        assert_eq!(due, [1, 2]);
        assert_eq!(timers.wait(49_900), Duration::from_millis(1));
    }
}
