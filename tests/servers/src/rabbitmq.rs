//! A RabbitMQ. It ends, and its folder goes, with the test process, however that ends.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};

use tokio::time::Instant;

use crate::{Folder, GLANCE, START_TIMEOUT, free_ports, tls};

const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// The server is a process group of its own. Standard input closes with the test process; then everything is killed
/// and, where not told otherwise, the folder removed. A signal to the whole group of processes ends the wait, too.
const SCRIPT: &str = r#"
trap : TERM INT
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

/// A second door, with TLS; a client that shows a certificate must have one of the same authority.
fn configuration(port: u16) -> String {
    let (authority, certificate, key) = (tls::AUTHORITY, tls::CERTIFICATE, tls::KEY);
    format!(
        "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.verify = verify_peer\n\
         ssl_options.fail_if_no_peer_cert = false\nssl_options.cacertfile = {authority}\n\
         ssl_options.certfile = {certificate}\nssl_options.keyfile = {key}\n"
    )
}

pub struct RabbitMq {
    folder: Folder,
    port: u16,
    script: Option<Child>,
}

impl RabbitMq {
    pub async fn start() -> RabbitMq {
        let installed = std::path::Path::new(SERVER).is_file();
        assert!(installed, "{SERVER} is missing: install Debian's rabbitmq-server");
        let folder = Folder::new("rabbitmq");
        std::fs::write(folder.path().join("plugins"), "[].").unwrap();
        let port = free_ports(4);
        std::fs::write(folder.path().join("rabbitmq.conf"), configuration(port + 3)).unwrap();
        let mut server = RabbitMq { folder, port, script: None };
        server.launch().await;
        server
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://127.0.0.1:{}/%2f", self.port)
    }

    /// Its door with TLS; whom to trust is not in it.
    #[must_use]
    pub fn encrypted_url(&self) -> String {
        format!("amqps://localhost:{}/%2f", self.port + 3)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = |name: &str| self.folder.path().join(name);
        command
            .env("HOME", self.folder.path())
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
    pub async fn launch(&mut self) {
        let mut script = self.command("sh");
        script.args(["-c", SCRIPT, "sh"]).arg(self.folder.path()).stdin(Stdio::piped()).stdout(Stdio::null());
        self.script = Some(script.spawn().unwrap());
        let until = Instant::now() + START_TIMEOUT;
        while !self.log().contains("Starting broker... completed") {
            assert!(Instant::now() < until, "RabbitMQ does not start:\n{}", self.log());
            tokio::time::sleep(GLANCE).await;
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default()
    }

    /// Ends the server as a power cut would; what it has kept stays.
    pub fn kill(&mut self) {
        let mut script = self.script.take().expect("it runs");
        script.stdin.take().unwrap().write_all(b"keep\n").unwrap();
        script.wait().unwrap();
        // The next start is awaited by its own log.
        std::fs::remove_file(self.folder.path().join("server.log")).unwrap();
    }

    /// Runs `rabbitmqctl`.
    pub fn control(&self, arguments: &[&str]) {
        let output = self.command("/usr/lib/rabbitmq/bin/rabbitmqctl").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        if let Some(mut script) = self.script.take() {
            drop(script.stdin.take());
            let _ = script.wait();
        }
    }
}
