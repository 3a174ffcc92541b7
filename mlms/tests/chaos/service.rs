//! One process of the fleet: the real binary in one role, on ports of its own that stay the same over restarts.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mlms_test_servers::{free_port, signal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Longest wait for anything that must happen; only a failing test waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How often a condition is looked at again.
pub(crate) const GLANCE: Duration = Duration::from_millis(10);

pub(crate) struct Service {
    pub(crate) name: String,
    role: &'static str,
    pub(crate) port: u16,
    pub(crate) admin_port: u16,
    environment: Vec<(String, String)>,
    process: Option<Child>,
    /// A JSON object a line, of all runs.
    log: Arc<Mutex<Vec<String>>>,
}

impl Service {
    pub(crate) fn new(role: &'static str, name: String, environment: Vec<(String, String)>) -> Service {
        Service {
            name,
            role,
            port: free_port(),
            admin_port: free_port(),
            environment,
            process: None,
            log: Arc::default(),
        }
    }

    /// Sets a variable, from the next start on.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Starts the process and waits for nothing.
    pub(crate) fn spawn(&mut self, folder: &Path) {
        let address = format!("127.0.0.1:{}", self.port);
        let mut command = Command::new(env!("CARGO_BIN_EXE_mlms"));
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("MLMS_")) {
                command.env_remove(name);
            }
        }
        let mut process = command
            .arg(self.role)
            .current_dir(folder)
            .env(if self.role == "broker" { "MLMS_LISTEN" } else { "MLMS_NODE_LISTEN" }, address)
            .env("MLMS_NODE_NAME", &self.name)
            .env("MLMS_ADMIN_LISTEN", format!("127.0.0.1:{}", self.admin_port))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = process.stderr.take().unwrap();
        let log = Arc::clone(&self.log);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                log.lock().unwrap().push(line);
            }
        });
        self.process = Some(process);
    }

    /// Starts the process (again), and waits until it is ready.
    pub(crate) async fn launch(&mut self, folder: &Path) {
        self.spawn(folder);
        self.until_ready().await;
    }

    pub(crate) async fn until_ready(&mut self) {
        let began = Instant::now();
        while !self.is_ready().await {
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "{} ended at its start\n{}", self.name, self.log());
            assert!(began.elapsed() < PATIENCE, "{} is not ready in time\n{}", self.name, self.log());
            tokio::time::sleep(GLANCE).await;
        }
    }

    async fn is_ready(&self) -> bool {
        matches!(get(self.admin_port, "/ready").await, Some((200, _)))
    }

    /// Whether the process's loop turns, whatever it has lost.
    pub(crate) async fn is_live(&self) -> bool {
        matches!(get(self.admin_port, "/live").await, Some((200, _)))
    }

    /// A metric's value, summed over its series.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let page = get(self.admin_port, "/metrics").await.map(|(_, page)| page).unwrap_or_default();
        let series = page.lines().filter_map(|line| line.rsplit_once(' '));
        let values = series.filter(|(series, _)| series.split('{').next() == Some(name));
        values.map(|(_, value)| value.parse::<f64>().unwrap()).sum()
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.try_wait().unwrap().is_none())
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(name, self.process.as_ref().expect("it runs").id());
    }

    /// Ends the process as a power cut would.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Waits until the process has ended by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("it runs");
        let began = Instant::now();
        loop {
            if let Some(status) = process.try_wait().unwrap() {
                return status;
            }
            if began.elapsed() > PATIENCE {
                process.kill().unwrap();
                panic!("{} does not end\n{}", self.name, self.log());
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Stops the process as an operator does; it ends well.
    pub(crate) async fn stop(&mut self) {
        self.signal("TERM");
        let status = self.ended().await;
        assert!(status.success(), "{} ended with {status}\n{}", self.name, self.log());
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Lines that a human must look at.
    pub(crate) fn errors(&self) -> Vec<String> {
        let log = self.log.lock().unwrap();
        let is_error = |line: &&String| line.contains("\"ERROR\"") || line.contains("panicked");
        log.iter().filter(is_error).cloned().collect()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if self.process.is_some() {
            // It may have ended meanwhile.
            let mut process = self.process.take().expect("looked above");
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

pub(crate) async fn get(port: u16, path: &str) -> Option<(u16, String)> {
    ask("GET", port, path).await
}

/// One HTTP request; `None`: nobody answers.
pub(crate) async fn ask(method: &str, port: u16, path: &str) -> Option<(u16, String)> {
    ask_as(None, method, port, path).await
}

/// One HTTP request with a token.
pub(crate) async fn ask_as(
    token: Option<&str>,
    method: &str,
    port: u16,
    path: &str,
) -> Option<(u16, String)> {
    let asking = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let bearer = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
        let text = format!(
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n{bearer}content-length: 0\r\n\r\n"
        );
        stream.write_all(text.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    };
    tokio::time::timeout(Duration::from_secs(5), asking).await.ok()?
}
