//! decode(encode(x)) = x for every frame in both encodings, and the same frame by way of the other encoding.

use mlms_protocol::event::Event;
use mlms_protocol::reply::{ServerFrame, encode_reply};
use mlms_protocol::{Encoding, Request};
use proptest::prelude::*;

use crate::{generators, samples};

fn read_event(encoding: Encoding, frame: &[u8]) -> Event {
    match ServerFrame::decode(encoding, frame, |_| None) {
        Ok(ServerFrame::Event(event)) => event,
        other => panic!("{other:?} from {}", String::from_utf8_lossy(frame)),
    }
}

fn check_request(request: &Request, encoding: Encoding) {
    let frame = request.encode(encoding);
    assert_eq!(Request::decode(encoding, &frame).as_ref(), Ok(request));
}

fn check_event(event: &Event, encoding: Encoding) {
    assert_eq!(&read_event(encoding, &event.encode(encoding)), event);
}

#[test]
fn every_sample_reads_back() {
    for (name, request) in samples::requests() {
        // Sample bodies are JSON; by way of MessagePack the JSON text comes out the same.
        check_request(&request, Encoding::Json);
        let packed = Request::decode(Encoding::Msgpack, &request.encode(Encoding::Msgpack)).expect(name);
        assert_eq!(packed.encode(Encoding::Json), request.encode(Encoding::Json), "{name}");
    }
    for (name, event) in samples::events() {
        check_event(&event, Encoding::Json);
        let packed = read_event(Encoding::Msgpack, &event.encode(Encoding::Msgpack));
        assert_eq!(packed.encode(Encoding::Json), event.encode(Encoding::Json), "{name}");
    }
    for (name, op, outcome) in samples::replies() {
        let frame = encode_reply(7, &outcome, Encoding::Json);
        let read = ServerFrame::decode(Encoding::Json, &frame, |id| (id == 7).then_some(op)).expect(&name);
        assert_eq!(read, ServerFrame::Reply { id: 7, outcome }, "{name}");
    }
}

#[test]
fn every_command_has_a_sample() {
    let ops: std::collections::BTreeSet<_> =
        samples::requests().iter().map(|(_, request)| request.command.op()).collect();
    assert_eq!(ops.into_iter().collect::<Vec<_>>(), mlms_protocol::command::OPERATIONS);
}

proptest! {
    #[test]
    fn json_requests(request in generators::request(Encoding::Json)) {
        check_request(&request, Encoding::Json);
    }

    #[test]
    fn msgpack_requests(request in generators::request(Encoding::Msgpack)) {
        check_request(&request, Encoding::Msgpack);
    }

    #[test]
    fn json_events(event in generators::event(Encoding::Json)) {
        check_event(&event, Encoding::Json);
    }

    #[test]
    fn msgpack_events(event in generators::event(Encoding::Msgpack)) {
        check_event(&event, Encoding::Msgpack);
    }

    #[test]
    fn an_event_reads_the_same_by_way_of_the_other_encoding(event in generators::event(Encoding::Json)) {
        let packed = read_event(Encoding::Msgpack, &event.encode(Encoding::Msgpack));
        prop_assert_eq!(packed.encode(Encoding::Json), event.encode(Encoding::Json));
    }

    #[test]
    fn any_msgpack_event_is_readable_in_json(event in generators::event(Encoding::Msgpack)) {
        let shown = read_event(Encoding::Json, &event.encode(Encoding::Json));
        prop_assert_eq!(shown.encode(Encoding::Json), event.encode(Encoding::Json));
    }

    #[test]
    fn json_replies(id in any::<u32>(), (op, outcome) in generators::outcome(Encoding::Json)) {
        let frame = encode_reply(id, &outcome, Encoding::Json);
        let read = ServerFrame::decode(Encoding::Json, &frame, |_| Some(op));
        prop_assert_eq!(read, Ok(ServerFrame::Reply { id, outcome }));
    }

    #[test]
    fn msgpack_replies(id in any::<u32>(), (op, outcome) in generators::outcome(Encoding::Msgpack)) {
        let frame = encode_reply(id, &outcome, Encoding::Msgpack);
        let read = ServerFrame::decode(Encoding::Msgpack, &frame, |_| Some(op));
        prop_assert_eq!(read, Ok(ServerFrame::Reply { id, outcome }));
    }
}
