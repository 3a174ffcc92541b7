//! The fenced journal, alike on both.

use bytes::Bytes;
use mlms_cluster::Embedded;
use mlms_cluster::directory::Claim;
use mlms_cluster::journal::{AppendError, EntryId, Fence};
use mlms_protocol::{Incarnation, Shard};

use crate::stage::{Process, Stage, fence, lobby, node, on_both, own, record};

const SHARD: Shard = Shard(17);

on_both!(
    entries_chain_and_are_read_back_in_order,
    an_empty_append_proves_ownership,
    a_repeated_append_is_found_and_not_doubled,
    a_deposed_writer_changes_nothing,
    of_two_appends_behind_one_top_one_is_taken,
    snapshots_are_replaced_removed_and_fenced,
    a_trim_keeps_the_top,
    a_long_log_with_many_snapshots_is_read_whole,
    entries_are_any_bytes,
);

fn id(epoch: u64, n: u64) -> EntryId {
    EntryId { epoch, n }
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Appends and moves the fence on.
async fn append(process: &Process, fence: &mut Fence, entries: &[Bytes]) {
    fence.top = process.journal.append(SHARD, fence, entries).await.unwrap();
}

async fn entries(process: &Process) -> Vec<(EntryId, Bytes)> {
    process.journal.load(SHARD).await.unwrap().entries
}

/// Gives the shard of process a's node `one` to `two`, which goes on where the log ends.
async fn hand_over(stage: &Stage) -> Fence {
    stage.a.directory.renew(&node("one", 1)).await.unwrap();
    let new = record("two", 1, 2);
    let claim = stage.a.directory.claim(SHARD, Some(&record("one", 1, 1)), &new).await;
    assert_eq!(claim, Ok(Claim::Won));
    Fence { top: stage.b.journal.load(SHARD).await.unwrap().top, ..fence(&new) }
}

async fn entries_chain_and_are_read_back_in_order(stage: Stage) {
    let mut one = own(&stage.a, SHARD, "one").await;
    assert_eq!(stage.a.journal.load(SHARD).await.unwrap().top, EntryId::default());
    append(&stage.a, &mut one, &[text("a"), text("b")]).await;
    append(&stage.a, &mut one, &[text("c")]).await;
    assert_eq!(one.top, id(1, 3));
    let mut two = hand_over(&stage).await;
    assert_eq!(two.top, id(1, 3));
    append(&stage.b, &mut two, &[text("d")]).await;
    assert_eq!(two.top, id(2, 1));
    let wanted = [(id(1, 1), text("a")), (id(1, 2), text("b")), (id(1, 3), text("c")), (id(2, 1), text("d"))];
    assert_eq!(entries(&stage.a).await, wanted);
    // Other shards know nothing of it.
    assert!(stage.a.journal.load(Shard(18)).await.unwrap().entries.is_empty());
}

async fn an_empty_append_proves_ownership(stage: Stage) {
    let mut one = own(&stage.a, SHARD, "one").await;
    assert_eq!(stage.a.journal.append(SHARD, &one, &[]).await, Ok(EntryId::default()));
    append(&stage.a, &mut one, &[text("a")]).await;
    assert_eq!(stage.a.journal.append(SHARD, &one, &[]).await, Ok(id(1, 1)));
    hand_over(&stage).await;
    assert_eq!(stage.a.journal.append(SHARD, &one, &[]).await, Err(AppendError::Deposed));
}

async fn a_repeated_append_is_found_and_not_doubled(stage: Stage) {
    let mut one = own(&stage.a, SHARD, "one").await;
    append(&stage.a, &mut one, &[text("a")]).await;
    let batch = [text("b"), text("c")];
    for _ in 0..3 {
        assert_eq!(stage.a.journal.append(SHARD, &one, &batch).await, Ok(id(1, 3)));
    }
    one.top = id(1, 3);
    append(&stage.a, &mut one, &[text("d")]).await;
    assert_eq!(entries(&stage.a).await.len(), 4);
}

async fn a_deposed_writer_changes_nothing(stage: Stage) {
    let mut one = own(&stage.a, SHARD, "one").await;
    append(&stage.a, &mut one, &[text("a")]).await;
    let mut two = hand_over(&stage).await;
    append(&stage.b, &mut two, &[text("b")]).await;
    let before = entries(&stage.b).await;
    let foreign = [
        one.clone(),
        Fence { epoch: two.epoch, top: two.top, ..one.clone() },
        Fence { incarnation: Incarnation(9), ..two.clone() },
        Fence { epoch: one.epoch, ..two.clone() },
    ];
    for fence in foreign {
        let lost = stage.a.journal.append(SHARD, &fence, &[text("x")]).await;
        assert_eq!(lost, Err(AppendError::Deposed), "{fence:?}");
    }
    assert_eq!(entries(&stage.b).await, before);
    append(&stage.b, &mut two, &[text("c")]).await;
}

async fn of_two_appends_behind_one_top_one_is_taken(stage: Stage) {
    let mut one = own(&stage.a, SHARD, "one").await;
    append(&stage.a, &mut one, &[text("a")]).await;
    append(&stage.a, &mut one, &[text("b"), text("c")]).await;
    // Late on its way, or of a writer that lost its memory: not behind what stands there.
    let late = Fence { top: id(1, 1), ..one.clone() };
    let lost = stage.a.journal.append(SHARD, &late, &[text("x"), text("y"), text("z")]).await;
    assert_eq!(lost, Err(AppendError::Deposed));
    // And nothing is left out: this journal has lost what its writer knows to be there.
    let early = Fence { top: id(1, 5), ..one.clone() };
    assert_eq!(stage.a.journal.append(SHARD, &early, &[text("x")]).await, Err(AppendError::Behind));
    let claim_lost = Fence { epoch: mlms_protocol::Epoch(one.epoch.0 + 1), ..one.clone() };
    assert_eq!(stage.a.journal.append(SHARD, &claim_lost, &[text("x")]).await, Err(AppendError::Behind));
    assert_eq!(entries(&stage.a).await.len(), 3);
}

async fn snapshots_are_replaced_removed_and_fenced(stage: Stage) {
    let mut one = own(&stage.a, SHARD, "one").await;
    append(&stage.a, &mut one, &[text("a")]).await;
    let save = |names: &[(&str, Option<&str>)]| -> Vec<_> {
        names.iter().map(|(name, state)| (lobby(name), state.map(text))).collect()
    };
    let loaded = async || {
        let mut snapshots = stage.b.journal.load(SHARD).await.unwrap().snapshots;
        snapshots.sort();
        snapshots
    };
    let saved = |names: &[(&str, &str)]| -> Vec<_> {
        names.iter().map(|(name, state)| (lobby(name), text(state))).collect()
    };
    let journal = &stage.a.journal;
    journal.save_snapshots(SHARD, &one, save(&[("x", Some("1")), ("y", Some("1"))])).await.unwrap();
    assert_eq!(loaded().await, saved(&[("x", "1"), ("y", "1")]));
    journal.save_snapshots(SHARD, &one, save(&[("x", Some("2")), ("y", None)])).await.unwrap();
    assert_eq!(loaded().await, saved(&[("x", "2")]));
    let two = hand_over(&stage).await;
    let lost = journal.save_snapshots(SHARD, &one, save(&[("x", Some("3"))])).await;
    assert_eq!(lost, Err(AppendError::Deposed));
    assert_eq!(loaded().await, saved(&[("x", "2")]));
    stage.b.journal.save_snapshots(SHARD, &two, save(&[("x", Some("4"))])).await.unwrap();
    assert_eq!(loaded().await, saved(&[("x", "4")]));
}

async fn a_trim_keeps_the_top(stage: Stage) {
    let mut one = own(&stage.a, SHARD, "one").await;
    stage.a.journal.trim(SHARD, id(1, 1)).await.unwrap();
    append(&stage.a, &mut one, &[text("a"), text("b"), text("c")]).await;
    stage.a.journal.trim(SHARD, id(1, 2)).await.unwrap();
    assert_eq!(entries(&stage.a).await, [(id(1, 3), text("c"))]);
    stage.a.journal.trim(SHARD, id(1, 1)).await.unwrap();
    assert_eq!(entries(&stage.a).await, [(id(1, 3), text("c"))]);
    // Beyond the end: the newest may stay, so that the next append has something to follow.
    for through in [id(1, 3), id(1, 99), id(7, 1)] {
        stage.a.journal.trim(SHARD, through).await.unwrap();
        assert_eq!(stage.b.journal.load(SHARD).await.unwrap().top, id(1, 3));
    }
    assert!(entries(&stage.a).await.len() <= 1);
    append(&stage.a, &mut one, &[text("d")]).await;
    let mut two = hand_over(&stage).await;
    append(&stage.b, &mut two, &[text("e")]).await;
    stage.b.journal.trim(SHARD, id(1, 4)).await.unwrap();
    assert_eq!(entries(&stage.a).await, [(id(2, 1), text("e"))]);
}

async fn a_long_log_with_many_snapshots_is_read_whole(stage: Stage) {
    let mut one = own(&stage.a, SHARD, "one").await;
    let mut wanted = Vec::new();
    for batch in 0..16 {
        let batch: Vec<Bytes> = (0..64).map(|number| text(&format!("{batch}-{number}"))).collect();
        append(&stage.a, &mut one, &batch).await;
        wanted.extend(batch);
    }
    let state = "s".repeat(40_000);
    let changed = (0..100).map(|number| (lobby(&format!("lobby-{number}")), Some(text(&state))));
    stage.a.journal.save_snapshots(SHARD, &one, changed.collect()).await.unwrap();
    let loaded = stage.b.journal.load(SHARD).await.unwrap();
    assert_eq!(loaded.top, id(1, 1_024));
    let bytes: Vec<Bytes> = loaded.entries.iter().map(|(_, bytes)| bytes.clone()).collect();
    assert_eq!(bytes, wanted);
    assert!(loaded.entries.iter().zip(1..).all(|((entry, _), n)| *entry == id(1, n)));
    assert_eq!(loaded.snapshots.len(), 100);
    assert!(loaded.snapshots.iter().all(|(_, bytes)| bytes.len() == state.len()));
}

async fn entries_are_any_bytes(stage: Stage) {
    let mut one = own(&stage.a, SHARD, "one").await;
    let all: Vec<u8> = (0..=255).collect();
    let batch = [Bytes::new(), Bytes::from(all), Bytes::from(vec![0; 100_000]), text("ü\r\n$1\r\n")];
    append(&stage.a, &mut one, &batch).await;
    let read: Vec<Bytes> = entries(&stage.b).await.into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(read, batch);
    let changed = vec![(lobby("x"), Some(batch[1].clone()))];
    stage.a.journal.save_snapshots(SHARD, &one, changed).await.unwrap();
    assert_eq!(stage.b.journal.load(SHARD).await.unwrap().snapshots, [(lobby("x"), batch[1].clone())]);
}

/// The append's caller has gone (its worker ended), but the append was on its way to the table.
#[tokio::test]
async fn an_embedded_append_that_nobody_waits_for_ends_as_the_table_says() {
    let folder = std::env::temp_dir().join(format!("mlms-boundary-{}", std::process::id()));
    let url = format!("sqlite://{}/journal.db", folder.display());
    let (embedded, writer) = Embedded::on_disk(&url, false).await.unwrap();
    let writer = tokio::spawn(writer);
    let (directory, journal) = (embedded.directory(), embedded.journal());
    let one = record("one", 1, 1);
    assert_eq!(directory.claim(SHARD, None, &one).await, Ok(Claim::Won));
    let (given_up, first) = (fence(&one), [text("a"), text("b")]);
    tokio::select! {
        biased;
        _ = journal.append(SHARD, &given_up, &first) => panic!("the table took it before it was asked"),
        () = std::future::ready(()) => {}
    }
    let two = record("one", 2, 2);
    assert_eq!(directory.claim(SHARD, Some(&one), &two).await, Ok(Claim::Won));
    // The claim's own commit is behind the append's.
    let loaded = journal.load(SHARD).await.unwrap();
    let wanted = [(id(1, 1), text("a")), (id(1, 2), text("b"))];
    assert_eq!((loaded.entries.as_slice(), loaded.top), (wanted.as_slice(), id(1, 2)));
    let next = Fence { top: loaded.top, ..fence(&two) };
    assert_eq!(journal.append(SHARD, &next, &[text("c")]).await, Ok(id(2, 1)));
    let in_memory = journal.load(SHARD).await.unwrap().entries;
    drop((embedded, directory, journal));
    writer.await.unwrap();

    let (embedded, writer) = Embedded::on_disk(&url, false).await.unwrap();
    let writer = tokio::spawn(writer);
    assert_eq!(embedded.journal().load(SHARD).await.unwrap().entries, in_memory);
    drop(embedded);
    writer.await.unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
}
