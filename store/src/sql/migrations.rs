//! The schema's steps, embedded in the binary. A step that was released never changes; a new one is added. MySQL
//! commits every DDL statement by itself, so a file there holds one.

use std::borrow::Cow;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{Row as _, SqlSafeStr as _};

use super::connection::Database;
use crate::store::StoreError;

macro_rules! steps {
    ($folder:literal: $($version:literal $name:literal),* $(,)?) => {
        [$((
            $version,
            $name,
            include_str!(concat!("../../migrations/", $folder, "/", $name, ".sql")),
        )),*]
    };
}

macro_rules! all_steps {
    ($folder:literal) => {
        &steps!(
            $folder:
            1 "0001_lobby_events",
            2 "0002_lobby_snapshots",
            3 "0003_shard_epochs",
            4 "0004_refused_events",
            5 "0005_published_shards",
            6 "0006_folded_lobbies",
            7 "0007_lobby_statistics",
            8 "0008_player_statistics",
            9 "0009_game_totals",
            10 "0010_player_achievements",
            11 "0011_purged_lobbies",
            12 "0012_message_reports",
            13 "0013_user_blocks",
            14 "0014_service_bans",
            15 "0015_audit_entries",
        )
    };
}

const SQLITE: &[(i64, &str, &str)] = all_steps!("sqlite");
const MYSQL: &[(i64, &str, &str)] = all_steps!("mysql");

/// Processes take turns. Not by the library's own lock: it waits without limit, which MariaDB answers with NULL and
/// no lock.
const LOCK: &str = "SELECT GET_LOCK(CONCAT('mlms.migrate.', MD5(DATABASE())), ?)";
const UNLOCK: &str = "SELECT RELEASE_LOCK(CONCAT('mlms.migrate.', MD5(DATABASE())))";
/// Longer than a step takes on a large table.
const LOCK_WAIT_S: i64 = 600;

fn migrator(steps: &[(i64, &'static str, &'static str)]) -> Migrator {
    let steps = steps.iter().map(|(version, name, sql)| {
        Migration::new(*version, Cow::Borrowed(*name), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(steps.collect())
}

pub(super) async fn run(database: &Database) -> Result<(), StoreError> {
    match database {
        Database::Sqlite { writer, .. } => {
            // One transaction around all steps: a second process waits, then finds nothing to do.
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            migrator(SQLITE).run_direct(None, &mut *tx, false).await.map_err(explain)?;
            Ok(tx.commit().await?)
        }
        Database::Mysql { pool, .. } => {
            let mut connection = pool.acquire().await?;
            let locked = sqlx::query(LOCK).bind(LOCK_WAIT_S).fetch_one(&mut *connection).await?;
            if locked.try_get_unchecked::<Option<i64>, _>(0)? != Some(1) {
                return Err(StoreError::Unavailable("another process migrates it all the time".to_owned()));
            }
            let mut migrator = migrator(MYSQL);
            migrator.set_locking(false);
            let done = migrator.run_direct(None, &mut *connection, false).await.map_err(explain);
            // The lock is the connection's: without an answer, its end lets go of it.
            if sqlx::query(UNLOCK).execute(&mut *connection).await.is_err() {
                drop(connection.detach());
            }
            done
        }
    }
}

fn explain(error: MigrateError) -> StoreError {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
        other => StoreError::Incompatible(other.to_string()),
    }
}
