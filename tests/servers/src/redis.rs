//! A redis-server with an append-only file.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

use crate::{Folder, GLANCE, START_TIMEOUT, free_port, require, signal};

/// Longest wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

pub struct Redis {
    process: Option<Child>,
    port: u16,
    folder: Folder,
    settings: Vec<String>,
}

impl Redis {
    pub async fn start() -> Redis {
        Redis::start_with(&[]).await
    }

    /// With settings as on its command line; they come last, and count.
    pub async fn start_with(settings: &[&str]) -> Redis {
        require("redis-server", "redis-server");
        let settings = settings.iter().map(ToString::to_string).collect();
        let mut redis = Redis { process: None, port: free_port(), folder: Folder::new("redis"), settings };
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
            .args(&self.settings)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let process = self.process.insert(process);
        let began = Instant::now();
        while ask(self.port, "PING").as_deref() != Some("+PONG") {
            // Whoever else has its port would answer in its place.
            let ended = process.try_wait().unwrap();
            assert!(
                ended.is_none() && began.elapsed() < START_TIMEOUT,
                "redis-server does not start: {ended:?}"
            );
            tokio::time::sleep(GLANCE).await;
        }
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sends an inline command, and gives the first line of the answer.
    #[must_use]
    pub fn ask(&self, command: &str) -> String {
        ask(self.port, command).expect("the server answers")
    }

    /// Sends an inline command, and gives the whole answer.
    #[must_use]
    pub fn ask_all(&self, command: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).unwrap();
        stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Breaks the connections of all subscribers.
    pub fn kill_subscribers(&self) {
        let killed = self.ask("CLIENT KILL TYPE pubsub");
        assert!(killed.starts_with(':'), "{killed}");
    }

    fn process(&self) -> &Child {
        self.process.as_ref().expect("it runs")
    }

    /// Throws everything away, as somebody may by mistake.
    pub fn flush(&self) {
        assert_eq!(self.ask("FLUSHALL"), "+OK");
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

fn ask(port: u16, command: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).ok()?;
    stream.write_all(format!("{command}\r\n").as_bytes()).ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    Some(line.trim_end().to_owned())
}

impl Drop for Redis {
    fn drop(&mut self) {
        if self.process.is_some() {
            // A frozen process takes a kill too.
            self.kill();
        }
    }
}
