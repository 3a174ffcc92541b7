//! A run: one fleet, one crowd, faults one after the other, and the verdict at the end.

use std::path::PathBuf;
use std::time::Duration;

use mlms_checker::{Options, Requirement, Verdict, check_records};
use mlms_protocol::LobbyId;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::crowd::{Crowd, Heard};
use crate::fleet::Fleet;
use crate::recorder::Reached;

/// Talk before the first fault and between two, so that each happens under full load.
const CALM: Duration = Duration::from_secs(2);

/// Held while a story is told.
pub(crate) type Turn = MutexGuard<'static, ()>;

/// Stories share the machine's cores, and each wants to measure.
pub(crate) async fn my_turn() -> Turn {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
    ONE_AT_A_TIME.lock().await
}

/// How often the faults of a story happen.
pub(crate) fn rounds() -> usize {
    std::env::var("MLMS_CHAOS").map_or(1, |rounds| rounds.parse().expect("MLMS_CHAOS is a number"))
}

pub(crate) struct Story {
    name: &'static str,
    pub(crate) fleet: Fleet,
    pub(crate) crowd: Crowd,
    turn: Turn,
}

/// A fault under way.
pub(crate) struct Fault {
    name: &'static str,
    pub(crate) began: Instant,
    before: Reached,
}

impl Story {
    pub(crate) async fn begin(name: &'static str, nodes: usize, brokers: usize) -> Story {
        let turn = my_turn().await;
        let fleet = Fleet::start(nodes, brokers).await;
        Story::with(name, fleet, turn).await
    }

    /// A story of a fleet that stands already.
    pub(crate) async fn with(name: &'static str, fleet: Fleet, turn: Turn) -> Story {
        let crowd = Crowd::gather(&fleet, name).await;
        let story = Story { name, fleet, crowd, turn };
        story.calm().await;
        story
    }

    /// Lets everybody talk for a while.
    pub(crate) async fn calm(&self) {
        tokio::time::sleep(CALM).await;
    }

    pub(crate) fn fault(&self, name: &'static str) -> Fault {
        Fault { name, began: Instant::now(), before: self.crowd.recorder.reached() }
    }

    /// Waits until each of these lobbies accepts messages again, says how long it took, and gives what the fault has
    /// caused meanwhile.
    pub(crate) async fn recovered(&self, fault: &Fault, lobbies: &[LobbyId]) -> Duration {
        let took = self.crowd.recovered(lobbies, fault.began).await;
        self.tell(&format!("{}: {} lobbies back after {} ms", fault.name, lobbies.len(), took.as_millis()));
        took
    }

    /// What has happened since a fault began.
    pub(crate) fn since(&self, fault: &Fault) -> Reached {
        self.crowd.recorder.reached() - fault.before
    }

    /// Closes a fault: what was lost of unsequenced messages up to now is its doing.
    pub(crate) async fn over(&self, fault: Fault) -> Reached {
        // Sessions that lost their connection come back within the longest pause between two tries.
        self.calm().await;
        self.crowd.recorder.fault(fault.name, fault.began);
        self.caused(fault)
    }

    /// Closes a planned change: everybody lived, and nothing excuses a loss.
    pub(crate) async fn done(&self, change: Fault) -> Reached {
        self.calm().await;
        self.caused(change)
    }

    fn caused(&self, fault: Fault) -> Reached {
        let caused = self.crowd.recorder.reached() - fault.before;
        let silence = self.crowd.longest_silence(fault.began, Instant::now());
        self.tell(&format!(
            "{}: longest silence of a lobby {} ms; {caused:?}",
            fault.name,
            silence.as_millis()
        ));
        caused
    }

    pub(crate) fn tell(&self, text: &str) {
        println!("{}: {text}", self.name);
    }

    /// Ends the run and judges it. `require`: what it must have reached to count.
    pub(crate) async fn end(self, require: &[&str]) {
        let (fleet, _, _turn) = self.judge(require).await;
        fleet.stop().await;
    }

    /// Ends the talk and judges it; the fleet runs on, beside it what was accepted and what the history says.
    pub(crate) async fn judge(self, require: &[&str]) -> (Fleet, Heard, Turn) {
        let Story { name, fleet, crowd, turn } = self;
        let rate = crowd.rate();
        let (recorder, heard) = crowd.settle(&fleet).await;
        let records = recorder.take();
        let require: Vec<Requirement> = require.iter().map(|text| text.parse().unwrap()).collect();
        let report = check_records(&records, &Options { require, ..Options::default() });
        if report.verdict() != Verdict::Passed {
            let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{name}"));
            std::fs::create_dir_all(&folder).unwrap();
            let lines: String = records.iter().map(|record| record.to_line() + "\n").collect();
            std::fs::write(folder.join("history.jsonl"), lines).unwrap();
            std::fs::write(folder.join("remarks.txt"), recorder.remarks()).unwrap();
            fleet.keep_logs(&folder);
            panic!("{name}: history and logs are in {}\n{report}", folder.display());
        }
        println!("{name}: {rate:.0} messages a second; {}", serde_json::to_string(&report.counts).unwrap());
        (fleet, heard, turn)
    }
}
