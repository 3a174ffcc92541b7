//! Random runs over a failing relay, each from a seed. Every message says who sent it, in which run, to whom, and
//! its number there, so that what each run of a node hears can be judged by itself.

use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::relay::{FaultRates, RelayFaults};

/// What may happen in a run besides lost, doubled and late batches.
#[derive(Clone, Copy)]
struct Plan {
    seed: u64,
    restarts: bool,
    small_buffers: bool,
}

/// One run of a node and what it has sent and heard.
struct Run {
    node: Node,
    incarnation: u64,
    /// Messages sent, by receiver.
    sent: BTreeMap<NodeName, u64>,
    /// Of those, how many were sent when the last outgoing reset was read.
    reset_at: BTreeMap<NodeName, u64>,
    heard: BTreeMap<NodeName, Heard>,
    incoming_resets: u64,
    /// Everything is heard from its beginning.
    hears_all: bool,
}

/// The last message from one sender.
struct Heard {
    incarnation: u64,
    number: u64,
    /// A reset was reported since: the next number may jump.
    reset: bool,
}

impl Run {
    fn start(relay: &Relay, name: &NodeName, incarnation: u64, config: &LinkConfig, hears_all: bool) -> Run {
        Run {
            node: Node::start(relay, name, incarnation, config.clone()),
            incarnation,
            sent: BTreeMap::new(),
            reset_at: BTreeMap::new(),
            heard: BTreeMap::new(),
            incoming_resets: 0,
            hears_all,
        }
    }

    fn send(&mut self, to: &NodeName, filler: usize) {
        let number = self.sent.entry(to.clone()).or_default();
        *number += 1;
        let text = format!("{} {} {to} {number} {}", self.node.name, self.incarnation, "x".repeat(filler));
        self.node.links.send(to, Bytes::from(text));
    }

    /// Reads what has been reported, checks it against what was heard before, and says whether there was any.
    fn read(&mut self) -> bool {
        let mut is_news = false;
        while let Some(event) = futures_util::FutureExt::now_or_never(self.node.events.recv()) {
            is_news = true;
            match event.expect("the links live") {
                LinkEvent::Received { from, incarnation, payload } => {
                    self.hear(&from, incarnation.0, &payload)
                }
                LinkEvent::IncomingReset { from, .. } => {
                    self.incoming_resets += 1;
                    if let Some(heard) = self.heard.get_mut(&from) {
                        heard.reset = true;
                    }
                }
                LinkEvent::OutgoingReset { to } => {
                    let sent = self.sent.get(&to).copied().unwrap_or(0);
                    self.reset_at.insert(to, sent);
                }
            }
        }
        is_news
    }

    fn hear(&mut self, from: &NodeName, incarnation: u64, payload: &[u8]) {
        let text = std::str::from_utf8(payload).unwrap();
        let words: Vec<&str> = text.split(' ').collect();
        assert_eq!(words[0], from.as_str(), "the sender is who it says");
        assert_eq!(words[1], incarnation.to_string(), "of the run that is named");
        assert_eq!(words[2], self.node.name.as_str(), "to me");
        let number: u64 = words[3].parse().unwrap();
        if let Some(last) = self.heard.get(from) {
            if last.incarnation == incarnation {
                assert!(number > last.number, "{from}: {number} after {} is a repeat", last.number);
                assert!(last.reset || number == last.number + 1, "{from}: {number} after {}", last.number);
            } else {
                assert!(incarnation > last.incarnation, "{from}: an earlier run after a later one");
                assert!(last.reset, "{from}: a new run without a reset");
            }
        } else {
            assert!(!self.hears_all || number == 1, "{from}: begins at {number}");
        }
        self.heard.insert(from.clone(), Heard { incarnation, number, reset: false });
    }
}

async fn simulate(plan: Plan) {
    let mut random = SmallRng::seed_from_u64(plan.seed);
    let faults = RelayFaults::seeded(plan.seed ^ 0x5eed);
    let relay = Relay::embedded(Some(faults.clone()));
    let config = LinkConfig {
        batch_bytes_max: 512,
        buffer_bytes_max: if plan.small_buffers { 8 * 1024 } else { 4 * 1024 * 1024 },
        window_batches_max: random.random_range(2..64),
        events_max: random.random_range(1..8),
        ..LinkConfig::default()
    };
    let names = [name("a"), name("b"), name("c")];
    let hears_all = !plan.restarts && !plan.small_buffers;
    let mut runs: Vec<Run> =
        names.iter().map(|name| Run::start(&relay, name, 1, &config, hears_all)).collect();

    for _ in 0..random.random_range(50..400) {
        let who = random.random_range(0..3);
        let other = (who + random.random_range(1..3)) % 3;
        match random.random_range(0..100) {
            0..70 => {
                for _ in 0..random.random_range(1..12) {
                    runs[who].send(&names[other], random.random_range(0..200));
                }
            }
            70..76 => faults.set_rates(FaultRates {
                lose: random.random_range(0.0..0.5),
                duplicate: random.random_range(0.0..0.5),
                late: random.random_range(0.0..0.5),
                delay: Duration::from_millis(1)..Duration::from_millis(random.random_range(2..400)),
            }),
            76..80 => faults.cut(&names[who], &names[other]),
            80..82 => faults.isolate(&names[who]),
            82..88 => faults.heal_all(),
            88..90 if plan.restarts => {
                let incarnation = runs[who].incarnation + 1;
                let fresh = Run::start(&relay, &names[who], incarnation, &config, false);
                std::mem::replace(&mut runs[who], fresh).node.kill();
            }
            _ => {}
        }
        // Some readers are slow now and then.
        for run in &mut runs {
            if random.random_bool(0.7) {
                run.read();
            }
        }
        tokio::time::sleep(Duration::from_micros(random.random_range(0..60_000))).await;
    }

    faults.heal_all();
    faults.set_rates(FaultRates::default());
    for round in 0.. {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let is_news = runs.iter_mut().map(Run::read).fold(false, |any, news| any | news);
        // At least as long as the notice of a restart may take.
        if round >= 60 && !is_news && runs.iter().all(|run| run.node.unacked() == 0) {
            break;
        }
        assert!(round < 1200, "two minutes without faults and not quiet: {:?}", runs[0].node.links.stats());
    }

    for sender in 0..3 {
        for receiver in (0..3).filter(|&receiver| receiver != sender) {
            let (from, to) = (&runs[sender], &runs[receiver]);
            let sent = from.sent.get(&to.node.name).copied().unwrap_or(0);
            let reset_at = from.reset_at.get(&to.node.name).copied().unwrap_or(0);
            let heard = to
                .heard
                .get(&from.node.name)
                .filter(|heard| heard.incarnation == from.incarnation)
                .map_or(0, |heard| heard.number);
            // Numbers only grow, and jump only at a reset, so the last one stands for all behind the last reset.
            assert!(
                heard == sent || reset_at == sent,
                "{sender}->{receiver}: heard {heard} of {sent}, reset {reset_at}"
            );
        }
        if hears_all {
            assert!(
                runs[sender].node.resets() == 0 && runs[sender].incoming_resets == 0,
                "a reset without a cause"
            );
        }
    }
    // Without faults and news, nothing is repeated any more.
    let resent = |runs: &[Run]| -> u64 {
        runs.iter().flat_map(|run| run.node.links.stats()).map(|link| link.resent + link.resets).sum()
    };
    let before = resent(&runs);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(resent(&runs), before);
}

fn simulate_many(seeds: std::ops::Range<u64>, restarts: bool, small_buffers: bool) {
    for seed in seeds {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            runtime.block_on(simulate(Plan { seed, restarts, small_buffers }));
        }));
        if let Err(panic) = outcome {
            println!("seed {seed}, restarts {restarts}, small buffers {small_buffers}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// How many seeds each simulation tries; `MLMS_SIMULATE` says another number.
fn seeds() -> std::ops::Range<u64> {
    0..std::env::var("MLMS_SIMULATE").ok().and_then(|text| text.parse().ok()).unwrap_or(200)
}

#[test]
fn without_restarts_everything_arrives_once_in_order_and_nothing_is_reset() {
    simulate_many(seeds(), false, false);
}

#[test]
fn restarts_are_reported_where_something_is_missing() {
    simulate_many(seeds(), true, false);
}

#[test]
fn overflows_and_restarts_are_reported_where_something_is_missing() {
    simulate_many(seeds(), true, true);
}
