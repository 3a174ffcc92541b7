//! Faults on request: signals to processes of this machine, or commands of the tester's, at their times.

use std::io::Read as _;
use std::process::{ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use crate::scenario::{Action, Chaos};

/// What a report tells of a command.
const COMMAND_CHARS_MAX: usize = 60;
/// What is kept of a command's complaints.
const COMPLAINT_BYTES_MAX: usize = 4 * 1024;
/// How long after a command's end its complaint may come. Whatever it left in the background may hold the other end of
/// the pipe for ever.
const COMPLAINT_PATIENCE: Duration = Duration::from_millis(200);

/// What was done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    /// Seconds from the start.
    pub(crate) at: f64,
    pub(crate) action: String,
    pub(crate) whom: String,
    pub(crate) error: Option<String>,
}

/// Does it. A command that has not ended when the run is `over` is not waited for.
pub(crate) async fn inflict(chaos: Chaos, at: f64, over: watch::Receiver<bool>) -> Done {
    let whom = match (&chaos.pid, &chaos.pid_file, &chaos.command) {
        (Some(pid), _, _) => format!("process {pid}"),
        (_, Some(file), _) => format!("process of {file}"),
        (_, _, Some(command)) => shortened(command),
        _ => String::new(),
    };
    let outcome = match chaos.action {
        Action::Command => run(chaos.command.as_deref().unwrap_or_default(), over).await,
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

async fn run(command: &str, mut over: watch::Receiver<bool>) -> anyhow::Result<()> {
    let command = command.to_owned();
    let (told, outcome) = oneshot::channel();
    // A thread of its own: the runtime would wait for one of its.
    std::thread::spawn(move || told.send(carry_out(&command)));
    let (status, complaint) = tokio::select! {
        outcome = outcome => outcome.context("its thread ended")??,
        _ = over.wait_for(|over| *over) => bail!("it had not ended when the run was over"),
    };
    ensure!(status.success(), "it ended with {status}: {}", complaint.trim());
    Ok(())
}

/// Runs a command to its end; gives that and what it complained of.
fn carry_out(command: &str) -> anyhow::Result<(ExitStatus, String)> {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = shell.spawn().context("sh cannot be started")?;
    let complaint = Arc::new(Mutex::new(Vec::new()));
    let (done, is_read) = mpsc::channel();
    if let Some(errors) = child.stderr.take() {
        let complaint = Arc::clone(&complaint);
        std::thread::spawn(move || {
            listen(errors, &complaint);
            done.send(())
        });
    }
    let status = child.wait()?;
    // Both answers mean that nothing more is waited for.
    let _ = is_read.recv_timeout(COMPLAINT_PATIENCE);
    let complaint = complaint.lock().expect("no holder of a complaint panics");
    Ok((status, String::from_utf8_lossy(&complaint).into_owned()))
}

/// Reads all, so that nobody waits for room in the pipe, and keeps the beginning.
fn listen(mut errors: ChildStderr, complaint: &Mutex<Vec<u8>>) {
    let mut chunk = [0; 1_024];
    while let Ok(read @ 1..) = errors.read(&mut chunk) {
        let mut complaint = complaint.lock().expect("no holder of a complaint panics");
        let room = COMPLAINT_BYTES_MAX.saturating_sub(complaint.len());
        complaint.extend_from_slice(&chunk[..read.min(room)]);
    }
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
        let (_over, is_over) = watch::channel(false);
        let error = async |text| inflict(parse(text).unwrap(), 0.0, is_over.clone()).await.error;
        assert!(error("0:command:echo why >&2; exit 3").await.unwrap().contains("why"));
        assert_eq!(error("0:command:true").await, None);
        assert!(error("0:cont:1").await.is_some());
    }

    #[tokio::test]
    async fn what_a_command_leaves_behind_is_not_waited_for() {
        let (_over, is_over) = watch::channel(false);
        let left = inflict(parse("0:command:sleep 600 & echo $! >&2; exit 1").unwrap(), 0.0, is_over).await;
        let error = left.error.unwrap();
        let pid = error.rsplit(' ').next().unwrap().parse().unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    }

    #[tokio::test]
    async fn a_command_that_goes_on_is_given_up_with_the_run() {
        let (over, is_over) = watch::channel(false);
        // For as long as this process lives.
        let command = format!("0:command:exec tail --pid={} -f /dev/null", std::process::id());
        let endless = tokio::spawn(inflict(parse(&command).unwrap(), 0.0, is_over));
        over.send(true).unwrap();
        assert!(endless.await.unwrap().error.unwrap().contains("not ended"));
    }
}
