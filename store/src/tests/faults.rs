//! What callers learn when a database is not as it should be.

use super::*;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _};

async fn run_sqlite(url: &str, sql: &'static str) {
    let options: sqlx::sqlite::SqliteConnectOptions = url.parse().unwrap();
    let mut connection = options.connect().await.unwrap();
    connection.execute(sqlx::raw_sql(sql)).await.unwrap();
    connection.close().await.unwrap();
}

async fn is_set_aside(store: &Store, poisoned: usize) {
    let mut events = chats("a", 1, 1..=130);
    events[poisoned] = event("a", 1, poisoned as u64 + 1, said("ann", Body::text("poison")));
    let error = store.save_events(&events).await.unwrap_err();
    assert!(matches!(error, StoreError::Rejected { index, .. } if index == poisoned), "{error}");
    assert_eq!(seqs(store, "a", Range::Latest, 0, 1_000).await, [0_u64; 0], "nothing of the call is saved");
    events.remove(poisoned);
    assert_eq!(store.save_events(&events).await.unwrap(), inserted(129));
}

#[tokio::test]
async fn sqlite_names_a_row_that_it_refuses() {
    let folder = Folder::new();
    let store = ready(&folder.sqlite_url()).await;
    let trigger = "CREATE TRIGGER poison BEFORE INSERT ON lobby_events WHEN NEW.payload LIKE '%poison%' \
        BEGIN SELECT RAISE(ABORT, 'poisoned'); END";
    run_sqlite(&folder.sqlite_url(), trigger).await;
    is_set_aside(&store, 77).await;
}

#[tokio::test]
async fn mariadb_names_a_row_that_it_refuses() {
    // One state that says it is the data's fault, and one that nobody knows; the first and the last row, too.
    for (trigger, poisoned) in [
        ("BEGIN IF NEW.payload LIKE '%poison%' THEN SIGNAL SQLSTATE '45000'; END IF; END", 77),
        ("BEGIN IF NEW.payload LIKE '%poison%' THEN SIGNAL SQLSTATE '99001'; END IF; END", 77),
        ("BEGIN IF NEW.payload LIKE '%poison%' THEN SIGNAL SQLSTATE '99001'; END IF; END", 0),
        ("BEGIN IF NEW.payload LIKE '%poison%' THEN SIGNAL SQLSTATE '99001'; END IF; END", 129),
    ] {
        let url = mariadb::database().await;
        let store = ready(&url).await;
        let create = format!("CREATE TRIGGER poison BEFORE INSERT ON lobby_events FOR EACH ROW {trigger}");
        mariadb::run(&url, sqlx::AssertSqlSafe(create)).await.unwrap();
        is_set_aside(&store, poisoned).await;
    }
}

#[tokio::test]
async fn a_database_that_refuses_every_row_is_unavailable() {
    let url = mariadb::database().await;
    let store = ready(&url).await;
    let trigger = "CREATE TRIGGER refuse BEFORE INSERT ON lobby_events FOR EACH ROW SIGNAL SQLSTATE '99001'";
    mariadb::run(&url, trigger).await.unwrap();
    for count in [1, 130] {
        let error = store.save_events(&chats("a", 1, 1..=count)).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }
    mariadb::run(&url, "DROP TRIGGER refuse").await.unwrap();
    assert_eq!(store.save_events(&chats("a", 1, 1..=130)).await.unwrap(), inserted(130));
}

#[tokio::test]
async fn connections_that_the_server_cut_are_replaced() {
    let url = mariadb::database().await;
    let store = ready(&url).await;
    store.save_events(&chats("a", 1, 1..=10)).await.unwrap();
    let kill = "BEGIN NOT ATOMIC FOR c IN (SELECT id FROM information_schema.processlist WHERE db = DATABASE() \
        AND id <> CONNECTION_ID()) DO KILL c.id; END FOR; END";
    mariadb::run(&url, kill).await.unwrap();
    assert_eq!(store.save_events(&chats("a", 1, 11..=20)).await.unwrap(), inserted(10));
}

#[tokio::test]
async fn a_frozen_server_is_unavailable_in_time_and_used_again_when_it_thaws() {
    let server = mariadb::Server::start().await;
    mariadb::run(&server.url("mysql"), "CREATE DATABASE frozen").await.unwrap();
    let store = ready(&server.url("frozen")).await;
    store.save_events(&chats("a", 1, 1..=10)).await.unwrap();
    server.signal("STOP");
    // More calls at once than there are connections.
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let store = store.clone();
        calls.spawn(async move { store.ping().await });
    }
    while let Some(answer) = calls.join_next().await {
        let error = answer.unwrap().unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }
    server.signal("CONT");
    assert_eq!(store.save_events(&chats("a", 1, 1..=20)).await.unwrap().inserted, 10);
    assert_eq!(seqs(&store, "a", Range::Latest, 0, 100).await.len(), 20);
}

#[tokio::test]
async fn a_schema_that_is_missing_or_newer_is_incompatible() {
    let folder = Folder::new();
    for url in [folder.sqlite_url(), mariadb::database().await] {
        let store = Store::open(&url).await.unwrap();
        store.ping().await.unwrap();
        for error in [
            store.save_events(&chats("a", 1, 1..=2)).await.unwrap_err(),
            store.history(&lobby("a"), Range::Latest, Seq(0), 1).await.unwrap_err(),
            store.load_lobby(&lobby("a")).await.unwrap_err(),
        ] {
            assert!(matches!(error, StoreError::Incompatible(_)), "{url}: {error}");
        }
        store.migrate().await.unwrap();
        let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
            VALUES (9999, 'of a later release', 1, x'00', 0)";
        if url.starts_with("sqlite") {
            run_sqlite(&url, newer).await;
        } else {
            mariadb::run(&url, newer).await.unwrap();
        }
        let error = store.migrate().await.unwrap_err();
        assert!(matches!(error, StoreError::Incompatible(_)), "{url}: {error}");
    }
}

#[tokio::test]
async fn processes_may_migrate_and_write_at_once() {
    let folder = Folder::new();
    for url in [folder.sqlite_url(), mariadb::database().await] {
        let mut processes = tokio::task::JoinSet::new();
        for process in 0..4_u64 {
            let url = url.clone();
            processes.spawn(async move {
                let store = Store::open(&url).await.unwrap();
                store.migrate().await.unwrap();
                for part in 0..5 {
                    let from = process * 500 + part * 100;
                    store.save_events(&chats("a", 1, from + 1..=from + 100)).await.unwrap();
                }
            });
        }
        while let Some(done) = processes.join_next().await {
            done.unwrap();
        }
        let store = Store::open(&url).await.unwrap();
        let all = seqs(&store, "a", Range::After(Seq(0)), 0, 10_000).await;
        assert!(all.iter().copied().eq(1..=2_000), "{url}");
    }
}

#[tokio::test]
async fn a_wrong_url_is_told_from_a_database_that_is_away() {
    for url in ["", "postgres://x", "sqlite::memory:", "sqlite://", "mysql://root@localhost:notaport/x"] {
        let error = Store::open(url).await.unwrap_err();
        assert!(matches!(error, StoreError::Url(_)), "{url}: {error}");
    }
    let folder = Folder::new();
    std::fs::create_dir_all(&folder.0).unwrap();
    let nobody = format!("mysql://root@localhost/x?socket={}/socket", folder.0.display());
    let error = Store::open(&nobody).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
}

#[tokio::test]
async fn a_full_sqlite_file_is_unavailable_and_takes_the_rest_later() {
    let folder = Folder::new();
    let url = folder.sqlite_url();
    ready(&url).await;
    let store = Store::open(&format!("{url}?mode=rwc")).await.unwrap();
    let crate::store::Backend::Sql(sql) = &store.0 else { panic!("not on SQL") };
    sql.limit_pages(40).await;
    let events = chats("a", 1, 1..=2_000);
    let error = store.save_events(&events).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    sql.limit_pages(1 << 20).await;
    assert_eq!(store.save_events(&events).await.unwrap(), inserted(2_000));
}
