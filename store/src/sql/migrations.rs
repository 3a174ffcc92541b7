//! The schema's steps, embedded in the binary. A step that was released never changes; a new one is added. MySQL
//! commits every DDL statement by itself, so a file there holds one.

use std::borrow::Cow;

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};

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

const SQLITE: &[(i64, &str, &str)] =
    &steps!("sqlite": 1 "0001_lobby_events", 2 "0002_lobby_snapshots", 3 "0003_shard_epochs");
const MYSQL: &[(i64, &str, &str)] =
    &steps!("mysql": 1 "0001_lobby_events", 2 "0002_lobby_snapshots", 3 "0003_shard_epochs");

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
        // Processes take turns by a lock in the server.
        Database::Mysql(pool) => migrator(MYSQL).run(pool).await.map_err(explain),
    }
}

fn explain(error: MigrateError) -> StoreError {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
        other => StoreError::Incompatible(other.to_string()),
    }
}
