//! A Redis that dies, freezes, and comes back.

use std::time::Duration;

use bytes::Bytes;
use mlms_cluster::Unavailable;
use mlms_cluster::directory::{Claim, LEASE, RENEWAL, Renewal};
use mlms_cluster::journal::AppendError;
use mlms_protocol::Shard;
use tokio::time::Instant;

use crate::stage::{PATIENCE, Process, Stage, fence, node, own, record, until};

const SHARD: Shard = Shard(17);

fn batch(number: usize) -> [Bytes; 2] {
    [Bytes::from(format!("{number}-a")), Bytes::from(format!("{number}-b"))]
}

/// Repeats an append as an owner does, until it is clear.
async fn append(process: &Process, fence: &mut mlms_cluster::journal::Fence, batch: &[Bytes]) -> usize {
    let began = Instant::now();
    for tries in 1.. {
        match process.journal.append(SHARD, fence, batch).await {
            Ok(top) => {
                fence.top = top;
                return tries;
            }
            Err(AppendError::Unclear) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(AppendError::Deposed) => panic!("deposed by nobody"),
            Err(AppendError::Behind) => panic!("nothing was lost"),
        }
        assert!(began.elapsed() < PATIENCE, "the journal never answers again");
    }
    unreachable!("the loop ends before the numbers do")
}

async fn assert_journal_holds(process: &Process, batches: usize) {
    let loaded = process.journal.load(SHARD).await.unwrap();
    let read: Vec<Bytes> = loaded.entries.into_iter().map(|(_, bytes)| bytes).collect();
    let wanted: Vec<Bytes> = (0..batches).flat_map(batch).collect();
    assert_eq!(read, wanted);
}

/// Appends without pause while something happens to the server; nothing may be lost, doubled or out of order.
async fn append_through(stage: &mut Stage, happening: impl AsyncFnOnce(&mut crate::server::Server)) {
    let mut fence = own(&stage.a, SHARD, "one").await;
    let (a, server) = (&stage.a, stage.server.as_mut().unwrap());
    let stop = std::sync::atomic::AtomicBool::new(false);
    let writer = async {
        let (mut number, mut repeated) = (0, 0);
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            repeated += append(a, &mut fence, &batch(number)).await - 1;
            number += 1;
        }
        (number, repeated)
    };
    let disturbance = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        happening(server).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let ((batches, repeated), ()) = tokio::join!(writer, disturbance);
    assert!(repeated > 0, "nothing happened to the server");
    until(&stage.b.directory, |view| view.record(SHARD).is_some()).await;
    assert_journal_holds(&stage.b, batches).await;
}

#[tokio::test]
async fn appends_go_on_when_a_killed_redis_is_back_with_its_data() {
    let mut stage = Stage::redis().await;
    append_through(&mut stage, async |server| {
        server.kill();
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.launch().await;
    })
    .await;
}

#[tokio::test]
async fn appends_go_on_when_a_frozen_redis_thaws() {
    let mut stage = Stage::redis().await;
    append_through(&mut stage, async |server| {
        server.freeze();
        tokio::time::sleep(Duration::from_secs(4)).await;
        server.thaw();
    })
    .await;
}

#[tokio::test]
async fn appends_go_on_when_every_connection_is_cut() {
    let mut stage = Stage::redis().await;
    append_through(&mut stage, async |server| {
        for _ in 0..20 {
            let killed = server.ask("CLIENT KILL TYPE normal");
            assert!(killed.starts_with(':'), "{killed}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_frozen_redis_is_told_in_time_and_the_last_view_stays() {
    let stage = Stage::redis().await;
    let (a, server) = (&stage.a, stage.server.as_ref().unwrap());
    assert_eq!(a.directory.renew(&node("one", 1)).await, Ok(Renewal::Held));
    let fence = own(a, SHARD, "one").await;
    until(&a.directory, |view| view.owner(SHARD).is_some()).await;
    server.freeze();
    let everything = async {
        assert_eq!(a.journal.append(SHARD, &fence, &batch(0)).await, Err(AppendError::Unclear));
        assert_eq!(a.journal.save_snapshots(SHARD, &fence, vec![]).await, Err(AppendError::Unclear));
        assert!(a.journal.load(SHARD).await.is_err());
        assert_eq!(a.directory.refresh().await.map(drop), Err(Unavailable("the directory")));
        assert!(a.directory.renew(&node("one", 1)).await.is_err());
        assert!(a.directory.claim(SHARD, None, &record("one", 1, 2)).await.is_err());
        assert!(
            a.relay.publish(&"one".parse().unwrap(), &"two".parse().unwrap(), Bytes::new()).await.is_err()
        );
    };
    tokio::time::timeout(PATIENCE, everything).await.expect("every wait has a bound");
    assert!(a.directory.view().owner(SHARD).is_some());
    server.thaw();
    let mut fence = fence;
    append(a, &mut fence, &batch(0)).await;
    until(&a.directory, |view| view.record(SHARD).is_some()).await;
    assert_journal_holds(a, 1).await;
}

#[tokio::test]
async fn after_an_outage_nobody_claims_from_the_living() {
    let mut stage = Stage::redis().await;
    let (one, two) = (node("one", 1), node("two", 1));
    stage.a.directory.renew(&one).await.unwrap();
    own(&stage.a, SHARD, "one").await;
    // Long enough for `two` to be allowed to inherit, if `one` were gone.
    let began = Instant::now();
    while began.elapsed() < LEASE + RENEWAL {
        stage.a.directory.renew(&one).await.unwrap();
        stage.b.directory.renew(&two).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let server = stage.server.as_mut().unwrap();
    server.kill();
    tokio::time::sleep(LEASE + Duration::from_millis(500)).await;
    server.launch().await;
    // All leases are gone. `two` is back first and would like everything; `one` comes two seconds later.
    let (old, new) = (record("one", 1, 1), record("two", 1, 2));
    let back = Instant::now();
    let mut refusals = 0;
    while back.elapsed() < LEASE + RENEWAL {
        _ = stage.b.directory.renew(&two).await;
        if back.elapsed() > RENEWAL {
            _ = stage.a.directory.renew(&one).await;
        }
        match stage.b.directory.claim(SHARD, Some(&old), &new).await {
            Ok(Claim::Won) => panic!("claimed from the living {:?} after the outage", back.elapsed()),
            Ok(Claim::Lost(standing)) => assert_eq!(standing, Some(old.clone())),
            Err(_) => refusals += 1,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(refusals > 0, "the outage was not noticed");
    assert_eq!(stage.a.journal.append(SHARD, &fence(&old), &[]).await, Ok(fence(&old).top));
}

#[tokio::test]
async fn changes_are_told_again_after_the_subscriber_was_cut_off() {
    let stage = Stage::redis().await;
    stage.a.directory.renew(&node("one", 1)).await.unwrap();
    for epoch in 1..=5_u64 {
        let server = stage.server.as_ref().unwrap();
        server.kill_subscribers();
        let before = (epoch > 1).then(|| record("one", 1, epoch - 1));
        let new = record("one", 1, epoch);
        assert_eq!(stage.a.directory.claim(SHARD, before.as_ref(), &new).await, Ok(Claim::Won));
        let mut watch = stage.b.directory.watch();
        let seen = watch.wait_for(|view| view.record(SHARD) == Some(&new));
        tokio::time::timeout(PATIENCE, seen).await.unwrap().unwrap();
    }
}
