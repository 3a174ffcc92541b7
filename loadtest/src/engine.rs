//! One part of a run: its clients on one thread, over one epoll instance, without a runtime, so that a delivery costs
//! little more than its `recv`. `run.rs` starts parts; they meet only in `Shared`. Members of a lobby share a part.

mod agreement;
mod answering;
mod arriving;
mod churn;
mod client;
mod coming;
mod excuse;
mod faults;
mod frames;
mod game;
mod lobby;
mod message;
mod sending;
mod settling;
mod socket;
mod timers;
mod track;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use mio::{Events, Poll, Token};
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};

use self::client::{Client, Stage, Stream};
use self::excuse::Degraded;
pub(crate) use self::faults::Faults;
use self::lobby::Lobby;
use self::timers::{Tick, Timer, Timers};
use crate::measure::{Measure, PhaseMeasure, Second};
use crate::plan::{self, Micros, Plan, Step, micros};
use crate::rng::Rng;
use crate::scenario::{Class, Generator, Scenario, Sender, To};
use crate::target::{Sources, Target};
use crate::token::Credential;

/// Bytes of one reading.
const SCRATCH_BYTES: usize = 256 * 1024;

/// Sockets that are looked at in one turn.
const READY_MAX: usize = 262_144;

/// The generator looks at its own punctuality this often.
const PROBE: Micros = 10_000;

/// A turn lasts no longer than a probe, if the generator does not stand still.
const STANDSTILL: Micros = 10 * PROBE;

/// Who stops a run waits no longer than this for what is under way.
const STOP_SECONDS: f64 = 3.0;

/// What a client's dice are for, beside its streams.
const LEAVES: u16 = 0x100;
const DISCONNECTS: u16 = 0x101;

/// The wake-up for precise times, beside the clients' tokens.
const CLOCK: Token = Token(usize::MAX);

/// What is shared with the thread that shows and stops a run.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) stop: AtomicBool,
    pub(crate) connected: AtomicU64,
    pub(crate) joined: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) ok: AtomicU64,
    pub(crate) deliveries: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) faults: AtomicU64,
    /// Times of deliveries in the last second, in microseconds.
    pub(crate) p50: AtomicU64,
    pub(crate) p99: AtomicU64,
    /// Parts that wait for what is under way.
    pub(crate) settling: AtomicU64,
}

/// What a part is told.
pub(crate) struct Order {
    pub(crate) scenario: Scenario,
    pub(crate) run: String,
    pub(crate) part: usize,
    pub(crate) parts: usize,
    /// By client; only those of the part are used.
    pub(crate) credentials: HashMap<u32, Credential>,
    pub(crate) targets: Vec<Target>,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) sources: Sources,
    pub(crate) start: Instant,
    pub(crate) shared: Arc<Shared>,
}

/// What a part gives back.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct PartResult {
    pub(crate) phases: Vec<PhaseMeasure>,
    pub(crate) seconds: Vec<Second>,
    pub(crate) faults: Faults,
    /// Ordered messages that died with an owner: lost, and allowed.
    pub(crate) lost_excused: u64,
    pub(crate) owner_changes: u64,
    pub(crate) achievements: u64,
    pub(crate) achievements_missing: u64,
    pub(crate) games_finished: u64,
    /// Losses of connections that no plan wanted: when it was lost, when the client was back, in microseconds of the run.
    pub(crate) outages: Vec<(Micros, Option<Micros>)>,
    /// Silences of lobbies longer than a second while something was due: their begin and end.
    pub(crate) silences: Vec<(Micros, Micros)>,
    pub(crate) ever_connected: u64,
    /// Clients that were to be in their lobbies at the end, and were not.
    pub(crate) missing: u64,
    /// Durable messages that were due and never got their ok, of clients who were there to say them.
    pub(crate) unaccepted: u64,
    /// The first reason for which a connection failed.
    pub(crate) first_failure: Option<String>,
    pub(crate) cpu_seconds: f64,
    /// Bytes that were compared with what had been sent.
    pub(crate) checked_bytes: u64,
    /// When the phases were over, or stopped.
    pub(crate) over_at: Micros,
    pub(crate) ended_at: Micros,
}

pub(crate) struct Engine {
    scenario: Scenario,
    generator: Generator,
    run: String,
    start: Instant,
    shared: Arc<Shared>,
    targets: Vec<Target>,
    tls: Arc<ClientConfig>,
    /// By the urls of tickets.
    nodes: HashMap<String, Target>,
    sources: Sources,
    poll: Poll,
    timers: Timers,
    steps: std::vec::IntoIter<(Micros, usize, Step)>,
    next_step: Option<(Micros, usize, Step)>,
    phases: Vec<crate::plan::PhasePlan>,
    phase: usize,
    clients: Vec<Client>,
    lobbies: Vec<Lobby>,
    degraded: Degraded,
    /// Places of clients by number.
    places: HashMap<u32, usize>,
    measure: Measure,
    result: PartResult,
    rng: Rng,
    /// Handshakes under way, and those that wait for one to end.
    in_flight: u32,
    dials: std::collections::VecDeque<(usize, u32)>,
    joined: u64,
    connected: u64,
    now: Micros,
    /// No new messages: the phases are over.
    is_over: bool,
    last_arrival: Micros,
    /// When the part last looked whether everything has arrived.
    settling_at: Micros,
    /// When the last turn began.
    turned_at: Micros,
    /// More than one of a client's streams may tell the order in which it spoke.
    compares_streams: bool,
    /// Memory that is used again and again.
    text: Vec<u8>,
    frame: Vec<u8>,
    unpacked: Vec<u8>,
}

impl Engine {
    pub(crate) fn new(order: Order) -> std::io::Result<Engine> {
        let Order { scenario, run, part, parts, mut credentials, targets, tls, sources, start, shared } =
            order;
        let plan = Plan::new(&scenario, parts);
        let mut places = HashMap::new();
        let (mut clients, mut lobbies) = (Vec::new(), Vec::new());
        for planned in plan.lobbies.iter().filter(|lobby| lobby.part == part) {
            let mut lobby = Lobby::new(format!("{run}-{}", planned.number), scenario.generator.window);
            for (rank, number) in planned.members.iter().enumerate() {
                places.insert(*number, clients.len());
                lobby.members.push(clients.len());
                let credential = credentials.remove(number);
                let user = credential.as_ref().map_or("", |credential| &credential.user);
                clients.push(Client {
                    number: *number,
                    lobby: lobbies.len(),
                    user_text: serde_json::to_vec(user).unwrap_or_default(),
                    credential,
                    is_slow: plan::is_slow(&scenario, *number),
                    is_msgpack: plan::speaks_msgpack(&scenario, *number),
                    leaves: plan::dice(&scenario, *number, LEAVES),
                    disconnects: plan::dice(&scenario, *number, DISCONNECTS),
                    streams: streams(&scenario, *number, rank),
                    ..Client::default()
                });
            }
            lobbies.push(lobby);
        }
        let end = plan.end();
        let classes: Vec<Class> = scenario.senders.iter().map(Sender::class).collect();
        let sequenced = classes.iter().filter(|class| **class == Class::Durable).count();
        let spoken = classes.iter().filter(|class| **class != Class::Ephemeral).count();
        let compares_streams = sequenced > 0 || spoken + usize::from(scenario.game.is_some()) > 1;
        let steps: Vec<(Micros, usize, Step)> = plan
            .steps
            .iter()
            .filter_map(|(at, client, step)| Some((*at, *places.get(client)?, *step)))
            .collect();
        debug_assert!(end > 0);
        let poll = Poll::new()?;
        let timers = Timers::new(poll.registry(), CLOCK)?;
        Ok(Engine {
            generator: scenario.generator.clone(),
            rng: Rng::new(scenario.seed ^ (part as u64 + 1) << 32),
            scenario,
            run,
            start,
            shared,
            targets,
            tls,
            nodes: HashMap::new(),
            sources,
            poll,
            timers,
            steps: steps.into_iter(),
            next_step: None,
            measure: Measure::new(plan.phases.iter().map(|phase| phase.from).collect()),
            phases: plan.phases,
            phase: 0,
            clients,
            lobbies,
            degraded: Degraded::default(),
            places,
            result: PartResult::default(),
            in_flight: 0,
            dials: Default::default(),
            joined: 0,
            connected: 0,
            now: 0,
            is_over: false,
            last_arrival: 0,
            settling_at: 0,
            turned_at: 0,
            compares_streams,
            text: Vec::new(),
            frame: Vec::new(),
            unpacked: Vec::new(),
        })
    }

    /// Runs all phases, waits for what is under way, and judges.
    pub(crate) fn run(mut self) -> PartResult {
        // All parts begin at the same time, and nothing happens before it: the clock would stand still.
        while let Some(early) = self.start.checked_duration_since(Instant::now()) {
            std::thread::park_timeout(early);
        }
        let begun_cpu = thread_cpu();
        let mut scratch = vec![0; SCRATCH_BYTES];
        // All that may be ready at once: what waits for another turn would be the generator's delay, and unseen.
        let mut events = Events::with_capacity(self.clients.len().clamp(1_024, READY_MAX));
        self.next_step = self.steps.next();
        self.arm(PROBE, 0, Tick::Probe);
        self.arm(1_000_000, 0, Tick::Second);
        if let Some((at, ..)) = self.next_step {
            self.arm(at, 0, Tick::Plan);
        }
        let end = self.phases.last().map_or(0, |phase| phase.to);
        let mut give_up = None;
        let mut is_stopped = false;
        loop {
            self.now = self.clock();
            self.note_standstill(&mut give_up);
            self.run_timers();
            self.turn_phase();
            if !self.is_over && (self.now >= end || self.shared.stop.load(Ordering::Relaxed)) {
                self.is_over = true;
                self.measure.over();
                self.result.over_at = self.now;
                self.shared.settling.fetch_add(1, Ordering::Relaxed);
                give_up = Some(self.now + micros(self.generator.settle_seconds));
            }
            if self.is_over && !is_stopped && self.shared.stop.load(Ordering::Relaxed) {
                is_stopped = true;
                give_up = give_up.map(|at| at.min(self.now + micros(STOP_SECONDS)));
            }
            if let Some(give_up) = give_up
                && (self.now >= give_up || self.is_settled())
            {
                break;
            }
            let timeout = self.timers.wait(self.clock());
            match self.poll.poll(&mut events, Some(timeout)) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.result.first_failure = Some(format!("epoll: {error}"));
                    break;
                }
            }
            self.now = self.clock();
            for event in &events {
                if event.token() == CLOCK {
                    self.timers.rang();
                    continue;
                }
                let place = event.token().0;
                if event.is_writable() || event.is_error() {
                    self.writable(place);
                }
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    self.readable(place, &mut scratch, event.is_read_closed() || event.is_error());
                }
            }
        }
        self.finish(begun_cpu)
    }

    /// A part that has stood still has not seen what came meanwhile: what it waits for has as much more time.
    fn note_standstill(&mut self, give_up: &mut Option<Micros>) {
        let turn = self.now.saturating_sub(std::mem::replace(&mut self.turned_at, self.now));
        if turn > STANDSTILL {
            *give_up = give_up.map(|at| at + turn);
            self.last_arrival = self.now;
        }
    }

    fn clock(&self) -> Micros {
        self.start.elapsed().as_micros() as Micros
    }

    fn arm(&mut self, due: Micros, whose: usize, tick: Tick) {
        self.timers.arm(due, whose, tick);
    }

    fn run_timers(&mut self) {
        // So that sockets have their turn even when more is due than can be done.
        for _ in 0..512 {
            let Some(Timer { due, whose, tick }) = self.timers.due(self.now) else { return };
            self.now = self.clock();
            self.tick(due, whose, tick);
        }
    }

    fn tick(&mut self, due: Micros, whose: usize, tick: Tick) {
        match tick {
            Tick::Probe => {
                self.measure.lag_since(self.now.saturating_sub(due), PROBE);
                self.publish();
                self.arm(self.now.max(due + PROBE), 0, Tick::Probe);
            }
            Tick::Second => {
                let (p50, p99) = self.measure.end_second(self.joined);
                self.shared.p50.store(p50, Ordering::Relaxed);
                self.shared.p99.store(p99, Ordering::Relaxed);
                self.sweep();
                self.arm(due + 1_000_000, 0, Tick::Second);
            }
            Tick::Plan => self.run_plan(),
            Tick::Dial { connection } => self.dial(whose, connection),
            Tick::Rejoin { connection } => self.rejoin(whose, connection),
            Tick::Send { stream } => self.send_due(due, whose, stream),
            Tick::Retry { connection } => self.retry(whose, connection),
            Tick::Leave => self.churn_leave(due, whose),
            Tick::LeaveAgain { connection } => self.leave_again(whose, connection),
            Tick::Disconnect => self.churn_disconnect(due, whose),
            Tick::Comeback { connection } => self.come_back(whose, connection),
            Tick::SlowRead { connection } => self.slow_read(whose, connection),
            Tick::Game => self.play(whose),
            Tick::Action { round } => self.action(due, whose, round),
            // On another connection than the one that it was refused on, too: its nonce makes it one move.
            Tick::Move { it } => self.make_move(whose, it),
        }
    }

    fn run_plan(&mut self) {
        while let Some((at, place, step)) = self.next_step {
            if at > self.now {
                self.arm(at, 0, Tick::Plan);
                return;
            }
            self.next_step = self.steps.next();
            if self.is_over {
                continue;
            }
            match step {
                Step::Come => self.come(place, at),
                Step::Go => self.go(place),
                Step::Drop => self.storm(place, at),
            }
        }
    }

    fn turn_phase(&mut self) {
        while self.phase + 1 < self.phases.len() && self.now >= self.phases[self.phase].to {
            self.measure.end_phase();
            self.phase += 1;
        }
    }

    /// Multiplier of the senders' rates.
    fn load(&self) -> f64 {
        self.phases[self.phase].load
    }

    fn publish(&self) {
        let counts = &self.measure.counts;
        let part = [
            (&self.shared.connected, self.connected),
            (&self.shared.joined, self.joined),
            (&self.shared.sent, counts.sent),
            (&self.shared.ok, counts.ok),
            (&self.shared.deliveries, counts.deliveries + counts.caught_up),
            (&self.shared.errors, counts.errors + counts.connect_failures),
            (&self.shared.faults, self.result.faults.total()),
        ];
        for (place, value) in part {
            place.store(value, Ordering::Relaxed);
        }
    }

    fn fault(&mut self, place: usize, fault: &mlms_checker::Fault) {
        let client = &self.clients[place];
        let who = format!("client {}", client.number);
        self.result.faults.fault(&self.lobbies[client.lobby].name, &who, fault);
    }
}

fn streams(scenario: &Scenario, client: u32, rank: usize) -> Vec<Stream> {
    let sends = |count: Option<u32>| count.is_none_or(|count| rank < count as usize);
    let senders = scenario.senders.iter().enumerate().filter(|(_, sender)| sends(sender.per_lobby));
    let actions = scenario.game.as_ref().map(|_| sending::GAME_STREAM);
    let numbers = senders.map(|(sender, _)| sender as u8).chain(actions);
    let stream = |sender: u8| Stream {
        sender,
        next: 0,
        is_scheduled: sender == sending::GAME_STREAM,
        dice: plan::dice(scenario, client, u16::from(sender)),
    };
    numbers.map(stream).collect()
}

/// Whether a stream's messages do not go to their sender.
fn is_to_others(scenario: &Scenario, stream: u8) -> bool {
    scenario.senders.get(usize::from(stream)).is_some_and(|sender| sender.to == To::Others)
}

/// Processor time of this thread, in seconds.
fn thread_cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

impl Stage {
    fn set(place: &mut Stage, next: Stage) -> Stage {
        std::mem::replace(place, next)
    }
}
