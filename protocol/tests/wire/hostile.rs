//! What a hostile or broken client (or server) may send: always an error of the right class, never a panic. A file a
//! kind of input.

mod damage;
mod json;
mod msgpack;

use mlms_protocol::command::{DecodeError, Position};
use mlms_protocol::reply::ServerFrame;
use mlms_protocol::{Command, Encoding, Epoch, ErrorCode, Event, LobbyCommand, Request, Seq};

use self::Outcome::{Accepted, Protocol, Refused};
use self::msgpack::{double, packed, text};

#[derive(Debug, Clone, PartialEq)]
enum Outcome {
    /// The session ends with 4501.
    Protocol,
    Refused(Option<u32>, ErrorCode),
    Accepted,
}

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
