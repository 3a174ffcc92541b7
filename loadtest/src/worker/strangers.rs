//! Connections to a worker that have not shown the key. They are counted apart from those that have, and a new one takes
//! the place of the oldest: idle ones shut out nobody, as a run says who it is at once.

use std::collections::VecDeque;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};

/// Shared by the thread that accepts connections and those that serve them.
#[derive(Clone)]
pub(super) struct Strangers {
    connections_max: usize,
    waiting: Arc<Mutex<Waiting>>,
}

/// The oldest first.
#[derive(Default)]
struct Waiting {
    next: u64,
    connections: VecDeque<(u64, TcpStream)>,
}

/// One of them. Dropped, it is none any more.
pub(super) struct Stranger {
    number: u64,
    among: Strangers,
}

impl Strangers {
    pub(super) fn new(connections_max: usize) -> Strangers {
        Strangers { connections_max, waiting: Arc::default() }
    }

    /// A new one. Where there are too many the oldest is closed.
    ///
    /// # Errors
    /// The system has no file for it.
    pub(super) fn add(&self, stream: &TcpStream) -> std::io::Result<Stranger> {
        let stream = stream.try_clone()?;
        let mut waiting = self.waiting.lock().expect("no holder panics");
        let number = waiting.next;
        waiting.next += 1;
        waiting.connections.push_back((number, stream));
        if waiting.connections.len() > self.connections_max
            && let Some((_, oldest)) = waiting.connections.pop_front()
        {
            // Gone already: what is wanted.
            let _ = oldest.shutdown(Shutdown::Both);
        }
        Ok(Stranger { number, among: self.clone() })
    }
}

impl Stranger {
    /// It is known now, or gone; whether it had not been closed for another one.
    pub(super) fn leave(&self) -> bool {
        let mut waiting = self.among.waiting.lock().expect("no holder panics");
        let before = waiting.connections.len();
        waiting.connections.retain(|(number, _)| *number != self.number);
        waiting.connections.len() < before
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpListener;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_new_one_takes_the_place_of_the_oldest() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let strangers = Strangers::new(2);
        let come = || {
            let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            here.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let there = listener.accept().unwrap().0;
            (here, strangers.add(&there).unwrap(), there)
        };
        let is_closed = |mut here: &TcpStream| matches!(here.read(&mut [0]), Ok(0));
        let (first, second) = (come(), come());
        assert!(second.1.leave(), "who is known is none of them");
        let (third, fourth) = (come(), come());
        assert!(is_closed(&first.0) && !first.1.leave());
        for here in [&second.0, &third.0, &fourth.0] {
            assert!(!is_closed(here));
        }
        drop(third.1);
        let fifth = come();
        assert!(!is_closed(&fourth.0) && !is_closed(&fifth.0));
    }
}
