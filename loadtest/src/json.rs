//! The cheap reader of frames: one pass over an object's top level, values left as raw text. It looks at no value that
//! is not asked for and allocates nothing, so that checking every delivery costs less than receiving it.

use memchr::memchr2;

/// A frame from the server; values as they stand, strings with their quotes.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) ev: Option<&'a [u8]>,
    pub(crate) id: Option<&'a [u8]>,
    pub(crate) ok: Option<&'a [u8]>,
    pub(crate) err: Option<&'a [u8]>,
    pub(crate) lobby: Option<&'a [u8]>,
    pub(crate) epoch: Option<&'a [u8]>,
    pub(crate) seq: Option<&'a [u8]>,
    pub(crate) kind: Option<&'a [u8]>,
    pub(crate) from: Option<&'a [u8]>,
    pub(crate) nonce: Option<&'a [u8]>,
    pub(crate) body: Option<&'a [u8]>,
    pub(crate) user: Option<&'a [u8]>,
    pub(crate) dropped: Option<&'a [u8]>,
}

impl<'a> Frame<'a> {
    /// Reads one object; `None`: it is none.
    pub(crate) fn read(text: &'a [u8]) -> Option<Frame<'a>> {
        let mut frame = Frame::default();
        let whole = fields(text, |key, value| {
            let place = match key {
                b"ev" => &mut frame.ev,
                b"id" => &mut frame.id,
                b"ok" => &mut frame.ok,
                b"err" => &mut frame.err,
                b"lobby" => &mut frame.lobby,
                b"epoch" => &mut frame.epoch,
                b"seq" => &mut frame.seq,
                b"kind" => &mut frame.kind,
                b"from" => &mut frame.from,
                b"nonce" => &mut frame.nonce,
                b"body" => &mut frame.body,
                b"user" => &mut frame.user,
                b"dropped" => &mut frame.dropped,
                _ => return,
            };
            *place = Some(value);
        });
        whole.then_some(frame)
    }
}

/// Calls back for every field of an object; false: it is no whole object.
pub(crate) fn fields<'a>(text: &'a [u8], mut field: impl FnMut(&'a [u8], &'a [u8])) -> bool {
    let mut at = space(text, 0);
    if text.get(at) != Some(&b'{') {
        return false;
    }
    at = space(text, at + 1);
    if text.get(at) == Some(&b'}') {
        return space(text, at + 1) == text.len();
    }
    loop {
        let Some(key_end) = string_end(text, at) else { return false };
        let key = &text[at + 1..key_end - 1];
        at = space(text, key_end);
        if text.get(at) != Some(&b':') {
            return false;
        }
        at = space(text, at + 1);
        let Some(value_end) = value_end(text, at) else { return false };
        field(key, &text[at..value_end]);
        at = space(text, value_end);
        match text.get(at) {
            Some(b',') => at = space(text, at + 1),
            Some(b'}') => return space(text, at + 1) == text.len(),
            _ => return false,
        }
    }
}

/// What stands between the quotes; escapes are left.
pub(crate) fn unquoted(value: &[u8]) -> Option<&[u8]> {
    value.strip_prefix(b"\"")?.strip_suffix(b"\"")
}

/// A whole number from 0.
pub(crate) fn number(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 20 {
        return None;
    }
    value.iter().try_fold(0u64, |sum, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit < 10).then(|| sum.checked_mul(10)?.checked_add(u64::from(digit)))?
    })
}

fn space(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
        at += 1;
    }
    at
}

/// Where the string that begins at `at` ends, behind its quote.
fn string_end(text: &[u8], at: usize) -> Option<usize> {
    if text.get(at) != Some(&b'"') {
        return None;
    }
    let mut from = at + 1;
    loop {
        let found = from + memchr2(b'"', b'\\', text.get(from..)?)?;
        if text[found] == b'"' {
            return Some(found + 1);
        }
        from = found + 2;
    }
}

fn value_end(text: &[u8], at: usize) -> Option<usize> {
    match text.get(at)? {
        b'"' => string_end(text, at),
        b'{' | b'[' => {
            let mut depth = 0usize;
            let mut place = at;
            loop {
                match text.get(place)? {
                    b'"' => {
                        place = string_end(text, place)?;
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                place += 1;
                if depth == 0 {
                    return Some(place);
                }
            }
        }
        b',' | b'}' | b']' | b':' => None,
        _ => {
            let rest = &text[at..];
            let end = rest
                .iter()
                .position(|byte| matches!(byte, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t'));
            Some(at + end?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_whatever_the_order_of_its_fields() {
        let text = br#" {"body":"a \"b\" {","x":[{"seq":9},"]"], "seq" : 42 ,"ev":"message","from":null}"#;
        let frame = Frame::read(text).unwrap();
        assert_eq!(frame.ev, Some(&b"\"message\""[..]));
        assert_eq!(frame.seq.and_then(number), Some(42));
        assert_eq!(frame.body.and_then(unquoted), Some(&br#"a \"b\" {"#[..]));
        assert_eq!(frame.from, Some(&b"null"[..]));
    }

    #[test]
    fn what_is_no_whole_object_is_refused() {
        for text in [
            "",
            "{",
            "[]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1",
            "{\"a\":\"\\\"}",
            "{\"a\":1}x",
            "{\"a\":[1}",
            "{1:2}",
        ] {
            assert_eq!(Frame::read(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Frame::read(b"{}"), Some(Frame::default()));
    }

    #[test]
    fn numbers_are_whole_and_fit() {
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        for text in ["", "-1", "1.0", "18446744073709551616", "\"1\"", "null"] {
            assert_eq!(number(text.as_bytes()), None, "{text}");
        }
    }
}
