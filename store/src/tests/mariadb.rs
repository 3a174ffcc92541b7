//! A real MariaDB for the tests of this process: started from the installed binaries on a socket in a folder of
//! its own. It ends, and its folder goes, with the test process, however that ends.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::{ConnectOptions as _, Connection as _, Executor as _};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::Folder;

/// A first start writes the system tables, on a slow machine beside other tests.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// Its standard input closes with this process; then the server is killed and the folder removed.
const SCRIPT: &str = r#"
set -e
folder=$1
mkdir -p "$folder"
mariadb-install-db --no-defaults --user="$(id -un)" --datadir="$folder/data" --skip-test-db \
    --auth-root-authentication-method=normal >"$folder/install.log" 2>&1
mariadbd --no-defaults --user="$(id -un)" --datadir="$folder/data" --socket="$folder/socket" --pid-file="$folder/pid" \
    --skip-networking >"$folder/server.log" 2>&1 &
server=$!
cat >/dev/null
exec 2>/dev/null
kill -9 $server
wait $server || true
rm -rf "$folder"
"#;

pub(crate) struct Server {
    folder: Folder,
    script: Child,
}

static SERVER: OnceCell<Server> = OnceCell::const_new();

impl Server {
    pub(crate) async fn start() -> Server {
        for program in ["mariadbd", "mariadb-install-db"] {
            let found = std::env::var_os("PATH").is_some_and(|path| {
                std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
            });
            assert!(found, "`{program}` is missing: install Debian's mariadb-server");
        }
        let folder = Folder::new();
        let script =
            Command::new("sh").args(["-c", SCRIPT, "sh"]).arg(&folder.0).stdin(Stdio::piped()).spawn();
        let mut server = Server { folder, script: script.unwrap() };
        let until = Instant::now() + START_TIMEOUT;
        while let Err(error) = server.execute("SELECT 1").await {
            let ended = server.script.try_wait().unwrap();
            if ended.is_some() || Instant::now() > until {
                let log = |name| std::fs::read_to_string(server.folder.0.join(name)).unwrap_or_default();
                panic!("MariaDB does not start: {error}\n{}\n{}", log("install.log"), log("server.log"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        server
    }

    /// Sends the server a signal, by its name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = std::fs::read_to_string(self.folder.0.join("pid")).unwrap();
        assert!(Command::new("kill").args(["-s", name, pid.trim()]).status().unwrap().success());
        // A stop reaches the threads one after the other; until the last one has it, the server still answers.
        while name == "STOP" && !every_thread_is_stopped(pid.trim()) {
            std::thread::yield_now();
        }
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("mysql://root@localhost/{database}?socket={}/socket", self.folder.0.display())
    }

    async fn execute(&self, sql: &'static str) -> Result<(), sqlx::Error> {
        run(&self.url("mysql"), sql).await
    }
}

fn every_thread_is_stopped(pid: &str) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    })
}

/// Runs one statement on a connection of its own.
pub(crate) async fn run(url: &str, sql: impl sqlx::SqlSafeStr + Send) -> Result<(), sqlx::Error> {
    let options: sqlx::mysql::MySqlConnectOptions = url.parse()?;
    let mut connection = options.connect().await?;
    connection.execute(sqlx::raw_sql(sql)).await?;
    connection.close().await
}

/// The url of a new, empty database.
pub(crate) async fn database() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let server = SERVER.get_or_init(Server::start).await;
    let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
    run(&server.url("mysql"), create).await.unwrap();
    server.url(&name)
}
