//! The lines of JSON that a worker and its run say to each other, each awaited for a time and no longer: whoever says
//! nothing, or a byte now and then, holds up nobody.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use memchr::memchr;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of one reading.
const CHUNK_BYTES: usize = 64 * 1024;

/// Shortest time that a socket can be told to wait.
const GRAIN: Duration = Duration::from_millis(1);

/// What comes from one connection.
pub(super) struct Lines {
    stream: TcpStream,
    /// What has come and was not taken.
    bytes: Vec<u8>,
    /// How much of it is known to hold no end of a line.
    searched: usize,
    /// Longest line.
    bytes_max: usize,
    heard_at: Instant,
}

impl Lines {
    pub(super) fn new(stream: TcpStream, bytes_max: usize) -> Lines {
        Lines { stream, bytes: Vec::new(), searched: 0, bytes_max, heard_at: Instant::now() }
    }

    /// From now on lines may be as long as they are: it is known who speaks.
    pub(super) fn unbound(&mut self) {
        self.bytes_max = usize::MAX;
    }

    /// When something came last, were it a part of a line.
    pub(super) fn heard_at(&self) -> Instant {
        self.heard_at
    }

    /// What is said next.
    ///
    /// # Errors
    /// The whole line has not come in time, it is too long, or it is something else.
    pub(super) fn hear<T: DeserializeOwned>(&mut self, within: Duration) -> anyhow::Result<T> {
        match self.listen(within)? {
            Some(said) => Ok(said),
            None => bail!("silent for {} s", within.as_secs_f64()),
        }
    }

    /// What is said next; `None`: not so soon. What has come of it is kept.
    ///
    /// # Errors
    /// The connection has ended, or as [`Lines::hear`].
    pub(super) fn listen<T: DeserializeOwned>(&mut self, within: Duration) -> anyhow::Result<Option<T>> {
        let until = Instant::now() + within;
        let mut chunk = [0; CHUNK_BYTES];
        loop {
            if let Some(end) = memchr(b'\n', &self.bytes[self.searched..]) {
                let line: Vec<u8> = self.bytes.drain(..=self.searched + end).collect();
                self.searched = 0;
                return serde_json::from_slice(&line).map(Some).context("what it says cannot be read");
            }
            self.searched = self.bytes.len();
            ensure!(self.bytes.len() < self.bytes_max, "its line is longer than {} bytes", self.bytes_max);
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left.max(GRAIN)))?;
            let room = CHUNK_BYTES.min(self.bytes_max - self.bytes.len());
            match self.stream.read(&mut chunk[..room]) {
                Ok(0) => bail!("it closed the connection"),
                Ok(read) => {
                    self.bytes.extend_from_slice(&chunk[..read]);
                    self.heard_at = Instant::now();
                }
                // The time is over, which is looked at above.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for anything, or the end of the connection, however long it takes.
    pub(super) fn until_anything(mut self) {
        if self.bytes.is_empty() && self.stream.set_read_timeout(None).is_ok() {
            // Bytes, an end and an error mean the same.
            let _ = self.stream.read(&mut [0]);
        }
    }

    pub(super) fn say<T: Serialize>(&mut self, what: &T) -> anyhow::Result<()> {
        say(&mut self.stream, what)
    }
}

pub(super) fn say<T: Serialize>(writer: &mut TcpStream, what: &T) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    Ok(writer.write_all(&line)?)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn pair(bytes_max: usize) -> (Lines, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Lines::new(listener.accept().unwrap().0, bytes_max), other)
    }

    #[test]
    fn a_line_has_one_time_however_it_comes() {
        let (mut lines, mut other) = pair(4_096);
        let begun = Instant::now();
        let dripping = std::thread::spawn(move || {
            // Until it is closed: each byte within the time, and no end.
            while other.write_all(b"1").is_ok() {
                std::thread::park_timeout(Duration::from_millis(20));
            }
        });
        let error = lines.hear::<u64>(Duration::from_millis(200)).unwrap_err();
        assert_eq!(error.to_string(), "silent for 0.2 s");
        assert!(begun.elapsed() < Duration::from_secs(10));
        drop(lines);
        dripping.join().unwrap();
    }

    #[test]
    fn what_has_come_of_a_line_is_kept() {
        let (mut lines, mut other) = pair(4_096);
        other.write_all(b"12").unwrap();
        assert_eq!(lines.listen::<u64>(Duration::from_millis(50)).unwrap(), None);
        other.write_all(b"34\n5\n6").unwrap();
        assert_eq!(lines.hear::<u64>(Duration::from_secs(10)).unwrap(), 1_234);
        assert_eq!(lines.hear::<u64>(Duration::from_secs(10)).unwrap(), 5);
        drop(other);
        let error = lines.hear::<u64>(Duration::from_secs(10)).unwrap_err();
        assert_eq!(error.to_string(), "it closed the connection");
    }

    #[test]
    fn a_line_of_a_stranger_is_bounded() {
        let (mut lines, mut other) = pair(8);
        other.write_all(b"1234567\n12345678").unwrap();
        assert_eq!(lines.hear::<u64>(Duration::from_secs(10)).unwrap(), 1_234_567);
        let error = lines.hear::<u64>(Duration::from_secs(10)).unwrap_err();
        assert_eq!(error.to_string(), "its line is longer than 8 bytes");
    }
}
