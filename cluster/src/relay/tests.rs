use std::time::Duration;

use super::*;

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[tokio::test(start_paused = true)]
async fn a_later_subscription_replaces_the_earlier() {
    let relay = Relay::embedded(None);
    let (a, b) = (name("a"), name("b"));
    assert_eq!(relay.publish(&a, &b, text("nobody")).await, Ok(0));
    let mut old = relay.inbox(&b);
    assert_eq!(relay.publish(&a, &b, text("old")).await, Ok(1));
    assert_eq!(old.recv().await, Some(text("old")));
    let mut new = relay.inbox(&b);
    assert_eq!(old.recv().await, None);
    drop(old);
    assert_eq!(relay.publish(&a, &b, text("new")).await, Ok(1));
    assert_eq!(new.recv().await, Some(text("new")));
    drop(new);
    assert_eq!(relay.publish(&a, &b, text("nobody")).await, Ok(0));
}

#[tokio::test(start_paused = true)]
async fn a_full_inbox_drops_and_counts() {
    let relay = Relay::embedded(None);
    let (a, b) = (name("a"), name("b"));
    let mut inbox = relay.inbox(&b);
    for _ in 0..5_000 {
        assert_eq!(relay.publish(&a, &b, text("x")).await, Ok(1));
    }
    let dropped = inbox.dropped();
    assert!(dropped > 0);
    for _ in 0..5_000 - dropped {
        assert!(inbox.recv().await.is_some());
    }
    assert!(tokio::time::timeout(Duration::from_secs(1), inbox.recv()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn faults_lose_double_delay_and_cut_as_told() {
    let faults = RelayFaults::seeded(7);
    let relay = Relay::embedded(Some(faults.clone()));
    let (a, b, c) = (name("a"), name("b"), name("c"));
    let mut inbox = relay.inbox(&b);

    faults.set_rates(FaultRates { duplicate: 1.0, ..FaultRates::default() });
    relay.publish(&a, &b, text("twice")).await.unwrap();
    assert_eq!((inbox.recv().await, inbox.recv().await), (Some(text("twice")), Some(text("twice"))));

    let (least, most) = (Duration::from_millis(50), Duration::from_millis(60));
    faults.set_rates(FaultRates { late: 1.0, delay: least..most, ..FaultRates::default() });
    let began = Instant::now();
    relay.publish(&a, &b, text("late")).await.unwrap();
    faults.set_rates(FaultRates::default());
    relay.publish(&a, &b, text("at once")).await.unwrap();
    assert_eq!(inbox.recv().await, Some(text("at once")));
    assert_eq!(inbox.recv().await, Some(text("late")));
    assert!((50..=61).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());

    faults.cut(&b, &a);
    assert_eq!(relay.publish(&a, &b, text("lost")).await, Ok(1));
    assert_eq!(relay.publish(&c, &b, text("from c")).await, Ok(1));
    assert_eq!(inbox.recv().await, Some(text("from c")));
    faults.heal(&a, &b);
    faults.isolate(&b);
    assert_eq!(relay.publish(&a, &b, text("lost")).await, Ok(0));
    assert_eq!(relay.publish(&b, &a, text("lost")).await, Err(Unavailable("relay")));
    faults.reconnect(&b);
    relay.publish(&a, &b, text("again")).await.unwrap();
    assert_eq!(inbox.recv().await, Some(text("again")));
}
