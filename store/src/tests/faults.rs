//! What callers learn when a database is not as it should be.

use mlms_test_servers::run;

use super::*;

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
    run(&folder.sqlite_url(), trigger).await.unwrap();
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
        run(&url, sqlx::AssertSqlSafe(create)).await.unwrap();
        is_set_aside(&store, poisoned).await;
    }
}

/// What the archive does: sets aside what is refused, and saves the rest. Gives the seqs of what was set aside.
async fn archive(store: &Store, mut events: Vec<Arc<LobbyEvent>>) -> Vec<u64> {
    let mut aside = Vec::new();
    loop {
        match store.save_events(&events).await {
            Ok(_) => return aside,
            Err(StoreError::Rejected { index, why }) => {
                let event = events.remove(index);
                store.set_aside(&event, &why).await.unwrap();
                aside.push(event.seq.0);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn rows_that_are_refused_for_a_reason_nobody_knows_are_set_aside_alone_and_side_by_side() {
    let url = mariadb::database().await;
    let store = ready(&url).await;
    let trigger = "CREATE TRIGGER poison BEFORE INSERT ON lobby_events FOR EACH ROW \
        BEGIN IF NEW.payload LIKE '%poison%' THEN SIGNAL SQLSTATE '99001'; END IF; END";
    run(&url, trigger).await.unwrap();
    let poisoned = |seq| event("a", 1, seq, said("ann", Body::text("poison")));
    let mut events = chats("a", 1, 1..=40);
    for seq in [1, 2, 20, 39, 40] {
        events[seq as usize - 1] = poisoned(seq);
    }
    assert_eq!(archive(&store, events).await, [1, 2, 20, 39, 40]);
    // The only ones that there are.
    assert_eq!(archive(&store, vec![poisoned(41)]).await, [41]);
    assert_eq!(archive(&store, vec![poisoned(42), poisoned(43)]).await, [42, 43]);
    assert_eq!(store.count_aside().await.unwrap(), 8);
    let saved = seqs(&store, "a", Range::After(Seq(0)), 0, 100).await;
    let expected: Vec<u64> = (3..=38).filter(|seq| *seq != 20).collect();
    assert_eq!(saved, expected, "nothing else is missing, and nothing of the probes stays");
    assert_eq!(store.count_lobbies().await.unwrap(), 1);
}

#[tokio::test]
async fn an_edit_that_cannot_be_applied_is_set_aside_and_not_its_neighbour() {
    let edit = |seq, of| {
        event("a", 1, seq, Change::Edited { of: Seq(of), by: user("ann"), body: Body::text("poison") })
    };
    let url = mariadb::database().await;
    let store = ready(&url).await;
    let trigger = "CREATE TRIGGER poison BEFORE UPDATE ON lobby_events FOR EACH ROW \
        BEGIN IF NEW.payload LIKE '%poison%' THEN SIGNAL SQLSTATE '45000'; END IF; END";
    run(&url, trigger).await.unwrap();
    let events = vec![chat("a", 1, 1), chat("a", 1, 2), edit(3, 1), chat("a", 1, 4)];
    assert_eq!(archive(&store, events).await, [3]);
    // A stored message that is damaged does not block its lobby either.
    run(&url, "UPDATE lobby_events SET payload = 'damaged' WHERE seq = 2").await.unwrap();
    assert_eq!(archive(&store, vec![edit(5, 2), chat("a", 1, 6)]).await, [5]);
    let places = store.places(&lobby("a"), Seq(0), 10).await.unwrap();
    assert_eq!(places.iter().map(|place| place.seq.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn a_server_that_takes_small_packets_only_gets_small_statements() {
    let server = mariadb::MariaDb::start().await;
    server.execute("SET GLOBAL max_allowed_packet = 262144").await.unwrap();
    server.execute("CREATE DATABASE small").await.unwrap();
    let store = ready(&server.url("small")).await;
    let body = |bytes| said("ann", Body::text(&"x".repeat(bytes)));
    let mut events: Vec<_> = (1..=40).map(|seq| event("a", 1, seq, body(40_000))).collect();
    events[17] = event("a", 1, 18, body(250_000));
    assert_eq!(archive(&store, events).await, [18]);
    assert_eq!(seqs(&store, "a", Range::After(Seq(0)), 0, 100).await.len(), 39);
}

#[tokio::test]
async fn a_database_that_refuses_every_row_is_unavailable() {
    let url = mariadb::database().await;
    let store = ready(&url).await;
    let trigger = "CREATE TRIGGER refuse BEFORE INSERT ON lobby_events FOR EACH ROW SIGNAL SQLSTATE '99001'";
    run(&url, trigger).await.unwrap();
    for count in [1, 130] {
        let error = store.save_events(&chats("a", 1, 1..=count)).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }
    run(&url, "DROP TRIGGER refuse").await.unwrap();
    assert_eq!(store.save_events(&chats("a", 1, 1..=130)).await.unwrap(), inserted(130));
}

#[tokio::test]
async fn connections_that_the_server_cut_are_replaced() {
    let url = mariadb::database().await;
    let store = ready(&url).await;
    store.save_events(&chats("a", 1, 1..=10)).await.unwrap();
    let kill = "BEGIN NOT ATOMIC FOR c IN (SELECT id FROM information_schema.processlist WHERE db = DATABASE() \
        AND id <> CONNECTION_ID()) DO KILL c.id; END FOR; END";
    run(&url, kill).await.unwrap();
    assert_eq!(store.save_events(&chats("a", 1, 11..=20)).await.unwrap(), inserted(10));
}

#[tokio::test]
async fn a_frozen_server_is_unavailable_in_time_and_used_again_when_it_thaws() {
    let server = mariadb::MariaDb::start().await;
    run(&server.url("mysql"), "CREATE DATABASE frozen").await.unwrap();
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
        run(&url, newer).await.unwrap();
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
