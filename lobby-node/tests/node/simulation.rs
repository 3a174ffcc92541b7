//! Random runs, judged by the checker. The seed decides what players do and what fails; which of two things that
//! are ready at once goes first is the runtime's choice.
//!
//! `MLMS_SEEDS=N` runs more seeds, from `MLMS_FIRST` on, `MLMS_SEED=n` one.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mlms_checker::{Counts, Invoke, Options, Verdict, What};
use mlms_cluster::directory::LEASE;
use mlms_cluster::embedded::Faults;
use mlms_cluster::relay::FaultRates;
use mlms_protocol::command::{History as Page, Join};
use mlms_protocol::lobby::Settings;
use mlms_protocol::reply::Joined;
use mlms_protocol::{Answer, Command, Encoding, ErrorCode, Limits, LobbyCommand, LobbyId, Seq};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use crate::fleet::{Fleet, Plan, lobby, node_name, user};
use crate::history::{self, History, text};
use crate::line::Line;
use crate::planted::{Mistake, Planter};
use crate::player::{Place, Player, Role, note_page};

/// Seeds of an everyday run.
const SEEDS: u64 = 240;
/// Seeds beyond those that once found something.
const FOUND: [u64; 14] = [149, 197, 211, 364, 651, 1022, 1027, 1222, 1347, 1757, 1844, 2722, 3557, 3690];
/// Time in which players play.
const PLAY: Duration = Duration::from_secs(40);
/// Time in which everything is mended and must arrive.
const QUIET: Duration = Duration::from_secs(40);
/// How long after a fault's end ordered messages may still be lost by it.
const AFTERMATH: Duration = Duration::from_secs(12);
/// The longest time for which a place is kept for a player who is away.
const GRACE_MAX: Duration = Duration::from_secs(20);

/// What fails in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Only players' own: they are slow, and lose their connections.
    Players,
    /// The relay loses, doubles and delays; appends are slow or unclear.
    Noise,
    /// Nodes lose sight of each other for a while.
    Cuts,
    /// Journal and directory are out of reach for a while.
    Down,
    /// Nodes die, and come back.
    Kills,
    /// A node loses sight of the directory for longer than its lease lives; others take what it goes on with.
    Blind,
}

const TROUBLES: [Trouble; 5] =
    [Trouble::Players, Trouble::Noise, Trouble::Cuts, Trouble::Down, Trouble::Kills];

#[test]
fn players_see_what_the_protocol_promises_whatever_fails() {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let seeds: Vec<u64> = match number("MLMS_SEED") {
        Some(seed) => vec![seed],
        None => {
            let (first, count) = (number("MLMS_FIRST").unwrap_or(0), number("MLMS_SEEDS").unwrap_or(SEEDS));
            (first..first + count).chain(FOUND).collect()
        }
    };
    let next = AtomicU64::new(0);
    let totals: Mutex<BTreeMap<&str, u64>> = Mutex::default();
    let failed: Mutex<Vec<u64>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    match run(*seed) {
                        Some(counts) => add(&mut totals.lock().unwrap(), &counts),
                        None => failed.lock().unwrap().push(*seed),
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "failed seeds: {failed:?}; one alone: MLMS_SEED={}", failed[0]);
    let totals = totals.into_inner().unwrap();
    println!("{totals:?}");
    if seeds.len() as u64 >= SEEDS {
        // What the runs are meant to meet, they met.
        for (name, least) in [
            ("acked", 1_000),
            ("owner_changes", 5),
            ("resume_gaps", 100),
            ("retried_nonces", 100),
            ("dups", 100),
            ("snapshots", 20),
            ("unknown", 50),
            ("lobby_full", 5),
            ("history_reads", 100),
            ("unsequenced", 1_000),
            ("kicks", 10),
            ("bans", 10),
            ("after_removal", 100),
        ] {
            assert!(totals[name] >= least, "{name}: {} in {} runs, not {least}", totals[name], seeds.len());
        }
    }
}

fn add(totals: &mut BTreeMap<&'static str, u64>, counts: &Counts) {
    for (name, count) in [
        ("records", counts.records),
        ("acked", counts.acked),
        ("deliveries", counts.deliveries),
        ("unsequenced", counts.unsequenced),
        ("owner_changes", counts.owner_changes),
        ("reconnects", counts.reconnects),
        ("resumes", counts.resumes),
        ("resume_gaps", counts.resume_gaps),
        ("retried_nonces", counts.retried_nonces),
        ("dups", counts.dups),
        ("snapshots", counts.snapshots),
        ("unknown", counts.unknown),
        ("refused", counts.refused),
        ("lobby_full", counts.lobby_full),
        ("history_reads", counts.history_reads),
        ("kicks", counts.kicks),
        ("bans", counts.bans),
        ("after_removal", counts.after_removal),
        ("ordered_lost_excused", counts.ordered_lost_excused),
    ] {
        *totals.entry(name).or_default() += count;
    }
}

/// Runs one seed. `None`: it failed, and the reasons are printed.
#[expect(clippy::print_stdout, reason = "a failed seed is for people to read")]
fn run(seed: u64) -> Option<Counts> {
    let (history, failures) = simulate(seed, None);
    let report = history.judge(&Options::default());
    if failures.is_empty() && report.verdict() == Verdict::Passed {
        return Some(report.counts);
    }
    let file = format!("{}/seed-{seed}.jsonl", env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(&file, history.lines()).unwrap();
    println!("seed {seed} ({:?}); its history: {file}\n{failures:#?}\n{report}", trouble(seed));
    None
}

pub(crate) fn trouble(seed: u64) -> Trouble {
    match TROUBLES[seed as usize % TROUBLES.len()] {
        Trouble::Kills if seed % 15 == 9 => Trouble::Blind,
        trouble => trouble,
    }
}

/// Plays a seed, with a mistake that the service seems to make where one is planted. Gives the history, and what went
/// wrong with the run itself: players who did not come to their end, and what nobody could do or read afterwards.
pub(crate) fn simulate(seed: u64, planter: Option<Arc<Planter>>) -> (Arc<History>, Vec<String>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let history = runtime.block_on(async { Arc::new(History::new()) });
    let play = AssertUnwindSafe(|| runtime.block_on(play(seed, &history, planter)));
    let failures = std::panic::catch_unwind(play).unwrap_or_else(|panic| vec![said(&*panic)]);
    (history, failures)
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without words".to_owned())
}

async fn play(seed: u64, history: &Arc<History>, planter: Option<Arc<Planter>>) -> Vec<String> {
    let trouble = trouble(seed);
    let mut random = StdRng::seed_from_u64(seed);
    let nodes = random.random_range(2..=3);
    let faults = Faults::seeded(seed);
    if let Some(planter) = planter.as_ref().filter(|planter| planter.mistake() == Mistake::AnswerBeforeAppend)
    {
        let planter = Arc::clone(planter);
        faults.answer_before_append(move || planter.made());
    }
    if let Some(planter) = planter.as_ref().filter(|planter| planter.mistake() == Mistake::FenceSkipped) {
        let planter = Arc::clone(planter);
        faults.skip_fence(move || planter.made());
    }
    let limits = Limits {
        creates_per_minute: 0,
        joins_per_s: 0,
        outbox_bytes_max: random.random_range(4_096..65_536),
        resume_events_max: random.random_range(20..400),
        resume_seconds_max: random.random_range(5..60),
        ..Limits::default()
    };
    let plan = Plan {
        nodes,
        workers: random.random_range(1..=3),
        limits,
        heartbeat: Duration::from_secs(25),
        grace: Duration::from_secs(random.random_range(3..GRACE_MAX.as_secs())),
        empty_ttl: Duration::from_secs(random.random_range(1..10)),
        faults: Some(faults.clone()),
    };
    let fleet = Fleet::start(plan).await;
    let places: Vec<_> = (0..random.random_range(3..=6))
        .map(|number| Place {
            lobby: lobby(&format!("lobby-{seed}-{number}")),
            capacity: (number == 0).then(|| random.random_range(2..5)),
        })
        .collect();
    for place in &places {
        if let Some(members) = place.capacity {
            let (lobby, members) = (text(&place.lobby), members.into());
            history.note("", What::Capacity { lobby, members, seq: 0 });
        }
    }
    let players = random.random_range(6..=12);
    // Some users have two clients.
    let users: Vec<_> = (0..players - 2).map(|number| user(&format!("user-{number}"))).collect();
    let start = Instant::now();
    let (end, quiet) = (start + PLAY, start + PLAY + QUIET);
    let mut playing = Vec::new();
    for number in 0..players {
        let role = Role {
            name: format!("player-{number}"),
            user: users[number % users.len()].clone(),
            encoding: Encoding::ALL[number % 2],
            seed: random.random(),
            nodes,
            places: places.clone(),
            users: users.clone(),
            // Where all connections may be lost at once, nobody may have seen the end that the history then hides.
            closes: seed.is_multiple_of(3) && matches!(trouble, Trouble::Players | Trouble::Noise),
        };
        let mangler = planter.as_ref().map(|planter| planter.mangler(&role.user));
        let player = Player::new(role, Arc::clone(&fleet), Arc::clone(history), mangler);
        playing.push(tokio::spawn(player.play(end, quiet)));
    }
    // Half of the runs of each kind: shards move and nodes leave in the middle of it all.
    let moving = (seed / TROUBLES.len() as u64).is_multiple_of(2).then(|| {
        let (fleet, places) = (Arc::clone(&fleet), places.clone());
        tokio::spawn(move_about(fleet, places, nodes, end, StdRng::seed_from_u64(seed ^ 0x0e5)))
    });
    let may_lose = moving.is_none();
    make_trouble(trouble, &fleet, history, &faults, (nodes, may_lose), end, &mut random).await;
    let mut failures = Vec::new();
    for task in moving.into_iter().chain(playing) {
        failures.extend(task.await.err().map(|error| said(&*error.into_panic())));
    }
    let reading = tokio::spawn(read_all(Arc::clone(&fleet), Arc::clone(history), places));
    failures.extend(reading.await.err().map(|error| said(&*error.into_panic())));
    fleet.kill_all();
    failures
}

/// Lets things fail until `end`, and then mends all.
async fn make_trouble(
    trouble: Trouble,
    fleet: &Fleet,
    history: &History,
    faults: &Faults,
    (nodes, may_lose): (usize, bool),
    end: Instant,
    random: &mut StdRng,
) {
    let relay = faults.relay();
    let ms =
        |random: &mut StdRng, range: std::ops::Range<u64>| Duration::from_millis(random.random_range(range));
    let fault = |name: &str, lasts: Duration| {
        let for_us = u64::try_from((lasts + AFTERMATH).as_micros()).unwrap();
        history.note("", What::Fault { name: text(name), for_us });
    };
    if trouble != Trouble::Players {
        relay.set_rates(FaultRates {
            lose: random.random_range(0.0..0.05),
            duplicate: random.random_range(0.0..0.05),
            late: random.random_range(0.0..0.1),
            delay: Duration::ZERO..ms(random, 10..300),
        });
        faults.set_journal(
            random.random_range(0..30),
            random.random_range(0..30),
            random.random_range(1..40),
        );
    }
    while Instant::now() < end {
        let pause = ms(random, 1_000..8_000);
        tokio::time::sleep_until((Instant::now() + pause).min(end)).await;
        if Instant::now() >= end {
            break;
        }
        let lasts = ms(random, 200..6_000);
        let (one, other) = (random.random_range(0..nodes), random.random_range(1..nodes));
        let other = (one + other) % nodes;
        match trouble {
            Trouble::Players | Trouble::Noise => {}
            Trouble::Cuts => {
                fault("cut", lasts);
                if random.random_bool(0.5) {
                    relay.cut(&node_name(one), &node_name(other));
                } else {
                    relay.isolate(&node_name(one));
                }
                tokio::time::sleep(lasts).await;
                relay.heal_all();
            }
            Trouble::Down => {
                let lasts = lasts / 2;
                fault("down", lasts);
                faults.set_down(true);
                tokio::time::sleep(lasts).await;
                if may_lose {
                    // What a failover loses: nothing, the newest entries, or everything. The owners live.
                    match random.random_range(0..3) {
                        0 => {}
                        1 => fleet.lose(Some(random.random_range(1..20))),
                        _ => fleet.lose(None),
                    }
                }
                faults.set_down(false);
            }
            Trouble::Blind => {
                let lasts = LEASE + lasts;
                fault("node_blind", lasts);
                faults.set_blind(&node_name(one), true);
                tokio::time::sleep(lasts).await;
                faults.set_blind(&node_name(one), false);
            }
            Trouble::Kills => {
                let lasts = lasts * 3;
                fault("node_killed", lasts);
                if fleet.is_up(one) {
                    fleet.kill(one);
                }
                tokio::time::sleep(lasts).await;
                if !fleet.is_up(one) {
                    fleet.start_node(one);
                }
            }
        }
    }
    relay.heal_all();
    relay.set_rates(FaultRates::default());
    faults.set_down(false);
    faults.set_journal(0, 0, 0);
}

/// Moves lobbies from node to node, and lets a node leave and come back now and then. Nobody may notice a move: no
/// fault is noted.
async fn move_about(fleet: Arc<Fleet>, places: Vec<Place>, nodes: usize, end: Instant, mut random: StdRng) {
    let mut moves = tokio::task::JoinSet::new();
    while Instant::now() < end {
        let pause = Duration::from_millis(random.random_range(100..2_500));
        tokio::time::sleep_until((Instant::now() + pause).min(end)).await;
        let to = random.random_range(0..nodes);
        if random.random_bool(0.1)
            && fleet.is_up(to)
            && (0..nodes).filter(|node| fleet.is_up(*node)).count() > 1
        {
            fleet.drain(to).await;
            if !fleet.is_up(to) {
                fleet.start_node(to);
            }
        } else {
            let place = places[random.random_range(0..places.len())].lobby.clone();
            let fleet = Arc::clone(&fleet);
            moves.spawn(async move { fleet.move_lobby(&place, to).await });
        }
    }
    while let Some(moved) = moves.join_next().await {
        moved.unwrap();
    }
}

/// Reads every lobby to its end, against which all is judged.
async fn read_all(fleet: Arc<Fleet>, history: Arc<History>, places: Vec<Place>) {
    let mut line = fleet.connect(0, "reader").await;
    history.note("reader", What::Connected { user: text("reader") });
    for (place, call) in places.iter().zip(1..) {
        let invoke = Invoke { call, op: text("join"), lobby: text(&place.lobby), ..Invoke::default() };
        history.note("reader", What::Invoke(invoke));
        let settings = Settings { capacity: place.capacity, ..Settings::default() };
        let join = Join { create: Some(settings), ..Join::default() };
        let joined = join_when_free(&mut line, &place.lobby, &join).await;
        history.note("reader", What::Joined(history::entry(Some(call), &joined)));
        let mut after = 0;
        loop {
            let started = history.note("", What::Fault { name: text("none"), for_us: 0 });
            let page = LobbyCommand::History(Page { before: None, after: Some(Seq(after)), limit: 200 });
            let command = Command::Lobby(place.lobby.clone(), page);
            let (events, more) = match line.ask(command, None).await {
                Ok(Answer::History { events, more }) => (events, more),
                other => panic!("nobody can read {}: {other:?}", place.lobby),
            };
            note_page(&history, &place.lobby, started, after, more, true, &events);
            after = events.last().map_or(after, |event| event.seq.0);
            if !more {
                break;
            }
        }
    }
    line.close().await;
}

/// Joins. Whoever was away when the others left keeps a place until the grace is over.
async fn join_when_free(line: &mut Line, place: &LobbyId, join: &Join) -> Joined {
    let end = Instant::now() + GRACE_MAX + AFTERMATH;
    loop {
        match line.join_with(place, join.clone()).await {
            Ok(joined) => return joined,
            Err(refusal) if refusal.code == ErrorCode::LobbyFull && Instant::now() < end => {
                line.stay(Duration::from_secs(1)).await;
            }
            Err(refusal) => panic!("nobody can join {}: {refusal:?}", text(place)),
        }
    }
}
