//! The same in MessagePack, where lengths may lie, too; and how such a frame is put together.

use mlms_protocol::Encoding;
use mlms_protocol::ErrorCode::{BadRequest, UnknownOp};

use super::Outcome::{self, Accepted, Protocol, Refused};
use super::decode;

pub(super) fn double(number: f64) -> Vec<u8> {
    [&[0xcb][..], &number.to_be_bytes()].concat()
}

/// A MessagePack map of fields already packed.
pub(super) fn packed(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut frame = vec![0x80 | u8::try_from(fields.len()).unwrap()];
    for (key, value) in fields {
        rmp::encode::write_str(&mut frame, key).unwrap();
        frame.extend_from_slice(value);
    }
    frame
}

/// A map with more fields than any frame has, and then these.
pub(super) fn packed_many(count: u16, fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut frame = vec![0xde];
    frame.extend((count + u16::try_from(fields.len()).unwrap()).to_be_bytes());
    for number in 0..count {
        frame.extend(text(&format!("f{number}")));
        frame.push(0xc0);
    }
    for (key, value) in fields {
        frame.extend(text(key));
        frame.extend_from_slice(value);
    }
    frame
}

pub(super) fn text(text: &str) -> Vec<u8> {
    rmp_serde::to_vec(text).unwrap()
}

#[test]
fn msgpack_frames() {
    let (mine, nobody) = (Refused(Some(7), BadRequest), Refused(None, BadRequest));
    let ping = text("ping");
    let op = |name: &str, more: &[(&str, &[u8])]| {
        let name = text(name);
        let mut fields: Vec<(&str, &[u8])> = vec![("id", &[7]), ("op", &name)];
        fields.extend_from_slice(more);
        packed(&fields)
    };
    let with_id = |id: &[u8]| packed(&[("id", id), ("op", &ping)]);
    let lobby = text("a");
    let game = text("game");
    let chat = text("chat");
    let send = |kind: &[u8], body: &[u8]| op("send", &[("lobby", &lobby), ("kind", kind), ("body", body)]);
    let nested = |marker: u8, levels: usize| {
        let mut value = vec![marker; levels];
        value.push(0xc0);
        value
    };
    let mut trailing = op("ping", &[]);
    trailing.push(0xc0);
    let deep_metadata = {
        let mut settings = packed(&[("metadata", &packed(&[("x", &nested(0x91, 900))]))]);
        settings.shrink_to_fit();
        settings
    };
    let cases: Vec<(Vec<u8>, Outcome)> = vec![
        // Not one map with text keys and a text `op`.
        (vec![], Protocol),
        (vec![0xc0], Protocol),
        (vec![0xc1], Protocol),
        (vec![0x80], Protocol),
        (vec![0x90], Protocol),
        (text("ping"), Protocol),
        (b"{\"op\":\"ping\"}".to_vec(), Protocol),
        (packed(&[("id", &[7])]), Protocol),
        (packed(&[("op", &[7])]), Protocol),
        (packed(&[("op", &[0xc0])]), Protocol),
        (packed(&[("op", &[0xa2, 0xff, 0xfe])]), Protocol),
        (vec![0x81, 0x01, 0xa4, b'p', b'i', b'n', b'g'], Protocol),
        (vec![0x81, 0xc4, 2, b'o', b'p', 0xa4, b'p', b'i', b'n', b'g'], Protocol),
        (vec![0x82, 0xa2, b'o', b'p', 0xa4, b'p', b'i', b'n', b'g', 0xc0, 0xc0], Protocol),
        (trailing, Protocol),
        // Lengths that lie.
        (vec![0x82, 0xa2, b'o', b'p', 0xa4, b'p', b'i', b'n', b'g'], Protocol),
        (vec![0x8f], Protocol),
        (vec![0xde, 0xff, 0xff], Protocol),
        (packed_many(70, &[]), Protocol),
        (vec![0xdf, 0xff, 0xff, 0xff, 0xff], Protocol),
        (vec![0x81, 0xdb, 0xff, 0xff, 0xff, 0xff, b'o', b'p'], Protocol),
        (op("ping", &[("x", &[0xdb, 0xff, 0xff, 0xff, 0xff])]), Protocol),
        (op("ping", &[("x", &[0xc6, 0xff, 0xff, 0xff, 0xff])]), Protocol),
        (op("ping", &[("x", &[0xc9, 0xff, 0xff, 0xff, 0xff, 0x01])]), Protocol),
        (op("ping", &[("x", &[0xdd, 0xff, 0xff, 0xff, 0xff])]), Protocol),
        (op("ping", &[("x", &[0xdf, 0xff, 0xff, 0xff, 0xff])]), Protocol),
        (op("ping", &[("x", &[0xc1])]), Protocol),
        // Fine, if odd.
        (op("ping", &[]), Accepted),
        (with_id(&[0xcf, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]), Accepted),
        (with_id(&[0xd3, 0, 0, 0, 0, 0, 0, 0, 7]), Accepted),
        (with_id(&[0xc0]), Accepted),
        (op("ping", &[("x", &nested(0x91, 10_000))]), Accepted),
        // The id.
        (with_id(&[0xcf, 0, 0, 0, 1, 0, 0, 0, 0]), nobody.clone()),
        (with_id(&[0xff]), nobody.clone()),
        (with_id(&double(7.0)), Accepted),
        (with_id(&double(7.5)), nobody.clone()),
        (with_id(&[0xa1, b'7']), nobody.clone()),
        (with_id(&nested(0x91, 10_000)), nobody),
        // The rest.
        (op("nope", &[]), Refused(Some(7), UnknownOp)),
        (op("leave", &[]), mine.clone()),
        (op("leave", &[("lobby", &[7])]), mine.clone()),
        (op("leave", &[("lobby", &nested(0x91, 10_000))]), mine.clone()),
        (send(&chat, &text("x")), Accepted),
        (send(&chat, &[0xc4, 1, b'x']), mine.clone()),
        (send(&chat, &[0x91, 0xa1, b'x']), mine.clone()),
        (send(&game, &[0xc4, 1, 0xff]), Accepted),
        (send(&game, &[0xcb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0]), Accepted),
        (send(&game, &[0x81, 0x01, 0x02]), Accepted),
        (send(&game, &[0x81, 0xc0, 0x02]), mine.clone()),
        (send(&game, &nested(0x91, 64)), Accepted),
        (send(&game, &nested(0x91, 65)), mine.clone()),
        (send(&game, &nested(0x91, 10_000)), mine.clone()),
        (op("send", &[("lobby", &lobby), ("kind", &game), ("body", &[1]), ("class", &[0])]), mine.clone()),
        (op("join", &[("lobby", &lobby), ("role", &[2])]), mine.clone()),
        (op("join", &[("lobby", &lobby), ("create", &[0xc4, 0])]), mine.clone()),
        (op("join", &[("lobby", &lobby), ("create", &deep_metadata)]), mine.clone()),
        (op("join", &[("lobby", &lobby), ("create", &nested(0x91, 10_000))]), mine.clone()),
        (op("resume", &[("lobbies", &[0xdd, 0, 0, 0, 1, 0xc0])]), mine.clone()),
        (op("resume", &[("lobbies", &[0x90])]), Accepted),
        (
            op("resume", &[("lobbies", &[0x91, 0x81, 0xa5, b'l', b'o', b'b', b'b', b'y', 0xa1, b'a'])]),
            Accepted,
        ),
        (packed_many(70, &[("op", &ping), ("id", &[7])]), mine),
    ];
    for (frame, expected) in cases {
        let shown = &frame[..frame.len().min(80)];
        assert_eq!(decode(Encoding::Msgpack, &frame), expected, "{shown:02x?}");
    }
}
