//! Processes that are killed or frozen under load.

use std::time::Duration;

use mlms_protocol::LobbyId;
use tokio::time::Instant;

use crate::story::{Story, rounds};

/// How soon after an ok the owner is killed.
const AT_ONCE: Duration = Duration::from_millis(50);
/// Kills that may hit nothing.
const VOIDS_MAX: usize = 6;
/// How long an owner is frozen: longer than its lease lives.
const FROZEN: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_is_killed_right_after_an_ok() {
    let mut story = Story::begin("owner-killed", 3, 2).await;
    let (mut left, mut voids) = (rounds(), 0);
    while left > 0 {
        let lobbies = story.crowd.lobbies.clone();
        let (place, owned) = story.fleet.busiest(&lobbies).await;
        after_an_ok(&story, &owned).await;
        let fault = story.fault("owner_killed");
        story.fleet.nodes[place].kill();
        story.recovered(&fault, &owned).await;
        let caused = story.over(fault).await;
        assert!(caused.owner_changes > 0, "void: no lobby changed its owner");
        // Whether a message of a session on that node was on its way at that moment is chance.
        if caused.resume_gaps > 0 && caused.retried_nonces > 0 {
            left -= 1;
        } else {
            voids += 1;
            assert!(
                voids < VOIDS_MAX,
                "void: nobody came back into a gap and repeated a message: {caused:?}"
            );
        }
        story.fleet.launch_node(place).await;
        story.fleet.until_settled().await;
        story.calm().await;
    }
    story.end(&["owner_change", "resume_gap", "retried_nonce", "unknown", "fault:owner_killed"]).await;
}

/// Returns at most 50 ms after one of these lobbies accepted a message, of many that were sent at the same moment.
pub(crate) async fn after_an_ok(story: &Story, lobbies: &[LobbyId]) {
    let mut news = story.crowd.news();
    story.crowd.speak_at_once();
    loop {
        let acked = news.recv().await.expect("the crowd talks");
        if lobbies.contains(&acked.lobby) && acked.at.elapsed() < AT_ONCE {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_is_killed_and_its_players_come_in_by_another() {
    let mut story = Story::begin("broker-killed", 2, 2).await;
    for _ in 0..rounds() {
        let lobbies = story.crowd.lobbies.clone();
        let fault = story.fault("broker_killed");
        story.fleet.brokers[0].kill();
        story.recovered(&fault, &lobbies).await;
        let caused = story.over(fault).await;
        assert!(caused.reconnects > 0, "void: nobody lost a connection");
        assert!(caused.resume_gaps > 0, "void: nobody came back into a gap");
        story.fleet.launch_broker(0).await;
        story.fleet.swap_doors();
    }
    story.end(&["reconnect", "resume_gap", "fault:broker_killed"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_freezes_for_longer_than_its_lease_and_wakes() {
    let mut story = Story::begin("owner-frozen", 3, 2).await;
    for _ in 0..rounds() {
        let lobbies = story.crowd.lobbies.clone();
        let (place, owned) = story.fleet.busiest(&lobbies).await;
        let newcomer = story.fleet.user_of(place).await;
        let fault = story.fault("owner_frozen");
        story.fleet.nodes[place].signal("STOP");
        // Brokers still know the frozen node, and it takes connections: they go on to the next one.
        let took = story.fleet.newcomer(&newcomer).await;
        story.tell(&format!("somebody who belongs to the frozen node is in after {} ms", took.as_millis()));
        tokio::time::sleep_until(fault.began + FROZEN).await;
        story.fleet.nodes[place].signal("CONT");
        let woken = Instant::now();
        story.recovered(&fault, &owned).await;
        story.crowd.recovered(&lobbies, woken).await;
        let caused = story.over(fault).await;
        assert!(caused.owner_changes > 0, "void: no lobby changed its owner");
        assert!(story.fleet.nodes[place].runs(), "the frozen node has ended");
        story.fleet.until_settled().await;
    }
    story.end(&["owner_change", "fault:owner_frozen"]).await;
}
