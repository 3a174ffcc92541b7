//! The format of a batch on the relay, version 1. All numbers are LEB128 varints:
//!
//! `version flags name-length name incarnation destination generation top`
//! `[acknowledged: generation adoption number] [missing: count (start length)…] [data: number (length bytes)…]`
//!
//! Every batch says who it is from, for which run of the destination it is meant (0: not known), and up to which
//! number its sender has published; acknowledgement, missing numbers and messages ride along.

use std::ops::Range;

use bytes::{Buf, Bytes};
use mlms_protocol::{Incarnation, NodeName};

/// The format that this release writes; it reads this one and the one before, so that a fleet may be mixed while it
/// rolls.
const VERSION: u8 = 1;
const VERSION_BEFORE: u8 = VERSION - 1;

const ASKS: u8 = 1;
const ACKNOWLEDGES: u8 = 2;
const MISSES: u8 = 4;
const DATA: u8 = 8;

/// Missing ranges in one batch; the rest is asked for once these are filled.
pub(super) const MISSING_MAX: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) from: NodeName,
    pub(super) incarnation: Incarnation,
    /// The destination's incarnation as far as the sender knows it.
    pub(super) destination: Option<Incarnation>,
    /// The generation of the sender's outgoing link; 0 when it sends nothing.
    pub(super) generation: u64,
    /// The highest number published in that generation; 0 before the first.
    pub(super) top: u64,
    /// The sender wants an answer.
    pub(super) asks: bool,
    pub(super) acknowledged: Option<Acknowledged>,
    /// Numbers of the other direction that the sender misses, in the acknowledged generation.
    pub(super) missing: Vec<Range<u64>>,
    pub(super) data: Option<Data>,
}

/// How far the other direction has been received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Acknowledged {
    pub(super) generation: u64,
    /// Grows when the receiver took up this generation again, having lost its state in between.
    pub(super) adoption: u64,
    /// Everything up to it has arrived.
    pub(super) number: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Data {
    pub(super) number: u64,
    pub(super) messages: Messages,
}

/// Messages one behind the other, each with its length in front; checked when decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Messages(Bytes);

impl Messages {
    /// Takes what [`put_message`] has written.
    pub(super) fn written(bytes: Bytes) -> Messages {
        Messages(bytes)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn checked(bytes: Bytes) -> Option<Messages> {
        let mut rest: &[u8] = &bytes;
        while !rest.is_empty() {
            let length = usize::try_from(read_varint(&mut rest)?).ok()?;
            rest = rest.get(length..)?;
        }
        Some(Messages(bytes))
    }
}

impl Iterator for Messages {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut rest: &[u8] = &self.0;
        let length = usize::try_from(read_varint(&mut rest)?).ok()?;
        let prefix = self.0.len() - rest.len();
        self.0.advance(prefix);
        Some(self.0.split_to(length))
    }
}

/// Why bytes are not a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    Version,
    Malformed,
}

impl Batch {
    pub(super) fn encode(&self) -> Bytes {
        let body = self.data.as_ref().map_or(0, |data| data.messages.len());
        let mut out = Vec::with_capacity(160 + 20 * self.missing.len() + body);
        let mut flags = 0;
        for (flag, set) in [
            (ASKS, self.asks),
            (ACKNOWLEDGES, self.acknowledged.is_some()),
            (MISSES, !self.missing.is_empty()),
            (DATA, self.data.is_some()),
        ] {
            flags |= if set { flag } else { 0 };
        }
        out.push(VERSION);
        out.push(flags);
        put_varint(&mut out, self.from.as_str().len() as u64);
        out.extend_from_slice(self.from.as_str().as_bytes());
        put_varint(&mut out, self.incarnation.0);
        put_varint(&mut out, self.destination.map_or(0, |incarnation| incarnation.0));
        put_varint(&mut out, self.generation);
        put_varint(&mut out, self.top);
        if let Some(acknowledged) = self.acknowledged {
            put_varint(&mut out, acknowledged.generation);
            put_varint(&mut out, acknowledged.adoption);
            put_varint(&mut out, acknowledged.number);
        }
        if !self.missing.is_empty() {
            put_varint(&mut out, self.missing.len() as u64);
            for range in &self.missing {
                put_varint(&mut out, range.start);
                put_varint(&mut out, range.end - range.start);
            }
        }
        if let Some(data) = &self.data {
            put_varint(&mut out, data.number);
            out.extend_from_slice(&data.messages.0);
        }
        Bytes::from(out)
    }

    pub(super) fn decode(bytes: &Bytes) -> Result<Batch, Unreadable> {
        match bytes.first() {
            Some(&(VERSION_BEFORE..=VERSION)) => read_batch(bytes).ok_or(Unreadable::Malformed),
            Some(_) => Err(Unreadable::Version),
            None => Err(Unreadable::Malformed),
        }
    }
}

/// A batch with other messages in the place of its own; `lower`: of the version before. For tests of mixed fleets.
pub(crate) fn aged_batch(bytes: &Bytes, lower: bool, message: impl Fn(&[u8]) -> Vec<u8>) -> Bytes {
    // What is no batch stays none.
    let Ok(mut batch) = Batch::decode(bytes) else { return bytes.clone() };
    if let Some(data) = &mut batch.data {
        let mut written = Vec::new();
        for payload in data.messages.clone() {
            put_message(&mut written, &message(&payload));
        }
        data.messages = Messages::written(written.into());
    }
    let mut out = batch.encode().to_vec();
    if lower {
        out[0] = VERSION_BEFORE;
    }
    out.into()
}

fn read_batch(bytes: &Bytes) -> Option<Batch> {
    let mut rest: &[u8] = bytes.get(1..)?;
    let (&flags, after_flags) = rest.split_first()?;
    rest = after_flags;
    if flags & !(ASKS | ACKNOWLEDGES | MISSES | DATA) != 0 {
        return None;
    }
    let has = |flag| flags & flag != 0;
    let name_length = usize::try_from(read_varint(&mut rest)?).ok()?;
    let (name, after_name) = rest.split_at_checked(name_length)?;
    rest = after_name;
    let from = NodeName::new(std::str::from_utf8(name).ok()?).ok()?;
    let incarnation = Incarnation(read_varint(&mut rest)?);
    let destination = Some(read_varint(&mut rest)?).filter(|&known| known != 0).map(Incarnation);
    let generation = read_varint(&mut rest)?;
    let top = read_varint(&mut rest)?;
    let acknowledged = match has(ACKNOWLEDGES) {
        true => Some(Acknowledged {
            generation: read_varint(&mut rest)?,
            adoption: read_varint(&mut rest)?,
            number: read_varint(&mut rest)?,
        }),
        false => None,
    };
    let missing = match has(MISSES) {
        true => read_missing(&mut rest)?,
        false => Vec::new(),
    };
    let data = match has(DATA) {
        true => {
            let number = read_varint(&mut rest)?;
            let messages = Messages::checked(bytes.slice(bytes.len() - rest.len()..))?;
            if generation == 0 || number == 0 || number > top {
                return None;
            }
            Some(Data { number, messages })
        }
        false if rest.is_empty() => None,
        false => return None,
    };
    // A number at the end of the range could not be counted on from.
    let countable = top < u64::MAX && acknowledged.is_none_or(|acknowledged| acknowledged.number < u64::MAX);
    countable.then_some(Batch {
        from,
        incarnation,
        destination,
        generation,
        top,
        asks: has(ASKS),
        acknowledged,
        missing,
        data,
    })
}

fn read_missing(rest: &mut &[u8]) -> Option<Vec<Range<u64>>> {
    let count = usize::try_from(read_varint(rest)?).ok()?;
    if count == 0 || count > MISSING_MAX {
        return None;
    }
    let mut missing = Vec::with_capacity(count);
    for _ in 0..count {
        let start = read_varint(rest)?;
        missing.push(start..start.checked_add(read_varint(rest)?)?);
    }
    Some(missing)
}

/// Appends a message with its length.
pub(super) fn put_message(out: &mut Vec<u8>, payload: &[u8]) {
    put_varint(out, payload.len() as u64);
    out.extend_from_slice(payload);
}

/// The bytes that [`put_message`] adds, at most.
pub(super) fn message_bytes(payload: &[u8]) -> usize {
    payload.len() + 10
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        // The low seven bits; more follow.
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Takes a number of at most ten bytes off the front.
fn read_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
