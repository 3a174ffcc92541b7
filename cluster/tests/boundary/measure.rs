//! `cargo test --release -p mlms-cluster --test boundary -- --ignored --nocapture a_second`

use std::time::{Duration, Instant};

use bytes::Bytes;
use mlms_protocol::Shard;

use crate::stage::{Stage, own};

#[tokio::test]
#[ignore = "a measurement"]
async fn appends_a_second() {
    let stage = Stage::redis().await;
    let mut next = 0;
    for entries in [0, 1, 8, 64] {
        for shards in [1, 10, 100] {
            let batch = vec![Bytes::from(vec![b'x'; 200]); entries];
            let began = Instant::now();
            let writers = (0..shards).map(|_| {
                next = (next + 1) % 512;
                let (stage, batch, shard) = (&stage, &batch, Shard(next));
                async move {
                    let mut fence = match stage.a.directory.view().record(shard) {
                        None => own(&stage.a, shard, "one").await,
                        Some(_) => return (0, Duration::ZERO),
                    };
                    let (mut appends, mut slowest) = (0_u32, Duration::ZERO);
                    while began.elapsed() < Duration::from_secs(1) {
                        let at = Instant::now();
                        fence.top = stage.a.journal.append(shard, &fence, batch).await.unwrap();
                        slowest = slowest.max(at.elapsed());
                        appends += 1;
                    }
                    (appends, slowest)
                }
            });
            let outcomes = futures_util::future::join_all(writers).await;
            let appends: u32 = outcomes.iter().map(|(appends, _)| appends).sum();
            let slowest = outcomes.iter().map(|(_, slowest)| *slowest).max().unwrap_or_default();
            let rate = f64::from(appends) / began.elapsed().as_secs_f64();
            println!(
                "{entries} entries, {shards} shards in flight: {rate:.0} appends/s, slowest {slowest:?}"
            );
        }
    }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn views_a_second() {
    let stage = Stage::redis().await;
    for number in 0..512 {
        own(&stage.a, Shard(number), "one").await;
    }
    let (began, mut slowest) = (Instant::now(), Duration::ZERO);
    for _ in 0..100 {
        let at = Instant::now();
        stage.a.directory.refresh().await.unwrap();
        slowest = slowest.max(at.elapsed());
    }
    println!("a reading takes {:?}, at most {slowest:?}", began.elapsed() / 100);
}

#[tokio::test]
#[ignore = "a measurement"]
async fn memory_of_one_process() {
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        status.lines().find(|line| line.starts_with("VmRSS")).unwrap().to_owned()
    };
    let server = crate::server::start().await;
    let before = resident();
    let process = crate::stage::connect(&server).await;
    println!("before {before}, with one process's connections {}", resident());
    process.end().await;
}
