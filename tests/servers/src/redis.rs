//! A redis-server with an append-only file.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

use crate::{Folder, GLANCE, START_TIMEOUT, free_port, require, signal};

pub struct Redis {
    process: Option<Child>,
    port: u16,
    folder: Folder,
}

impl Redis {
    pub async fn start() -> Redis {
        require("redis-server", "redis-server");
        let mut redis = Redis { process: None, port: free_port(), folder: Folder::new("redis") };
        redis.launch().await;
        redis
    }

    /// Starts the server (again), with whatever data it has.
    pub async fn launch(&mut self) {
        // Every answer is on the disk: what is killed comes back whole, and nothing else is under test here.
        let process = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"])
            .arg("--dir")
            .arg(self.folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(process);
        let began = Instant::now();
        while self.ask("PING").as_deref() != Some("+PONG") {
            assert!(began.elapsed() < START_TIMEOUT, "redis-server does not start");
            tokio::time::sleep(GLANCE).await;
        }
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn ask(&self, command: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(format!("{command}\r\n").as_bytes()).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        Some(line.trim_end().to_owned())
    }

    fn process(&self) -> &Child {
        self.process.as_ref().expect("it runs")
    }

    /// Throws everything away, as somebody may by mistake.
    pub fn flush(&self) {
        assert_eq!(self.ask("FLUSHALL").as_deref(), Some("+OK"));
    }

    /// Ends the server as an operator does.
    pub fn stop(&mut self) {
        signal("TERM", self.process().id());
        self.process.take().expect("it runs").wait().unwrap();
    }

    /// Ends the server without its knowledge.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    pub fn freeze(&self) {
        signal("STOP", self.process().id());
    }

    pub fn thaw(&self) {
        signal("CONT", self.process().id());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if self.process.is_some() {
            // A frozen process takes a kill too.
            self.kill();
        }
    }
}
