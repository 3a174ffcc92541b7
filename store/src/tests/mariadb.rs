//! One MariaDB for all tests of this process; each test has a database of its own on it.

use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use mlms_test_servers::MariaDb;
use tokio::sync::OnceCell;

static SERVER: OnceCell<MariaDb> = OnceCell::const_new();

/// The url of a new, empty database.
pub(crate) async fn database() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let server = SERVER.get_or_init(MariaDb::start).await;
    let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    server.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
    server.url(&name)
}
