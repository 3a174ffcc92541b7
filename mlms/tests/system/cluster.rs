//! One run of the real binary on free ports and in a folder of its own, with its log at hand.

use std::process::{Command, ExitStatus};
use std::time::Duration;

use mlms_process::config::{JwtSettings, ProcessRole, Settings};
use mlms_process::install_crypto_provider;
use mlms_process::jwt::Minter;
use mlms_protocol::{Role, UserId};
pub(crate) use mlms_test_servers::Folder;
use mlms_test_servers::{Log, Process, free_port};
use secrecy::SecretString;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longest wait for anything that must happen; only a failing test waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The secret that signs the users' tokens.
pub(crate) const SECRET: &str = "a secret of the tests, long enough";

/// An empty folder for one test.
pub(crate) fn folder() -> Folder {
    Folder::new("system")
}

/// The binary with nothing of this machine's settings.
pub(crate) fn mlms(folder: &Folder) -> Command {
    mlms_test_servers::command(env!("CARGO_BIN_EXE_mlms"), folder.path())
}

pub(crate) struct Cluster {
    folder: Folder,
    environment: Vec<(String, String)>,
    flags: Vec<String>,
    port: u16,
    admin_port: u16,
    process: Option<Process>,
    /// A JSON object a line.
    log: Log,
    expected: Vec<&'static str>,
    secret: Option<&'static str>,
    minter: Minter,
}

impl Cluster {
    /// The service as it is by default.
    pub(crate) async fn start() -> Cluster {
        Cluster::with(&[]).await
    }

    /// The service with some settings in its environment.
    pub(crate) async fn with(environment: &[(&str, &str)]) -> Cluster {
        let mut cluster = Cluster::prepare(environment);
        cluster.launch().await;
        cluster
    }

    /// Everything but the process.
    pub(crate) fn prepare(environment: &[(&str, &str)]) -> Cluster {
        install_crypto_provider();
        let jwt = JwtSettings {
            hs256_secret: Some(SecretString::from(SECRET)),
            ..Settings::defaults(ProcessRole::Tool).jwt
        };
        let given = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Cluster {
            folder: folder(),
            environment: given.collect(),
            flags: Vec::new(),
            port: free_port(),
            admin_port: free_port(),
            process: None,
            log: Log::default(),
            expected: Vec::new(),
            secret: Some(SECRET),
            minter: Minter::new(&jwt).unwrap(),
        }
    }

    /// Starts the process (again), and waits until it takes sessions.
    pub(crate) async fn launch(&mut self) {
        self.spawn();
        let ready = async {
            while !self.is_ready().await {
                let ended = self.process.as_mut().unwrap().ended();
                assert!(
                    ended.is_none(),
                    "the process ended at its start: {}\n{}",
                    ended.unwrap(),
                    self.log()
                );
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, ready).await.is_err() {
            panic!("not ready in time\n{}", self.log());
        }
    }

    /// Starts the process and waits for nothing.
    pub(crate) fn spawn(&mut self) {
        let mut command = mlms(&self.folder);
        command
            .args(&self.flags)
            .env("MLMS_LISTEN", format!("127.0.0.1:{}", self.port))
            .env("MLMS_ADMIN_LISTEN", format!("127.0.0.1:{}", self.admin_port))
            .envs(self.secret.map(|secret| ("MLMS_JWT_HS256_SECRET", secret)))
            .env("MLMS_LOG_FORMAT", "json")
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.process = Some(Process::spawn(&mut command, &self.log));
    }

    /// Gives the process no secret: it makes one up.
    pub(crate) fn without_secret(&mut self) {
        self.secret = None;
    }

    pub(crate) fn flag(&mut self, flag: &str) {
        self.flags.push(flag.to_owned());
    }

    /// Says that lines with this text may be warnings or errors.
    pub(crate) fn expect_log(&mut self, part: &'static str) {
        self.expected.push(part);
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn folder(&self) -> &Folder {
        &self.folder
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    pub(crate) async fn is_ready(&self) -> bool {
        match get(self.admin_port, "/ready").await {
            Some((200, _)) => TcpStream::connect(("127.0.0.1", self.port)).await.is_ok(),
            _ => false,
        }
    }

    /// Sends a signal such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        self.process.as_ref().expect("it runs").signal(name);
    }

    /// Ends the process as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.ended().is_none())
    }

    /// Waits until the process has ended by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let ended = self.process.take().expect("it runs").end(2 * PATIENCE).await;
        ended.unwrap_or_else(|| panic!("the process does not end\n{}", self.log()))
    }

    /// Stops the process as an operator does; it ends well.
    pub(crate) async fn stop(&mut self) {
        self.signal("TERM");
        let status = self.ended().await;
        assert!(status.success(), "{status}\n{}", self.log());
    }

    pub(crate) fn token(&self, user: &str) -> String {
        self.token_with(user, &[], Duration::from_secs(3_600))
    }

    pub(crate) fn token_with(&self, user: &str, roles: &[Role], ttl: Duration) -> String {
        self.minter.mint(&UserId::new(user).unwrap(), None, roles, ttl).token
    }

    /// Asks the public listener.
    pub(crate) async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (u16, Value) {
        let answer = request(self.port, method, path, headers, body).await;
        let (status, body) = answer.expect("the service answers");
        (status, serde_json::from_str(&body).unwrap_or(Value::Null))
    }

    /// What the admin listener says of every service that this one uses.
    pub(crate) async fn health(&self) -> Value {
        let (_, page) = get(self.admin_port, "/health").await.expect("the admin listener answers");
        serde_json::from_str(&page).expect("it answers with JSON")
    }

    /// A page of the admin listener.
    pub(crate) async fn admin(&self, path: &str) -> String {
        get(self.admin_port, path).await.expect("the admin listener answers").1
    }

    /// The head of the public listener's answer, in lower case names as it came. `lines`: header lines.
    pub(crate) async fn head(&self, method: &str, path: &str, lines: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let text = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n{lines}\r\n\r\n",
            self.address()
        );
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        read.expect("an answer comes").unwrap();
        let answer = String::from_utf8(answer).unwrap();
        answer.split_once("\r\n\r\n").expect("a head has an end").0.to_owned() + "\r\n"
    }

    /// A metric's value, summed over the series that have this label value (any, when it is empty).
    pub(crate) async fn metric(&self, name: &str, label: &str) -> f64 {
        let (_, page) = get(self.admin_port, "/metrics").await.expect("the admin listener answers");
        mlms_test_servers::http::metric(&page, name, label)
    }

    /// Waits until a metric is at least this.
    pub(crate) async fn until_metric(&self, name: &str, label: &str, least: f64) {
        let reached = async {
            while self.metric(name, label).await < least {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, reached).await;
        let value = self.metric(name, label).await;
        assert!(outcome.is_ok(), "{name}{{{label}}} is {value} and not {least}");
    }

    /// Processor time that the process has used, in hundredths of a second.
    pub(crate) fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    }

    /// Bytes of memory that the process holds.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1_024
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.process.take());
        if std::thread::panicking() {
            return show(&self.log());
        }
        for line in self.log.lines() {
            let level = serde_json::from_str::<Value>(&line).ok();
            let level = level.and_then(|line| Some(line.get("level")?.as_str()?.to_owned()));
            let harmless = matches!(level.as_deref(), Some("INFO" | "DEBUG" | "TRACE"));
            let expected = self.expected.iter().any(|part| line.contains(part));
            assert!(harmless || expected, "not expected in the log: {line}");
        }
    }
}

#[expect(clippy::print_stderr, reason = "the log of a test that failed")]
fn show(log: &str) {
    eprintln!("{log}");
}

async fn get(port: u16, path: &str) -> Option<(u16, String)> {
    request(port, "GET", path, &[], "").await
}

/// One HTTP request; `None`: nobody answers.
pub(crate) async fn request(
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Option<(u16, String)> {
    mlms_test_servers::http::request(port, method, path, headers, body, PATIENCE).await
}
