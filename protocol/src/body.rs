//! What a message carries: any value, passed through as the bytes its sender wrote. It is parsed only where a
//! receiver speaks the other encoding, once per message.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::encoding::Encoding;
use crate::msgpack;

/// How deep arrays and maps of a body may be nested, so that no receiver's parser runs out of stack.
pub const DEPTH_MAX: usize = 64;

/// One complete value in one encoding; valid by construction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    encoding: Encoding,
    bytes: Bytes,
}

/// Why bytes are no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBody {
    #[error("is not one value of its encoding")]
    Malformed,
    #[error("is nested deeper than 64 levels")]
    TooDeep,
    #[error("has a map key that is neither a string nor an integer")]
    Key,
}

impl Body {
    /// Takes bytes that the frame's parser has found to be one value, after the checks that parser leaves out.
    ///
    /// # Errors
    /// See [`InvalidBody`].
    pub fn new(encoding: Encoding, bytes: &[u8]) -> Result<Self, InvalidBody> {
        match encoding {
            Encoding::Json => check_json(bytes)?,
            Encoding::Msgpack => {
                // Converting is the check; messages in this encoding are few and small.
                to_json(bytes)?;
            }
        }
        Ok(Body { encoding, bytes: Bytes::copy_from_slice(bytes) })
    }

    /// A text body.
    #[must_use]
    pub fn text(text: &str) -> Self {
        let json = serde_json::to_vec(text).expect("a string is always JSON");
        Body { encoding: Encoding::Json, bytes: Bytes::from(json) }
    }

    /// A body of any value that has a JSON form.
    #[must_use]
    pub fn json(value: &serde_json::Value) -> Self {
        let json = serde_json::to_vec(value).expect("a JSON value is always JSON");
        Body { encoding: Encoding::Json, bytes: Bytes::from(json) }
    }

    #[must_use]
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Length as its sender wrote it.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// The text, if the body is a string.
    #[must_use]
    pub fn as_text(&self) -> Option<String> {
        match self.encoding {
            Encoding::Json => serde_json::from_slice(&self.bytes).ok(),
            // Not by serde, which would take binary that happens to be UTF-8 for a string.
            Encoding::Msgpack => match msgpack::next(&self.bytes) {
                Some((msgpack::Token::Text(text), _)) => Some(text.to_owned()),
                _ => None,
            },
        }
    }

    /// The body in an encoding: its own bytes, or converted ones. Binary becomes base64 text in JSON, not-a-number
    /// and infinity become null, integer keys become text.
    #[must_use]
    pub fn to(&self, encoding: Encoding) -> Bytes {
        if encoding == self.encoding {
            return self.bytes.clone();
        }
        let converted = match self.encoding {
            Encoding::Json => to_msgpack(&self.bytes),
            Encoding::Msgpack => to_json(&self.bytes),
        };
        Bytes::from(converted.expect("a body was checked to be convertible when it was taken"))
    }
}

/// Checks what `RawValue` leaves open: depth, lone surrogates, numbers beyond a double. One pass over the
/// bytes; only a suspicious body is parsed.
fn check_json(bytes: &[u8]) -> Result<(), InvalidBody> {
    let (mut depth, mut in_string, mut number, mut suspicious) = (0_usize, false, 0_usize, false);
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        if in_string {
            match byte {
                b'\\' => {
                    suspicious |= bytes.get(at + 1) == Some(&b'u');
                    at += 1;
                }
                b'"' => in_string = false,
                _ => {}
            }
        } else {
            match byte {
                b'"' => in_string = true,
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            number = if byte.is_ascii_digit() || byte == b'.' { number + 1 } else { 0 };
            suspicious |=
                byte == b'E' || (byte == b'e' && at > 0 && bytes[at - 1].is_ascii_digit()) || number > 15;
            if depth > DEPTH_MAX {
                return Err(InvalidBody::TooDeep);
            }
        }
        at += 1;
    }
    if suspicious { to_msgpack(bytes).map(drop) } else { Ok(()) }
}

fn to_msgpack(json: &[u8]) -> Result<Vec<u8>, InvalidBody> {
    let mut out = Vec::with_capacity(json.len());
    let mut parser = serde_json::Deserializer::from_slice(json);
    JsonToMsgpack(&mut out).deserialize(&mut parser).map_err(|_| InvalidBody::Malformed)?;
    parser.end().map_err(|_| InvalidBody::Malformed)?;
    Ok(out)
}

/// Writes each JSON value the parser meets as MessagePack.
struct JsonToMsgpack<'a>(&'a mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for JsonToMsgpack<'_> {
    type Value = ();
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for JsonToMsgpack<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        msgpack::write_nil(self.0);
        Ok(())
    }
    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        msgpack::write_bool(self.0, value);
        Ok(())
    }
    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        msgpack::write_u64(self.0, value);
        Ok(())
    }
    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        msgpack::write_i64(self.0, value);
        Ok(())
    }
    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        msgpack::write_f64(self.0, value);
        Ok(())
    }
    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        msgpack::write_str(self.0, value);
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let (mut count, mut inner) = (0_u32, Vec::new());
        while items.next_element_seed(JsonToMsgpack(&mut inner))?.is_some() {
            count += 1;
        }
        msgpack::write_array_len(self.0, count);
        self.0.extend_from_slice(&inner);
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let (mut count, mut inner) = (0_u32, Vec::new());
        while entries.next_key_seed(JsonToMsgpack(&mut inner))?.is_some() {
            entries.next_value_seed(JsonToMsgpack(&mut inner))?;
            count += 1;
        }
        msgpack::write_map_len(self.0, count);
        self.0.extend_from_slice(&inner);
        Ok(())
    }
}

fn to_json(packed: &[u8]) -> Result<Vec<u8>, InvalidBody> {
    let mut out = String::with_capacity(packed.len() * 2);
    let rest = write_json(packed, &mut out, 0)?;
    if rest.is_empty() { Ok(out.into_bytes()) } else { Err(InvalidBody::Malformed) }
}

fn push_text(out: &mut String, text: &str) {
    out.push_str(&serde_json::to_string(text).expect("a string is always JSON"));
}

fn write_json<'a>(packed: &'a [u8], out: &mut String, depth: usize) -> Result<&'a [u8], InvalidBody> {
    use msgpack::Token;
    if depth > DEPTH_MAX {
        return Err(InvalidBody::TooDeep);
    }
    let (token, mut rest) = msgpack::next(packed).ok_or(InvalidBody::Malformed)?;
    match token {
        Token::Nil => out.push_str("null"),
        Token::Bool(value) => out.push_str(if value { "true" } else { "false" }),
        Token::Unsigned(value) => _ = write!(out, "{value}"),
        Token::Signed(value) => _ = write!(out, "{value}"),
        Token::Float(value) => match serde_json::Number::from_f64(value) {
            Some(number) => _ = write!(out, "{number}"),
            None => out.push_str("null"),
        },
        Token::Text(text) => push_text(out, text),
        Token::Binary(bytes) | Token::Extension(_, bytes) => push_text(out, &BASE64.encode(bytes)),
        Token::Array(count) => {
            out.push('[');
            for i in 0..count {
                if i > 0 {
                    out.push(',');
                }
                rest = write_json(rest, out, depth + 1)?;
            }
            out.push(']');
        }
        Token::Map(count) => {
            out.push('{');
            for i in 0..count {
                if i > 0 {
                    out.push(',');
                }
                let (key, after) = msgpack::next(rest).ok_or(InvalidBody::Malformed)?;
                match key {
                    Token::Text(text) => push_text(out, text),
                    Token::Unsigned(value) => _ = write!(out, "\"{value}\""),
                    Token::Signed(value) => _ = write!(out, "\"{value}\""),
                    _ => return Err(InvalidBody::Key),
                }
                out.push(':');
                rest = write_json(after, out, depth + 1)?;
            }
            out.push('}');
        }
    }
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_bodies_are_refused() {
        let deep = "[".repeat(65) + &"]".repeat(65);
        assert_eq!(Body::new(Encoding::Json, deep.as_bytes()), Err(InvalidBody::TooDeep));
        let fine = "[".repeat(64) + &"]".repeat(64);
        assert!(Body::new(Encoding::Json, fine.as_bytes()).is_ok());
        for bad in [r#""\ud800""#, "1e999", "-1e400", &"9".repeat(400)] {
            assert_eq!(Body::new(Encoding::Json, bad.as_bytes()), Err(InvalidBody::Malformed), "{bad}");
        }
        for good in [r#""\u00e9""#, r#""\ud83e\udd80""#, "1e9", "18446744073709551616", r#"{"e":"1e999"}"#] {
            assert!(Body::new(Encoding::Json, good.as_bytes()).is_ok(), "{good}");
        }
        let mut deep = vec![0x91; 65];
        deep.push(0xc0);
        assert_eq!(Body::new(Encoding::Msgpack, &deep), Err(InvalidBody::TooDeep));
        assert_eq!(Body::new(Encoding::Msgpack, &[0x81, 0xc0, 0xc0]), Err(InvalidBody::Key));
        assert_eq!(
            Body::new(Encoding::Msgpack, &[0xdd, 0xff, 0xff, 0xff, 0xff]),
            Err(InvalidBody::Malformed)
        );
    }

    #[test]
    fn binary_passes_through_and_becomes_base64_in_json() {
        let body = Body::new(Encoding::Msgpack, &[0x81, 0xa1, b'b', 0xc4, 2, 0xff, 0x00]).unwrap();
        assert_eq!(body.to(Encoding::Json), r#"{"b":"/wA="}"#);
        assert_eq!(body.to(Encoding::Msgpack).as_ref(), [0x81, 0xa1, b'b', 0xc4, 2, 0xff, 0x00]);
    }

    fn value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<u64>().prop_map(Into::into),
            (-1e9..1e9_f64).prop_map(Into::into),
            ".*".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
                prop::collection::btree_map(".{0,8}", inner, 0..6)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_body_survives_the_other_encoding_and_back(value in value()) {
            let json = Body::json(&value);
            let packed = Body::new(Encoding::Msgpack, &json.to(Encoding::Msgpack)).unwrap();
            let back: serde_json::Value = serde_json::from_slice(&packed.to(Encoding::Json)).unwrap();
            prop_assert_eq!(back, value);
        }

        #[test]
        fn any_accepted_bytes_convert(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(body) = Body::new(Encoding::Msgpack, &bytes) {
                let json = body.to(Encoding::Json);
                prop_assert!(serde_json::from_slice::<serde_json::Value>(&json).is_ok());
            }
        }
    }
}
