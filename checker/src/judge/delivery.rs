//! What must hold at the moment an event reaches a process: its place in the chain, its sender's order, and
//! whether the process may have it at all.

use super::Judge;
use super::lobby::{Content, Lobby, Saying, Slot};
use super::process::{At, Heard, Member, Skip};
use crate::record::{Class, Event};
use crate::rule::Rule;

impl Judge {
    pub(super) fn delivered(&mut self, process: usize, at: At, lobby: &str, event: &Event<'_>) {
        self.report.counts.deliveries += 1;
        let lobby = self.lobby(lobby);
        match (event.seq, event.epoch) {
            (Some(seq), Some(epoch)) => {
                self.sequenced(lobby, at, (epoch, seq), event, false);
                self.sequenced_to(process, lobby, at, (epoch, seq));
            }
            (None, _) => self.unsequenced_to(process, lobby, at, event),
            (Some(_), None) => self.void(at.line, "has a seq without an epoch"),
        }
    }

    /// Takes what was seen under a seq, by delivery or in a history.
    pub(super) fn sequenced(
        &mut self,
        number: usize,
        at: At,
        (epoch, seq): (u64, u64),
        event: &Event<'_>,
        in_final: bool,
    ) {
        let ev = self.names.number(&event.ev);
        let user = self.names.maybe(event.user.as_deref());
        let content = Content {
            epoch,
            ev,
            kind: self.names.maybe(event.kind.as_deref()),
            from: self.names.maybe(event.from.as_deref()),
            user,
            of: event.of,
        };
        let slot = Slot {
            content,
            nonce: self.names.maybe(event.nonce.as_deref()),
            body: self.names.number(event.body.as_deref().unwrap_or("")),
            by: self.names.maybe(event.by.as_deref()),
            spectator: event.role.as_deref() == Some("spectator"),
            at,
            group: None,
            delivered: !in_final,
            in_final,
        };
        let lobby = &mut self.lobbies[number];
        let words = &self.words;
        if ev == words.closed {
            lobby.ended_at(None, seq);
        } else if (ev == words.kicked || ev == words.banned || ev == words.left) && user.is_some() {
            lobby.ended_at(user, seq);
        } else if let Some(user) = user.filter(|_| ev == words.joined) {
            let last = lobby.last_joined.entry(user).or_default();
            *last = seq.max(*last);
        } else if let Some(of) = event.of.filter(|_| ev == words.edited || ev == words.deleted) {
            lobby.changed.insert(of);
        }
        if let Err(other) = lobby.observed(seq, slot) {
            self.report.add(Rule::OneEventPerSeq, &[other, at.line], || {
                format!("two events have seq {seq} of lobby {}", self.names.text(lobby.name))
            });
        }
    }

    fn sequenced_to(&mut self, index: usize, number: usize, at: At, (epoch, seq): (u64, u64)) {
        let lobby = &mut self.lobbies[number];
        lobby.knowledge.raise(at, seq);
        let after_removal = lobby.first_removal.is_some_and(|first| seq > first);
        self.report.counts.after_removal += u64::from(after_removal);
        let process = &mut self.processes[index];
        let connection = process.connection;
        let member = process.members.entry(number).or_default();
        let group = lobby.slots.get(&seq).and_then(|slot| slot.group);
        let attempts = group.map_or(&[][..], |group| &lobby.groups[group as usize].attempts);
        if let Some(left) = member.left.map(|left| left.ok) {
            let first = attempts.first().map(|send| lobby.sends[*send as usize].invoked);
            if let Some(invoked) = first.filter(|invoked| invoked.t > left.t) {
                self.report.add(Rule::AfterLeave, &[left.line, invoked.line, at.line], || {
                    format!("message {seq} was sent after this process had left, and reached it")
                });
            }
            return;
        }
        let result = member.chain.delivered(epoch, seq, at.line);
        let in_order = result.is_ok();
        if let Err(fault) = result {
            let lines = [member.last_line, at.line];
            self.report.add(fault.rule, &lines, || {
                let (process, lobby) = (self.names.text(process.name), self.names.text(lobby.name));
                format!("{process} in lobby {lobby}: {}", fault.text)
            });
        }
        member.last_line = at.line;
        if let Some(stay) = member.stays.last_mut() {
            let higher = stay.last.is_none_or(|(last, _)| seq > last);
            stay.last = if higher { Some((seq, at)) } else { stay.last };
        }
        // Only a message that was sent once has one certain place among its sender's others.
        let (true, [send]) = (in_order && member.chain.is_live(), attempts) else { return };
        let send = &lobby.sends[*send as usize];
        let heard = member.hear(send.connection, connection);
        if heard.ordered_place > send.place {
            self.report.add(Rule::SenderOrder, &[send.invoked.line, at.line], || {
                format!("message {seq} came after an ordered message that its sender sent later")
            });
        }
        heard.durable_place = heard.durable_place.max(send.place + 1);
    }

    fn unsequenced_to(&mut self, index: usize, number: usize, at: At, event: &Event<'_>) {
        self.report.counts.unsequenced += 1;
        let is_message = self.names.number(&event.ev) == self.words.message;
        let from = self.names.maybe(event.from.as_deref());
        let kind = self.names.number(event.kind.as_deref().unwrap_or("chat"));
        let body = self.names.number(event.body.as_deref().unwrap_or(""));
        let member = self.processes[index].members.entry(number).or_default();
        if !member.chain.is_in() && member.left.is_none() {
            self.report.add(Rule::BeforeJoin, &[member.last_line, at.line], || {
                format!("an unsequenced {} came before the ok of a join or resume", event.ev)
            });
            return;
        }
        // The system's own messages have no sender to hold them against.
        let Some(from) = from.filter(|_| is_message) else { return };
        let lobby = &mut self.lobbies[number];
        let saying = (from, kind, body);
        if !lobby.loose.contains_key(&saying) {
            lobby.strays.push((saying, at));
            return;
        }
        let send = self.heard(index, number, at, saying);
        self.lobbies[number].sends[send as usize].heard = at.line;
        self.may_have(index, number, at, send);
    }

    /// Finds which send it was, in its sender's order and once each; returns the send's number.
    fn heard(&mut self, index: usize, number: usize, at: At, saying: Saying) -> u32 {
        let process = &mut self.processes[index];
        let (user, connection) = (process.user, process.connection);
        let lobby = &self.lobbies[number];
        let member = process.members.entry(number).or_default();
        let is_live = member.chain.is_live();
        let candidates = &lobby.loose[&saying];
        for number in candidates {
            let send = &lobby.sends[*number as usize];
            if send.class == Class::Ephemeral {
                if member.ephemeral.insert(*number) {
                    return *number;
                }
                continue;
            }
            let since = (member.asked.t, member.live_since);
            let heard = member.hear(send.connection, connection);
            if send.ordinal < heard.next {
                continue;
            }
            heard.skip_to(lobby, send.connection, send.ordinal, since, at, |send| {
                is_addressed(send, user, self.words.host, self.words.others)
            });
            if is_live && heard.durable_place > send.place {
                self.report.add(Rule::SenderOrder, &[send.invoked.line, at.line], || {
                    "an ordered message came after a durable one that its sender sent later".to_owned()
                });
            }
            if is_live {
                heard.ordered_place = heard.ordered_place.max(send.place + 1);
            }
            return *number;
        }
        for number in candidates {
            let heard = member.hear(lobby.sends[*number as usize].connection, connection);
            if let Some(place) = heard.skipped.iter().position(|skip| skip.send == *number) {
                let skip = heard.skipped.remove(place);
                self.report.add(Rule::SenderOrder, &[skip.seen.line, at.line], || {
                    "an ordered message came after one that its sender sent later".to_owned()
                });
                return *number;
            }
        }
        let first = candidates[0];
        let sent = lobby.sends[first as usize].invoked;
        self.report.add(Rule::Duplicate, &[sent.line, at.line], || {
            "an unsequenced message came more often than it was sent, or long after a later one".to_owned()
        });
        first
    }

    /// Whether the message was meant for this process's user, who is still there.
    fn may_have(&mut self, index: usize, number: usize, at: At, send: u32) {
        let process = &self.processes[index];
        let lobby = &self.lobbies[number];
        let send = &lobby.sends[send as usize];
        let user = process.user;
        let names_all = send.to.iter().all(|to| *to != self.words.host && *to != self.words.others);
        if !send.to.is_empty() && names_all && user != send.user && !send.to.contains(&user) {
            self.report.add(Rule::Misdelivered, &[send.invoked.line, at.line], || {
                format!("a message for others reached {}", self.names.text(user))
            });
        }
        let left = process.members.get(&number).and_then(|member| member.left).map(|left| left.ok);
        if let Some(left) = left.filter(|left| send.invoked.t > left.t) {
            self.report.add(Rule::AfterLeave, &[left.line, send.invoked.line, at.line], || {
                "a message was sent after this process had left, and reached it".to_owned()
            });
        }
        let degraded = process.degraded_until.is_some_and(|until| until >= send.invoked.t);
        let removals = lobby.removals.get(&user).map_or(&[][..], Vec::as_slice);
        let broken = removals.iter().find(|removal| {
            removal.ok.t < send.invoked.t && !degraded && !lobby.joined_again(user, removal, at.t, true)
        });
        if let Some(removal) = broken {
            self.report.add(Rule::AfterRemoval, &[removal.ok.line, send.invoked.line, at.line], || {
                let user = self.names.text(user);
                format!("{user} got a message that was sent after the ok of their removal")
            });
        }
    }
}

/// Whether the user must get the message: not where only the service knows who is meant.
pub(super) fn is_addressed(send: &super::lobby::Send, user: u32, host: u32, others: u32) -> bool {
    let is_other = send.to.contains(&others) && user != send.user;
    send.to.is_empty() || (!send.to.contains(&host) && (is_other || send.to.contains(&user)))
}

impl Member {
    fn hear(&mut self, sender: u32, connection: u32) -> &mut Heard {
        let heard = self.heard.entry(sender).or_default();
        if heard.on_connection != connection {
            heard.on_connection = connection;
            heard.ordered_place = 0;
            heard.durable_place = 0;
        }
        heard
    }
}

impl Heard {
    /// Moves to this ordinal, keeping in mind what may still come, and what a live member should have got.
    fn skip_to(
        &mut self,
        lobby: &Lobby,
        sender: u32,
        ordinal: u32,
        (asked, live_since): (u64, u64),
        at: At,
        is_due: impl Fn(&super::lobby::Send) -> bool,
    ) {
        let ordered = &lobby.ordered_of[&sender];
        let between = &ordered[self.next as usize..ordinal as usize];
        let missing = between.iter().rev().take_while(|send| lobby.sends[**send as usize].invoked.t > asked);
        for send in missing.filter(|send| is_due(&lobby.sends[**send as usize])) {
            let is_due = lobby.sends[*send as usize].invoked.t > live_since;
            self.skipped.push(Skip { send: *send, seen: at, is_due });
        }
        self.next = ordinal + 1;
    }
}
