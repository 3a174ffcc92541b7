//! A real service on free ports, in a folder of its own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::bench::{Folder, SECRET};

const PATIENCE: Duration = Duration::from_secs(30);

/// A port that nobody listens on, below those that the system gives to outgoing connections.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = (std::process::id() % 1_000) as u16 * 10;
    loop {
        let port = 10_500 + first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 9_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

pub(crate) struct Service {
    folder: Folder,
    process: Child,
    port: u16,
    admin_port: u16,
}

impl Service {
    pub(crate) fn start() -> Service {
        let (folder, port, admin_port) = (Folder::new(), free_port(), free_port());
        let process = spawn(&folder, port, admin_port);
        let mut service = Service { folder, process, port, admin_port };
        service.until_ready();
        service
    }

    /// Starts it again after its death, on the same data.
    pub(crate) fn restart(&mut self) {
        self.process.wait().unwrap();
        self.process = spawn(&self.folder, self.port, self.admin_port);
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
        self.process.try_wait().unwrap().is_some()
    }

    fn until_ready(&mut self) {
        let begun = Instant::now();
        while !self.is_ready() {
            assert!(self.process.try_wait().unwrap().is_none(), "the service ended at its start");
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
    fn drop(&mut self) {
        // It may be dead already, and that is what some tests want.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[expect(clippy::print_stderr, reason = "shown when a test fails")]
fn spawn(folder: &Folder, port: u16, admin_port: u16) -> Child {
    // Built by `cargo build --workspace`; a test of another package has no name for it.
    let binary = Path::new(env!("CARGO_BIN_EXE_loadtest")).with_file_name("mlms");
    assert!(binary.exists(), "{} is not there: cargo build -p mlms, in the same profile", binary.display());
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("MLMS_")) {
            command.env_remove(name);
        }
    }
    let mut process = command
        .current_dir(folder.path())
        .env("MLMS_LISTEN", format!("127.0.0.1:{port}"))
        .env("MLMS_ADMIN_LISTEN", format!("127.0.0.1:{admin_port}"))
        .env("MLMS_JWT_HS256_SECRET", SECRET)
        .env("MLMS_DRAIN_SECONDS", "3")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = process.stderr.take().unwrap();
    // Its log is shown when a test fails.
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok).filter(|line| line.contains("ERROR"))
        {
            eprintln!("service: {line}");
        }
    });
    process
}
