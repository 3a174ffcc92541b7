//! `cargo test --release -p mlms-store -- --ignored --nocapture inserts_a_second`

use super::*;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn inserts_a_second() {
    let folder = Folder::new();
    for url in [folder.sqlite_url(), mariadb::database().await] {
        let store = ready(&url).await;
        let text = Body::text(&"x".repeat(100));
        let mut next = 0_u64;
        for (size, calls) in [(1, 300), (10, 100), (100, 100), (1_000, 40), (5_000, 10)] {
            // Many lobbies, a few events each, as an archive brings them.
            let mut spent = std::time::Duration::ZERO;
            for _ in 0..calls {
                let events: Vec<_> = (0..size)
                    .map(|_| {
                        next += 1;
                        event(&format!("lobby-{:05}", next % 2_000), 1, next, said("ann", text.clone()))
                    })
                    .collect();
                let started = std::time::Instant::now();
                assert_eq!(store.save_events(&events).await.unwrap(), inserted(size));
                spent += started.elapsed();
            }
            let scheme = url.split(':').next().unwrap_or_default();
            let rate = (size * calls) as f64 / spent.as_secs_f64();
            println!("{scheme}: {size} events a call: {rate:.0} events/s");
        }
    }
}
