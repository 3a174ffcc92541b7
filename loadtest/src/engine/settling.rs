//! The end of a part: waiting until everything that was said has arrived, and the last judgements.

use super::arriving::{SILENCE_MIN, SILENCES_MAX};
use super::client::{Client, Pending, Stage, What};
use super::lobby::{Lobby, Member};
use super::{Engine, PartResult, thread_cpu};
use crate::plan::Micros;

/// Nothing has come for so long: nothing more is under way.
const QUIET: Micros = 500_000;

/// It is looked so often whether everything is there: the look goes through all clients.
const LOOK: Micros = 50_000;

impl Engine {
    /// Whether all replies are there, everybody is back, and everybody has reached the head of its lobby.
    pub(super) fn is_settled(&mut self) -> bool {
        // Nobody ever got in: nothing is under way.
        if self.result.ever_connected == 0 {
            return true;
        }
        let is_soon = self.now.saturating_sub(self.settling_at) < LOOK;
        if is_soon || self.now.saturating_sub(self.last_arrival) < QUIET {
            return false;
        }
        self.settling_at = self.now;
        for place in 0..self.clients.len() {
            self.flush_backlog(place);
        }
        for client in self.clients.iter().filter(|client| client.is_wanted && !client.is_refused) {
            let lobby = &self.lobbies[client.lobby];
            if client.is_away {
                continue;
            }
            if !matches!(client.stage, Stage::In) || !client.pending.is_empty() || !client.retries.is_empty()
            {
                return false;
            }
            let reached = client.member.chain.position().map_or(0, |position| position.seq);
            let is_behind = reached < lobby.rules.head() || client.member.chain.is_catching_up();
            if !client.is_slow && is_behind {
                return false;
            }
        }
        for lobby in &self.lobbies {
            if lobby.owes_ordered(&live(&self.clients, lobby), &self.degraded, self.now) {
                return false;
            }
        }
        if self.lobbies.iter().any(|lobby| lobby.round.awaits() || lobby.round.is_under_way()) {
            return false;
        }
        !self.audit()
    }

    /// Asks for the history where something was acknowledged that nobody was there to see. True: something was asked.
    fn audit(&mut self) -> bool {
        let mut asked = false;
        for lobby in 0..self.lobbies.len() {
            let Some(seq) = self.lobbies[lobby].rules.unseen() else { continue };
            if seq <= self.lobbies[lobby].audited_to {
                continue;
            }
            let is_in = |place: &&usize| matches!(self.clients[**place].stage, Stage::In);
            let Some(place) = self.lobbies[lobby].members.iter().find(is_in).copied() else { continue };
            let after = seq.saturating_sub(1);
            self.lobbies[lobby].audited_to = seq;
            let name = self.lobby_name(place);
            let fields = format!("\"op\":\"history\",\"lobby\":\"{name}\",\"after\":{after},\"limit\":200");
            asked |= self.command(place, What::History, &fields);
        }
        asked
    }

    /// The last judgements, and everybody goes home.
    pub(super) fn finish(mut self, begun_cpu: f64) -> PartResult {
        for place in 0..self.clients.len() {
            let client = &self.clients[place];
            let is_expected = client.is_wanted && !client.is_away && !client.is_slow;
            self.result.missing += u64::from(is_expected && !client.stage.is_in());
            if is_expected {
                self.result.unaccepted += (client.retries.len() + client.backlog.len()) as u64;
            }
            if let Some(lost_at) = client.lost_at.filter(|_| !client.is_lost_by_plan) {
                self.result.outages.push((lost_at, None));
            }
            if !client.stage.is_in() {
                continue;
            }
            let unanswered =
                client.pending.iter().filter(|pending| is_overdue(pending, self.now)).count() as u64;
            if unanswered > 0 && !client.is_slow {
                let number = client.number;
                self.result.faults.add("no_reply", unanswered, || {
                    format!("client {number} got no reply to {unanswered} commands")
                });
            }
        }
        for lobby in 0..self.lobbies.len() {
            self.judge(lobby);
        }
        for lobby in &self.lobbies {
            let silence = lobby.silent_since().map(|since| (since, self.result.over_at));
            if let Some((since, until)) =
                silence.filter(|(since, until)| until.saturating_sub(*since) > SILENCE_MIN)
                && self.result.silences.len() < SILENCES_MAX
            {
                self.result.silences.push((since, until));
            }
            self.result.owner_changes += lobby.rules.owner_changes();
            self.result.achievements_missing += u64::from(lobby.round.awaits());
        }
        self.publish();
        self.measure.end_second(self.joined);
        self.measure.end_phase();
        for place in 0..self.clients.len() {
            self.close(place, 1000);
        }
        let mut result = self.result;
        (result.phases, result.seconds) = self.measure.finish();
        result.cpu_seconds = thread_cpu() - begun_cpu;
        result.ended_at = self.now;
        result
    }

    fn judge(&mut self, index: usize) {
        let lobby = &mut self.lobbies[index];
        for fault in lobby.rules.finish() {
            self.result.faults.fault(&lobby.name, "everybody", &fault);
        }
        let head = lobby.rules.head();
        for place in &lobby.members {
            let client = &mut self.clients[*place];
            let head = (client.stage.is_in() && !client.is_slow).then_some(head);
            let who = format!("client {}", client.number);
            // What a connection was given last is looked at before the chain is ended.
            for fault in client.member.chain.finish(head) {
                self.result.faults.fault(&lobby.name, &who, &fault);
            }
        }
        let live = live(&self.clients, lobby);
        let faults = &mut self.result.faults;
        for member in lobby.disordered(&self.degraded) {
            faults.add("total_order", 1, || {
                format!(
                    "lobby {}, client {member}: got two ordered messages in another order than others",
                    lobby.name
                )
            });
        }
        let excused = lobby.lost(&live, &self.degraded, self.now, |member, count, text| {
            faults.add("ordered_lost", count, || format!("lobby {}, client {member}: {text}", lobby.name));
        });
        self.result.lost_excused += excused;
    }
}

/// A lobby's members who are there and read, with their numbers.
fn live<'a>(clients: &'a [Client], lobby: &Lobby) -> Vec<(&'a Member, u32)> {
    let members = lobby.members.iter().map(|place| &clients[*place]);
    let there = members.filter(|client| client.stage.is_in() && !client.is_slow);
    there.map(|client| (&client.member, client.number)).collect()
}

/// Not said just now.
fn is_overdue(pending: &Pending, now: Micros) -> bool {
    now.saturating_sub(pending.begun) > QUIET
}
