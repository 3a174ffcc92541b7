//! What a hostile or broken client (or server) may send: always an error of the right class, never a panic.

use mlms_protocol::command::{DecodeError, Position};
use mlms_protocol::reply::ServerFrame;
use mlms_protocol::{Command, Encoding, Epoch, ErrorCode, Event, LobbyCommand, Request, Seq};
use proptest::prelude::*;

use crate::samples;

#[derive(Debug, Clone, PartialEq)]
enum Outcome {
    /// The session ends with 4501.
    Protocol,
    Refused(Option<u32>, ErrorCode),
    Accepted,
}
use ErrorCode::{BadRequest, UnknownOp};
use Outcome::{Accepted, Protocol, Refused};

fn decode(encoding: Encoding, frame: &[u8]) -> Outcome {
    match Request::decode(encoding, frame) {
        Ok(_) => Accepted,
        Err(DecodeError::Protocol) => Protocol,
        Err(DecodeError::Refused { id, code, message, op, .. }) => {
            assert!(!message.is_empty() && message.len() <= 1_000, "{} bytes of message", message.len());
            assert!(op.chars().count() <= 32);
            Refused(id, code)
        }
    }
}

#[test]
fn json_frames() {
    let (mine, nobody) = (Refused(Some(7), BadRequest), Refused(None, BadRequest));
    let deep = |open: &str, close: &str, levels| open.repeat(levels) + "1" + &close.repeat(levels);
    let many_fields = |count: usize| {
        let extra: String = (0..count).map(|i| format!(r#","f{i}":1"#)).collect();
        format!(r#"{{"id":7,"op":"ping"{extra}}}"#)
    };
    let cases: Vec<(String, Outcome)> = vec![
        // Not one object with a text `op`.
        (String::new(), Protocol),
        (" ".into(), Protocol),
        ("\0".into(), Protocol),
        ("null".into(), Protocol),
        ("[]".into(), Protocol),
        ("7".into(), Protocol),
        (r#""ping""#.into(), Protocol),
        ("{}".into(), Protocol),
        (r#"{"id":7}"#.into(), Protocol),
        (r#"{"id":7,"op":null}"#.into(), Protocol),
        (r#"{"id":7,"op":1}"#.into(), Protocol),
        (r#"{"id":7,"op":["ping"]}"#.into(), Protocol),
        (r#"{"op":"ping""#.into(), Protocol),
        (r#"{"op":"ping",}"#.into(), Protocol),
        (r#"{"op":"ping"}}"#.into(), Protocol),
        (r#"{"op":"ping"}{"op":"ping"}"#.into(), Protocol),
        (r#"{"op":"ping"} x"#.into(), Protocol),
        ("\u{feff}{\"op\":\"ping\"}".into(), Protocol),
        ("{'op':'ping'}".into(), Protocol),
        (r#"{op:"ping"}"#.into(), Protocol),
        (r#"{1:"ping"}"#.into(), Protocol),
        ("{\"op\":\"pi\nng\"}".into(), Protocol),
        (r#"{"op":"ping","x":NaN}"#.into(), Protocol),
        (r#"{"op":"ping","x":01}"#.into(), Protocol),
        (r#"{"\ud800":1,"op":"ping"}"#.into(), Protocol),
        (r#"{"op":"\ud800"}"#.into(), Protocol),
        ("[".repeat(10_000), Protocol),
        (deep("[", "]", 10_000), Protocol),
        (deep(r#"{"op":"#, "}", 10_000), Protocol),
        // Fine, if odd.
        (r#"{"op":"ping"}"#.into(), Accepted),
        (" \t\r\n{ \"op\" : \"ping\" } \n".into(), Accepted),
        (r#"{"\u006fp":"p\u0069ng"}"#.into(), Accepted),
        (r#"{"id":null,"op":"ping"}"#.into(), Accepted),
        (r#"{"id":4294967295,"op":"ping"}"#.into(), Accepted),
        (r#"{"op":"ping","":0,"new_field":{"a":[1]}}"#.into(), Accepted),
        (many_fields(62), Accepted),
        (format!(r#"{{"op":"ping","x":{}}}"#, deep("[", "]", 10_000)), Accepted),
        // A key that stands twice: the last counts.
        (r#"{"id":1,"id":7,"op":"nope","op":"ready","lobby":"a"}"#.into(), Refused(Some(7), BadRequest)),
        (r#"{"op":"ping","op":1}"#.into(), Protocol),
        // More fields than any command has, wherever those stand by which it is answered.
        (many_fields(63), mine.clone()),
        (many_fields(8_000), mine.clone()),
        (many_fields(8_000).replace("}", r#","id":8,"op":"nope"}"#), Refused(Some(8), BadRequest)),
        (
            many_fields(8_000).replace(r#""id":7,"op":"ping","#, "").replace("}", r#","op":"ping","id":7}"#),
            mine.clone(),
        ),
        (many_fields(8_000).replace("ping", "").replace(r#""op":"","#, ""), Protocol),
        (many_fields(8_000).replace("}", ""), Protocol),
        (
            format!("{},{}", many_fields(100).replace("}", ""), r#""id":1,"#.repeat(200) + r#""id":7}"#),
            mine.clone(),
        ),
        // A resume's entries are judged one by one, as long as they name a lobby.
        (r#"{"id":7,"op":"resume"}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"resume","lobbies":null}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"resume","lobbies":{}}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"resume","lobbies":[null]}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"resume","lobbies":[{"epoch":1,"seq":1}]}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"resume","lobbies":[{"lobby":"a b","epoch":1,"seq":1}]}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"resume","lobbies":[]}"#.into(), Accepted),
        (
            r#"{"id":7,"op":"resume","lobbies":[{"lobby":"a"},{"lobby":"b","epoch":1,"seq":"x"}]}"#.into(),
            Accepted,
        ),
        // The id.
        (r#"{"id":4294967296,"op":"ping"}"#.into(), nobody.clone()),
        (r#"{"id":-1,"op":"ping"}"#.into(), nobody.clone()),
        (r#"{"id":7.0,"op":"ping"}"#.into(), Accepted),
        (r#"{"id":7e0,"op":"ping"}"#.into(), Accepted),
        (r#"{"id":7.5,"op":"ping"}"#.into(), nobody.clone()),
        (r#"{"id":-7.0,"op":"ping"}"#.into(), nobody.clone()),
        (r#"{"id":1e300,"op":"ping"}"#.into(), nobody.clone()),
        (r#"{"id":"7","op":"ping"}"#.into(), nobody.clone()),
        (r#"{"id":[7],"op":"ping"}"#.into(), nobody.clone()),
        (r#"{"id":99999999999999999999999999,"op":"ping"}"#.into(), nobody),
        // The operation.
        (r#"{"id":7,"op":""}"#.into(), Refused(Some(7), UnknownOp)),
        (r#"{"id":7,"op":"Ping"}"#.into(), Refused(Some(7), UnknownOp)),
        (r#"{"id":7,"op":"ping\u0000"}"#.into(), Refused(Some(7), UnknownOp)),
        (r#"{"op":"__proto__"}"#.into(), Refused(None, UnknownOp)),
        (format!(r#"{{"id":7,"op":"{}"}}"#, "é".repeat(30_000)), Refused(Some(7), UnknownOp)),
        // The fields.
        (r#"{"id":7,"op":"leave"}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"leave","lobby":null}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"leave","lobby":""}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"leave","lobby":"a b"}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"leave","lobby":"a\u0000"}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"leave","lobby":7}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"leave","lobby":{"lobby":"a"}}"#.into(), mine.clone()),
        (format!(r#"{{"id":7,"op":"leave","lobby":"{}"}}"#, "a".repeat(65)), mine.clone()),
        (r#"{"id":7,"op":"leave","lobby":"a","nonce":""}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"leave","lobby":"a","nonce":7}"#.into(), mine.clone()),
        (format!(r#"{{"id":7,"op":"leave","lobby":"a","nonce":"{}"}}"#, "n".repeat(37)), mine.clone()),
        (r#"{"id":7,"op":"join","lobby":"a","create":1}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"join","lobby":"a","create":["The Lounge",4]}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"join","lobby":"a","create":{"capacity":-1}}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"join","lobby":"a","create":{"capacity":1.5}}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"join","lobby":"a","create":{"surprise":true}}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"join","lobby":"a","saved":"yes"}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"join","lobby":"a","role":"host"}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"join","lobby":"a","role":0}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"join","lobby":"a","since":{"epoch":-1,"seq":1e99}}"#.into(), Accepted),
        (
            format!(
                r#"{{"id":7,"op":"join","lobby":"a","create":{{"metadata":{{"x":{}}}}}}}"#,
                deep("[", "]", 100)
            ),
            mine.clone(),
        ),
        (
            format!(r#"{{"id":7,"op":"update","lobby":"a","attributes":{{"x":{}}}}}"#, deep("[", "]", 100)),
            mine.clone(),
        ),
        (r#"{"id":7,"op":"update","lobby":"a","attributes":[]}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"send","lobby":"a","kind":"chat"}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"send","lobby":"a","kind":"chat","body":null}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"send","lobby":"a","kind":"chat","body":7}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"send","lobby":"a","kind":"chat","body":"\ud800"}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"send","lobby":"a","kind":"chat","body":"\u0000"}"#.into(), Accepted),
        (r#"{"id":7,"op":"send","lobby":"a","kind":"Chat","body":"x"}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"send","lobby":"a","kind":"","body":"x"}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"send","lobby":"a","kind":"game","body":"\udc00\ud800"}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"send","lobby":"a","kind":"game","body":1e999}"#.into(), mine.clone()),
        (
            format!(r#"{{"id":7,"op":"send","lobby":"a","kind":"game","body":{}}}"#, deep("[", "]", 10_000)),
            mine.clone(),
        ),
        (r#"{"id":7,"op":"send","lobby":"a","kind":"game","body":{"a":1,"a":2}}"#.into(), Accepted),
        (r#"{"id":7,"op":"send","lobby":"a","kind":"game","body":1,"class":"best"}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"send","lobby":"a","kind":"game","body":1,"class":0}"#.into(), mine.clone()),
        (
            r#"{"id":7,"op":"send","lobby":"a","kind":"game","body":1,"class":{"durable":null}}"#.into(),
            mine.clone(),
        ),
        (r#"{"id":7,"op":"send","lobby":"a","kind":"game","body":1,"key":"k"}"#.into(), mine.clone()),
        (
            r#"{"id":7,"op":"send","lobby":"a","kind":"game","body":1,"class":"ephemeral","key":""}"#.into(),
            mine.clone(),
        ),
        (r#"{"id":7,"op":"send","lobby":"a","kind":"game","body":1,"to":"everyone"}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"send","lobby":"a","kind":"game","body":1,"to":[]}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"send","lobby":"a","kind":"game","body":1,"to":[1]}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"send","lobby":"a","kind":"game","body":1,"to":["a\u0007"]}"#.into(), mine.clone()),
        (
            format!(
                r#"{{"id":7,"op":"send","lobby":"a","kind":"game","body":1,"to":[{}"u"]}}"#,
                r#""u","#.repeat(100)
            ),
            mine.clone(),
        ),
        (
            r#"{"id":7,"op":"send","lobby":"a","kind":"chat","body":"x","to":["u"],"class":"durable"}"#
                .into(),
            mine.clone(),
        ),
        (r#"{"id":7,"op":"history","lobby":"a","limit":0}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"history","lobby":"a","limit":201}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"history","lobby":"a","limit":-5}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"history","lobby":"a","before":18446744073709551616}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"history","lobby":"a","before":1,"after":2}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"resume"}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"resume","lobbies":{}}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"resume","lobbies":[{"lobby":"a"}]}"#.into(), Accepted),
        (format!(r#"{{"id":7,"op":"resume","lobbies":{}}}"#, deep("[", "]", 10_000)), mine.clone()),
        (r#"{"id":7,"op":"auth"}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"find","filter":[]}"#.into(), mine.clone()),
        (format!(r#"{{"id":7,"op":"find","filter":{{"a":{}}}}}"#, deep("{\"a\":", "}", 100)), mine.clone()),
        (
            r#"{"id":7,"op":"report","lobby":"a","stat":"s","amount":9223372036854775808}"#.into(),
            mine.clone(),
        ),
        (r#"{"id":7,"op":"report","lobby":"a","stat":"s","amount":0.5}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"role","lobby":"a","user":"u"}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"ban","lobby":"a","user":"u","for_s":-1}"#.into(), mine.clone()),
        (r#"{"id":7,"op":"ban","lobby":"a","user":"u\n"}"#.into(), mine.clone()),
        // The message about a bad field does not carry the whole field back.
        (
            format!(r#"{{"id":7,"op":"ready","lobby":"a","ready":"{}"}}"#, "\\u0001".repeat(10_000)),
            mine.clone(),
        ),
        (format!(r#"{{"id":7,"op":"join","lobby":"a","create":{{"{}":1}}}}"#, "é".repeat(10_000)), mine),
    ];
    for (frame, expected) in cases {
        let shown: String = frame.chars().take(200).collect();
        assert_eq!(decode(Encoding::Json, frame.as_bytes()), expected, "{shown}");
    }
}

#[test]
fn a_whole_number_may_come_as_a_fraction_and_a_position_only_as_an_object() {
    let since = |since: &str| {
        let frame = format!(r#"{{"id":7.0,"op":"join","lobby":"a","since":{since}}}"#);
        let request = Request::decode(Encoding::Json, frame.as_bytes()).unwrap();
        assert_eq!(request.id, Some(7), "{since}");
        match request.command {
            Command::Lobby(_, LobbyCommand::Join(join)) => join.since,
            other => panic!("{other:?}"),
        }
    };
    let position = Some(Position { epoch: Epoch(3), seq: Seq(41) });
    assert_eq!(since(r#"{"epoch":3,"seq":41}"#), position);
    assert_eq!(since(r#"{"epoch":3.0,"seq":41e0,"more":1}"#), position);
    assert_eq!(since("null"), None);
    let nobodys = Some(Position { epoch: Epoch(u64::MAX), seq: Seq(u64::MAX) });
    for wrong in ["[3,41]", "[]", "7", "\"3\"", "{}", r#"{"epoch":3}"#, r#"{"epoch":3,"seq":41.5}"#] {
        assert_eq!(since(wrong), nobodys, "{wrong}");
    }
    // Doubles of MessagePack, as some libraries write every number.
    let history =
        packed(&[("id", &[0x07]), ("op", &text("history")), ("lobby", &text("a")), ("limit", &double(5.0))]);
    assert_eq!(decode(Encoding::Msgpack, &history), Outcome::Accepted);
    let history =
        packed(&[("id", &[0x07]), ("op", &text("history")), ("lobby", &text("a")), ("limit", &double(5.5))]);
    assert_eq!(decode(Encoding::Msgpack, &history), Outcome::Refused(Some(7), ErrorCode::BadRequest));
}

fn double(number: f64) -> Vec<u8> {
    [&[0xcb][..], &number.to_be_bytes()].concat()
}

#[test]
fn json_that_is_no_utf8() {
    for frame in [
        &b"{\"op\":\"\xff\"}"[..],
        b"{\"\xff\":1,\"op\":\"ping\"}",
        b"{\"op\":\"ping\",\"x\":\"\xc0\x80\"}",
        b"{\"op\":\"ping\",\"x\":\"\xed\xa0\x80\"}",
    ] {
        assert_eq!(decode(Encoding::Json, frame), Protocol);
    }
}

/// A MessagePack map of fields already packed.
fn packed(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut frame = vec![0x80 | u8::try_from(fields.len()).unwrap()];
    for (key, value) in fields {
        rmp::encode::write_str(&mut frame, key).unwrap();
        frame.extend_from_slice(value);
    }
    frame
}

/// A map with more fields than any frame has, and then these.
fn packed_many(count: u16, fields: &[(&str, &[u8])]) -> Vec<u8> {
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

fn text(text: &str) -> Vec<u8> {
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

#[test]
fn a_key_that_only_the_json_library_knows_is_no_back_door() {
    // serde_json reads this key's text as JSON of its own, which would start its nesting limit anew.
    let inner = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    let create = serde_json::json!({"metadata": {"x": {"$serde_json::private::RawValue": inner}}});
    let frame = serde_json::json!({"id": 7, "op": "join", "lobby": "a", "create": create}).to_string();
    assert_eq!(decode(Encoding::Json, frame.as_bytes()), Refused(Some(7), BadRequest));
}

/// Sizes at which anything quadratic would not come back before the test run is given up.
#[test]
fn large_hostile_frames_come_to_an_end() {
    const BYTES: usize = 4 << 20;
    let body = |body: String| format!(r#"{{"id":7,"op":"send","lobby":"a","kind":"game","body":{body}}}"#);
    let frames = [
        "[".repeat(BYTES),
        "{\"a\":".repeat(BYTES / 5),
        body(format!("\"{}\"", "\\\\".repeat(BYTES / 2))),
        body(format!("\"{}\"", "\\u00e9".repeat(BYTES / 6))),
        body("9".repeat(BYTES)),
        body(format!("[{}1]", "1e1,".repeat(BYTES / 4))),
        body(format!("{{{}\"a\":1e1}}", "\"a\":1,".repeat(BYTES / 6))),
        body(format!("{}1e1{}", "[".repeat(64), "]".repeat(64))),
        format!(r#"{{"id":7,"op":"{}"}}"#, "x".repeat(BYTES)),
        format!(r#"{{"id":7,"op":"resume","lobbies":[{}1]}}"#, "{},".repeat(BYTES / 3)),
        format!("{{{}\"op\":\"ping\"}}", "\"x\":1,".repeat(BYTES / 6)),
    ];
    for frame in &frames {
        decode(Encoding::Json, frame.as_bytes());
    }
    let (lobby, game) = (text("a"), text("game"));
    for value in [
        vec![0x91; BYTES],
        [&[0xdd, 0, 0x40, 0, 0][..], &vec![0x90; BYTES]].concat(),
        [&[0xdc, 0xff, 0xff][..], &vec![0x91; BYTES]].concat(),
        [&[0xdb, 0, 0x40, 0, 0][..], &vec![b'x'; BYTES]].concat(),
    ] {
        let name = text("send");
        let frame = packed(&[("op", &name), ("lobby", &lobby), ("kind", &game), ("body", &value)]);
        decode(Encoding::Msgpack, &frame);
    }
}

/// A newer server may say more than this release knows; it is not an error.
#[test]
fn unknown_events_fields_and_codes_are_passed_over() {
    let read = |frame: &str| ServerFrame::decode(Encoding::Json, frame.as_bytes(), |_| Some("leave"));
    assert_eq!(read(r#"{"ev":"fireworks","lobby":"a"}"#), Ok(ServerFrame::Unknown));
    assert_eq!(read(r#"{"ev":"fireworks","lobby":"a","seq":3}"#), Ok(ServerFrame::Unknown));
    assert_eq!(read(r#"{"ev":"notice","code":"eclipse","message":"m"}"#), Ok(ServerFrame::Unknown));
    assert!(matches!(
        read(r#"{"ev":"typing","lobby":"a","user":"u","mood":"good"}"#),
        Ok(ServerFrame::Event(Event::Typing { .. }))
    ));
    let Ok(ServerFrame::Reply { id: 7, outcome: Err(refusal) }) =
        read(r#"{"id":7,"err":{"code":"eclipse","message":"too dark","retry_ms":5}}"#)
    else {
        panic!("an unknown error code is still a refusal")
    };
    assert_eq!(refusal.code, ErrorCode::Internal);
    assert!(refusal.message.contains("eclipse") && refusal.message.contains("too dark"));
    assert_eq!(refusal.retry_ms, Some(5));
    let Ok(ServerFrame::Event(Event::Error { code: ErrorCode::Internal, message, .. })) =
        read(r#"{"ev":"error","code":"eclipse","message":"too dark","op":"send"}"#)
    else {
        panic!("an unknown error code is still an error")
    };
    assert!(message.contains("eclipse"));
}

#[test]
fn broken_server_frames_are_errors() {
    for frame in [
        "",
        "[]",
        "{}",
        r#"{"ev":1}"#,
        r#"{"id":1}"#,
        r#"{"id":-1,"ok":{}}"#,
        r#"{"id":1,"ok":7}"#,
        r#"{"id":1,"err":7}"#,
        r#"{"id":1,"err":{}}"#,
        r#"{"ev":"typing"}"#,
        r#"{"ev":"saved","lobby":"a"}"#,
        r#"{"ev":"message","lobby":"a","epoch":1,"seq":1}"#,
        r#"{"ev":"snapshot","lobby":"a","epoch":1,"seq":1,"state":[]}"#,
    ] {
        let read = ServerFrame::decode(Encoding::Json, frame.as_bytes(), |_| Some("leave"));
        assert!(read.is_err(), "{frame}: {read:?}");
    }
    let not_asked = ServerFrame::decode(Encoding::Json, br#"{"id":1,"ok":{}}"#, |_| None);
    assert!(not_asked.is_err());
}

/// One change to a frame.
#[derive(Debug, Clone)]
enum Mutation {
    Set(usize, u8),
    Insert(usize, u8),
    Remove(usize),
    Cut(usize),
    Repeat(usize, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<usize>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        at().prop_map(Mutation::Remove),
        at().prop_map(Mutation::Cut),
        (at(), at()).prop_map(|(from, to)| Mutation::Repeat(from, to)),
    ]
}

fn mutate(frame: &mut Vec<u8>, mutation: &Mutation) {
    let length = frame.len();
    if length == 0 {
        return;
    }
    match *mutation {
        Mutation::Set(at, byte) => frame[at % length] = byte,
        Mutation::Insert(at, byte) => frame.insert(at % length, byte),
        Mutation::Remove(at) => _ = frame.remove(at % length),
        Mutation::Cut(at) => frame.truncate(at % length),
        Mutation::Repeat(from, to) => {
            let (from, to) = (from % length, to % length);
            let piece = frame[from.min(to)..from.max(to)].to_vec();
            frame.extend(piece);
        }
    }
}

/// Whatever is accepted means something definite: written again, it reads the same.
fn read_both_ways(encoding: Encoding, frame: &[u8]) {
    if let Ok(request) = Request::decode(encoding, frame) {
        assert_eq!(Request::decode(encoding, &request.encode(encoding)).as_ref(), Ok(&request));
        for other in Encoding::ALL {
            assert!(Request::decode(other, &request.encode(other)).is_ok(), "{request:?} in {other:?}");
        }
    }
    for op in ["join", "resume", "send", "history", "roster", "kick", "auth", "ping"] {
        match ServerFrame::decode(encoding, frame, |_| Some(op)) {
            Ok(ServerFrame::Event(event)) => {
                let read = ServerFrame::decode(encoding, &event.encode(encoding), |_| None);
                assert_eq!(read, Ok(ServerFrame::Event(event)));
            }
            Ok(ServerFrame::Reply { id, outcome }) => {
                let frame = mlms_protocol::reply::encode_reply(id, &outcome, encoding);
                let read = ServerFrame::decode(encoding, &frame, |_| Some(op));
                assert_eq!(read, Ok(ServerFrame::Reply { id, outcome }));
            }
            Ok(ServerFrame::Unknown) | Err(_) => {}
        }
    }
}

fn sample_frames(encoding: Encoding) -> Vec<Vec<u8>> {
    let requests = samples::requests().into_iter().map(|(_, request)| request.encode(encoding));
    let events = samples::events().into_iter().map(|(_, event)| event.encode(encoding));
    let replies = samples::replies()
        .into_iter()
        .map(|(_, _, outcome)| mlms_protocol::reply::encode_reply(7, &outcome, encoding));
    requests.chain(events).chain(replies).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        Encoding::ALL.into_iter().for_each(|encoding| read_both_ways(encoding, &bytes));
    }

    #[test]
    fn any_text_is_answered(text in "[\\[\\]{}\":,a-z0-9\\\\ .eE+-]{0,200}") {
        read_both_ways(Encoding::Json, text.as_bytes());
    }

    #[test]
    fn any_damaged_frame_is_answered(
        packed in any::<bool>(),
        pick in any::<prop::sample::Index>(),
        mutations in prop::collection::vec(mutation(), 1..6),
    ) {
        let encoding = if packed { Encoding::Msgpack } else { Encoding::Json };
        let frames = sample_frames(encoding);
        let mut frame = frames[pick.index(frames.len())].clone();
        mutations.iter().for_each(|mutation| mutate(&mut frame, mutation));
        read_both_ways(encoding, &frame);
    }
}
