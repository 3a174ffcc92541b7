//! Inboxes over Redis, and the links over them.

use std::time::Duration;

use bytes::Bytes;
use mlms_cluster::link::{LinkConfig, LinkEvent, LinkEvents, Links};
use mlms_cluster::relay::{Inbox, Relay};
use mlms_protocol::{Incarnation, NodeName};

use crate::server;
use crate::stage::{PATIENCE, Stage, connect_to, name, on_both};

on_both!(a_batch_reaches_the_inbox_of_its_node, a_later_inbox_replaces_the_earlier);

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn receive(inbox: &mut Inbox) -> Option<Bytes> {
    tokio::time::timeout(PATIENCE, inbox.recv()).await.expect("something arrives")
}

/// Publishes until somebody is subscribed.
async fn publish(relay: &Relay, to: &NodeName, batch: Bytes) {
    let publishing = async {
        while relay.publish(&name("sender"), to, batch.clone()).await != Ok(1) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, publishing).await.expect("somebody is subscribed");
}

async fn nobody(relay: &Relay, to: &NodeName) {
    let publishing = async {
        while relay.publish(&name("sender"), to, text("nobody")).await != Ok(0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, publishing).await.expect("nobody is subscribed any more");
}

async fn a_batch_reaches_the_inbox_of_its_node(stage: Stage) {
    let (one, two) = (name("one"), name("two"));
    nobody(&stage.b.relay, &one).await;
    let (mut first, mut second) = (stage.a.relay.inbox(&one), stage.b.relay.inbox(&two));
    publish(&stage.b.relay, &one, text("to one")).await;
    publish(&stage.a.relay, &two, Bytes::from_static(&[0, 255, 13, 10])).await;
    assert_eq!(receive(&mut first).await, Some(text("to one")));
    assert_eq!(receive(&mut second).await, Some(Bytes::from_static(&[0, 255, 13, 10])));
    drop(first);
    nobody(&stage.b.relay, &one).await;
}

async fn a_later_inbox_replaces_the_earlier(stage: Stage) {
    let one = name("one");
    let mut old = stage.a.relay.inbox(&one);
    publish(&stage.b.relay, &one, text("old")).await;
    assert_eq!(receive(&mut old).await, Some(text("old")));
    let mut new = stage.a.relay.inbox(&one);
    assert_eq!(receive(&mut old).await, None);
    drop(old);
    publish(&stage.b.relay, &one, text("new")).await;
    assert_eq!(receive(&mut new).await, Some(text("new")));
}

#[tokio::test]
async fn a_burst_to_one_inbox_arrives_whole() {
    let stage = Stage::redis().await;
    let one = name("one");
    let mut inbox = stage.a.relay.inbox(&one);
    publish(&stage.b.relay, &one, text("ready")).await;
    assert_eq!(receive(&mut inbox).await, Some(text("ready")));
    // As many as an inbox holds, at once.
    let burst = (0..4_000_u32).map(|number| {
        let (relay, one) = (&stage.b.relay, &one);
        async move { relay.publish(&name("two"), one, Bytes::from(number.to_string())).await }
    });
    let published = futures_util::future::join_all(burst).await;
    assert!(published.iter().all(|receivers| *receivers == Ok(1)));
    let mut received = Vec::new();
    while received.len() < 4_000 {
        let batch = receive(&mut inbox).await.unwrap();
        received.push(std::str::from_utf8(&batch).unwrap().parse::<u32>().unwrap());
    }
    // Publishes that are under way together have no order.
    received.sort_unstable();
    assert!(received.into_iter().eq(0..4_000));
    assert_eq!(inbox.dropped(), 0);
}

#[tokio::test]
async fn an_inbox_is_found_again_when_its_subscriber_is_cut_off_or_redis_restarts() {
    let mut stage = Stage::redis().await;
    let one = name("one");
    let mut inbox = stage.a.relay.inbox(&one);
    publish(&stage.b.relay, &one, text("ready")).await;
    assert_eq!(receive(&mut inbox).await, Some(text("ready")));
    let server = stage.server.as_mut().unwrap();
    for round in 0..4 {
        if round < 3 {
            server.kill_subscribers();
        } else {
            server.kill();
            server.launch().await;
        }
        publish(&stage.b.relay, &one, text("again")).await;
        assert_eq!(receive(&mut inbox).await, Some(text("again")));
    }
}

/// Sends numbered messages both ways while `disturb` goes on, and checks that each arrives once and in order.
pub(crate) async fn cross(url: &str, messages: u32, disturb: impl AsyncFn()) {
    let (a, b) = (connect_to(url, "mlms:").await, connect_to(url, "mlms:").await);
    let (one, two) = (name("one"), name("two"));
    let start = |name: &NodeName, relay: &Relay| {
        let (handle, events, task) =
            Links::start(name.clone(), Incarnation(1), relay.clone(), LinkConfig::default());
        (handle, events, tokio::spawn(task))
    };
    let (first, first_events, first_task) = start(&one, &a.relay);
    let (second, second_events, second_task) = start(&two, &b.relay);
    let send = async {
        for number in 0..messages {
            first.send(&two, Bytes::from(number.to_string()));
            second.send(&one, Bytes::from(number.to_string()));
            if number % 20 == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    };
    let all = async { tokio::join!(send, hear(first_events, messages), hear(second_events, messages)) };
    let disturbance = async {
        loop {
            disturb().await;
        }
    };
    tokio::select! {
        outcome = tokio::time::timeout(PATIENCE, all) => {
            outcome.expect("everything arrives");
        }
        () = disturbance => {}
    }
    first.stop();
    second.stop();
    first_task.await.unwrap();
    second_task.await.unwrap();
    let resent: u64 = first.stats().iter().chain(&second.stats()).map(|link| link.resent).sum();
    let missed: u64 =
        [first.counts(), second.counts()].iter().map(|counts| counts.nobody + counts.publish_failed).sum();
    assert!(missed + resent > 0, "nothing happened to the relay: the run proves nothing");
    assert_eq!(first.stats().iter().chain(&second.stats()).map(|link| link.resets).sum::<u64>(), 0);
    drop((first, second));
    a.end().await;
    b.end().await;
}

async fn hear(mut events: LinkEvents, messages: u32) {
    for number in 0..messages {
        match events.recv().await {
            Some(LinkEvent::Received { payload, .. }) => {
                assert_eq!(payload, Bytes::from(number.to_string()), "out of order, lost or doubled");
            }
            other => panic!("{other:?} instead of {number}"),
        }
    }
}

#[tokio::test]
async fn links_deliver_everything_once_and_in_order_while_subscribers_are_cut_off() {
    let server = server::start().await;
    cross(&server.url(), 20_000, async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.kill_subscribers();
    })
    .await;
}

#[tokio::test]
async fn links_outlive_a_frozen_redis() {
    let server = server::start().await;
    cross(&server.url(), 5_000, async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.freeze();
        tokio::time::sleep(Duration::from_secs(4)).await;
        server.thaw();
        std::future::pending::<()>().await;
    })
    .await;
}
