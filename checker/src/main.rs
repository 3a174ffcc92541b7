//! `mlms-checker FILE.jsonl`: judges a recorded history. Exit 0 passed, 1 usage, 2 failed, 3 void.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the report is this tool's output")]

use std::process::ExitCode;

use mlms_checker::{Options, Report, Verdict, check_text};

const USAGE: &str = "usage: mlms-checker FILE.jsonl [--require NAME[=COUNT]]... [--allow-ordered-loss] [--json]

--require what the run must have reached to count: send ack refused unknown delivery unsequenced owner_change
reconnect resume resume_gap snapshot retried_nonce dup kick ban after_removal lobby_full degraded history_read fault:NAME";

struct Arguments {
    file: String,
    json: bool,
    options: Options,
}

fn main() -> ExitCode {
    let arguments = match arguments(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(mistake) => return usage(&mistake),
    };
    let text = match std::fs::read_to_string(&arguments.file) {
        Ok(text) => text,
        Err(error) => return usage(&format!("{}: {error}", arguments.file)),
    };
    match check_text(&text, &arguments.options) {
        Ok(report) => tell(&report, &text, arguments.json),
        Err(error) => usage(&format!("{}: {error}", arguments.file)),
    }
}

fn arguments(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut file = None;
    let mut json = false;
    let mut options = Options::default();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--require" => {
                let requirement = words.next().ok_or("--require wants a name")?;
                options.require.push(requirement.parse()?);
            }
            "--allow-ordered-loss" => options.allow_ordered_loss = true,
            "--json" => json = true,
            option if option.starts_with('-') => return Err(format!("{option}: no such option")),
            _ if file.is_some() => return Err("one file at a time".to_owned()),
            _ => file = Some(word),
        }
    }
    Ok(Arguments { file: file.ok_or("no file given")?, json, options })
}

fn tell(report: &Report, text: &str, json: bool) -> ExitCode {
    if json {
        println!("{}", serde_json::to_string(report).expect("a report has string keys only"));
    } else {
        print!("{report}");
        let lines: Vec<&str> = text.lines().collect();
        for violation in &report.violations {
            println!("\n{}: {}", violation.rule, violation.text);
            for number in &violation.lines {
                println!("  {number}: {}", lines.get(*number as usize - 1).unwrap_or(&""));
            }
        }
    }
    match report.verdict() {
        Verdict::Passed => ExitCode::SUCCESS,
        Verdict::Failed => ExitCode::from(2),
        Verdict::Void => ExitCode::from(3),
    }
}

fn usage(mistake: &str) -> ExitCode {
    eprintln!("{mistake}\n\n{USAGE}");
    ExitCode::from(1)
}
