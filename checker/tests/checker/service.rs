//! A small model of the service that keeps every promise, and seeded players who use it: it makes valid histories.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use mlms_checker::{Class, Entry, Event, History, Invoke, Position, Record, What};

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

    fn step(&mut self) {
        let player = self.random.below(self.players.len());
        let lobby = self.random.below(self.lobbies.len());
        if !self.players[player].connected {
            return self.connect(player);
        }
        let is_in = self.players[player].positions.contains_key(&lobby);
        match self.random.below(100) {
            0..30 => drop(self.receive(player)),
            30..55 => drop(self.serve(player)),
            55..65 => drop(self.reply(player)),
            65..68 if !is_in => self.command(player, lobby, "join", Invoke::default()),
            65..85 if is_in => self.send(player, lobby),
            85..88 if self.plan.disconnects => self.disconnect(player),
            88 if is_in => {
                self.command(player, lobby, "leave", Invoke::default());
                self.players[player].positions.remove(&lobby);
            }
            89 if is_in && self.plan.removals => self.remove(player, lobby),
            90 if self.plan.owner_changes => self.change_owner(lobby),
            91 if is_in && self.plan.reads => self.edit(lobby),
            92 if self.plan.reads => self.read(lobby),
            93 => {
                let members = self.lobbies[lobby].members.len() as u64;
                let lobby = self.lobbies[lobby].name.clone().into();
                self.write("", What::Roster { lobby, members });
            }
            _ => drop(self.receive(player)),
        }
    }

    fn connect(&mut self, player: usize) {
        let user = self.players[player].user.clone().into();
        self.players[player].connected = true;
        self.observe(player, What::Connected { user });
        let positions = self.players[player].positions.clone();
        for (lobby, position) in positions {
            let more = Invoke { since: Some(position), ..Invoke::default() };
            self.command(player, lobby, "resume", more);
        }
        for again in std::mem::take(&mut self.players[player].unanswered) {
            if self.players[player].positions.contains_key(&lobby_of(&again.lobby)) {
                self.command(player, lobby_of(&again.lobby), "send", again);
            }
        }
    }

    fn command(&mut self, player: usize, lobby: usize, op: &'static str, more: Invoke<'static>) {
        let me = &mut self.players[player];
        me.calls += 1;
        me.open.insert(me.calls);
        let name = self.lobbies[lobby].name.clone().into();
        let invoke = Invoke { call: me.calls, op: op.into(), lobby: name, ..more };
        me.commands.push_back(invoke.clone());
        self.observe(player, What::Invoke(invoke));
    }

    fn send(&mut self, player: usize, lobby: usize) {
        self.bodies += 1;
        let body = Some(format!("body-{}", self.bodies).into());
        let nonce = (!self.random.chance(15)).then(|| format!("nonce-{}", self.bodies).into());
        let mut more = Invoke { kind: Some("chat".into()), body, nonce, ..Invoke::default() };
        match self.random.below(10) {
            0..6 => {}
            6..8 => more.class = Some(Class::Ordered),
            8 => {
                more.class = Some(Class::Ephemeral);
            }
            _ => {
                let user = self.random.below(self.plan.users);
                more.to = vec![format!("user-{user}").into()];
            }
        }
        self.command(player, lobby, "send", more);
    }

    fn remove(&mut self, player: usize, lobby: usize) {
        let user = self.random.below(self.plan.users);
        let user = format!("user-{user}");
        let is_other = self.players[player].user != user && self.lobbies[lobby].members.contains(&user);
        if is_other {
            let op = if self.random.chance(30) { "ban" } else { "kick" };
            let more = Invoke { user: Some(user.into()), ..Invoke::default() };
            self.command(player, lobby, op, more);
        }
    }

    fn disconnect(&mut self, player: usize) {
        let served = self.random.below(self.players[player].commands.len() + 1);
        for _ in 0..served {
            self.serve(player);
        }
        let me = &mut self.players[player];
        me.connected = false;
        me.commands.clear();
        me.frames.clear();
        me.replies.clear();
        me.attached.clear();
        let open = std::mem::take(&mut me.open);
        for call in &open {
            self.observe(player, What::Unknown { call: *call });
        }
        let name = &self.players[player].name;
        let unanswered: Vec<Invoke<'static>> = self
            .records
            .iter()
            .filter(|record| record.process == *name)
            .filter_map(|record| match &record.what {
                What::Invoke(invoke) if open.contains(&invoke.call) => Some(invoke.clone()),
                _ => None,
            })
            .filter(|invoke| invoke.nonce.is_some() && invoke.class.is_none() && invoke.to.is_empty())
            .collect();
        self.players[player].unanswered = unanswered;
        self.observe(player, What::Disconnected {});
    }

    fn change_owner(&mut self, lobby: usize) {
        self.lobbies[lobby].epoch += 1;
        self.write("", What::Fault { name: "node_killed".into(), for_us: 1 });
        let name = self.lobbies[lobby].name.clone();
        for player in 0..self.players.len() {
            if self.random.chance(30) {
                let is_lost = |frame: &What<'_>| matches!(frame, What::Delivered { lobby, event } if *lobby == name && event.seq.is_none());
                self.players[player].frames.retain(|frame| !is_lost(frame));
            }
        }
    }

    fn edit(&mut self, lobby: usize) {
        let messages: Vec<u64> = self.lobbies[lobby]
            .log
            .iter()
            .filter_map(|event| event.seq.filter(|_| event.ev == "message"))
            .collect();
        if messages.is_empty() {
            return;
        }
        let of = Some(messages[self.random.below(messages.len())]);
        self.bodies += 1;
        let body = Some(format!("edit-{}", self.bodies).into());
        self.append(lobby, Event { ev: "edited".into(), of, body, ..Event::default() });
    }

    fn as_read(&self, lobby: usize, after: u64) -> Vec<Event<'static>> {
        let log = &self.lobbies[lobby].log;
        let mut events = log.clone();
        for change in log.iter().filter(|event| event.ev == "edited") {
            events[change.of.unwrap() as usize - 1].body = change.body.clone();
        }
        events.split_off(after as usize)
    }

    fn read(&mut self, lobby: usize) {
        let after = self.random.below(self.lobbies[lobby].log.len() + 1) as u64;
        let events = self.as_read(lobby, after);
        let history = History {
            lobby: self.lobbies[lobby].name.clone().into(),
            started: self.t,
            after,
            events,
            ..History::default()
        };
        self.write("", What::History(history));
    }

    /// The player reads a frame.
    fn receive(&mut self, player: usize) -> bool {
        let Some(frame) = self.players[player].frames.pop_front() else { return false };
        let me = &mut self.players[player];
        match &frame {
            What::Joined(entry) | What::Resumed(entry) | What::Snapshot(entry) => {
                me.open.remove(&entry.call.unwrap());
                let position = Position { epoch: entry.epoch, seq: entry.seq };
                me.positions.insert(lobby_of(&entry.lobby), position);
            }
            What::Delivered { lobby, event } => {
                let lobby = lobby_of(lobby);
                if let (Some(position), Some(seq)) = (me.positions.get_mut(&lobby), event.seq) {
                    *position = Position { epoch: event.epoch.unwrap(), seq };
                }
                let is_removal = event.ev == "kicked" || event.ev == "banned";
                if is_removal && event.user.as_deref() == Some(&me.user) && !me.attached.contains(&lobby) {
                    me.positions.remove(&lobby);
                }
            }
            _ => {}
        }
        self.observe(player, frame);
        true
    }

    /// The player reads a reply; replies come in any order.
    fn reply(&mut self, player: usize) -> bool {
        let count = self.players[player].replies.len();
        if count == 0 {
            return false;
        }
        let index = self.random.below(count);
        let reply = self.players[player].replies.remove(index);
        if let What::Ok { call, .. } | What::Error { call, .. } = &reply {
            self.players[player].open.remove(call);
        }
        self.observe(player, reply);
        true
    }

    /// The service takes a command.
    fn serve(&mut self, player: usize) -> bool {
        let Some(invoke) = self.players[player].commands.pop_front() else { return false };
        let lobby = lobby_of(&invoke.lobby);
        let call = invoke.call;
        let user = self.players[player].user.clone();
        let done = What::Ok { call, epoch: None, seq: None, dup: false };
        let refused = |code: &'static str| What::Error { call, code: code.into(), definite: None };
        match &*invoke.op {
            "join" | "resume" => self.enter(player, lobby, &invoke),
            _ if !self.players[player].attached.contains(&lobby) => {
                self.players[player].replies.push(refused("not_member"));
            }
            "leave" => {
                self.players[player].attached.remove(&lobby);
                let is_last = !self.players.iter().any(|p| p.user == user && p.attached.contains(&lobby));
                if is_last && self.lobbies[lobby].members.remove(&user) {
                    let left = Event { ev: "left".into(), user: Some(user.into()), ..Event::default() };
                    self.append(lobby, left);
                }
                self.players[player].replies.push(done);
            }
            "kick" | "ban" => {
                let removed = invoke.user.clone().unwrap();
                if !self.lobbies[lobby].members.remove(&*removed) {
                    self.players[player].replies.push(refused("not_found"));
                    return true;
                }
                let ev = if invoke.op == "ban" { "banned" } else { "kicked" };
                if ev == "banned" {
                    self.lobbies[lobby].banned.insert(removed.to_string());
                }
                let by = Some(user.into());
                let event = Event { ev: ev.into(), user: Some(removed.clone()), by, ..Event::default() };
                let position = self.append(lobby, event);
                for player in self.players.iter_mut().filter(|player| player.user == *removed) {
                    player.attached.remove(&lobby);
                }
                let Position { epoch, seq } = position;
                let ok = What::Ok { call, epoch: Some(epoch), seq: Some(seq), dup: false };
                self.players[player].replies.push(ok);
            }
            _ if self.random.chance(3) => self.players[player].replies.push(refused("rate_limited")),
            _ => self.take_message(player, lobby, invoke),
        }
        true
    }

    fn take_message(&mut self, player: usize, lobby: usize, invoke: Invoke<'static>) {
        let user = self.players[player].user.clone();
        let call = invoke.call;
        let is_durable = invoke.class.is_none() && invoke.to.is_empty();
        let event = Event {
            ev: "message".into(),
            kind: invoke.kind.clone(),
            from: Some(user.clone().into()),
            body: invoke.body.clone(),
            nonce: invoke.nonce.clone().filter(|_| is_durable),
            ..Event::default()
        };
        if !is_durable {
            let name = self.lobbies[lobby].name.clone();
            for to in self.players.iter_mut().filter(|to| to.attached.contains(&lobby)) {
                let is_meant = invoke.to.is_empty() || invoke.to.iter().any(|meant| *meant == to.user);
                let is_shed = invoke.class == Some(Class::Ephemeral) && self.random.chance(30);
                if is_meant && !is_shed {
                    let lobby = name.clone().into();
                    to.frames.push_back(What::Delivered { lobby, event: event.clone() });
                }
            }
            let ok = What::Ok { call, epoch: None, seq: None, dup: false };
            return self.players[player].replies.push(ok);
        }
        let key = invoke.nonce.map(|nonce| (user, nonce.into_owned()));
        let known = key.as_ref().and_then(|key| self.lobbies[lobby].nonces.get(key).copied());
        let Position { epoch, seq } = match known {
            Some(seq) => Position { epoch: self.lobbies[lobby].log[seq as usize - 1].epoch.unwrap(), seq },
            None => self.append(lobby, event),
        };
        if let Some(key) = key {
            self.lobbies[lobby].nonces.insert(key, seq);
        }
        let ok = What::Ok { call, epoch: Some(epoch), seq: Some(seq), dup: known.is_some() };
        self.players[player].replies.push(ok);
    }

    fn append(&mut self, lobby: usize, mut event: Event<'static>) -> Position {
        let here = &mut self.lobbies[lobby];
        let position = Position { epoch: here.epoch, seq: here.log.len() as u64 + 1 };
        event.epoch = Some(position.epoch);
        event.seq = Some(position.seq);
        here.log.push(event.clone());
        for player in self.players.iter_mut().filter(|player| player.attached.contains(&lobby)) {
            let name = here.name.clone().into();
            player.frames.push_back(What::Delivered { lobby: name, event: event.clone() });
        }
        position
    }

    fn enter(&mut self, player: usize, lobby: usize, invoke: &Invoke<'static>) {
        let user = self.players[player].user.clone();
        let call = invoke.call;
        let here = &self.lobbies[lobby];
        let is_member = here.members.contains(&user);
        let refusal = if here.banned.contains(&user) {
            Some("banned")
        } else {
            (!is_member && here.members.len() >= self.plan.capacity).then_some("lobby_full")
        };
        if let Some(code) = refusal {
            // The refusal takes the road of the ok, so that the player's idea of the lobby stays right.
            let refused = What::Error { call, code: code.into(), definite: None };
            self.players[player].positions.remove(&lobby);
            return self.players[player].replies.push(refused);
        }
        if !is_member {
            self.lobbies[lobby].members.insert(user.clone());
            let joined = Event { ev: "joined".into(), user: Some(user.into()), ..Event::default() };
            self.append(lobby, joined);
        }
        let here = &self.lobbies[lobby];
        let head = here.log.len() as u64;
        let name = here.name.clone();
        let entry = Entry {
            call: Some(call),
            lobby: name.clone().into(),
            epoch: here.epoch,
            seq: head,
            ..Entry::default()
        };
        let since = invoke.since.filter(|since| head - since.seq <= 8);
        let missed = since.map(|since| here.log[since.seq as usize..].to_vec());
        let me = &mut self.players[player];
        me.attached.insert(lobby);
        match (invoke.since, since, missed) {
            (_, Some(since), Some(missed)) => {
                let count = missed.len() as u64;
                me.frames.push_back(What::Resumed(Entry { seq: since.seq, missed: count, ..entry }));
                for event in missed {
                    me.frames.push_back(What::Delivered { lobby: name.clone().into(), event });
                }
                me.frames.push_back(What::CaughtUp { lobby: name.into(), seq: head });
            }
            (Some(_), ..) => me.frames.push_back(What::Snapshot(entry)),
            (None, ..) => me.frames.push_back(What::Joined(entry)),
        }
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
