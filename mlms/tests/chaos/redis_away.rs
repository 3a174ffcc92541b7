//! Redis stops, dies and freezes under load; every process stays, and everything goes on afterwards.

use std::time::Duration;

use crate::crowd::MEMBERS;
use crate::recorder::Reached;
use crate::story::{Fault, Story, rounds};

/// How long Redis is away: once for longer than any lease lives, once for a moment.
const STOPPED: Duration = Duration::from_secs(8);
const KILLED: Duration = Duration::from_secs(2);
/// How long it is frozen.
const FROZEN: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_stopped_killed_and_frozen_and_comes_back_with_its_data() {
    let mut story = Story::begin("redis", 2, 2).await;
    for _ in 0..rounds() {
        let fault = story.fault("redis_stopped");
        story.fleet.redis.stop();
        everybody_lives(&mut story, STOPPED / 2).await;
        // Brokers route by what they knew.
        let took = story.fleet.newcomer("newcomer").await;
        story.tell(&format!("a newcomer is in after {} ms without Redis", took.as_millis()));
        everybody_lives(&mut story, STOPPED / 2).await;
        story.fleet.redis.launch().await;
        let caused = back(&mut story, fault).await;
        // It was away for longer than a node is sure of its lease.
        assert!(caused.degraded >= MEMBERS as u64, "everybody is told that something is missing: {caused:?}");
        assert!(caused.recovered >= MEMBERS as u64, "and that it is back: {caused:?}");

        let fault = story.fault("redis_killed");
        story.fleet.redis.kill();
        everybody_lives(&mut story, KILLED).await;
        story.fleet.redis.launch().await;
        back(&mut story, fault).await;

        let fault = story.fault("redis_frozen");
        story.fleet.redis.freeze();
        everybody_lives(&mut story, FROZEN).await;
        story.fleet.redis.thaw();
        back(&mut story, fault).await;
    }
    let faults = ["fault:redis_stopped", "fault:redis_killed", "fault:redis_frozen"];
    story.end(&[&faults[..], &["retried_nonce"]].concat()).await;
}

/// Nobody ends or stops turning while Redis is away.
async fn everybody_lives(story: &mut Story, time: Duration) {
    tokio::time::sleep(time).await;
    for service in story.fleet.nodes.iter_mut().chain(&mut story.fleet.brokers) {
        assert!(service.runs() && service.is_live().await, "{} has ended\n{}", service.name, service.log());
    }
}

async fn back(story: &mut Story, fault: Fault) -> Reached {
    let lobbies = story.crowd.lobbies.clone();
    story.recovered(&fault, &lobbies).await;
    let caused = story.over(fault).await;
    assert!(caused.put_off > 0, "void: nobody noticed that Redis was away");
    caused
}
