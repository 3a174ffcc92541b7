//! Any bytes, and good frames with damage: whatever is read means something definite.

use mlms_protocol::reply::ServerFrame;
use mlms_protocol::{Command, Encoding, Request};
use proptest::prelude::*;

use crate::samples;

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

/// What can be written of a request: of a resume some of whose entries cannot be read, the others.
fn writable(mut request: Request) -> Request {
    if let Command::ResumePartly(points) = request.command {
        request.command = Command::Resume(points.into_iter().flatten().collect());
    }
    request
}

/// Whatever is accepted means something definite: written again, it reads the same.
fn read_both_ways(encoding: Encoding, frame: &[u8]) {
    if let Ok(request) = Request::decode(encoding, frame) {
        let request = writable(request);
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

#[test]
fn a_damaged_entry_of_a_resume_is_no_part_of_what_is_written_again() {
    let entry = r#"{"lobby":"lounge","epoch":3,"seq":41}"#;
    for broken in [r#"{"lobby":"arena"}"#, r#"{"lobby":"arena","epoch":"x","seq":1}"#] {
        for list in [format!("{entry},{broken}"), format!("{broken},{entry}"), broken.to_owned()] {
            let frame = format!(r#"{{"op":"resume","lobbies":[{list}]}}"#);
            let read =
                Request::decode(Encoding::Json, frame.as_bytes()).expect("each entry counts for itself");
            assert!(
                matches!(&read.command, Command::ResumePartly(points) if points.iter().any(Result::is_err))
            );
            read_both_ways(Encoding::Json, frame.as_bytes());
        }
    }
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
