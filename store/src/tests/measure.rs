//! `just inserts`: how many events a second go into each database, by the size of a call, and how many it takes for a
//! while from one archive and from several at once.

use std::time::{Duration, Instant};

use super::*;

/// Events of one sustained run.
const SUSTAINED: u64 = 200_000;
/// What an archive brings in one call.
const CALL: u64 = 2_000;

/// Events of many lobbies, a few each, as an archive brings them; `next` counts them through.
fn events(next: &mut u64, count: u64, lobbies: &str) -> Vec<Arc<LobbyEvent>> {
    let text = Body::text(&"x".repeat(100));
    let mut one = || {
        *next += 1;
        event(&format!("{lobbies}-{:05}", *next % 2_000), 1, *next, said("ann", text.clone()))
    };
    (0..count).map(|_| one()).collect()
}

async fn save(store: &Store, events: &[Arc<LobbyEvent>]) -> Duration {
    let started = Instant::now();
    loop {
        match store.save_events(events).await {
            Ok(report) => {
                assert_eq!(report, inserted(events.len() as u64));
                return started.elapsed();
            }
            // Two archives met in an index: the same again goes in.
            Err(StoreError::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn inserts_a_second() {
    let folder = Folder::new();
    for url in [folder.sqlite_url(), mariadb::database().await] {
        let store = ready(&url).await;
        let scheme = url.split(':').next().unwrap_or_default();
        let mut next = 0_u64;
        for (size, calls) in [(1, 300), (10, 100), (100, 100), (1_000, 40)] {
            let mut spent = Duration::ZERO;
            for _ in 0..calls {
                spent += save(&store, &events(&mut next, size, "sizes")).await;
            }
            let rate = (size * calls) as f64 / spent.as_secs_f64();
            println!("{scheme}: {size} events a call: {rate:.0} events/s");
        }
        for archives in [1, 2, 4] {
            let began = Instant::now();
            let mut saving = tokio::task::JoinSet::new();
            for archive in 0..archives {
                let store = store.clone();
                saving.spawn(async move {
                    let lobbies = format!("of-{archives}-{archive}");
                    let mut next = 0;
                    while next < SUSTAINED / archives {
                        save(&store, &events(&mut next, CALL, &lobbies)).await;
                    }
                });
            }
            while let Some(saved) = saving.join_next().await {
                saved.unwrap();
            }
            let rate = SUSTAINED as f64 / began.elapsed().as_secs_f64();
            println!("{scheme}: {SUSTAINED} events by {archives} archives at once: {rate:.0} events/s");
        }
    }
}
