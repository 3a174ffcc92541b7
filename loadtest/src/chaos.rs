//! Faults on request: signals to processes of this machine, or commands of the tester's, at their times.

use std::process::Stdio;

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::scenario::{Action, Chaos};

/// What a report tells of a command.
const COMMAND_CHARS_MAX: usize = 60;

/// What was done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    /// Seconds from the start.
    pub(crate) at: f64,
    pub(crate) action: String,
    pub(crate) whom: String,
    pub(crate) error: Option<String>,
}

/// Does it.
pub(crate) async fn inflict(chaos: Chaos, at: f64) -> Done {
    let whom = match (&chaos.pid, &chaos.pid_file, &chaos.command) {
        (Some(pid), _, _) => format!("process {pid}"),
        (_, Some(file), _) => format!("process of {file}"),
        (_, _, Some(command)) => shortened(command),
        _ => String::new(),
    };
    let outcome = match chaos.action {
        Action::Command => run(chaos.command.as_deref().unwrap_or_default()).await,
        _ => signal(&chaos),
    };
    Done {
        at,
        action: chaos.action.name().to_owned(),
        whom,
        error: outcome.err().map(|error| format!("{error:#}")),
    }
}

/// Reports are no place for long commands, which may hold secrets at their end.
fn shortened(command: &str) -> String {
    match command.char_indices().nth(COMMAND_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &command[..end]),
        None => command.to_owned(),
    }
}

fn signal(chaos: &Chaos) -> anyhow::Result<()> {
    let number = match (chaos.pid, &chaos.pid_file) {
        (Some(pid), _) => pid,
        (None, Some(file)) => {
            let text = std::fs::read_to_string(file).with_context(|| file.clone())?;
            text.trim().parse().with_context(|| format!("{file} holds no process id"))?
        }
        (None, None) => bail!("no process is named"),
    };
    let pid =
        Pid::from_raw(number).filter(|_| number > 1).with_context(|| format!("{number} is no process"))?;
    let signal = match chaos.action {
        Action::Kill => Signal::KILL,
        Action::Stop => Signal::STOP,
        Action::Cont => Signal::CONT,
        Action::Drain | Action::Command => Signal::TERM,
    };
    kill_process(pid, signal).with_context(|| format!("process {number}"))
}

async fn run(command: &str) -> anyhow::Result<()> {
    let command = command.to_owned();
    let output = tokio::task::spawn_blocking(move || {
        std::process::Command::new("sh").args(["-c", &command]).stdin(Stdio::null()).output()
    });
    let output = output.await?.context("sh cannot be started")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "it ended with {}: {}", output.status, complaint.trim());
    Ok(())
}

/// Reads `12s:kill:4711` or `12s:command:systemctl restart x`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Chaos, String> {
    let wrong = || {
        format!(
            "{text}: write SECONDS:ACTION:PID, with kill, stop, cont or drain, or SECONDS:command:COMMAND"
        )
    };
    let mut parts = text.splitn(3, ':');
    let (Some(at), Some(action), Some(whom)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(wrong());
    };
    let at = at.trim_end_matches('s').parse().map_err(|_| wrong())?;
    let action = match action {
        "kill" => Action::Kill,
        "stop" => Action::Stop,
        "cont" => Action::Cont,
        "drain" => Action::Drain,
        "command" => Action::Command,
        _ => return Err(wrong()),
    };
    let (mut pid, mut pid_file, mut command) = (None, None, None);
    match (action, whom.parse()) {
        (Action::Command, _) => command = Some(whom.to_owned()),
        (_, Ok(number)) => pid = Some(number),
        (_, Err(_)) => pid_file = Some(whom.to_owned()),
    }
    Ok(Chaos { at, action, pid, pid_file, command })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_says_when_what_and_whom() {
        let chaos = parse("12.5s:kill:4711").unwrap();
        assert_eq!((chaos.at, chaos.action, chaos.pid), (12.5, Action::Kill, Some(4711)));
        assert_eq!(parse("3:drain:/run/x.pid").unwrap().pid_file.as_deref(), Some("/run/x.pid"));
        assert_eq!(parse("3:command:echo a:b").unwrap().command.as_deref(), Some("echo a:b"));
        for bad in ["", "3:kill", "x:kill:1", "3:hit:1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn what_fails_is_told() {
        let done = inflict(parse("0:command:echo why >&2; exit 3").unwrap(), 0.0).await;
        assert!(done.error.unwrap().contains("why"));
        assert_eq!(inflict(parse("0:command:true").unwrap(), 0.0).await.error, None);
        assert!(inflict(parse("0:cont:1").unwrap(), 0.0).await.error.is_some());
    }
}
