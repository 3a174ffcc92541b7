//! Faults on request: signals to processes of this machine, or commands of the tester's, at their times.

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};
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
/// How long a command that is asked to end (SIGTERM) may take to undo what it did, before it is killed.
const END_WITHIN: Duration = Duration::from_secs(1);

/// The error of a command that the tester's interruption ended.
const INTERRUPTED: &str = "not judged, as the run was interrupted and it with it";

/// Where the run is, for commands that are under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    Running,
    /// All phases are through, and so is the patience with commands.
    Over,
    Interrupted,
}

/// What was done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    /// Seconds from the start.
    pub(crate) at: f64,
    pub(crate) action: String,
    pub(crate) whom: String,
    pub(crate) error: Option<String>,
}

impl Done {
    /// Whether the run's interruption ended it before it could be judged.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.error.as_deref() == Some(INTERRUPTED)
    }
}

/// Does it. A command that has not ended when the run is over, or interrupted, is ended, with all that it has started.
///
/// Cancel safe: a command that is under way is told to end.
pub(crate) async fn inflict(chaos: Chaos, at: f64, stage: watch::Receiver<Stage>) -> Done {
    let whom = match (&chaos.pid, &chaos.pid_file, &chaos.command) {
        (Some(pid), _, _) => format!("process {pid}"),
        (_, Some(file), _) => format!("process of {file}"),
        (_, _, Some(command)) => shortened(command),
        _ => String::new(),
    };
    let outcome = match chaos.action {
        Action::Command => run(chaos.command.as_deref().unwrap_or_default(), stage).await,
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

async fn run(command: &str, mut stage: watch::Receiver<Stage>) -> anyhow::Result<()> {
    let mut shell = Shell::start(command)?;
    let (pid, errors) = (shell.pid, shell.child.stderr.take());
    let (told, mut ended) = oneshot::channel();
    // A thread of its own: the runtime would wait for one of its.
    std::thread::spawn(move || told.send(until_ended(pid, errors)));
    let stage = tokio::select! {
        complaint = &mut ended => {
            let complaint = complaint.context("its thread ended")??;
            let status = shell.reap()?;
            ensure!(status.success(), "it ended with {status}: {}", complaint.trim());
            return Ok(());
        }
        // Nobody is there to tell it any more: the run is over.
        stage = stage.wait_for(|stage| *stage != Stage::Running) => stage.map_or(Stage::Over, |stage| *stage),
    };
    shell.signal(Signal::TERM);
    // Whichever it is: what is left then is killed.
    let _ = tokio::time::timeout(END_WITHIN, ended).await;
    shell.signal(Signal::KILL);
    match stage {
        Stage::Interrupted => bail!(INTERRUPTED),
        Stage::Running | Stage::Over => bail!("it had not ended when the run was over, and was ended"),
    }
}

/// A shell that carries out a command, in a process group of its own: the terminal's Ctrl-C does not reach it, and
/// whoever ends it ends all that it has started. Until it is reaped nobody else can have the group's id.
struct Shell {
    child: Child,
    pid: Pid,
    is_reaped: bool,
}

impl Shell {
    fn start(command: &str) -> anyhow::Result<Shell> {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = shell.process_group(0).spawn().context("sh cannot be started")?;
        let pid = Pid::from_child(&child);
        Ok(Shell { child, pid, is_reaped: false })
    }

    fn signal(&self, signal: Signal) {
        // Where nobody is left there is nothing to end.
        let _ = kill_process_group(self.pid, signal);
    }

    /// Of one that has ended.
    fn reap(&mut self) -> std::io::Result<ExitStatus> {
        self.is_reaped = true;
        self.child.wait()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        if !self.is_reaped {
            self.signal(Signal::TERM);
        }
    }
}

/// Waits for a command's end, without reaping it; gives what it complained of.
fn until_ended(pid: Pid, errors: Option<ChildStderr>) -> anyhow::Result<String> {
    let complaint = Arc::new(Mutex::new(Vec::new()));
    let (done, is_read) = mpsc::channel();
    if let Some(errors) = errors {
        let complaint = Arc::clone(&complaint);
        std::thread::spawn(move || {
            listen(errors, &complaint);
            done.send(())
        });
    }
    retry_on_intr(|| waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT))?;
    // Both answers mean that nothing more is waited for.
    let _ = is_read.recv_timeout(COMPLAINT_PATIENCE);
    let complaint = complaint.lock().expect("no holder of a complaint panics");
    Ok(String::from_utf8_lossy(&complaint).into_owned())
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
        let (_run, stage) = watch::channel(Stage::Running);
        let error = async |text| inflict(parse(text).unwrap(), 0.0, stage.clone()).await.error;
        assert!(error("0:command:echo why >&2; exit 3").await.unwrap().contains("why"));
        assert_eq!(error("0:command:true").await, None);
        assert!(error("0:cont:1").await.is_some());
    }

    #[tokio::test]
    async fn what_a_command_leaves_behind_is_not_waited_for() {
        let (_run, stage) = watch::channel(Stage::Running);
        let left = inflict(parse("0:command:sleep 600 & echo $! >&2; exit 1").unwrap(), 0.0, stage).await;
        let error = left.error.unwrap();
        let pid = error.rsplit(' ').next().unwrap().parse().unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    }

    /// Begins a command whose processes hold a named pipe open, tells it where the run is, or gives it up (`None`), and
    /// sees that none of them is left.
    async fn ended(script: &str, told: Option<Stage>) -> Option<Done> {
        let folder = mlms_test_servers::Folder::new("loadtest-chaos");
        let pipe = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let command = format!("0:command:{}", script.replace("PIPE", pipe.to_str().unwrap()));
        let (run, stage) = watch::channel(Stage::Running);
        let endless = tokio::spawn(inflict(parse(&command).unwrap(), 0.0, stage));
        // It opens once somebody writes there, and is read to its end once nobody is left who might.
        let (opened, is_open) = oneshot::channel();
        let (all_gone, none_left) = oneshot::channel();
        std::thread::spawn(move || {
            let mut pipe = std::fs::File::open(pipe).unwrap();
            opened.send(()).unwrap();
            all_gone.send(pipe.read_to_end(&mut Vec::new()).unwrap())
        });
        is_open.await.unwrap();
        let done = match told {
            Some(stage) => {
                run.send(stage).unwrap();
                Some(endless.await.unwrap())
            }
            None => {
                endless.abort();
                None
            }
        };
        let within = Duration::from_secs(30);
        assert_eq!(tokio::time::timeout(within, none_left).await.expect("somebody is left").unwrap(), 0);
        done
    }

    #[tokio::test]
    async fn a_command_that_goes_on_is_ended_with_the_run() {
        let done = ended("sleep 600 > PIPE & sleep 600 > PIPE; wait", Some(Stage::Over)).await.unwrap();
        assert!(!done.is_interrupted() && done.error.unwrap().contains("not ended when the run was over"));
    }

    #[tokio::test]
    async fn a_command_that_an_interruption_ends_is_not_judged() {
        let done = ended("sleep 600 > PIPE", Some(Stage::Interrupted)).await.unwrap();
        assert!(done.is_interrupted(), "{done:?}");
    }

    #[tokio::test]
    async fn a_command_that_will_not_end_is_killed() {
        let done =
            ended("trap \'\' TERM; sleep 600 > PIPE; sleep 600 > PIPE", Some(Stage::Interrupted)).await;
        assert!(done.unwrap().is_interrupted());
    }

    #[tokio::test]
    async fn a_command_that_nobody_waits_for_is_ended() {
        assert!(ended("sleep 600 > PIPE", None).await.is_none());
    }
}
