//! The little of MessagePack that the service reads and writes by hand: one token at a time, without trust.

use rmp::Marker;

/// One step of a MessagePack stream; arrays and maps are followed by that many values or pairs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Token<'a> {
    Nil,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(&'a str),
    Binary(&'a [u8]),
    Extension(i8, &'a [u8]),
    Array(u32),
    Map(u32),
}

fn take<const N: usize>(bytes: &[u8]) -> Option<([u8; N], &[u8])> {
    bytes.split_first_chunk::<N>().map(|(head, rest)| (*head, rest))
}

/// Reads one token, and gives what follows it. `None`: the bytes end too early or are not MessagePack.
pub(crate) fn next(bytes: &[u8]) -> Option<(Token<'_>, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    macro_rules! number {
        ($kind:ident, $type:ty) => {{
            let (raw, rest) = take::<{ size_of::<$type>() }>(rest)?;
            Some((Token::$kind(<$type>::from_be_bytes(raw).into()), rest))
        }};
    }
    macro_rules! length {
        ($type:ty) => {{
            let (raw, rest) = take::<{ size_of::<$type>() }>(rest)?;
            (<$type>::from_be_bytes(raw) as usize, rest)
        }};
    }
    fn text((length, rest): (usize, &[u8])) -> Option<(Token<'_>, &[u8])> {
        let (text, rest) = rest.split_at_checked(length)?;
        Some((Token::Text(std::str::from_utf8(text).ok()?), rest))
    }
    fn binary((length, rest): (usize, &[u8])) -> Option<(Token<'_>, &[u8])> {
        let (bytes, rest) = rest.split_at_checked(length)?;
        Some((Token::Binary(bytes), rest))
    }
    fn extension((length, rest): (usize, &[u8])) -> Option<(Token<'_>, &[u8])> {
        let (&kind, rest) = rest.split_first()?;
        let (bytes, rest) = rest.split_at_checked(length)?;
        Some((Token::Extension(i8::from_be_bytes([kind]), bytes), rest))
    }
    match Marker::from_u8(first) {
        Marker::Null => Some((Token::Nil, rest)),
        Marker::False => Some((Token::Bool(false), rest)),
        Marker::True => Some((Token::Bool(true), rest)),
        Marker::FixPos(value) => Some((Token::Unsigned(value.into()), rest)),
        Marker::FixNeg(value) => Some((Token::Signed(value.into()), rest)),
        Marker::U8 => number!(Unsigned, u8),
        Marker::U16 => number!(Unsigned, u16),
        Marker::U32 => number!(Unsigned, u32),
        Marker::U64 => number!(Unsigned, u64),
        Marker::I8 => number!(Signed, i8),
        Marker::I16 => number!(Signed, i16),
        Marker::I32 => number!(Signed, i32),
        Marker::I64 => number!(Signed, i64),
        Marker::F32 => number!(Float, f32),
        Marker::F64 => number!(Float, f64),
        Marker::FixStr(length) => text((length.into(), rest)),
        Marker::Str8 => text(length!(u8)),
        Marker::Str16 => text(length!(u16)),
        Marker::Str32 => text(length!(u32)),
        Marker::Bin8 => binary(length!(u8)),
        Marker::Bin16 => binary(length!(u16)),
        Marker::Bin32 => binary(length!(u32)),
        Marker::FixExt1 => extension((1, rest)),
        Marker::FixExt2 => extension((2, rest)),
        Marker::FixExt4 => extension((4, rest)),
        Marker::FixExt8 => extension((8, rest)),
        Marker::FixExt16 => extension((16, rest)),
        Marker::Ext8 => extension(length!(u8)),
        Marker::Ext16 => extension(length!(u16)),
        Marker::Ext32 => extension(length!(u32)),
        Marker::FixArray(count) => Some((Token::Array(count.into()), rest)),
        Marker::Array16 => take(rest).map(|(raw, rest)| (Token::Array(u16::from_be_bytes(raw).into()), rest)),
        Marker::Array32 => take(rest).map(|(raw, rest)| (Token::Array(u32::from_be_bytes(raw)), rest)),
        Marker::FixMap(count) => Some((Token::Map(count.into()), rest)),
        Marker::Map16 => take(rest).map(|(raw, rest)| (Token::Map(u16::from_be_bytes(raw).into()), rest)),
        Marker::Map32 => take(rest).map(|(raw, rest)| (Token::Map(u32::from_be_bytes(raw)), rest)),
        Marker::Reserved => None,
    }
}

/// Splits one whole value off the front. Needs no recursion: it counts the values still owed.
pub(crate) fn split_value(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut owed, mut rest) = (1_u64, bytes);
    while owed > 0 {
        let (token, after) = next(rest)?;
        rest = after;
        owed -= 1;
        match token {
            Token::Array(count) => owed += u64::from(count),
            Token::Map(count) => owed += 2 * u64::from(count),
            _ => {}
        }
        // Every owed value needs at least one byte: a lying count ends here, not after four billion steps.
        if owed > rest.len() as u64 {
            return None;
        }
    }
    Some(bytes.split_at(bytes.len() - rest.len()))
}

const IN_MEMORY: &str = "writing to memory cannot fail";

pub(crate) fn write_nil(out: &mut Vec<u8>) {
    rmp::encode::write_nil(out).expect(IN_MEMORY);
}
pub(crate) fn write_bool(out: &mut Vec<u8>, value: bool) {
    rmp::encode::write_bool(out, value).expect(IN_MEMORY);
}
pub(crate) fn write_u64(out: &mut Vec<u8>, value: u64) {
    rmp::encode::write_uint(out, value).expect(IN_MEMORY);
}
pub(crate) fn write_i64(out: &mut Vec<u8>, value: i64) {
    rmp::encode::write_sint(out, value).expect(IN_MEMORY);
}
pub(crate) fn write_f64(out: &mut Vec<u8>, value: f64) {
    rmp::encode::write_f64(out, value).expect(IN_MEMORY);
}
pub(crate) fn write_str(out: &mut Vec<u8>, value: &str) {
    rmp::encode::write_str(out, value).expect(IN_MEMORY);
}
pub(crate) fn write_array_len(out: &mut Vec<u8>, count: u32) {
    rmp::encode::write_array_len(out, count).expect(IN_MEMORY);
}
pub(crate) fn write_map_len(out: &mut Vec<u8>, count: u32) {
    rmp::encode::write_map_len(out, count).expect(IN_MEMORY);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_give_a_value_or_none(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some((value, rest)) = split_value(&bytes) {
                prop_assert_eq!(value.len() + rest.len(), bytes.len());
                prop_assert!(!value.is_empty());
            }
        }
    }

    #[test]
    fn a_lying_count_ends_at_once() {
        assert_eq!(split_value(&[0xdf, 0xff, 0xff, 0xff, 0xff, 0xc0]), None);
        assert_eq!(split_value(&[0x92, 1, 2, 3]), Some((&[0x92, 1, 2][..], &[3][..])));
    }
}
