//! The command-line tool's exit codes and output.

use std::path::PathBuf;
use std::process::{Command, Output};

use mlms_checker::What;

use crate::service::{Plan, play};

struct File(PathBuf);

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn file(name: &str, lines: impl Iterator<Item = String>) -> File {
    let path = std::env::temp_dir().join(format!("mlms-checker-{}-{name}.jsonl", std::process::id()));
    std::fs::write(&path, lines.collect::<Vec<_>>().join("\n")).unwrap();
    File(path)
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mlms-checker")).args(arguments).output().unwrap()
}

#[test]
fn the_exit_code_is_the_verdict() {
    let records = play(&Plan { owner_changes: false, ..Plan::new(11) });
    let good = file("good", records.iter().map(|record| record.to_line()));
    let good = good.0.to_str().unwrap();
    assert_eq!(run(&[good]).status.code(), Some(0));
    assert_eq!(run(&[good, "--require", "ack=3", "--require", "delivery"]).status.code(), Some(0));
    assert_eq!(run(&[good, "--require", "owner_change"]).status.code(), Some(3));

    let last =
        records.iter().rposition(|r| matches!(&r.what, What::Delivered { event, .. } if event.seq.is_some()));
    let bad = records.iter().enumerate().filter(|(index, _)| Some(*index) != last);
    let bad = file("bad", bad.map(|(_, record)| record.to_line()));
    let output = run(&[bad.0.to_str().unwrap(), "--json"]);
    assert_eq!(output.status.code(), Some(2));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["totals"].as_object().unwrap().keys().all(|rule| rule == "incomplete" || rule == "gap"));

    let text = run(&[bad.0.to_str().unwrap()]);
    assert!(String::from_utf8(text.stdout).unwrap().contains("verdict: Failed"));
    for usage in [&["--require"][..], &[], &["a", "b"], &["/nowhere/x"], &[good, "--require", "x"], &["--y"]]
    {
        assert_eq!(run(usage).status.code(), Some(1), "{usage:?}");
    }
}
