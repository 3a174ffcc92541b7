//! Events over a real RabbitMQ, with all that can happen to it.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::task::JoinHandle;

use mlms_protocol::TraceParent;
use mlms_test_servers::{RabbitMq, tls};

use super::*;
use crate::amqp::{AmqpError, LinkState, Publisher, Subscriber, Subscription};
use crate::{Message, Outlet};

fn everything() -> Subscription {
    Subscription {
        queue: "test.events".to_owned(),
        keys: vec!["lobby.#".to_owned()],
        prefetch: 500,
        alone: true,
        forget_after_ms: None,
    }
}

async fn subscribe(server: &RabbitMq) -> Subscriber {
    loop {
        match Subscriber::open(&server.url(), "test", &everything()).await {
            Ok(subscriber) => return subscriber,
            Err(AmqpError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Takes events until the last one has come, and gives them without repetitions, in the order of their first coming.
async fn take_through(server: &RabbitMq, last: &str) -> Vec<u64> {
    let mut subscriber = subscribe(server).await;
    let (mut ids, mut seqs) = (BTreeSet::new(), Vec::new());
    loop {
        let Ok(batch) = subscriber.next(100).await else {
            subscriber = subscribe(server).await;
            continue;
        };
        for delivery in &batch {
            if ids.insert(delivery.id.clone()) {
                seqs.push(delivery.id.rsplit_once('/').unwrap().1.parse().unwrap());
            }
        }
        // Lost with its connection: they come again.
        let _ = subscriber.acknowledge(&batch[batch.len() - 1]).await;
        if ids.contains(last) {
            return seqs;
        }
    }
}

/// Publishes events one batch after the other, as an archive does.
fn publish(publisher: &Publisher, seqs: std::ops::RangeInclusive<u64>) -> JoinHandle<()> {
    let outlet = Outlet::Amqp(publisher.clone());
    tokio::spawn(async move {
        for batch in chats("a", 1, seqs).chunks(200) {
            assert!(outlet.publish(batch.to_vec(), Vec::new()).await);
        }
    })
}

async fn until_up(publisher: &Publisher) {
    publisher.state().wait_for(|state| *state == LinkState::Up).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_confirmed_is_there_whatever_happens_to_the_broker() {
    let mut server = RabbitMq::start().await;
    let (publisher, task) = Publisher::new(&server.url(), "test publisher").unwrap();
    let task = tokio::spawn(task);
    drop(subscribe(&server).await);
    publish(&publisher, 1..=3_000).await.unwrap();

    // Killed in the middle of it, and away for a while.
    let under_way = publish(&publisher, 3_001..=6_000);
    tokio::task::yield_now().await;
    server.kill();
    publisher.state().wait_for(|state| matches!(state, LinkState::Down(_))).await.unwrap();
    server.launch().await;
    under_way.await.unwrap();

    // A memory alarm: it takes nothing until the alarm is over.
    until_up(&publisher).await;
    server.control(&["set_vm_memory_high_watermark", "absolute", "1000"]);
    let mut blocked = publish(&publisher, 6_001..=6_200);
    assert!(tokio::time::timeout(Duration::from_secs(2), &mut blocked).await.is_err());
    server.control(&["set_vm_memory_high_watermark", "0.4"]);
    blocked.await.unwrap();

    let seqs = take_through(&server, "a/6200").await;
    assert!(seqs.iter().copied().eq(1..=6_200), "{} events, in this order: {seqs:?}", seqs.len());

    // What is traced says so in a header, and the rest does not.
    let trace: TraceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().unwrap();
    let outlet = Outlet::Amqp(publisher.clone());
    assert!(outlet.publish(chats("a", 1, 6_201..=6_202), vec![(1, trace)]).await);
    let mut subscriber = subscribe(&server).await;
    let mut traces = std::collections::BTreeMap::new();
    while traces.len() < 2 {
        for delivery in subscriber.next(100).await.unwrap() {
            if ["a/6201", "a/6202"].contains(&delivery.id.as_str()) {
                traces.insert(delivery.id.clone(), delivery.trace);
            }
        }
    }
    assert_eq!((traces["a/6201"], traces["a/6202"]), (None, Some(trace)));
    drop((subscriber, outlet));
    drop(publisher);
    task.await.unwrap();
}

#[tokio::test]
async fn a_publisher_without_a_broker_waits_and_ends_with_its_last_handle() {
    let folder = Folder::new();
    drop(folder);
    let (publisher, task) = Publisher::new("amqp://127.0.0.1:1/%2f", "test").unwrap();
    let task = tokio::spawn(task);
    let waiting = {
        let publisher = publisher.clone();
        tokio::spawn(async move { publisher.publish(vec![Message::of_event(&chat("a", 1, 1))]).await })
    };
    publisher.state().wait_for(|state| matches!(state, LinkState::Down(_))).await.unwrap();
    waiting.abort();
    let _ = waiting.await;
    drop(publisher);
    task.await.unwrap();
}

/// The complaint about a url, with which no process starts.
fn complaint(url: &str) -> String {
    match Publisher::new(url, "test") {
        Err(error @ AmqpError::Url(_)) => error.to_string(),
        other => panic!("{url}: {:?}", other.map(|(publisher, _)| publisher)),
    }
}

#[test]
fn urls_that_cannot_be_meant_are_refused_with_the_reason() {
    for (url, reason) in [
        ("", "is none"),
        ("http://x", "is none"),
        ("amqp://x?cacertfile=/ca.pem", "asks for no TLS"),
        ("amqps://x?cacertfile=/nowhere/ca.pem", "/nowhere/ca.pem"),
        (&format!("amqps://x?cacertfile={}", tls::KEY), "there is no certificate in it"),
        (&format!("amqps://x?certfile={}", tls::CERTIFICATE), "give both"),
        ("amqps://x?verify=verify_none", "not verified"),
    ] {
        let complaint = complaint(url);
        assert!(complaint.contains(reason), "{url}: {complaint}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_connection_goes_to_a_broker_with_a_trusted_certificate_only() {
    let mut server = RabbitMq::start().await;
    let (stranger, task) = Publisher::new(&server.encrypted_url(), "nobody trusted").unwrap();
    let stranger_task = tokio::spawn(task);
    match stranger.state().wait_for(|state| *state != LinkState::Connecting).await.unwrap().clone() {
        LinkState::Down(why) => assert!(why.contains("invalid peer certificate"), "{why}"),
        other => panic!("{other:?}"),
    }
    drop(stranger);
    stranger_task.await.unwrap();

    let trusting = format!("{}?cacertfile={}", server.encrypted_url(), tls::AUTHORITY);
    // This one shows who it is, too.
    let known = format!("{trusting}&certfile={}&keyfile={}", tls::CERTIFICATE, tls::KEY);
    let mut subscriber = Subscriber::open(&trusting, "test", &everything()).await.unwrap();
    let (publisher, task) = Publisher::new(&known, "test publisher").unwrap();
    let task = tokio::spawn(task);
    publish(&publisher, 1..=500).await.unwrap();
    let mut taken = 0;
    while taken < 500 {
        let batch = subscriber.next(100).await.unwrap();
        subscriber.acknowledge(&batch[batch.len() - 1]).await.unwrap();
        taken += batch.len();
    }

    // It comes back after the broker's death, as a plain one does.
    server.kill();
    publisher.state().wait_for(|state| matches!(state, LinkState::Down(_))).await.unwrap();
    server.launch().await;
    publish(&publisher, 501..=600).await.unwrap();

    drop((publisher, subscriber));
    task.await.unwrap();
}
