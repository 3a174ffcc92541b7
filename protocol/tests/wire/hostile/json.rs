//! Text frames that are none, or say what no command says.

use mlms_protocol::Encoding;
use mlms_protocol::ErrorCode::{BadRequest, UnknownOp};

use super::Outcome::{self, Accepted, Protocol, Refused};
use super::decode;

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

#[test]
fn a_key_that_only_the_json_library_knows_is_no_back_door() {
    // serde_json reads this key's text as JSON of its own, which would start its nesting limit anew.
    let inner = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    let create = serde_json::json!({"metadata": {"x": {"$serde_json::private::RawValue": inner}}});
    let frame = serde_json::json!({"id": 7, "op": "join", "lobby": "a", "create": create}).to_string();
    assert_eq!(decode(Encoding::Json, frame.as_bytes()), Refused(Some(7), BadRequest));
}
