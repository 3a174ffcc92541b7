//! Every question that is asked while players wait is answered by an index, on both databases.

use mlms_protocol::{Body, Epoch, Millis, Seq};

use super::connection::{Database, Value};
use super::events::GAMES_BETWEEN;
use super::events::{FIND_EPOCH, FIRST_BETWEEN, LAST_BETWEEN, OF_PLAYER, player_values};
use super::reports::BLOCKED_BY_EACH;
use super::snapshots::{ADVANCE_LOBBY, IDLE_LOBBIES, LOAD_LOBBY};
use super::statistics::{self, ALL_IN_LOBBY, AWARDS, BY_STAT, IN_LOBBY, OF_PLAYER_ONE, RUNNING, UNANNOUNCED};
use super::upkeep::{FIND_PURGED, LOBBIES_AFTER, PLACES_AFTER, PURGE, SNAPSHOTS_AFTER};
use crate::blocks::BLOCKERS_MAX;
use crate::statistics::{Award, GameChange, GameEvent};
use crate::store::{Backend, Store};
use crate::tests::{Folder, event, lobby, mariadb, ready, said, user};

impl super::SqlStore {
    /// Makes a SQLite file count as full.
    pub(crate) async fn limit_pages(&self, pages: u32) {
        let Database::Sqlite { writer, .. } = &self.database else { panic!("not SQLite") };
        let pragma = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
        sqlx::query(pragma).fetch_one(writer).await.unwrap();
    }
}

/// Enough rows that a planner minds which way it takes.
async fn seed(store: &Store) {
    let mut events = Vec::new();
    for l in 0..100 {
        for seq in 1..=40 {
            let from = format!("user-{}", (l + seq) % 50);
            events.push(event(&format!("lobby-{l}"), 1, seq, said(&from, Body::text("x"))));
        }
        let (id, at) = (lobby(&format!("lobby-{l}")), Millis(1_000 + l));
        store.save_lobby(&id, Seq(40), Epoch(1), at, l % 2 == 0, b"state").await.unwrap();
        let mut counted = Vec::new();
        for stat in ["damage", "kills", "deaths"] {
            let user = user(&format!("user-{l}"));
            let change =
                GameChange::Reported { game: 1, user: user.clone(), stat: stat.to_owned(), amount: 5 };
            counted.push(GameEvent { lobby: id.clone(), seq: Seq(counted.len() as u64 + 1), at, change });
            store.add_award(&Award { user, achievement: stat.to_owned(), at }).await.unwrap();
        }
        store.fold(&counted).await.unwrap();
        for blocked in ["bob", "cat", "dan"] {
            store.block(&user(&format!("user-{l}")), &user(blocked), Millis(1)).await.unwrap();
        }
        // Empty tables are planned as such.
        store.purge(&id, Seq(41), Seq(42)).await.unwrap();
    }
    store.save_events(&events).await.unwrap();
}

/// Each statement as it is run, and the index that answers it.
async fn check(store: &Store, explain: &str, judge: impl Fn(&str, &super::connection::Row)) {
    let Store(Backend::Sql(sql)) = store else { panic!("not on SQL") };
    let arena = user("user-7");
    let between = [Value::Text("lobby-7"), Value::Int(3), Value::Int(30), Value::Int(5)];
    let advance = [5, 1, 7, 0].map(Value::Int);
    let advance = advance.into_iter().chain([Value::Bytes(b"x"), Value::Text("lobby-7")]);
    let advance = advance.chain([5, 5, 1].map(Value::Int)).collect();
    let idle = vec![Value::Int(0), Value::Int(1_030), Value::Int(0), Value::Text(""), Value::Int(5)];
    let player = player_values(&arena, None, 5).to_vec();
    for (statement, values, index) in [
        (FIRST_BETWEEN, between.to_vec(), "lobby_events PRIMARY"),
        (LAST_BETWEEN, between.to_vec(), "lobby_events PRIMARY"),
        (OF_PLAYER, player, "lobby_events_by_user"),
        (LOAD_LOBBY, vec![Value::Text("lobby-7")], "lobby_snapshots PRIMARY"),
        (IDLE_LOBBIES, idle, "lobby_snapshots_by_activity"),
        (ADVANCE_LOBBY, advance, "lobby_snapshots PRIMARY"),
        (GAMES_BETWEEN, between.to_vec(), "lobby_events PRIMARY"),
        (PLACES_AFTER, vec![Value::Text("lobby-7"), Value::Int(3), Value::Int(5)], "lobby_events PRIMARY"),
        (
            IN_LOBBY,
            vec![Value::Text("lobby-7"), Value::Text("user-7"), Value::Text("damage")],
            "lobby_statistics PRIMARY",
        ),
        (OF_PLAYER_ONE, vec![Value::Text("user-7"), Value::Text("damage")], "player_statistics PRIMARY"),
        (statistics::OF_PLAYER, vec![Value::Text("user-7")], "player_statistics PRIMARY"),
        (
            BY_STAT,
            vec![Value::Text("damage"), Value::Text("user-7"), Value::Int(5)],
            "player_statistics_by_stat",
        ),
        (AWARDS, vec![Value::Text("user-7")], "player_achievements PRIMARY"),
        (UNANNOUNCED, vec![Value::Int(5)], "player_achievements_by_announced"),
        (FIND_EPOCH, vec![Value::Text("lobby-7"), Value::Int(3)], "lobby_events PRIMARY"),
        (LOBBIES_AFTER, vec![Value::Text("lobby-7"), Value::Int(5)], "lobby_events PRIMARY"),
        (SNAPSHOTS_AFTER, vec![Value::Text("lobby-7"), Value::Int(5)], "lobby_snapshots PRIMARY"),
        (FIND_PURGED, vec![Value::Text("lobby-7")], "purged_lobbies PRIMARY"),
        (PURGE, vec![Value::Text("lobby-7"), Value::Int(3), Value::Int(5)], "lobby_events PRIMARY"),
        (RUNNING, vec![Value::Text("lobby-7")], "game_totals PRIMARY"),
        (BLOCKED_BY_EACH, vec![Value::Text("user-7"); BLOCKERS_MAX], "user_blocks PRIMARY"),
        (ALL_IN_LOBBY, vec![Value::Text("lobby-7")], "lobby_statistics PRIMARY"),
    ] {
        let explained: &'static str = Box::leak(format!("{explain} {statement}").into_boxed_str());
        let plan = sql.database.rows(explained, values).await.unwrap();
        assert!(!plan.is_empty(), "{statement}");
        for row in &plan {
            judge(index, row);
        }
    }
}

#[tokio::test]
async fn sqlite_answers_by_index() {
    let folder = Folder::new();
    let store = ready(&folder.sqlite_url()).await;
    seed(&store).await;
    check(&store, "EXPLAIN QUERY PLAN", |index, row| {
        let detail = row.text(3).unwrap();
        assert!(detail.starts_with("SEARCH") && detail.contains("INDEX"), "{detail}");
        // Its name for the index of a primary key: sqlite_autoindex_<table>_1.
        let named = match index.split_once(' ') {
            Some((table, _)) => format!("sqlite_autoindex_{table}_1"),
            None => index.to_owned(),
        };
        assert!(detail.contains(&named), "{detail} instead of {named}");
    })
    .await;
}

#[tokio::test]
async fn mariadb_answers_by_index() {
    let url = mariadb::database().await;
    let store = ready(&url).await;
    seed(&store).await;
    mlms_test_servers::run(
        &url,
        "ANALYZE TABLE lobby_events, lobby_snapshots, purged_lobbies, game_totals, lobby_statistics, \
         user_blocks",
    )
    .await
    .unwrap();
    check(&store, "EXPLAIN", |index, row| {
        // id, select_type, table, type, possible_keys, key, key_len, ref, rows, Extra
        let (access, key, extra) = (row.text(3).unwrap(), row.text(5).unwrap(), row.text(9).unwrap());
        let named = index.split_once(' ').map_or(index, |(_, key)| key);
        assert!(["const", "ref", "range"].contains(&access.as_str()), "{named}: {access}");
        assert_eq!(key, named);
        assert!(!extra.contains("filesort") && !extra.contains("temporary"), "{named}: {extra}");
    })
    .await;
}
