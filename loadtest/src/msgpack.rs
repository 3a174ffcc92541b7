//! MessagePack frames of `mlms.v1.msgpack`, to and from the JSON text of the same objects, so that one set of rules
//! judges both. Reading is by hand, one pass into memory that is used again.

use std::io::Write as _;

use memchr::memchr2;

/// Deepest nesting that is read.
const DEPTH_MAX: usize = 64;

/// Appends the JSON text of one object.
///
/// # Errors
/// What is wrong with the bytes, or has no place in a protocol of JSON's values.
pub(crate) fn to_json(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    let mut reader = Reader { rest: bytes, out };
    reader.value(DEPTH_MAX)?;
    if reader.rest.is_empty() { Ok(()) } else { Err("bytes behind the object") }
}

/// The MessagePack of a JSON text.
///
/// # Errors
/// It is no JSON.
pub(crate) fn from_json(text: &[u8]) -> Result<Vec<u8>, &'static str> {
    let value: serde_json::Value = serde_json::from_slice(text).map_err(|_| "no JSON")?;
    rmp_serde::to_vec(&value).map_err(|_| "no MessagePack")
}

struct Reader<'a, 'b> {
    rest: &'a [u8],
    out: &'b mut Vec<u8>,
}

impl<'a> Reader<'a, '_> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or("it ends too early")?;
        self.rest = rest;
        Ok(taken)
    }

    /// A number of `count` bytes, the highest first.
    fn number(&mut self, count: usize) -> Result<u64, &'static str> {
        Ok(self.take(count)?.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    fn length(&mut self, count: usize) -> Result<usize, &'static str> {
        usize::try_from(self.number(count)?).map_err(|_| "it is too long")
    }

    fn value(&mut self, depth: usize) -> Result<(), &'static str> {
        let marker = self.take(1)?[0];
        match marker {
            0x00..=0x7f => self.write(marker),
            0x80..=0x8f => self.map(usize::from(marker & 0x0f), depth),
            0x90..=0x9f => self.array(usize::from(marker & 0x0f), depth),
            0xa0..=0xbf => self.text(usize::from(marker & 0x1f)),
            0xc0 => self.word("null"),
            0xc2 => self.word("false"),
            0xc3 => self.word("true"),
            0xca => {
                let number = f32::from_bits(self.number(4)? as u32);
                self.float(f64::from(number))
            }
            0xcb => {
                let number = f64::from_bits(self.number(8)?);
                self.float(number)
            }
            0xcc..=0xcf => {
                let number = self.number(1 << (marker - 0xcc))?;
                self.write(number)
            }
            0xd0..=0xd3 => {
                let bytes = 1 << (marker - 0xd0);
                let unused = 64 - 8 * bytes as u32;
                // The sign is that of the number's own width.
                let number = (self.number(bytes)? << unused) as i64 >> unused;
                self.write(number)
            }
            0xd9..=0xdb => {
                let length = self.length(1 << (marker - 0xd9))?;
                self.text(length)
            }
            0xdc | 0xdd => {
                let length = self.length(2 << (marker - 0xdc))?;
                self.array(length, depth)
            }
            0xde | 0xdf => {
                let length = self.length(2 << (marker - 0xde))?;
                self.map(length, depth)
            }
            0xe0..=0xff => self.write(marker as i8),
            0xc1 | 0xc4..=0xc9 | 0xd4..=0xd8 => Err("a value that JSON does not have"),
        }
    }

    fn map(&mut self, length: usize, depth: usize) -> Result<(), &'static str> {
        let depth = depth.checked_sub(1).ok_or("it is nested too deeply")?;
        self.out.push(b'{');
        for index in 0..length {
            if index > 0 {
                self.out.push(b',');
            }
            if !matches!(self.rest.first(), Some(0xa0..=0xbf | 0xd9..=0xdb)) {
                return Err("a key is no text");
            }
            self.value(depth)?;
            self.out.push(b':');
            self.value(depth)?;
        }
        self.word("}")
    }

    fn array(&mut self, length: usize, depth: usize) -> Result<(), &'static str> {
        let depth = depth.checked_sub(1).ok_or("it is nested too deeply")?;
        self.out.push(b'[');
        for index in 0..length {
            if index > 0 {
                self.out.push(b',');
            }
            self.value(depth)?;
        }
        self.word("]")
    }

    fn text(&mut self, length: usize) -> Result<(), &'static str> {
        let text = self.take(length)?;
        if memchr2(b'"', b'\\', text).is_none() && text.iter().all(|byte| *byte >= 0x20) {
            self.out.push(b'"');
            self.out.extend_from_slice(text);
            self.out.push(b'"');
            return Ok(());
        }
        let text = std::str::from_utf8(text).map_err(|_| "a text is no UTF-8")?;
        serde_json::to_writer(&mut *self.out, text).map_err(|_| "memory takes it")
    }

    fn float(&mut self, number: f64) -> Result<(), &'static str> {
        serde_json::to_writer(&mut *self.out, &number).map_err(|_| "memory takes it")
    }

    fn write(&mut self, number: impl std::fmt::Display) -> Result<(), &'static str> {
        write!(self.out, "{number}").map_err(|_| "memory takes it")
    }

    fn word(&mut self, word: &str) -> Result<(), &'static str> {
        self.out.extend_from_slice(word.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(bytes: &[u8]) -> Result<Value, &'static str> {
        let mut out = Vec::new();
        to_json(bytes, &mut out)?;
        Ok(serde_json::from_slice(&out).unwrap())
    }

    #[test]
    fn what_another_encoder_wrote_is_read() {
        let long = "x".repeat(70_000);
        let many: Vec<u32> = (0..70_000).collect();
        for value in [
            json!({"ev": "message", "lobby": "a", "seq": 42, "epoch": 1, "from": null, "body": "a \"b\" \\ \n é"}),
            json!([0, 127, 128, 255, 256, 65_535, 65_536, u32::MAX, u64::MAX, true, false]),
            json!([-1, -32, -33, -128, -129, -32_768, -32_769, i64::MIN, 1.5, -0.25, 1e300]),
            json!({"x": long, "y": "y".repeat(200), "z": "z".repeat(300), "many": many, "none": {}, "empty": []}),
        ] {
            assert_eq!(read(&rmp_serde::to_vec(&value).unwrap()), Ok(value.clone()));
            assert_eq!(read(&from_json(value.to_string().as_bytes()).unwrap()), Ok(value));
        }
    }

    #[test]
    fn what_is_cut_or_foreign_is_refused() {
        let whole = rmp_serde::to_vec(&json!({"a": [1, "b", 70_000], "c": -5})).unwrap();
        assert!((0..whole.len()).all(|length| read(&whole[..length]).is_err()));
        let longer: Vec<u8> = whole.iter().copied().chain([0xc0]).collect();
        assert!(read(&longer).is_err());
        // Bytes, an extension, a number as a key, a map that says it has four thousand million entries, a tower.
        for bytes in
            [&[0xc4, 1, 0][..], &[0xd4, 1, 0], &[0x81, 1, 1], &[0xdf, 255, 255, 255, 255], &[0x91; 100]]
        {
            assert!(read(bytes).is_err(), "{bytes:?}");
        }
        assert!(from_json(b"{").is_err());
    }
}
