//! What each fault looks like from both ends.

use super::super::batch::{Acknowledged, Batch};
use super::*;
use crate::relay::{FaultRates, RelayFaults};

struct Pair {
    relay: Relay,
    faults: RelayFaults,
    a: Node,
    b: Node,
}

fn pair() -> Pair {
    pair_with(LinkConfig::default())
}

fn pair_with(config: LinkConfig) -> Pair {
    let faults = RelayFaults::seeded(1);
    let relay = Relay::embedded(Some(faults.clone()));
    let a = Node::start(&relay, &name("a"), 10, config.clone());
    let b = Node::start(&relay, &name("b"), 10, config);
    Pair { relay, faults, a, b }
}

/// Waits (in virtual time) until nothing is held for anybody.
async fn quiet(node: &Node) {
    for _ in 0..600 {
        if node.unacked() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{:?} is never quiet: {:?}", node.name, node.links.stats());
}

#[tokio::test(start_paused = true)]
async fn first_contact_is_no_reset_and_order_holds_both_ways() {
    let Pair { mut a, mut b, .. } = pair();
    for number in 0..100 {
        a.say(&b, &format!("to b {number}"));
        b.say(&a, &format!("to a {number}"));
    }
    for number in 0..100 {
        b.hears(&a, &format!("to b {number}")).await;
        a.hears(&b, &format!("to a {number}")).await;
    }
    quiet(&a).await;
    quiet(&b).await;
    let stats = a.links.stats();
    assert_eq!(stats.len(), 1);
    assert_eq!((stats[0].peer.clone(), stats[0].resent, stats[0].resets), (name("b"), 0, 0));
    assert!(a.links.heard_ago(&b.name).is_some());
    assert!(a.links.heard_ago(&name("c")).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_node_reaches_itself() {
    let Pair { mut a, .. } = pair();
    a.links.send(&a.name, Bytes::from_static(b"me"));
    assert!(matches!(a.next().await, LinkEvent::Received { payload, .. } if &payload[..] == b"me"));
    quiet(&a).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_last_message_is_noticed_and_mended() {
    let Pair { faults, mut a, mut b, .. } = pair();
    a.say(&b, "first");
    b.hears(&a, "first").await;
    quiet(&a).await;
    faults.set_rates(FaultRates { lose: 1.0, ..FaultRates::default() });
    a.say(&b, "last");
    b.hears_nothing_for(Duration::from_millis(50)).await;
    faults.set_rates(FaultRates::default());
    b.hears(&a, "last").await;
    quiet(&a).await;
    assert_eq!((a.links.stats()[0].resent, a.resets(), b.resets()), (1, 0, 0));
    a.hears_nothing_for(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_receiver_is_noticed_by_the_sender_alone() {
    let Pair { relay, mut a, mut b, .. } = pair();
    a.say(&b, "one");
    b.hears(&a, "one").await;
    b.kill();
    let mut b = Node::start(&relay, &name("b"), 11, LinkConfig::default());
    a.say(&b, "for the run before");
    assert_eq!(a.next().await, LinkEvent::IncomingReset { from: name("b"), incarnation: Incarnation(11) });
    assert_eq!(a.next().await, LinkEvent::OutgoingReset { to: name("b") });
    a.say(&b, "for this run");
    b.hears(&a, "for this run").await;
    quiet(&a).await;
    assert_eq!(a.resets(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_sender_resets_what_it_sent_before() {
    let Pair { relay, mut b, a, .. } = pair();
    a.say(&b, "one");
    b.hears(&a, "one").await;
    a.kill();
    let a = Node::start(&relay, &name("a"), 11, LinkConfig::default());
    a.say(&b, "two");
    assert_eq!(b.next().await, LinkEvent::IncomingReset { from: name("a"), incarnation: Incarnation(11) });
    b.hears(&a, "two").await;
}

#[tokio::test(start_paused = true)]
async fn an_earlier_run_that_wakes_up_changes_nothing() {
    let Pair { relay, mut b, a: old, .. } = pair();
    old.say(&b, "one");
    b.hears(&old, "one").await;
    let new = Node::start(&relay, &name("a"), 11, LinkConfig::default());
    new.say(&b, "two");
    assert_eq!(b.next().await, LinkEvent::IncomingReset { from: name("a"), incarnation: Incarnation(11) });
    b.hears(&new, "two").await;
    old.say(&b, "from the grave");
    b.hears_nothing_for(Duration::from_secs(30)).await;
    assert!(b.links.counts().stale > 0);
    new.say(&b, "three");
    b.hears(&new, "three").await;
}

#[tokio::test(start_paused = true)]
async fn an_overflow_resets_both_ends_and_the_link_goes_on() {
    let config = LinkConfig { buffer_bytes_max: 10_000, ..LinkConfig::default() };
    let Pair { faults, mut a, mut b, .. } = pair_with(config);
    a.say(&b, "before");
    b.hears(&a, "before").await;
    faults.cut(&a.name, &b.name);
    // The tenth does not fit any more.
    for _ in 0..10 {
        a.say(&b, &"x".repeat(1000));
    }
    assert_eq!(a.next().await, LinkEvent::OutgoingReset { to: name("b") });
    a.say(&b, "after");
    faults.heal_all();
    assert_eq!(b.next().await, LinkEvent::IncomingReset { from: name("a"), incarnation: Incarnation(10) });
    // What was sent between the overflow and its report belongs to the new generation.
    b.hears(&a, "after").await;
}

#[tokio::test(start_paused = true)]
async fn the_receiver_hears_of_a_reset_without_a_further_message() {
    let config = LinkConfig { buffer_bytes_max: 10_000, ..LinkConfig::default() };
    let Pair { faults, mut a, mut b, .. } = pair_with(config);
    a.say(&b, "before");
    b.hears(&a, "before").await;
    faults.cut(&a.name, &b.name);
    a.say(&b, &"x".repeat(20_000));
    assert_eq!(a.next().await, LinkEvent::OutgoingReset { to: name("b") });
    faults.heal(&a.name, &b.name);
    assert_eq!(b.next().await, LinkEvent::IncomingReset { from: name("a"), incarnation: Incarnation(10) });
}

#[tokio::test(start_paused = true)]
async fn a_peer_without_subscription_is_retried_until_it_comes() {
    let relay = Relay::embedded(None);
    let mut a = Node::start(&relay, &name("a"), 1, LinkConfig::default());
    a.links.send(&name("late"), Bytes::from_static(b"hello"));
    let alone = Duration::from_secs(30);
    a.hears_nothing_for(alone).await;
    let tries = a.links.counts().nobody;
    // Soon at the longest pause, with some jitter.
    let paced = alone.div_duration_f64(LinkConfig::default().retry_max);
    assert!((0.6..=1.6).contains(&(tries as f64 / paced)), "{tries} publishes to nobody, not about {paced}");
    let mut late = Node::start(&relay, &name("late"), 1, LinkConfig::default());
    late.hears(&a, "hello").await;
    quiet(&a).await;
    assert_eq!(a.resets(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_relay_out_of_reach_loses_nothing() {
    let Pair { faults, a, mut b, .. } = pair();
    a.say(&b, "one");
    b.hears(&a, "one").await;
    faults.isolate(&a.name);
    for number in 0..50 {
        a.say(&b, &format!("while away {number}"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(a.links.counts().publish_failed > 3);
    faults.reconnect(&a.name);
    for number in 0..50 {
        b.hears(&a, &format!("while away {number}")).await;
    }
    assert_eq!((a.resets(), b.resets()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_cut_peer_does_not_slow_another() {
    let Pair { relay, faults, a, mut b, .. } = pair();
    let mut c = Node::start(&relay, &name("c"), 1, LinkConfig::default());
    a.say(&b, "hello");
    b.hears(&a, "hello").await;
    a.say(&c, "hello");
    c.hears(&a, "hello").await;
    faults.cut(&a.name, &b.name);
    for number in 0..500 {
        a.say(&b, "into the void");
        let sent = tokio::time::Instant::now();
        a.say(&c, &number.to_string());
        c.hears(&a, &number.to_string()).await;
        assert!(sent.elapsed() <= Duration::from_millis(3), "{:?} for {number}", sent.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stalls_gets_everything_later() {
    let config = LinkConfig { events_max: 2, batch_bytes_max: 500, ..LinkConfig::default() };
    let Pair { a, mut b, .. } = pair_with(config);
    for number in 0..5_000 {
        a.say(&b, &format!("{number}"));
        if number % 100 == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(a.unacked() > 0, "the reader has not read");
    for number in 0..5_000 {
        b.hears(&a, &format!("{number}")).await;
    }
    quiet(&a).await;
    assert_eq!(a.resets(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_peer_hears_no_heartbeats_and_can_come_back() {
    let Pair { a, mut b, .. } = pair();
    a.say(&b, "one");
    b.hears(&a, "one").await;
    quiet(&a).await;
    a.links.forget(&b.name);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(b.links.heard_ago(&a.name).unwrap() > Duration::from_secs(55));
    assert_eq!(a.links.stats(), []);
    a.say(&b, "two");
    assert_eq!(b.next().await, LinkEvent::IncomingReset { from: name("a"), incarnation: Incarnation(10) });
    b.hears(&a, "two").await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_given_up_for_its_silence_begins_anew() {
    let config = LinkConfig { peers_max: 1, ..LinkConfig::default() };
    let Pair { relay, faults, mut a, mut b, .. } = pair_with(config.clone());
    let c = Node::start(&relay, &name("c"), 1, config);
    b.say(&a, "one");
    a.hears(&b, "one").await;
    c.say(&a, "while all places are taken");
    a.hears_nothing_for(Duration::from_secs(5)).await;
    assert!(a.links.counts().refused > 0);
    faults.cut(&a.name, &b.name);
    a.hears(&c, "while all places are taken").await;
    c.links.forget(&a.name);
    tokio::time::sleep(Duration::from_secs(61)).await;
    faults.heal_all();
    b.say(&a, "two");
    assert_eq!(b.next().await, LinkEvent::OutgoingReset { to: name("a") });
    b.say(&a, "three");
    assert_eq!(a.next().await, LinkEvent::IncomingReset { from: name("b"), incarnation: Incarnation(10) });
    a.hears(&b, "three").await;
}

#[tokio::test(start_paused = true)]
async fn stopping_publishes_what_is_queued() {
    let Pair { a, mut b, .. } = pair();
    a.say(&b, "one");
    b.hears(&a, "one").await;
    for number in 0..1000 {
        a.say(&b, &number.to_string());
    }
    a.links.stop();
    a.task.await.unwrap();
    for number in 0..1000 {
        match b.next().await {
            LinkEvent::Received { payload, .. } => assert_eq!(&payload[..], number.to_string().as_bytes()),
            other => panic!("unexpected {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_task_ends_with_its_last_handle() {
    let Pair { a: Node { links, mut events, task, .. }, .. } = pair();
    let another = links.clone();
    drop(links);
    tokio::task::yield_now().await;
    assert!(!task.is_finished());
    drop(another);
    task.await.unwrap();
    assert_eq!(events.recv().await, None);
}

#[tokio::test(start_paused = true)]
async fn an_idle_link_says_little() {
    // The test itself is the peer, and counts what it is told.
    let relay = Relay::embedded(None);
    let (a, me) = (name("a"), name("me"));
    let mut inbox = relay.inbox(&me);
    let node = Node::start(&relay, &a, 5, LinkConfig::default());
    node.links.send(&me, Bytes::from_static(b"hello"));
    let hello = Batch::decode(&inbox.recv().await.unwrap()).unwrap();
    assert!(hello.asks && hello.data.is_none() && hello.destination.is_none());
    let mut answer = Batch {
        from: me.clone(),
        incarnation: Incarnation(9),
        destination: Some(Incarnation(5)),
        generation: 0,
        top: 0,
        asks: false,
        acknowledged: None,
        missing: vec![],
        data: None,
    };
    relay.publish(&me, &a, answer.encode()).await.unwrap();
    let first = Batch::decode(&inbox.recv().await.unwrap()).unwrap();
    assert_eq!(first.destination, Some(Incarnation(9)));
    assert_eq!(first.data.map(|data| data.number), Some(1));
    // Unanswered, it asks again and again, but does not repeat unasked.
    let began = tokio::time::Instant::now();
    for _ in 0..20 {
        let question = Batch::decode(&inbox.recv().await.unwrap()).unwrap();
        assert!(question.asks && question.data.is_none() && question.top == 1);
    }
    assert!((8..=10).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    answer.acknowledged = Some(Acknowledged { generation: first.generation, adoption: 1, number: 1 });
    relay.publish(&me, &a, answer.encode()).await.unwrap();
    quiet(&node).await;
    let mut questions = 0;
    let count = async {
        while inbox.recv().await.is_some() {
            questions += 1;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), count).await.is_err());
    assert!((25..=45).contains(&questions), "{questions} batches in an idle minute");
}
