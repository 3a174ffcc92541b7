//! Reads one object of either encoding into its fields, each still in raw bytes. Everything that arrives over
//! a socket passes here first.

use std::borrow::Cow;

use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::body::{Body, DEPTH_MAX, InvalidBody};
use crate::encoding::Encoding;
use crate::msgpack::{self, Token};

/// More fields than any frame has. Of an object with more only [`ENVELOPE`] is kept: enough to say so to its sender.
pub const FIELDS_MAX: usize = 64;
/// Up to here every whole number has a double of its own.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
/// The fields by which a frame is answered.
const ENVELOPE: [&str; 3] = ["id", "op", "lobby"];

/// The fields of one object, borrowed from the frame.
#[derive(Debug)]
pub struct Fields<'a> {
    encoding: Encoding,
    entries: Vec<(Cow<'a, str>, &'a [u8])>,
    too_many: bool,
}

/// The fields that are kept while an object is read.
struct Kept<'a> {
    entries: Vec<(Cow<'a, str>, &'a [u8])>,
    too_many: bool,
}

impl<'a> Kept<'a> {
    fn push(&mut self, key: Cow<'a, str>, value: &'a [u8]) {
        if !self.too_many && self.entries.len() < FIELDS_MAX {
            return self.entries.push((key, value));
        }
        if !self.too_many {
            self.too_many = true;
            self.entries.retain(|(key, _)| ENVELOPE.contains(&key.as_ref()));
        }
        if ENVELOPE.contains(&key.as_ref()) {
            self.entries.retain(|(known, _)| *known != key);
            self.entries.push((key, value));
        }
    }
}

/// The bytes are not one object of their encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the frame is not one object")]
pub struct NotAnObject;

/// A field that is missing or not what it should be; the text names it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    #[error("`{0}` is missing")]
    Missing(&'static str),
    #[error("`{0}` {1}")]
    Invalid(&'static str, String),
}

impl<'a> Fields<'a> {
    /// Splits a frame.
    ///
    /// # Errors
    /// Anything but exactly one object with text keys, and not more of them than [`FIELDS_MAX`].
    pub fn parse(encoding: Encoding, bytes: &'a [u8]) -> Result<Self, NotAnObject> {
        Self::parse_any(encoding, bytes)
            .and_then(|fields| if fields.too_many { Err(NotAnObject) } else { Ok(fields) })
    }

    /// Splits a frame that may have too many fields: then it is whole, and only what names it is kept.
    ///
    /// # Errors
    /// Anything but exactly one object with text keys.
    pub fn parse_any(encoding: Encoding, bytes: &'a [u8]) -> Result<Self, NotAnObject> {
        let Kept { entries, too_many } = match encoding {
            Encoding::Json => serde_json::from_slice::<JsonFields<'a>>(bytes).map_err(|_| NotAnObject)?.0,
            Encoding::Msgpack => msgpack_fields(bytes).ok_or(NotAnObject)?,
        };
        Ok(Fields { encoding, entries, too_many })
    }

    /// Whether there were more fields than are kept.
    #[must_use]
    pub fn has_too_many(&self) -> bool {
        self.too_many
    }

    #[must_use]
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// A field's raw bytes; the last one counts where a key stands twice.
    #[must_use]
    pub fn raw(&self, name: &str) -> Option<&'a [u8]> {
        self.entries.iter().rev().find(|(key, _)| key == name).map(|(_, value)| *value)
    }

    /// Whether a field is there and not null.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.raw(name).is_some_and(|raw| !self.is_null(raw))
    }

    /// The names of all fields.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(key, _)| key.as_ref())
    }

    fn is_null(&self, raw: &[u8]) -> bool {
        match self.encoding {
            Encoding::Json => raw == b"null",
            Encoding::Msgpack => raw == [0xc0],
        }
    }

    /// A field's value; `None` when it is missing or null.
    ///
    /// # Errors
    /// The value is not a `T`.
    pub fn get<T: DeserializeOwned>(&self, name: &'static str) -> Result<Option<T>, FieldError> {
        let Some(raw) = self.raw(name).filter(|raw| !self.is_null(raw)) else { return Ok(None) };
        let parsed = match self.encoding {
            Encoding::Json => serde_json::from_slice(raw).map_err(|error| {
                // The position within one field tells a player nothing.
                let text = error.to_string();
                text.split(" at line ").next().unwrap_or_default().to_owned()
            }),
            Encoding::Msgpack => rmp_serde::from_slice(raw).map_err(|error| error.to_string()),
        };
        let parsed = parsed.or_else(|why| self.whole(raw).ok_or(why));
        parsed.map(Some).map_err(|why| FieldError::Invalid(name, format!("is not valid: {why}")))
    }

    /// A whole number in the clothes of a fraction, as languages write it that know one kind of numbers only.
    fn whole<T: DeserializeOwned>(&self, raw: &[u8]) -> Option<T> {
        let number = match self.encoding {
            Encoding::Json => serde_json::from_slice(raw).ok()?,
            Encoding::Msgpack => match msgpack::next(raw)? {
                (Token::Float(number), []) => number,
                _ => return None,
            },
        };
        let is_exact = f64::fract(number) == 0.0 && f64::abs(number) <= WHOLE_MAX;
        // Without a fraction: "5", "-5".
        is_exact.then(|| serde_json::from_str(&format!("{number:.0}")).ok()).flatten()
    }

    /// A field that must be there.
    ///
    /// # Errors
    /// It is missing, null, or not a `T`.
    pub fn need<T: DeserializeOwned>(&self, name: &'static str) -> Result<T, FieldError> {
        self.get(name)?.ok_or(FieldError::Missing(name))
    }

    /// A field of the application's own, kept in its parsed form; `None` when it is missing or null.
    ///
    /// # Errors
    /// It is no value that both encodings can carry, or nested deeper than a body may be: what is kept must also
    /// come out again of the journal and through every receiver's parser.
    pub fn value(&self, name: &'static str) -> Result<Option<Value>, FieldError> {
        match self.get::<Value>(name)? {
            Some(value) if !is_within_depth(&value, DEPTH_MAX) => {
                Err(FieldError::Invalid(name, InvalidBody::TooDeep.to_string()))
            }
            value => Ok(value),
        }
    }

    /// Like [`Fields::value`], for an object.
    ///
    /// # Errors
    /// As [`Fields::value`], or it is something else.
    pub fn map(&self, name: &'static str) -> Result<Option<Map<String, Value>>, FieldError> {
        match self.value(name)? {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(_) => Err(FieldError::Invalid(name, "is not an object".to_owned())),
        }
    }

    /// A field that is itself an object; `None` when it is missing or null.
    ///
    /// # Errors
    /// It is something else.
    pub fn nested(&self, name: &'static str) -> Result<Option<Fields<'a>>, FieldError> {
        let Some(raw) = self.raw(name).filter(|raw| !self.is_null(raw)) else { return Ok(None) };
        let inner = Fields::parse(self.encoding, raw);
        inner.map(Some).map_err(|_| FieldError::Invalid(name, "is not an object".to_owned()))
    }

    /// A field that is a list of objects; empty when it is missing or null.
    ///
    /// # Errors
    /// It is something else.
    pub fn list(&self, name: &'static str) -> Result<Vec<Fields<'a>>, FieldError> {
        let Some(raw) = self.raw(name).filter(|raw| !self.is_null(raw)) else { return Ok(Vec::new()) };
        let wrong = || FieldError::Invalid(name, "is not a list of objects".to_owned());
        let parse = |item| Fields::parse(self.encoding, item).map_err(|_| wrong());
        match self.encoding {
            Encoding::Json => {
                let items: Vec<&'a RawValue> = serde_json::from_slice(raw).map_err(|_| wrong())?;
                items.into_iter().map(|item| parse(item.get().as_bytes())).collect()
            }
            Encoding::Msgpack => {
                let (Token::Array(count), mut rest) = msgpack::next(raw).ok_or_else(wrong)? else {
                    return Err(wrong());
                };
                let mut items = Vec::new();
                for _ in 0..count {
                    let (item, after) = msgpack::split_value(rest).ok_or_else(wrong)?;
                    items.push(parse(item)?);
                    rest = after;
                }
                Ok(items)
            }
        }
    }

    /// A field whose value passes through as it is; null is a value.
    ///
    /// # Errors
    /// The value is nested too deep or cannot be written in the other encoding.
    pub fn body(&self, name: &'static str) -> Result<Option<Body>, FieldError> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        let body = Body::new(self.encoding, raw);
        body.map(Some).map_err(|why: InvalidBody| FieldError::Invalid(name, why.to_string()))
    }
}

/// Whether arrays and objects are nested at most this deep. Parsed values are bounded by their parser's own limit,
/// so the recursion is, too.
fn is_within_depth(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels > 0 && items.iter().all(|item| is_within_depth(item, levels - 1)),
        Value::Object(map) => levels > 0 && map.values().all(|item| is_within_depth(item, levels - 1)),
        _ => true,
    }
}

struct JsonFields<'a>(Kept<'a>);

impl<'de> serde::Deserialize<'de> for JsonFields<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = JsonFields<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut kept = Kept { entries: Vec::with_capacity(6), too_many: false };
                while let Some(Key(key)) = map.next_key()? {
                    let value: &'de RawValue = map.next_value()?;
                    kept.push(key, value.get().as_bytes());
                }
                Ok(JsonFields(kept))
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// A key, borrowed unless it holds escapes (`Cow` alone always copies).
struct Key<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Key<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

fn msgpack_fields(bytes: &[u8]) -> Option<Kept<'_>> {
    let (Token::Map(count), mut rest) = msgpack::next(bytes)? else { return None };
    let mut kept = Kept { entries: Vec::with_capacity((count as usize).min(FIELDS_MAX)), too_many: false };
    for _ in 0..count {
        let (Token::Text(key), after) = msgpack::next(rest)? else { return None };
        let (value, after) = msgpack::split_value(after)?;
        kept.push(Cow::Borrowed(key), value);
        rest = after;
    }
    rest.is_empty().then_some(kept)
}
