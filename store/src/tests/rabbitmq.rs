//! A real RabbitMQ for tests: started from the installed package on ports and in a folder of its own, killed,
//! frozen and restarted at will. It ends, and its folder goes, with the test process, however that ends.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// Erlang starts slowly beside other tests.
const START_TIMEOUT: Duration = Duration::from_secs(120);
const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// The server is a process group of its own. Standard input closes with the test process; then everything is killed
/// and, where told so, the folder removed.
const SCRIPT: &str = r#"
folder=$1
epmd -port "$ERL_EPMD_PORT" >/dev/null 2>&1 &
epmd=$!
setsid /usr/lib/rabbitmq/bin/rabbitmq-server >>"$folder/server.log" 2>&1 </dev/null &
server=$!
read -r word
exec 2>/dev/null
kill -KILL -$server
kill -KILL $epmd
wait
[ "$word" = keep ] || rm -rf "$folder"
"#;

pub(crate) struct RabbitMq {
    folder: PathBuf,
    port: u16,
    script: Option<Child>,
}

fn three_free_ports() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 300).unwrap() * 10;
    loop {
        let port = 12_000 + first + NEXT.fetch_add(3, Ordering::Relaxed) % 4_000;
        let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if (port..port + 3).all(is_free) {
            return port;
        }
    }
}

impl RabbitMq {
    pub(crate) async fn start() -> RabbitMq {
        let installed = std::path::Path::new(SERVER).is_file();
        assert!(installed, "{SERVER} is missing: install Debian's rabbitmq-server");
        let port = three_free_ports();
        let folder = std::env::temp_dir().join(format!("mlms-rabbitmq-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("plugins"), "[].").unwrap();
        let mut server = RabbitMq { folder, port, script: None };
        server.launch().await;
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("amqp://127.0.0.1:{}/%2f", self.port)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = |name: &str| self.folder.join(name);
        command
            .env("HOME", &self.folder)
            .env("RABBITMQ_NODENAME", format!("mlms{}@localhost", self.port))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", (self.port + 1).to_string())
            .env("ERL_EPMD_PORT", (self.port + 2).to_string())
            .env("RABBITMQ_MNESIA_BASE", path("mnesia"))
            .env("RABBITMQ_LOG_BASE", path("log"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", path("plugins"))
            .env("RABBITMQ_CONFIG_FILE", path("rabbitmq"))
            .env("RABBITMQ_CONF_ENV_FILE", path("environment"));
        command
    }

    /// Starts the server (again), with what it has kept.
    pub(crate) async fn launch(&mut self) {
        let mut script = self.command("sh");
        script.args(["-c", SCRIPT, "sh"]).arg(&self.folder).stdin(Stdio::piped()).stdout(Stdio::null());
        self.script = Some(script.spawn().unwrap());
        let until = Instant::now() + START_TIMEOUT;
        while !self.log().contains("Starting broker... completed") {
            assert!(Instant::now() < until, "RabbitMQ does not start:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("server.log")).unwrap_or_default()
    }

    /// Ends the server as a power cut would; what it has kept stays.
    pub(crate) fn kill(&mut self) {
        let mut script = self.script.take().expect("it runs");
        use std::io::Write as _;
        script.stdin.take().unwrap().write_all(b"keep\n").unwrap();
        script.wait().unwrap();
        // The next start is awaited by its own log.
        std::fs::remove_file(self.folder.join("server.log")).unwrap();
    }

    /// Runs `rabbitmqctl`.
    pub(crate) fn control(&self, arguments: &[&str]) {
        let output = self.command("/usr/lib/rabbitmq/bin/rabbitmqctl").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        if let Some(mut script) = self.script.take() {
            drop(script.stdin.take());
            let _ = script.wait();
        } else {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}
