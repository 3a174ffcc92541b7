//! `just frozen`: what chat costs while MariaDB is frozen, beside what it costs while it is not, in one run.

use std::time::Duration;

use tokio::time::Instant;

use crate::fleet::Fleet;
use crate::story::{Story, my_turn};

/// Each part of the run; frozen and not in turn, so that whatever else the machine does meets both.
const PART: Duration = Duration::from_secs(10);
const TURNS: usize = 4;
/// How much longer chat may take.
const RATIO_MAX: f64 = 1.5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn chat_beside_a_frozen_database_is_as_fast() {
    let turn = my_turn().await;
    let fleet = Fleet::with_servers(2, &[]).await;
    let mut story = Story::with("frozen", fleet, turn).await;
    let (mut free, mut frozen) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let began = Instant::now();
        tokio::time::sleep(PART).await;
        free.extend(story.crowd.latencies(began, Instant::now()));
        story.fleet.servers().mariadb.signal("STOP");
        let began = Instant::now();
        tokio::time::sleep(PART).await;
        frozen.extend(story.crowd.latencies(began, Instant::now()));
        story.fleet.servers().mariadb.signal("CONT");
        // What has gathered drains before the next part: that is the freedom's cost, not the frost's.
        while story.fleet.metric("mlms_archive_backlog_events").await > 100.0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    for (name, latencies) in [("free", &mut free), ("frozen", &mut frozen)] {
        latencies.sort();
        let [p50, p99] = [50, 99].map(|percent| at(latencies, percent).as_secs_f64() * 1_000.0);
        story.tell(&format!("{name}: {} messages, p50 {p50:.1} ms, p99 {p99:.1} ms", latencies.len()));
    }
    let ratio = at(&frozen, 99).as_secs_f64() / at(&free, 99).as_secs_f64();
    story.tell(&format!("p99 beside a frozen database is {ratio:.2} of the other"));
    assert!(ratio <= RATIO_MAX, "{ratio:.2}");
    story.end(&[]).await;
}

fn at(sorted: &[Duration], percent: usize) -> Duration {
    sorted[sorted.len() * percent / 100]
}
