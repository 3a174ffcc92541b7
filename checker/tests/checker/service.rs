//! A small model of the service that keeps every promise, and seeded players who use it: it makes valid histories.

mod owner;
mod players;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use mlms_checker::{Event, History, Invoke, Position, Record, What};

/// SplitMix64: small, seeded, the same for ever.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

/// What a run is made of.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) users: usize,
    pub(crate) lobbies: usize,
    pub(crate) steps: usize,
    pub(crate) capacity: usize,
    pub(crate) owner_changes: bool,
    pub(crate) removals: bool,
    pub(crate) disconnects: bool,
    /// Edits and readings on the way, which cost the length of the log each.
    pub(crate) reads: bool,
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Plan {
        Plan {
            seed,
            users: 6,
            lobbies: 2,
            steps: 900,
            capacity: 4,
            owner_changes: true,
            removals: true,
            disconnects: true,
            reads: true,
        }
    }
}

#[derive(Default)]
struct Lobby {
    name: String,
    epoch: u64,
    log: Vec<Event<'static>>,
    members: BTreeSet<String>,
    banned: BTreeSet<String>,
    nonces: HashMap<(String, String), u64>,
}

#[derive(Default)]
struct Player {
    name: String,
    user: String,
    connected: bool,
    /// Frames on their way to the player.
    frames: VecDeque<What<'static>>,
    /// Commands on their way to the service.
    commands: VecDeque<Invoke<'static>>,
    replies: Vec<What<'static>>,
    open: BTreeSet<u64>,
    /// On the service's side.
    attached: BTreeSet<usize>,
    /// On the player's side.
    positions: BTreeMap<usize, Position>,
    unanswered: Vec<Invoke<'static>>,
    calls: u64,
}

pub(crate) struct Service {
    random: Random,
    plan: Plan,
    t: u64,
    records: Vec<Record<'static>>,
    lobbies: Vec<Lobby>,
    players: Vec<Player>,
    bodies: u64,
}

/// Plays a plan to its end.
pub(crate) fn play(plan: &Plan) -> Vec<Record<'static>> {
    let mut service = Service::new(plan);
    for _ in 0..plan.steps {
        service.step();
    }
    service.end()
}

fn lobby_of(name: &str) -> usize {
    name.trim_start_matches("lobby-").parse().unwrap()
}

impl Service {
    fn new(plan: &Plan) -> Service {
        let lobbies = (0..plan.lobbies)
            .map(|number| Lobby { name: format!("lobby-{number}"), epoch: 1, ..Lobby::default() })
            .collect();
        let player = |number: usize| Player {
            name: format!("p{number}"),
            // The first user plays on two devices.
            user: format!("user-{}", number.saturating_sub(1)),
            ..Player::default()
        };
        let mut service = Service {
            random: Random(plan.seed),
            plan: plan.clone(),
            t: 1000,
            records: Vec::new(),
            lobbies,
            players: (0..=plan.users).map(player).collect(),
            bodies: 0,
        };
        for number in 0..plan.lobbies {
            let lobby = service.lobbies[number].name.clone().into();
            service.write("", What::Capacity { lobby, members: plan.capacity as u64, seq: 0 });
        }
        service
    }

    fn write(&mut self, process: &str, what: What<'static>) {
        self.t += self.random.next() % 40;
        self.records.push(Record { t: self.t, process: process.to_owned().into(), what });
    }

    fn observe(&mut self, player: usize, what: What<'static>) {
        let name = self.players[player].name.clone();
        self.write(&name, what);
    }

    fn end(mut self) -> Vec<Record<'static>> {
        for player in 0..self.players.len() {
            while self.serve(player) {}
        }
        for player in 0..self.players.len() {
            while self.receive(player) || self.reply(player) {}
        }
        self.t += 1;
        for player in 0..self.players.len() {
            if self.players[player].connected {
                self.observe(player, What::Settled {});
            }
        }
        for lobby in 0..self.lobbies.len() {
            let started = self.t;
            let events = self.as_read(lobby, 0);
            let pages = events.len().div_ceil(50).max(1);
            for page in 0..pages {
                let events = events.iter().skip(page * 50).take(50).cloned().collect();
                let history = History {
                    lobby: self.lobbies[lobby].name.clone().into(),
                    started,
                    after: page as u64 * 50,
                    more: page + 1 < pages,
                    is_final: true,
                    events,
                };
                self.write("", What::History(history));
            }
        }
        self.records
    }
}
