//! Calls and what became of them: asked, answered, refused, never heard of again.

use super::lobby::{Outcome, Removal, Send};
use super::process::{At, Call, Left, Op};
use super::{INDEFINITE_CODES, Judge};
use crate::record::{Class, Invoke};
use crate::rule::Rule;

impl Judge {
    pub(super) fn invoke(&mut self, index: usize, at: At, invoke: &Invoke<'_>) {
        let number = self.lobby(&invoke.lobby);
        let op = Op::of(&invoke.op);
        let nonce = self.names.maybe(invoke.nonce.as_deref());
        let target = self.names.maybe(invoke.user.as_deref());
        let floor = self.lobbies[number].knowledge.before(at.t);
        let user = self.processes[index].user;
        let send = match op {
            Op::Send => Some(self.send(index, number, at, invoke, nonce)),
            _ => None,
        };
        let lobby = &mut self.lobbies[number];
        match (op, target) {
            (Op::Enter, _) => {
                lobby.join_attempts.entry(user).or_insert(at.t);
            }
            (Op::Kick | Op::Ban, Some(target)) => {
                lobby.removal_attempts.entry(target).or_insert(at.t);
            }
            _ => {}
        }
        let process = &mut self.processes[index];
        if op == Op::Leave {
            process.members.entry(number).or_default().leave = Some(at);
        }
        let call = Call { op, lobby: number, nonce, send, target, since: invoke.since, invoked: at, floor };
        if process.calls.insert(invoke.call, call).is_some() {
            self.void(at.line, "uses a call number that is still open");
        }
    }

    fn send(&mut self, index: usize, lobby: usize, at: At, invoke: &Invoke<'_>, nonce: Option<u32>) -> u32 {
        self.report.counts.sends += 1;
        let kind = invoke.kind.as_deref().unwrap_or("chat");
        let default = if kind == "chat" && invoke.to.is_empty() { Class::Durable } else { Class::Ordered };
        let process = &self.processes[index];
        let send = Send {
            user: process.user,
            connection: process.connection,
            place: 0,
            ordinal: 0,
            class: invoke.class.unwrap_or(default),
            kind: self.names.number(kind),
            body: self.names.number(invoke.body.as_deref().unwrap_or("")),
            to: invoke.to.iter().map(|user| self.names.number(user)).collect(),
            invoked: at,
            floor: self.lobbies[lobby].knowledge.before(at.t),
            outcome: Outcome::Open,
            group: None,
            heard: 0,
        };
        self.lobbies[lobby].sent(send, nonce)
    }

    pub(super) fn close_call(&mut self, process: usize, at: At, call: u64) -> Option<Call> {
        let call = self.processes[process].calls.remove(&call);
        if call.is_none() {
            self.void(at.line, "ends a call that is not open");
        }
        call
    }

    pub(super) fn ok(&mut self, index: usize, at: At, call: u64, ok: (Option<u64>, Option<u64>, bool)) {
        let (epoch, seq, dup) = ok;
        let Some(call) = self.close_call(index, at, call) else { return };
        let lobby = &mut self.lobbies[call.lobby];
        let user = self.processes[index].user;
        self.report.counts.dups += u64::from(dup);
        if let Some(send) = call.send {
            self.report.counts.acked += 1;
            let send = &mut lobby.sends[send as usize];
            send.outcome = Outcome::Ok { at, epoch: epoch.unwrap_or(0), seq, dup };
        }
        if let Some(seq) = seq {
            lobby.ok_with_seq(seq, at, call.send);
            let group = call.send.and_then(|send| lobby.sends[send as usize].group);
            if let Some(group) = group {
                lobby.groups[group as usize].assign(seq, at.line);
            }
            if let Some(nonce) = call.nonce {
                let first = *lobby.nonce_oks.entry((user, nonce)).or_insert((seq, at.line));
                if first.0 != seq && call.send.is_none() {
                    self.report.add(Rule::NonceOnce, &[first.1, at.line], || {
                        format!("one nonce was answered with seq {} and with seq {seq}", first.0)
                    });
                }
            }
        }
        match (call.op, call.target, seq) {
            (Op::Leave, ..) => {
                let member = self.processes[index].members.entry(call.lobby).or_default();
                // A join that was sent after the leave may be answered before it.
                if member.asked <= call.invoked {
                    member.left = Some(Left { asked: call.invoked, ok: at });
                    member.chain.detached();
                }
            }
            (Op::Kick | Op::Ban, Some(target), Some(seq)) => {
                let is_kick = call.op == Op::Kick;
                self.report.counts.kicks += u64::from(is_kick);
                self.report.counts.bans += u64::from(!is_kick);
                let removal = Removal { seq, invoked: call.invoked, ok: at };
                lobby.removals.entry(target).or_default().push(removal);
                lobby.first_removal = Some(lobby.first_removal.map_or(seq, |first| first.min(seq)));
            }
            _ => {}
        }
    }

    pub(super) fn error(&mut self, index: usize, at: At, call: u64, code: &str, definite: Option<bool>) {
        let Some(call) = self.close_call(index, at, call) else { return };
        self.report.counts.refused += 1;
        self.report.counts.lobby_full += u64::from(code == "lobby_full");
        let definite = definite.unwrap_or(!INDEFINITE_CODES.contains(&code));
        if let Some(send) = call.send {
            self.lobbies[call.lobby].sends[send as usize].outcome = Outcome::Refused { definite };
        }
        if call.op == Op::Leave && definite {
            let process = &mut self.processes[index];
            let is_other = |open: &&Call| open.op == Op::Leave && open.lobby == call.lobby;
            let other = process.calls.values().filter(is_other).map(|open| open.invoked).max();
            let member = process.members.entry(call.lobby).or_default();
            let left = member.left.map(|left| left.asked).max(other);
            member.leave = left.filter(|leave| *leave > member.asked);
        }
    }

    pub(super) fn unknown(&mut self, index: usize, at: At, call: u64) {
        let Some(call) = self.close_call(index, at, call) else { return };
        self.report.counts.unknown += 1;
        if let Some(send) = call.send {
            self.lobbies[call.lobby].sends[send as usize].outcome = Outcome::Unknown;
        }
    }
}
