//! Golden files: one a frame, JSON text and MessagePack in hex. A wire change is a visible diff here.

use std::fmt::Write as _;

use mlms_protocol::Encoding;
use mlms_protocol::reply::encode_reply;

use crate::samples;

fn check(group: &str, name: &str, encode: impl Fn(Encoding) -> Vec<u8>) {
    let mut text = String::from_utf8(encode(Encoding::Json)).unwrap();
    for line in encode(Encoding::Msgpack).chunks(32) {
        text.push('\n');
        line.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
    }
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!(format!("{group}__{name}"), text);
    });
}

#[test]
fn commands() {
    for (name, request) in samples::requests() {
        check("command", name, |encoding| request.encode(encoding));
    }
}

#[test]
fn events() {
    for (name, event) in samples::events() {
        check("event", &name, |encoding| event.encode(encoding));
    }
}

#[test]
fn replies() {
    for (name, _, outcome) in samples::replies() {
        check("reply", &name, |encoding| encode_reply(7, &outcome, encoding));
    }
}

#[test]
fn close_codes() {
    let table: Vec<String> = samples::close_codes()
        .iter()
        .map(|code| format!("{} {} reconnect={}", code.number(), code.as_str(), code.invites_reconnect()))
        .collect();
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("close_codes", table.join("\n"));
    });
}
