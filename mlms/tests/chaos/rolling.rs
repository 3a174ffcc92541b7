//! Planned changes under load: a rolling restart, growth and shrinking, a drain that is cut short.

use std::time::Duration;

use tokio::time::Instant;

use crate::story::{Story, rounds};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_are_restarted_one_after_the_other() {
    let mut story = Story::begin("rolling", 3, 1).await;
    let lobbies = story.crowd.lobbies.clone();
    for _ in 0..rounds() {
        for place in 0..story.fleet.nodes.len() {
            let owned = story.fleet.owned_by(place, &lobbies).await;
            let fault = story.fault("node_rolled");
            story.fleet.nodes[place].stop().await;
            story.recovered(&fault, &owned).await;
            story.fleet.launch_node(place).await;
            let caused = story.done(fault).await;
            assert!(owned.is_empty() || caused.owner_changes > 0, "void: no lobby changed its owner");
            assert!(caused.reconnects > 0, "void: nobody had to move");
            story.fleet.until_settled().await;
        }
    }
    story.end(&["owner_change", "reconnect", "resume_gap"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fleet_grows_from_two_nodes_to_four_and_back() {
    let mut story = Story::begin("growth", 2, 1).await;
    let lobbies = story.crowd.lobbies.clone();
    for round in 0..rounds() {
        let grown = story.fault("grown");
        for number in [3, 4] {
            let place = if round == 0 { story.fleet.add_node(number) } else { number - 1 };
            story.fleet.launch_node(place).await;
        }
        story.fleet.until_settled().await;
        story.recovered(&grown, &lobbies).await;
        story.done(grown).await;
        // The first two go: whatever the new ones did not own yet is theirs now.
        let shrunk = story.fault("shrunk");
        for place in [0, 1] {
            story.fleet.nodes[place].stop().await;
        }
        story.recovered(&shrunk, &lobbies).await;
        let caused = story.done(shrunk).await;
        assert!(caused.owner_changes > 0, "void: no lobby changed its owner");
        assert!(caused.reconnects > 0, "void: nobody had to move");
        if round + 1 < rounds() {
            story.fleet.launch_node(0).await;
            story.fleet.launch_node(1).await;
            for place in [2, 3] {
                story.fleet.nodes[place].stop().await;
            }
            story.fleet.until_settled().await;
        }
    }
    story.end(&["owner_change", "reconnect"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_that_is_cut_short_loses_nothing() {
    let mut story = Story::begin("hurried", 3, 1).await;
    let lobbies = story.crowd.lobbies.clone();
    for _ in 0..rounds() {
        let (place, owned) = story.fleet.busiest(&lobbies).await;
        let fault = story.fault("drain_cut_short");
        story.fleet.nodes[place].signal("TERM");
        tokio::time::sleep(Duration::from_millis(200)).await;
        story.fleet.nodes[place].signal("TERM");
        let hurried = Instant::now();
        let status = story.fleet.nodes[place].ended().await;
        story.tell(&format!("ended {} ms after the second signal: {status}", hurried.elapsed().as_millis()));
        story.recovered(&fault, &owned).await;
        let caused = story.over(fault).await;
        assert!(caused.owner_changes > 0, "void: no lobby changed its owner");
        assert!(caused.reconnects > 0, "void: nobody had to move");
        story.fleet.launch_node(place).await;
        story.fleet.until_settled().await;
    }
    story.end(&["owner_change", "reconnect", "fault:drain_cut_short"]).await;
}
