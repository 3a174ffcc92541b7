//! What the model's lobbies do with commands: they keep every promise of the protocol.

use mlms_checker::{Class, Entry, Event, History, Invoke, Position, What};

use super::{Service, lobby_of};

impl Service {
    /// The service takes a command.
    pub(super) fn serve(&mut self, player: usize) -> bool {
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

    pub(super) fn append(&mut self, lobby: usize, mut event: Event<'static>) -> Position {
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

    pub(super) fn change_owner(&mut self, lobby: usize) {
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

    pub(super) fn edit(&mut self, lobby: usize) {
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

    pub(super) fn as_read(&self, lobby: usize, after: u64) -> Vec<Event<'static>> {
        let log = &self.lobbies[lobby].log;
        let mut events = log.clone();
        for change in log.iter().filter(|event| event.ev == "edited") {
            events[change.of.unwrap() as usize - 1].body = change.body.clone();
        }
        events.split_off(after as usize)
    }

    pub(super) fn read(&mut self, lobby: usize) {
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
}
