//! How many small messages one link carries on one thread; printed, not asserted.

use std::time::Instant;

use super::*;

#[tokio::test]
async fn many_small_messages_cross_a_lossless_link() {
    const MESSAGES: u32 = 1_000_000;
    let relay = Relay::embedded(None);
    let mut to = Node::start(&relay, &name("b"), 1, LinkConfig::default());
    let from = Node::start(&relay, &name("a"), 1, LinkConfig::default());
    let links = from.links.clone();
    let target = to.name.clone();
    let began = Instant::now();
    let sender = tokio::spawn(async move {
        let payload = Bytes::from_static(&[b'x'; 60]);
        for number in 0..MESSAGES {
            links.send(&target, payload.clone());
            if number % 256 == 0 {
                while links.stats().iter().any(|link| link.unacked_bytes > 2 * 1024 * 1024) {
                    tokio::task::yield_now().await;
                }
                tokio::task::yield_now().await;
            }
        }
    });
    for _ in 0..MESSAGES {
        match to.events.recv().await {
            Some(LinkEvent::Received { .. }) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    sender.await.unwrap();
    println!("{:.0} messages of 60 bytes a second", f64::from(MESSAGES) / seconds);
    assert_eq!(from.resets(), 0);
}
