//! A real service on free ports, in a folder of its own.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use mlms_test_servers::{Folder, Log, Process, free_port};

use crate::bench::SECRET;

const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Service {
    folder: Folder,
    process: Process,
    log: Log,
    port: u16,
    admin_port: u16,
}

impl Service {
    pub(crate) fn start() -> Service {
        let (folder, log) = (Folder::new("loadtest-service"), Log::default());
        let (port, admin_port) = (free_port(), free_port());
        let process = spawn(&folder, &log, port, admin_port);
        let mut service = Service { folder, process, log, port, admin_port };
        service.until_ready();
        service
    }

    /// Starts it again after its death, on the same data.
    pub(crate) fn restart(&mut self) {
        while !self.has_ended() {
            thread::park_timeout(Duration::from_millis(20));
        }
        self.process = spawn(&self.folder, &self.log, self.port, self.admin_port);
        self.until_ready();
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    pub(crate) fn metrics(&self) -> String {
        format!("http://127.0.0.1:{}/metrics", self.admin_port)
    }

    pub(crate) fn pid(&self) -> String {
        self.process.id().to_string()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.process.ended().is_some()
    }

    fn until_ready(&mut self) {
        let begun = Instant::now();
        while !self.is_ready() {
            assert!(self.process.ended().is_none(), "the service ended at its start");
            assert!(begun.elapsed() < PATIENCE, "the service is not ready in time");
            thread::park_timeout(Duration::from_millis(20));
        }
    }

    fn is_ready(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.admin_port)) else { return false };
        let mut answer = String::new();
        let asked = stream.write_all(b"GET /ready HTTP/1.0\r\n\r\n");
        asked.and_then(|()| stream.read_to_string(&mut answer)).is_ok() && answer.starts_with("HTTP/1.0 200")
            || answer.starts_with("HTTP/1.1 200")
    }
}

impl Drop for Service {
    #[expect(clippy::print_stderr, reason = "shown when a test fails")]
    fn drop(&mut self) {
        for line in self.log.lines().iter().filter(|line| line.contains("ERROR")) {
            eprintln!("service: {line}");
        }
    }
}

fn spawn(folder: &Folder, log: &Log, port: u16, admin_port: u16) -> Process {
    // Built by `cargo build --workspace`; a test of another package has no name for it.
    let binary = Path::new(env!("CARGO_BIN_EXE_loadtest")).with_file_name("mlms");
    assert!(binary.exists(), "{} is not there: cargo build -p mlms, in the same profile", binary.display());
    let mut command = mlms_test_servers::command(binary, folder.path());
    command
        .env("MLMS_LISTEN", format!("127.0.0.1:{port}"))
        .env("MLMS_ADMIN_LISTEN", format!("127.0.0.1:{admin_port}"))
        .env("MLMS_JWT_HS256_SECRET", SECRET)
        .env("MLMS_DRAIN_SECONDS", "3");
    Process::spawn(&mut command, log)
}
