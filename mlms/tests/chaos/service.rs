//! One process of the fleet: the real binary in one role, on ports of its own that stay the same over restarts.

use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use mlms_test_servers::{Log, Process, free_port, http};
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
    process: Option<Process>,
    /// A JSON object a line, of all runs.
    log: Log,
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
            log: Log::default(),
        }
    }

    /// Sets a variable, from the next start on.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Starts the process and waits for nothing.
    pub(crate) fn spawn(&mut self, folder: &Path) {
        let address = format!("127.0.0.1:{}", self.port);
        let mut command = mlms_test_servers::command(env!("CARGO_BIN_EXE_mlms"), folder);
        command
            .arg(self.role)
            .env(if self.role == "broker" { "MLMS_LISTEN" } else { "MLMS_NODE_LISTEN" }, address)
            .env("MLMS_NODE_NAME", &self.name)
            .env("MLMS_ADMIN_LISTEN", format!("127.0.0.1:{}", self.admin_port))
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.process = Some(Process::spawn(&mut command, &self.log));
    }

    /// Starts the process (again), and waits until it is ready.
    pub(crate) async fn launch(&mut self, folder: &Path) {
        self.spawn(folder);
        self.until_ready().await;
    }

    pub(crate) async fn until_ready(&mut self) {
        let began = Instant::now();
        while !self.is_ready().await {
            let ended = self.process.as_mut().unwrap().ended();
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
        http::metric(&page, name, "")
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.ended().is_none())
    }

    pub(crate) fn signal(&self, name: &str) {
        self.process.as_ref().expect("it runs").signal(name);
    }

    /// Ends the process as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    /// Waits until the process has ended by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let ended = self.process.take().expect("it runs").end(PATIENCE).await;
        ended.unwrap_or_else(|| panic!("{} does not end\n{}", self.name, self.log()))
    }

    /// Stops the process as an operator does; it ends well.
    pub(crate) async fn stop(&mut self) {
        self.signal("TERM");
        let status = self.ended().await;
        assert!(status.success(), "{} ended with {status}\n{}", self.name, self.log());
    }

    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    /// Lines that a human must look at.
    pub(crate) fn errors(&self) -> Vec<String> {
        let is_error = |line: &String| line.contains("\"ERROR\"") || line.contains("panicked");
        self.log.lines().into_iter().filter(is_error).collect()
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
    let bearer = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<_> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
    http::request(port, method, path, &headers, "", Duration::from_secs(5)).await
}
