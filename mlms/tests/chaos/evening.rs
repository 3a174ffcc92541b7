//! A fleet that has grown evens out by itself: a new, empty node takes its share of lobbies and sessions, and nobody
//! loses a message by it. No fault happens here, so nothing excuses the loss of an ordered one either.

use std::time::Duration;

use tokio::time::Instant;

use crate::fleet::Fleet;
use crate::service::GLANCE;
use crate::story::{Story, my_turn, rounds};

/// How long the fleet may take: it waits until it is sure that the new node stays, and then it is not in a hurry.
const TIME: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_takes_its_share_and_nobody_loses_a_message() {
    let mut story = Story::begin("evened", 2, 2).await;
    for round in 0..rounds() {
        let grown = story.fault("grown");
        let place = if round == 0 { story.fleet.add_node(3) } else { 2 };
        story.fleet.launch_node(place).await;
        story.fleet.until_settled().await;
        let mut loads;
        loop {
            let view = story.fleet.view().await;
            loads =
                view.nodes.values().map(|node| (node.load.lobbies, node.load.sessions)).collect::<Vec<_>>();
            if is_even(loads.iter().map(|(lobbies, _)| *lobbies), 4)
                && is_even(loads.iter().map(|(_, sessions)| *sessions), 5)
            {
                break;
            }
            assert!(grown.began.elapsed() < TIME, "lobbies and sessions of each node: {loads:?}");
            tokio::time::sleep(10 * GLANCE).await;
        }
        let took = Instant::now() - grown.began;
        let caused = story.since(&grown);
        story
            .tell(&format!("even after {} ms: lobbies and sessions {loads:?}; {caused:?}", took.as_millis()));
        assert!(caused.owner_changes > 0, "void: no lobby moved");
        assert!(caused.rebalanced > 0, "void: no session was asked to move");
        assert!(caused.reconnects >= caused.rebalanced, "who was asked came back: {caused:?}");
        let silence = story.crowd.longest_silence(grown.began, Instant::now());
        story.tell(&format!("longest silence of a lobby {} ms", silence.as_millis()));
        story.calm().await;
        if round + 1 < rounds() {
            let shrunk = story.fault("shrunk");
            story.fleet.nodes[place].stop().await;
            story.done(shrunk).await;
            story.fleet.until_settled().await;
        }
    }
    story.end(&["owner_change", "reconnect"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_broker_takes_its_share_and_nobody_loses_a_message() {
    let turn = my_turn().await;
    let mut fleet = Fleet::start(2, 2).await;
    fleet.introduce_brokers();
    for place in [0, 1] {
        fleet.brokers[place].stop().await;
    }
    fleet.launch_broker(0).await;
    let mut story = Story::with("leveled", fleet, turn).await;
    let grown = story.fault("grown");
    story.fleet.launch_broker(1).await;
    story.fleet.prefer_door(1);
    let mut loads;
    loop {
        loads = Vec::new();
        for broker in &story.fleet.brokers {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few sessions")]
            loads.push(broker.metric("mlms_broker_connections").await as u32);
        }
        if is_even(loads.iter().copied(), 9) {
            break;
        }
        assert!(grown.began.elapsed() < TIME, "sessions of each broker: {loads:?}");
        tokio::time::sleep(10 * GLANCE).await;
    }
    let caused = story.since(&grown);
    story.tell(&format!("even after {} ms: {loads:?}; {caused:?}", grown.began.elapsed().as_millis()));
    assert!(caused.rebalanced > 0, "void: no session was asked to move");
    story.done(grown).await;
    story.end(&["reconnect"]).await;
}

/// Nobody has more than 1.2 times the mean, or so few more that it is nobody's trouble.
fn is_even(loads: impl Iterator<Item = u32> + Clone, least: u32) -> bool {
    let count = loads.clone().count().max(1);
    let mean = f64::from(loads.clone().sum::<u32>()) / count as f64;
    let most = f64::from(loads.max().unwrap_or(0));
    mean > 0.0 && (most <= 1.2 * mean || most - mean < f64::from(least))
}
