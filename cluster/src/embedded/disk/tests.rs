use tokio::task::{JoinHandle, JoinSet};

use super::*;

/// A folder of its own for one test, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("mlms-journal-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Folder(std::env::temp_dir().join(name))
    }

    fn url(&self) -> String {
        format!("sqlite://{}/deep/journal.db", self.0.display())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn open(folder: &Folder) -> (Disk, Loaded, JoinHandle<()>) {
    let (disk, loaded, writer) = Disk::open(&folder.url(), false).await.unwrap();
    (disk, loaded, tokio::spawn(writer))
}

async fn close(disk: Disk, writer: JoinHandle<()>) {
    drop(disk);
    writer.await.unwrap();
}

fn id(epoch: u64, n: u64) -> EntryId {
    EntryId { epoch, n }
}

fn append(shard: u16, entries: &[(EntryId, &'static str)]) -> Op {
    let entries = entries.iter().map(|(id, text)| (*id, Bytes::from_static(text.as_bytes()))).collect();
    Op::Append { shard: Shard(shard), entries }
}

fn record(node: &str, incarnation: u64, epoch: u64) -> ShardRecord {
    let node = NodeName::new(node).unwrap();
    ShardRecord { node, incarnation: Incarnation(incarnation), epoch: Epoch(epoch) }
}

fn texts(loaded: &Loaded, shard: u16) -> Vec<(EntryId, String)> {
    let of_shard = loaded.entries.iter().filter(|(s, _, _)| *s == Shard(shard));
    of_shard.map(|(_, id, entry)| (*id, String::from_utf8(entry.to_vec()).unwrap())).collect()
}

#[tokio::test]
async fn reopening_finds_everything_in_order() {
    let folder = Folder::new();
    let (disk, loaded, writer) = open(&folder).await;
    assert!(loaded.entries.is_empty() && loaded.epochs.is_empty() && loaded.snapshots.is_empty());
    let lobby = |name| LobbyId::new(name).unwrap();
    let snapshots = |changed| Op::Snapshots { shard: Shard(3), changed };
    disk.write(append(3, &[(id(2, 1), "c")])).await.unwrap();
    disk.write(append(3, &[(id(1, 9), "a"), (id(1, 10), "b")])).await.unwrap();
    disk.write(append(511, &[(id(1, 1), "")])).await.unwrap();
    disk.write(Op::Claim { shard: Shard(3), record: record("node-1", 7, 2) }).await.unwrap();
    let both =
        vec![(lobby("x"), Some(Bytes::from_static(b"old"))), (lobby("y"), Some(Bytes::from_static(b"y")))];
    disk.write(snapshots(both)).await.unwrap();
    disk.write(snapshots(vec![(lobby("x"), Some(Bytes::from_static(b"new"))), (lobby("y"), None)]))
        .await
        .unwrap();
    close(disk, writer).await;

    let (disk, loaded, writer) = open(&folder).await;
    let expected = [(id(1, 9), "a".to_owned()), (id(1, 10), "b".to_owned()), (id(2, 1), "c".to_owned())];
    assert_eq!(texts(&loaded, 3), expected);
    assert_eq!(texts(&loaded, 511), [(id(1, 1), String::new())]);
    assert_eq!(loaded.epochs, [(Shard(3), record("node-1", 7, 2))]);
    assert_eq!(loaded.snapshots, [(Shard(3), lobby("x"), Bytes::from_static(b"new"))]);
    // Trimming reaches over epochs, and only its own shard.
    disk.write(Op::Trim { shard: Shard(3), through: id(1, 10) }).await.unwrap();
    close(disk, writer).await;
    let (disk, loaded, writer) = open(&folder).await;
    assert_eq!(texts(&loaded, 3), [(id(2, 1), "c".to_owned())]);
    assert_eq!(texts(&loaded, 511).len(), 1);
    close(disk, writer).await;
}

#[tokio::test]
async fn callers_at_once_share_a_commit() {
    let folder = Folder::new();
    let (disk, _, writer) = Disk::open(&folder.url(), true).await.unwrap();
    // All of them wait before the writer begins.
    let mut callers = JoinSet::new();
    for shard in 0..250 {
        let disk = disk.clone();
        callers.spawn(async move { disk.write(append(shard, &[(id(1, 1), "x"), (id(1, 2), "y")])).await });
    }
    while disk.queue.max_capacity() - disk.queue.capacity() < 250 {
        tokio::task::yield_now().await;
    }
    let writer = tokio::spawn(writer);
    while let Some(written) = callers.join_next().await {
        written.unwrap().unwrap();
    }
    assert_eq!(disk.commits.load(Ordering::Relaxed), 1);
    close(disk, writer).await;
    let (disk, loaded, writer) = open(&folder).await;
    assert_eq!(loaded.entries.len(), 500);
    close(disk, writer).await;
}

#[tokio::test]
async fn an_append_that_is_repeated_stands_once() {
    let folder = Folder::new();
    let (disk, _, writer) = open(&folder).await;
    for _ in 0..3 {
        disk.write(append(1, &[(id(1, 1), "a"), (id(1, 2), "b")])).await.unwrap();
    }
    close(disk, writer).await;
    let (disk, loaded, writer) = open(&folder).await;
    assert_eq!(texts(&loaded, 1), [(id(1, 1), "a".to_owned()), (id(1, 2), "b".to_owned())]);
    close(disk, writer).await;
}

#[tokio::test]
async fn claims_that_cross_leave_the_higher_epoch() {
    let folder = Folder::new();
    let (disk, _, writer) = open(&folder).await;
    for (node, epoch) in [("a", 4), ("b", 5), ("c", 3)] {
        disk.write(Op::Claim { shard: Shard(9), record: record(node, 1, epoch) }).await.unwrap();
    }
    close(disk, writer).await;
    let (disk, loaded, writer) = open(&folder).await;
    assert_eq!(loaded.epochs, [(Shard(9), record("b", 1, 5))]);
    close(disk, writer).await;
}

#[tokio::test]
async fn a_second_journal_on_the_file_is_refused_until_the_first_has_ended() {
    let folder = Folder::new();
    let (disk, _, writer) = open(&folder).await;
    let Err(error) = Disk::open(&folder.url(), false).await else { panic!("two journals share a file") };
    assert!(matches!(&error, DiskError::InUse(file) if file.ends_with("journal.db")), "{error}");
    // A plain reader of the file is let in.
    let mut reader = SqliteConnectOptions::from_str(&folder.url()).unwrap().connect().await.unwrap();
    sqlx::query("SELECT count(*) FROM journal_entries").fetch_one(&mut reader).await.unwrap();
    reader.close().await.unwrap();
    close(disk.clone(), tokio::spawn(async {})).await;
    assert!(Disk::open(&folder.url(), false).await.is_err(), "another handle is still there");
    close(disk, writer).await;
    let (disk, _, writer) = open(&folder).await;
    close(disk, writer).await;
}

#[tokio::test]
async fn a_full_disk_refuses_the_whole_commit_and_the_writer_goes_on() {
    let folder = Folder::new();
    let full = SqliteConnectOptions::from_str(&folder.url()).unwrap().pragma("max_page_count", "64");
    let (disk, _, writer) = Disk::open_with(full).await.unwrap();
    let writer = tokio::spawn(writer);
    let block = Bytes::from(vec![b'x'; 16 << 10]);
    let mut kept = 0;
    let error = loop {
        let entries = vec![(id(1, kept + 1), block.clone())];
        match disk.write(Op::Append { shard: Shard(0), entries }).await {
            Ok(()) => kept += 1,
            Err(error) => break error,
        }
        assert!(kept < 64, "the file never filled");
    };
    assert!(matches!(&error, DiskError::NotWritten(why) if why.contains("full")), "{error}");
    // Of an operation that does not fit, nothing stands.
    let entries = (1..=20).map(|n| (id(2, n), block.clone())).collect();
    assert!(disk.write(Op::Append { shard: Shard(1), entries }).await.is_err());
    disk.write(Op::Trim { shard: Shard(0), through: id(1, kept - 1) }).await.unwrap();
    disk.write(append(0, &[(id(1, kept + 1), "after")])).await.unwrap();
    close(disk, writer).await;
    let (disk, loaded, writer) = open(&folder).await;
    assert_eq!(loaded.entries.iter().map(|(_, id, _)| id.n).collect::<Vec<_>>(), [kept, kept + 1]);
    close(disk, writer).await;
}

#[tokio::test]
async fn what_no_table_can_hold_is_refused_alone() {
    let folder = Folder::new();
    let (disk, _, writer) = open(&folder).await;
    let refused = disk.write(append(0, &[(id(u64::MAX, 1), "x")])).await;
    assert_eq!(refused, Err(DiskError::Refused("a number is out of range")));
    disk.write(append(0, &[(id(1, 1), "x")])).await.unwrap();
    writer.abort();
    assert!(writer.await.unwrap_err().is_cancelled());
    assert_eq!(disk.write(append(0, &[(id(1, 2), "y")])).await, Err(DiskError::Closed));
    // A writer that was cut off has let go of the file, and what was acknowledged is there.
    let (disk, loaded, writer) = open(&folder).await;
    assert_eq!(loaded.entries.len(), 1);
    close(disk, writer).await;
}

#[tokio::test]
async fn a_table_of_another_release_is_refused() {
    let folder = Folder::new();
    let (disk, _, writer) = open(&folder).await;
    close(disk, writer).await;
    let mut connection = SqliteConnectOptions::from_str(&folder.url()).unwrap().connect().await.unwrap();
    sqlx::query("PRAGMA user_version = 7").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let Err(error) = Disk::open(&folder.url(), false).await else { panic!("an unknown format was taken") };
    assert!(error.to_string().contains("format 7"), "{error}");
}

/// `cargo test --release -p mlms-cluster -- --ignored --nocapture appends_a_second`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn appends_a_second() {
    for sync_full in [false, true] {
        for callers in [1_u16, 10, 100] {
            let folder = Folder::new();
            let (disk, _, writer) = Disk::open(&folder.url(), sync_full).await.unwrap();
            let writer = tokio::spawn(writer);
            let started = std::time::Instant::now();
            let mut tasks = JoinSet::new();
            let each = if callers == 1 { 3_000 } else { 20_000 / u64::from(callers) };
            for shard in 0..callers {
                let disk = disk.clone();
                tasks.spawn(async move {
                    let entry = Bytes::from(vec![b'x'; 200]);
                    for n in 1..=each {
                        let entries = vec![(id(1, n), entry.clone())];
                        disk.write(Op::Append { shard: Shard(shard), entries }).await.unwrap();
                    }
                });
            }
            while let Some(done) = tasks.join_next().await {
                done.unwrap();
            }
            let (appends, commits) = (each * u64::from(callers), disk.commits.load(Ordering::Relaxed));
            let rate = appends as f64 / started.elapsed().as_secs_f64();
            println!("sync_full={sync_full} callers={callers}: {rate:.0} appends/s in {commits} commits");
            close(disk, writer).await;
        }
    }
}
