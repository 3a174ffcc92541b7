//! What the tests of several crates start: Redis, MariaDB and RabbitMQ from the installed packages, and our own binary;
//! each on free ports and in a folder of its own, killed, frozen and started again at will. A missing one is a loud
//! failure. Beside it [`matrix`], against which two of them hold who may do what.

#![expect(clippy::unwrap_used, reason = "a test that cannot start its server has failed")]

pub mod http;
mod mariadb;
pub mod matrix;
mod process;
mod rabbitmq;
mod redis;
pub mod tls;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::Duration;

pub use mariadb::MariaDb;
pub use process::{Log, Process, command};
pub use rabbitmq::RabbitMq;
pub use redis::Redis;
use sqlx::mysql::MySqlConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _};

/// A first start writes whole databases, on a slow machine beside other tests.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// How often a condition is looked at again.
const GLANCE: Duration = Duration::from_millis(20);

/// A folder that is gone with its owner.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// An empty folder; its name begins with `mlms-<name>`.
    #[must_use]
    pub fn new(name: &str) -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("mlms-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays behind lies among the system's temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The first of `count` ports in a row that nobody listens on, below those that the system gives to outgoing
/// connections, so that a process that was killed finds them free again.
#[must_use]
pub fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 1_000).unwrap() * 20;
    loop {
        let port = 10_000 + first.wrapping_add(NEXT.fetch_add(count, Ordering::Relaxed)) % 20_000;
        if (port..port + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return port;
        }
    }
}

/// A port that nobody listens on.
#[must_use]
pub fn free_port() -> u16 {
    free_ports(1)
}

/// Runs one statement on a connection of its own, to a `mysql:` or `sqlite:` url.
///
/// # Errors
/// As the database's.
pub async fn run(url: &str, sql: impl sqlx::SqlSafeStr + Send) -> Result<(), sqlx::Error> {
    if url.starts_with("sqlite:") {
        let mut connection =
            url.parse::<SqliteConnectOptions>()?.busy_timeout(START_TIMEOUT).connect().await?;
        connection.execute(sqlx::raw_sql(sql)).await?;
        return connection.close().await;
    }
    let mut connection = url.parse::<MySqlConnectOptions>()?.connect().await?;
    connection.execute(sqlx::raw_sql(sql)).await?;
    connection.close().await
}

/// Sends a signal such as `TERM`.
pub fn signal(name: &str, process: u32) {
    let status = Command::new("kill").args(["-s", name, &process.to_string()]).status();
    assert!(status.unwrap().success(), "SIG{name} to {process}");
    // A stop reaches the threads one after the other; until the last one has it, the process still answers.
    while name == "STOP" && !every_thread_is_stopped(process) {
        std::thread::yield_now();
    }
}

fn every_thread_is_stopped(process: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    })
}

/// Fails where a program that a server needs is not installed.
fn require(program: &str, package: &str) {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()));
    assert!(found, "`{program}` is missing: install Debian's {package}");
}
