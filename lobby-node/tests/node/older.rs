//! What the release before makes of a message between nodes: it gives none of the fields that came since, and passes
//! over them where it reads. Works on the bytes, so that it shares nothing with the code that writes them.

use std::collections::BTreeMap;

/// The fields that came since, by the message that carries them.
const SINCE: [(&str, &[&str]); 3] =
    [("Command", &["of", "epoch", "after"]), ("Attach", &["joining"]), ("Moved", &["epoch"])];

/// A message as the release before writes it (`writes`: the format's version is one lower, too) or as it reads it.
/// `left_out` counts what was taken from it.
pub(crate) fn aged(message: &[u8], writes: bool, left_out: &mut BTreeMap<String, u64>) -> Vec<u8> {
    let (version, body) = message.split_first().expect("a message begins with its version");
    let mut out = vec![version - u8::from(writes)];
    let mut rest = Rest(body);
    rest.copy(None, &mut out, left_out);
    assert!(rest.0.is_empty(), "one value is all of it");
    out
}

/// MessagePack that is still to be read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    /// A number of so many bytes, the highest first.
    fn number(&mut self, bytes: usize) -> usize {
        self.take(bytes).iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
    }

    /// Copies one value; `of` is the key under which it stands.
    fn copy(&mut self, of: Option<&str>, out: &mut Vec<u8>, left_out: &mut BTreeMap<String, u64>) {
        let whole = self.0;
        let first = self.number(1);
        let plain = match first {
            0x00..=0x7f | 0xc0 | 0xc2 | 0xc3 | 0xe0..=0xff => 0,
            0x80..=0x8f => return self.copy_map(first & 0xf, of, out, left_out),
            0xde | 0xdf => {
                let count = self.number(2 << (first - 0xde));
                return self.copy_map(count, of, out, left_out);
            }
            0x90..=0x9f | 0xdc | 0xdd => {
                let count = if first < 0xa0 { first & 0xf } else { self.number(2 << (first - 0xdc)) };
                out.extend_from_slice(&whole[..whole.len() - self.0.len()]);
                for _ in 0..count {
                    self.copy(None, out, left_out);
                }
                return;
            }
            0xa0..=0xbf => first & 0x1f,
            0xc4..=0xc6 => self.number(1 << (first - 0xc4)),
            0xd9..=0xdb => self.number(1 << (first - 0xd9)),
            0xc7..=0xc9 => self.number(1 << (first - 0xc7)) + 1,
            0xd4..=0xd8 => (1 << (first - 0xd4)) + 1,
            0xca => 4,
            0xcb => 8,
            0xcc..=0xcf => 1 << (first - 0xcc),
            0xd0..=0xd3 => 1 << (first - 0xd0),
            _ => panic!("{first:#x} begins no value"),
        };
        self.take(plain);
        out.extend_from_slice(&whole[..whole.len() - self.0.len()]);
    }

    fn copy_map(
        &mut self,
        count: usize,
        of: Option<&str>,
        out: &mut Vec<u8>,
        left_out: &mut BTreeMap<String, u64>,
    ) {
        let since =
            SINCE.iter().find(|(message, _)| Some(*message) == of).map_or(&[][..], |(_, fields)| fields);
        let (mut kept, mut pairs) = (0_u32, Vec::new());
        for _ in 0..count {
            let (mut key, mut value) = (Vec::new(), Vec::new());
            self.copy(None, &mut key, left_out);
            let name = text(&key);
            self.copy(name, &mut value, left_out);
            match name.filter(|name| since.contains(name)) {
                Some(name) => *left_out.entry(format!("{}.{name}", of.unwrap_or(""))).or_default() += 1,
                None => {
                    kept += 1;
                    pairs.extend(key);
                    pairs.extend(value);
                }
            }
        }
        out.push(0xdf);
        out.extend(kept.to_be_bytes());
        out.extend(pairs);
    }
}

/// A key, if it is a text. None that matters here is longer than 31 bytes.
fn text(key: &[u8]) -> Option<&str> {
    let (first, text) = key.split_first()?;
    (0xa0..=0xbf).contains(first).then(|| std::str::from_utf8(text).ok())?
}
