//! What the model's players do, a step at a time: connect, ask, read, go away, and come back with what was not answered.

use mlms_checker::{Class, Invoke, Position, What};

use super::{Service, lobby_of};

impl Service {
    pub(super) fn step(&mut self) {
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

    /// The player reads a frame.
    pub(super) fn receive(&mut self, player: usize) -> bool {
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
    pub(super) fn reply(&mut self, player: usize) -> bool {
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
}
