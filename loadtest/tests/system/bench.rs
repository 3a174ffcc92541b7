//! Runs of the program under test, each in a folder of its own.

use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mlms_test_servers::Folder;
use serde_json::Value;

/// The secret that signs the clients' tokens.
pub(crate) const SECRET: &str = "a secret of the tests, long enough";

/// Longest run; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a run left behind.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) text: String,
    /// `result.json`, null where there is none.
    pub(crate) result: Value,
    pub(crate) junit: String,
    pub(crate) html: String,
}

impl Ran {
    /// The names of the broken rules.
    pub(crate) fn broken(&self) -> Vec<&str> {
        let counts = self.result["faults"]["counts"].as_object();
        counts.map(|counts| counts.keys().map(String::as_str).collect()).unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn expect(&self, code: i32) -> &Ran {
        assert_eq!(self.code, Some(code), "{}", self.text);
        self
    }
}

/// The program with its arguments, and nothing of this machine's settings.
pub(crate) fn loadtest(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_remove("LOADTEST_WORKER_KEY").env("LOADTEST_SECRET", SECRET);
    command
}

/// A run under way.
pub(crate) struct Run {
    folder: Folder,
    child: Child,
}

impl Run {
    pub(crate) fn start(scenario: &str, target: &str, more: &[&str]) -> Run {
        let folder = Folder::new("loadtest");
        let out = folder.path().to_str().unwrap().to_owned();
        let mut arguments = vec!["run", scenario, "--target", target, "--out", &out, "--quiet"];
        arguments.extend(more);
        let child = loadtest(&arguments).spawn().unwrap();
        Run { folder, child }
    }

    /// Gets a signal: `INT`, `STOP`, `CONT`.
    pub(crate) fn signal(&self, name: &str) {
        let (signal, pid) = (format!("-{name}"), self.child.id().to_string());
        assert!(Command::new("kill").args([&signal, &pid]).status().unwrap().success());
    }

    /// Nobody reads what it prints.
    pub(crate) fn close_output(&mut self) {
        drop(self.child.stdout.take());
    }

    pub(crate) fn finish(mut self) -> Ran {
        let begun = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            if begun.elapsed() > PATIENCE {
                self.child.kill().unwrap();
                panic!("the run does not end: {}", text(&self.child.wait_with_output().unwrap()));
            }
            thread::park_timeout(Duration::from_millis(20));
        }
        let output = self.child.wait_with_output().unwrap();
        let read = |name: &str| std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        Ran {
            code: output.status.code(),
            text: text(&output),
            result: serde_json::from_str(&read("result.json")).unwrap_or_default(),
            junit: read("junit.xml"),
            html: read("report.html"),
        }
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs it to its end.
pub(crate) fn run(scenario: &str, target: &str, more: &[&str]) -> Ran {
    Run::start(scenario, target, more).finish()
}
