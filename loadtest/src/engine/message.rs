//! The messages that a load test sends: who sent it, its number and its intended time stand in the body, so that
//! whoever gets it can check and time it. The rest is padding that follows from those numbers.

use std::io::Write as _;

use crate::plan::Micros;
use crate::rng::mix;

const PADDING: &[u8; 96] =
    b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_abcdefghijklmnopqrstuvwxyzABCDEF";

/// How many places of the padding a body's own begins at.
const STARTS: u64 = 64;

/// What a body says of its message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Message {
    /// The sender's number among all clients.
    pub(crate) sender: u32,
    /// The place in the scenario's list of senders.
    pub(crate) stream: u8,
    /// Of this sender and stream, from 0.
    pub(crate) index: u64,
    /// Among all durable and ordered messages of this sender, from 1.
    pub(crate) place: u64,
    /// When it was to be sent.
    pub(crate) intended: Micros,
}

impl Message {
    /// By what the checks know the sender: streams have orders of their own.
    pub(crate) fn key(&self) -> u64 {
        u64::from(self.sender) << 8 | u64::from(self.stream)
    }

    /// Writes the body's text, about as long as the range says.
    pub(crate) fn write_body(&self, out: &mut Vec<u8>, run: &str, bytes: (u32, u32)) {
        let begin = out.len();
        let Message { sender, stream, index, place, intended } = self;
        write!(out, "lt {run} {sender} {stream} {index} {place} {intended} ").expect("memory takes it");
        let (length, mut from) = self.padding(bytes);
        let mut missing = (length as usize).saturating_sub(out.len() - begin);
        while missing > 0 {
            let part = missing.min(PADDING.len() - from);
            out.extend_from_slice(&PADDING[from..from + part]);
            missing -= part;
            from = 0;
        }
    }

    /// Whole length, and where in the pattern the padding begins.
    fn padding(&self, (least, most): (u32, u32)) -> (u32, usize) {
        let number = mix(self.key() ^ self.index.rotate_left(32));
        let length = least + (number % u64::from(most - least + 1)) as u32;
        (length, (number >> 40) as usize % STARTS as usize)
    }

    /// Reads a body's text. `None`: it is none of this run's.
    pub(crate) fn read(body: &[u8], run: &str) -> Option<(Message, usize)> {
        let rest = body.strip_prefix(b"lt ")?.strip_prefix(run.as_bytes())?.strip_prefix(b" ")?;
        let mut at = 0;
        let mut numbers = [0u64; 5];
        for number in &mut numbers {
            let begin = at;
            while let Some(digit) =
                rest.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10)
            {
                *number = number.wrapping_mul(10).wrapping_add(u64::from(digit));
                at += 1;
            }
            if at == begin || at - begin > 18 || rest.get(at) != Some(&b' ') {
                return None;
            }
            at += 1;
        }
        let [sender, stream, index, place, intended] = numbers;
        let (sender, stream) = (sender.try_into().ok()?, stream.try_into().ok()?);
        let message = Message { sender, stream, index, place, intended };
        Some((message, body.len() - rest.len() + at))
    }

    /// Whether the padding, from `at` on, is what was sent.
    pub(crate) fn is_whole(&self, body: &[u8], at: usize, bytes: (u32, u32)) -> bool {
        let (length, mut place) = self.padding(bytes);
        let mut rest = &body[at..];
        if body.len() != (length as usize).max(at) {
            return false;
        }
        while !rest.is_empty() {
            let part = rest.len().min(PADDING.len() - place);
            if rest[..part] != PADDING[place..place + part] {
                return false;
            }
            rest = &rest[part..];
            place = 0;
        }
        true
    }

    pub(crate) fn nonce(&self, run: &str) -> String {
        format!("{run}-{}-{}-{}", self.sender, self.stream, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_whole() {
        for (index, bytes) in [(0, (0, 0)), (7, (100, 100)), (123_456, (200, 5_000)), (9, (60, 61))] {
            let message = Message { sender: 41, stream: 2, index, place: 3, intended: 99_000_123 };
            let mut body = Vec::new();
            message.write_body(&mut body, "r1", bytes);
            let (read, at) = Message::read(&body, "r1").unwrap();
            assert_eq!(read, message);
            assert!(read.is_whole(&body, at, bytes), "{}", String::from_utf8_lossy(&body));
            if let Some(last) = body.get_mut(at) {
                *last ^= 1;
                assert!(!read.is_whole(&body, at, bytes));
                assert!(!read.is_whole(&body[..body.len() - 1], at, bytes));
            }
        }
    }

    #[test]
    fn other_bodies_are_none_of_ours() {
        for body in [
            "",
            "lt",
            "lt r1 ",
            "lt r1 1 2 3 4",
            "lt r1 1 2 3 4 5",
            "lt r2 1 2 3 4 5 x",
            "lt r1 1 999 3 4 5 x",
            "lt r1 a 2 3 4 5 ",
        ] {
            assert_eq!(Message::read(body.as_bytes(), "r1"), None, "{body}");
        }
    }
}
