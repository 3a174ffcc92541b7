//! Redis loses everything under load while the nodes live: they hold what was acknowledged, and write it again.

use crate::deaths::after_an_ok;
use crate::story::{Story, rounds};

/// Kills that may hit nothing.
const VOIDS_MAX: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_emptied_and_the_owners_write_again_what_they_had_acknowledged() {
    let mut story = Story::begin("emptied", 2, 1).await;
    let lobbies = story.crowd.lobbies.clone();
    for _ in 0..rounds() {
        let fault = story.fault("redis_emptied");
        story.fleet.redis.flush();
        story.recovered(&fault, &lobbies).await;
        let caused = story.over(fault).await;
        assert!(caused.owner_changes > 0, "void: no lobby has a new epoch");

        // What was written again is all that the next owner has. Whether a message was on its way when the owner died is
        // chance.
        let mut voids = 0;
        loop {
            let (place, owned) = story.fleet.busiest(&lobbies).await;
            after_an_ok(&story, &owned).await;
            let fault = story.fault("owner_killed");
            story.fleet.nodes[place].kill();
            story.recovered(&fault, &owned).await;
            let caused = story.over(fault).await;
            story.fleet.launch_node(place).await;
            story.fleet.until_settled().await;
            if caused.retried_nonces > 0 {
                break;
            }
            voids += 1;
            assert!(voids < VOIDS_MAX, "void: nobody repeated a message: {caused:?}");
            story.calm().await;
        }
    }
    story.end(&["owner_change", "retried_nonce", "fault:redis_emptied", "fault:owner_killed"]).await;
}
