//! The batch format, and bytes that are no batches.

use bytes::Bytes;
use mlms_protocol::Incarnation;
use proptest::prelude::*;

use super::super::batch::{Acknowledged, Batch, Data, Messages, Unreadable, put_message};
use super::*;

fn sample(messages: &[&[u8]]) -> Batch {
    let mut body = Vec::new();
    for message in messages {
        put_message(&mut body, message);
    }
    Batch {
        from: name("node-1"),
        incarnation: Incarnation(1_795_000_000_000_000),
        destination: Some(Incarnation(7)),
        generation: 3,
        top: 300,
        asks: true,
        acknowledged: Some(Acknowledged { generation: 4, adoption: 5, number: 6 }),
        missing: vec![7..8, 10..300],
        data: Some(Data { number: 299, messages: Messages::written(Bytes::from(body)) }),
    }
}

#[test]
fn a_batch_survives_the_journey() {
    let full = sample(&[b"", b"a", &[7; 200]]);
    assert_eq!(Batch::decode(&full.encode()), Ok(full.clone()));
    let payloads: Vec<Bytes> = full.data.clone().unwrap().messages.collect();
    assert_eq!(payloads, [Bytes::new(), Bytes::from_static(b"a"), Bytes::from(vec![7; 200])]);
    let bare =
        Batch { destination: None, asks: false, acknowledged: None, missing: vec![], data: None, ..full };
    assert_eq!(Batch::decode(&bare.encode()), Ok(bare));
}

#[test]
fn a_batch_of_the_release_before_is_read() {
    let sample = sample(&[b"x"]);
    let mut bytes = sample.encode().to_vec();
    bytes[0] -= 1;
    assert_eq!(Batch::decode(&Bytes::from(bytes)), Ok(sample));
}

#[test]
fn another_version_is_told_apart_from_garbage() {
    let mut bytes = sample(&[b"x"]).encode().to_vec();
    bytes[0] = 2;
    assert_eq!(Batch::decode(&Bytes::from(bytes)), Err(Unreadable::Version));
    assert_eq!(Batch::decode(&Bytes::new()), Err(Unreadable::Malformed));
    assert_eq!(Batch::decode(&Bytes::from_static(&[1, 0xff])), Err(Unreadable::Malformed));
}

#[test]
fn a_cut_off_batch_is_malformed() {
    let whole = Batch { missing: vec![], ..sample(&[b"hello"]) }.encode();
    for length in 0..whole.len() {
        // Cut right behind the number, it is a batch with no messages.
        if length != whole.len() - 6 {
            assert_eq!(Batch::decode(&whole.slice(..length)), Err(Unreadable::Malformed), "{length}");
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let bytes = Bytes::from([&[1][..], &bytes].concat());
        if let Ok(batch) = Batch::decode(&bytes) {
            prop_assert!(batch.data.map_or(0, |data| data.messages.map(|m| m.len()).sum()) <= bytes.len());
        }
    }

    #[test]
    fn a_link_lives_through_garbage(
        garbage in proptest::collection::vec((any::<usize>(), any::<u8>(), any::<usize>()), 1..60)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let relay = Relay::embedded(None);
            let (a, b, c) = (name("a"), name("b"), name("c"));
            let mut a = Node::start(&relay, &a, 7, LinkConfig::default());
            for (position, value, cut) in garbage {
                let mut bytes = sample(&[b"one", b"two"]).encode().to_vec();
                let length = bytes.len();
                bytes[position % length] = value;
                bytes.truncate(length - cut % 4);
                relay.publish(&c, &a.name, Bytes::from(bytes)).await.unwrap();
            }
            let b = Node::start(&relay, &b, 1, LinkConfig::default());
            b.say(&a, "still there?");
            loop {
                if let LinkEvent::Received { from, payload, .. } = a.next().await
                    && from == b.name
                {
                    assert_eq!(&payload[..], b"still there?");
                    break;
                }
            }
        });
    }
}
