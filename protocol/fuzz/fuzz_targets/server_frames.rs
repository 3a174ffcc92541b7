//! Frames from a server: the first byte picks the encoding and the operation that a reply would answer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mlms_protocol::Encoding;
use mlms_protocol::reply::{ServerFrame, encode_reply};

const OPS: [&str; 8] = ["join", "resume", "send", "history", "roster", "kick", "auth", "ping"];

fuzz_target!(|data: &[u8]| {
    let Some((pick, frame)) = data.split_first() else { return };
    let encoding = Encoding::ALL[usize::from(pick & 1)];
    let op = OPS[usize::from(pick >> 1) % OPS.len()];
    let again = match ServerFrame::decode(encoding, frame, |_| Some(op)) {
        Ok(ServerFrame::Event(event)) => event.encode(encoding),
        Ok(ServerFrame::Reply { id, outcome }) => encode_reply(id, &outcome, encoding),
        Ok(ServerFrame::Unknown) | Err(_) => return,
    };
    let first = ServerFrame::decode(encoding, frame, |_| Some(op));
    assert_eq!(ServerFrame::decode(encoding, &again, |_| Some(op)), first);
});
