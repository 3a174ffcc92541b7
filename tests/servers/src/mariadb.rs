//! A MariaDB. It ends, and its folder goes, with the test process, however that ends.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};

use tokio::time::Instant;

use crate::{Folder, GLANCE, START_TIMEOUT, free_port, require, run, signal};

/// Its standard input closes with the test process; then the server is killed and, where told so, the folder kept. A
/// signal to the whole group of processes ends the wait, too: not the script before the server.
const SCRIPT: &str = r#"
set -e
trap : TERM INT
folder=$1
if [ ! -d "$folder/data/mysql" ]; then
    mariadb-install-db --no-defaults --user="$(id -un)" --datadir="$folder/data" --skip-test-db \
        --auth-root-authentication-method=normal >"$folder/install.log" 2>&1
fi
mariadbd --no-defaults --user="$(id -un)" --datadir="$folder/data" --socket="$folder/socket" \
    --port="$2" --bind-address=127.0.0.1 --skip-name-resolve >>"$folder/server.log" 2>&1 &
server=$!
echo $server >"$folder/pid"
read -r word || true
exec 2>/dev/null
kill -9 $server || true
wait $server || true
[ "$word" = keep ] || rm -rf "$folder"
"#;

/// The user of a deployment: no administrator, so that a read-only server is read-only to it.
const USER: &str = "mlms";
const PASSWORD: &str = "not-a-secret";

pub struct MariaDb {
    folder: Folder,
    port: u16,
    script: Option<Child>,
}

impl MariaDb {
    pub async fn start() -> MariaDb {
        require("mariadbd", "mariadb-server");
        require("mariadb-install-db", "mariadb-server");
        let mut server = MariaDb { folder: Folder::new("mariadb"), port: free_port(), script: None };
        server.launch().await;
        server
    }

    /// Starts the server (again), with what it has kept.
    pub async fn launch(&mut self) {
        let mut script = Command::new("sh");
        script.args(["-c", SCRIPT, "sh"]).arg(self.folder.path()).arg(self.port.to_string());
        let mut script = script.stdin(Stdio::piped()).spawn().unwrap();
        let until = Instant::now() + START_TIMEOUT;
        while let Err(error) = self.execute("SELECT 1").await {
            let ended = script.try_wait().unwrap();
            if ended.is_some() || Instant::now() > until {
                let log = |name| std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
                panic!("MariaDB does not start: {error}\n{}\n{}", log("install.log"), log("server.log"));
            }
            tokio::time::sleep(GLANCE).await;
        }
        self.script = Some(script);
    }

    /// Ends the server as a power cut would; what it has kept stays.
    pub fn kill(&mut self) {
        let mut script = self.script.take().expect("it runs");
        script.stdin.take().unwrap().write_all(b"keep\n").unwrap();
        script.wait().unwrap();
    }

    /// Sends the server a signal, by its name.
    pub fn signal(&self, name: &str) {
        let pid = std::fs::read_to_string(self.folder.path().join("pid")).unwrap();
        signal(name, pid.trim().parse().unwrap());
    }

    /// A database for its administrator, over the server's socket.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("mysql://root@localhost/{database}?socket={}/socket", self.folder.path().display())
    }

    /// Makes a database as a deployment has it, and gives its url: over TCP, with a user of its own.
    pub async fn deployment(&self, database: &'static str) -> String {
        for sql in [
            format!("CREATE DATABASE {database}"),
            format!("CREATE USER IF NOT EXISTS {USER}@127.0.0.1 IDENTIFIED BY '{PASSWORD}'"),
            format!("GRANT ALL ON {database}.* TO {USER}@127.0.0.1"),
        ] {
            self.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
        }
        format!("mysql://{USER}:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    /// Runs a statement as the administrator.
    ///
    /// # Errors
    /// As the server's.
    pub async fn execute(&self, sql: impl sqlx::SqlSafeStr + Send) -> Result<(), sqlx::Error> {
        run(&self.url("mysql"), sql).await
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        if let Some(mut script) = self.script.take() {
            drop(script.stdin.take());
            let _ = script.wait();
        }
    }
}
