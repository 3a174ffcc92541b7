//! What can be judged only when all is known: the final history against the oks, the order of time against the
//! order of seq, memberships along seq, and what was lost.

use std::collections::{HashMap, HashSet};

use super::lobby::{Content, Group, Lobby, Outcome, Slot};
use super::process::At;
use super::{Judge, Words, delivery};
use crate::report::Report;
use crate::rule::Rule;

impl Judge {
    /// Judges what is left, and says what the run is worth.
    pub fn finish(mut self) -> Report {
        self.disconnect_all();
        let mut lobbies = std::mem::take(&mut self.lobbies);
        for (number, lobby) in lobbies.iter_mut().enumerate() {
            lobby.explain_late();
            let seqs = lobby.seqs();
            self.judge_final(lobby, &seqs);
            self.judge_epochs(lobby, &seqs);
            self.judge_causes(lobby, &seqs);
            self.judge_groups(lobby);
            self.judge_bodies(lobby);
            self.judge_sender_order(lobby);
            self.judge_members(lobby, &seqs);
            self.judge_strays(lobby);
            self.judge_removals(number, lobby);
            self.judge_losses(number, lobby);
        }
        self.report.counts.processes = self.processes.len() as u64;
        self.report.counts.lobbies = lobbies.len() as u64;
        self.report.hold_against(&self.options.require);
        self.report
    }

    fn disconnect_all(&mut self) {
        for index in 0..self.processes.len() {
            self.disconnected(index);
            let process = &mut self.processes[index];
            for (number, member) in &mut process.members {
                for hole in member.chain.take_gaps() {
                    self.report.add(Rule::Gap, &[hole.mark], || {
                        let lobby = self.names.text(self.lobbies[*number].name);
                        let process = self.names.text(process.name);
                        format!("{process} in lobby {lobby}: {}", hole.fault().text)
                    });
                }
            }
        }
    }

    /// Everything acknowledged or delivered stands in the final history, which has no holes.
    fn judge_final(&mut self, lobby: &Lobby, seqs: &[u64]) {
        self.report.counts.events += seqs.len() as u64;
        let name = self.names.text(lobby.name);
        let Some(last_read) = lobby.last_read else {
            if !lobby.acked.is_empty() {
                self.report.void.push(format!("lobby {name} has acknowledged events but no final history"));
            }
            return;
        };
        let is_closed = |seq: u64| lobby.slots.get(&seq).is_some_and(|s| s.content.ev == self.words.closed);
        let in_final = |seq: &u64| lobby.slots.get(seq).is_some_and(|slot| slot.in_final);
        let kept: Vec<u64> = seqs.iter().copied().filter(in_final).collect();
        let mut after = last_read.after;
        for (due, first, line) in &lobby.late_starts {
            // A lobby that was created again shows nothing of its life before.
            if is_closed(first - 1) {
                after = after.max(first - 1);
            } else {
                self.report.add(Rule::HistoryGap, &[*line], || {
                    format!("the history of lobby {name} starts at seq {first}, not at {due}")
                });
            }
        }
        for pair in kept.windows(2).filter(|pair| pair[1] != pair[0] + 1) {
            self.report.add(Rule::HistoryGap, &[last_read.line], || {
                format!("the final history of lobby {name} goes from seq {} to {}", pair[0], pair[1])
            });
        }
        let mut missing = HashSet::new();
        for acked in lobby.acked.iter().filter(|a| a.seq > after && a.at.t <= last_read.started) {
            let slot = lobby.slots.get(&acked.seq).filter(|slot| slot.in_final);
            let group = acked.send.and_then(|send| lobby.sends[send as usize].group);
            let is_other = slot.is_some_and(|slot| group.is_some() && slot.group != group);
            if slot.is_none() || is_other {
                missing.insert(acked.seq);
                self.report.add(Rule::AckedLost, &[acked.at.line, last_read.line], || {
                    let what = if is_other { "is another event" } else { "is missing" };
                    format!("seq {} of lobby {name} got its ok and {what} in the final history", acked.seq)
                });
            }
        }
        for (seq, slot) in seqs.iter().filter_map(|seq| Some((seq, lobby.slots.get(seq)?))) {
            let due = slot.delivered && *seq > after && slot.at.t <= last_read.started;
            if due && !slot.in_final && !missing.contains(seq) {
                self.report.add(Rule::DeliveredLost, &[slot.at.line, last_read.line], || {
                    format!("seq {seq} of lobby {name} was delivered and is missing in the final history")
                });
            }
        }
    }

    /// Epochs never go back along seq; a position (e, s) keeps epoch(s) ≤ e ≤ epoch(s+1).
    fn judge_epochs(&mut self, lobby: &Lobby, seqs: &[u64]) {
        let mut last: Option<(u64, &Slot)> = None;
        for seq in seqs {
            let slot = &lobby.slots[seq];
            if let Some((before, other)) = last {
                let (old, new) = (other.content.epoch, slot.content.epoch);
                self.report.counts.owner_changes += u64::from(new > old);
                if new < old {
                    self.report.add(Rule::EpochBack, &[other.at.line, slot.at.line], || {
                        format!("seq {before} has epoch {old}, and seq {seq} has epoch {new}")
                    });
                }
            }
            last = Some((*seq, slot));
        }
        for (seq, epoch, line) in &lobby.positions {
            let here = lobby.slots.get(seq).filter(|slot| slot.content.epoch > *epoch);
            let next = lobby.slots.get(&seq.saturating_add(1)).filter(|slot| slot.content.epoch < *epoch);
            if let Some(slot) = here.or(next) {
                self.report.add(Rule::EpochBack, &[*line, slot.at.line], || {
                    let other = slot.content.epoch;
                    format!("a position at seq {seq} has epoch {epoch}, and the event beside it {other}")
                });
            }
        }
        for acked in &lobby.acked {
            let Some(Outcome::Ok { epoch, dup: false, .. }) =
                acked.send.map(|send| lobby.sends[send as usize].outcome)
            else {
                continue;
            };
            let other = lobby.slots.get(&acked.seq).filter(|slot| slot.content.epoch != epoch);
            if let Some(slot) = other.filter(|_| epoch > 0) {
                self.report.add(Rule::OneEventPerSeq, &[acked.at.line, slot.at.line], || {
                    let other = slot.content.epoch;
                    format!("the ok of seq {} says epoch {epoch}, its event {other}", acked.seq)
                });
            }
        }
    }

    /// Messages, joins and removals happen because somebody asked for them.
    fn judge_causes(&mut self, lobby: &Lobby, seqs: &[u64]) {
        for (seq, slot) in seqs.iter().map(|seq| (seq, &lobby.slots[seq])) {
            let Content { ev, from, user, .. } = slot.content;
            let asked = |attempts: &HashMap<u32, u64>| {
                user.is_none_or(|user| attempts.get(&user).is_some_and(|t| *t <= slot.at.t))
            };
            let is_caused = if ev == self.words.message {
                let is_traceable = slot.nonce.is_some() || !lobby.is_edited(*seq);
                from.is_none()
                    || (slot.group.is_none() && !is_traceable)
                    || slot.group.is_some_and(|group| lobby.first_sent(group) <= slot.at.t)
            } else if ev == self.words.joined {
                asked(&lobby.join_attempts)
            } else if ev == self.words.kicked || ev == self.words.banned {
                slot.by.is_none() || asked(&lobby.removal_attempts)
            } else {
                true
            };
            if !is_caused {
                self.report.add(Rule::Invented, &[slot.at.line], || {
                    let (ev, name) = (self.names.text(ev), self.names.text(lobby.name));
                    format!("{ev} {seq} of lobby {name} was not caused by anybody before it was seen")
                });
            }
        }
    }

    /// One seq per event; what is refused does not happen; what was known before a send has a lower seq.
    fn judge_groups(&mut self, lobby: &Lobby) {
        for group in &lobby.groups {
            let attempts = || group.attempts.iter().map(|send| &lobby.sends[*send as usize]);
            self.report.counts.retried_nonces += u64::from(group.has_nonce && group.attempts.len() > 1);
            if group.seqs.is_empty() {
                continue;
            }
            let lines: Vec<u64> = group.seqs.iter().map(|(_, line)| *line).collect();
            let Some(first) = attempts().find(|send| !is_refused(send.outcome)) else {
                self.report.add(Rule::RefusedHappened, &lines, || {
                    format!("seq {} is a message that was refused", group.seqs[0].0)
                });
                continue;
            };
            self.judge_repetition(lobby, group, &lines);
            for (seq, line) in group.seqs.iter().filter(|(seq, _)| *seq <= first.floor.seq) {
                self.report.add(Rule::RealTime, &[first.floor.line, first.invoked.line, *line], || {
                    let known = first.floor.seq;
                    format!("seq {known} was known before the send that got seq {seq}")
                });
            }
        }
    }

    fn judge_repetition(&mut self, lobby: &Lobby, group: &Group, lines: &[u64]) {
        let attempts = || group.attempts.iter().map(|send| &lobby.sends[*send as usize]);
        let times = attempts().map(|send| send.invoked.t);
        let (first, last) = (times.clone().min().unwrap_or(0), times.max().unwrap_or(0));
        let forgotten = last - first > self.options.dedupe_window_us;
        let may_happen = attempts().filter(|send| !is_refused(send.outcome)).count();
        let allowed = if group.has_nonce && !forgotten { 1 } else { may_happen.max(1) };
        if group.seqs.len() <= allowed {
            return;
        }
        let is_retry = group.has_nonce && group.attempts.len() > 1;
        let rule = if is_retry { Rule::NonceOnce } else { Rule::OneSeqPerEvent };
        let seqs: Vec<u64> = group.seqs.iter().map(|(seq, _)| *seq).collect();
        self.report.add(rule, lines, || {
            let name = self.names.text(lobby.name);
            format!("one message of lobby {name} has the seqs {seqs:?}, sent {} times", group.attempts.len())
        });
    }

    /// The body and the kind are those that were sent, unless an edit or a deletion says otherwise.
    fn judge_bodies(&mut self, lobby: &Lobby) {
        let &Words { edited, deleted, .. } = &self.words;
        let is_change = |slot: &&Slot| slot.content.ev == edited || slot.content.ev == deleted;
        let changes: Vec<&Slot> = lobby.slots.values().filter(is_change).collect();
        let edits: HashSet<(u64, u32)> =
            changes.iter().filter_map(|slot| Some((slot.content.of?, slot.body))).collect();
        let gone: HashSet<u64> = changes
            .iter()
            .filter(|slot| slot.content.ev == deleted)
            .filter_map(|slot| slot.content.of)
            .collect();
        let first = lobby.slots.iter().filter(|(_, slot)| slot.group.is_some());
        let seen = first.map(|(seq, slot)| (*seq, slot.body, slot.at.line));
        for (seq, body, line) in seen.chain(lobby.odd_bodies.iter().copied()) {
            let slot = &lobby.slots[&seq];
            let attempts = slot.group.map_or(&[][..], |group| &lobby.groups[group as usize].attempts);
            let mut sends = attempts.iter().map(|send| &lobby.sends[*send as usize]);
            let kind = slot.content.kind;
            let said =
                sends.clone().any(|send| send.body == body && kind.is_none_or(|kind| kind == send.kind));
            let changed = edits.contains(&(seq, body)) || gone.contains(&seq);
            if !said && !changed {
                let sent = sends.next().map_or(0, |send| send.invoked.line);
                self.report.add(Rule::Altered, &[sent, slot.at.line, line], || {
                    format!("seq {seq} of lobby {} is not what was sent", self.names.text(lobby.name))
                });
            }
        }
    }

    /// What one connection sent, each once, has its seqs in the order of sending.
    fn judge_sender_order(&mut self, lobby: &Lobby) {
        for sends in lobby.sends_of.values() {
            let mut last = (0, At::default());
            for send in sends.iter().map(|send| &lobby.sends[*send as usize]) {
                let Some(group) = send.group.map(|group| &lobby.groups[group as usize]) else { continue };
                let ([(seq, line)], [_]) = (&group.seqs[..], &group.attempts[..]) else { continue };
                if *seq < last.0 {
                    self.report.add(Rule::SenderOrder, &[last.1.line, send.invoked.line, *line], || {
                        format!("seq {seq} was sent after seq {} on the same connection", last.0)
                    });
                }
                last = (*seq, send.invoked);
            }
        }
    }

    /// Members along seq: nobody joins twice, and never more than the lobby holds.
    fn judge_members(&mut self, lobby: &Lobby, seqs: &[u64]) {
        let most = lobby.capacities.iter().map(|(_, members)| *members).max();
        for (count, line) in lobby.rosters.iter().filter(|(count, _)| most.is_some_and(|most| *count > most))
        {
            self.report.add(Rule::Capacity, &[*line], || {
                format!("a roster counts {count} members, of {} at most", most.unwrap_or(0))
            });
        }
        let mut members: HashSet<u32> = HashSet::new();
        let mut spectators: HashSet<u32> = HashSet::new();
        let mut next = 1;
        for (seq, slot) in seqs.iter().map(|seq| (*seq, &lobby.slots[seq])) {
            // Behind a hole nobody knows who is a member.
            if seq != next {
                return;
            }
            next = seq.saturating_add(1);
            let Content { ev, user, .. } = slot.content;
            if ev == self.words.closed {
                members.clear();
                spectators.clear();
            }
            let Some(user) = user else { continue };
            if ev == self.words.left || ev == self.words.kicked || ev == self.words.banned {
                members.remove(&user);
                spectators.remove(&user);
            } else if ev == self.words.joined {
                let is_new = if slot.spectator { spectators.insert(user) } else { members.insert(user) };
                let capacity = lobby.capacities.iter().filter(|(from, _)| *from <= seq).max_by_key(|c| c.0);
                if !is_new {
                    self.report.add(Rule::Membership, &[slot.at.line], || {
                        format!("{} joined at seq {seq}, being a member", self.names.text(user))
                    });
                } else if let Some((_, most)) = capacity.filter(|(_, most)| members.len() as u64 > *most) {
                    self.report.add(Rule::Capacity, &[slot.at.line], || {
                        format!("seq {seq} makes {} members, of {most} at most", members.len())
                    });
                }
            }
        }
    }

    fn judge_strays(&mut self, lobby: &Lobby) {
        for (saying, at) in &lobby.strays {
            let sends = lobby.loose.get(saying).map_or(&[][..], Vec::as_slice);
            if !sends.iter().any(|send| lobby.sends[*send as usize].invoked.t <= at.t) {
                self.report.add(Rule::Invented, &[at.line], || {
                    let (user, name) = (self.names.text(saying.0), self.names.text(lobby.name));
                    format!("an unsequenced message in lobby {name} was not sent by {user} before it came")
                });
            }
        }
        for send in lobby.sends.iter().filter(|send| send.heard > 0) {
            let saying = (send.user, send.kind, send.body);
            let alike = lobby.loose.get(&saying).map_or(&[][..], Vec::as_slice);
            if alike.iter().all(|send| is_refused(lobby.sends[*send as usize].outcome)) {
                self.report.add(Rule::RefusedHappened, &[send.invoked.line, send.heard], || {
                    "an unsequenced message was refused and delivered all the same".to_owned()
                });
            }
        }
    }

    /// After a removal's ok nothing with a higher seq, in any stay that began before the removal.
    fn judge_removals(&mut self, number: usize, lobby: &Lobby) {
        for process in &self.processes {
            let Some(removals) = lobby.removals.get(&process.user) else { continue };
            let Some(member) = process.members.get(&number) else { continue };
            for stay in &member.stays {
                let Some((seq, at)) = stay.last else { continue };
                let broken = removals.iter().find(|removal| {
                    let joined = lobby.last_joined.get(&process.user).is_some_and(|last| *last > removal.seq);
                    seq > removal.seq && !lobby.joined_again(process.user, removal, at.t, joined)
                });
                if let Some(removal) = broken {
                    self.report.add(Rule::AfterRemoval, &[removal.ok.line, at.line], || {
                        let user = self.names.text(process.user);
                        format!("{user} was removed at seq {} and got seq {seq}", removal.seq)
                    });
                }
            }
        }
    }

    /// An ordered message reaches everybody it is meant for who stays connected.
    fn judge_losses(&mut self, number: usize, lobby: &Lobby) {
        for process in &self.processes {
            let Some(member) = process.members.get(&number) else { continue };
            let skipped = member.heard.values().flat_map(|heard| &heard.skipped).filter(|skip| skip.is_due);
            let overtaken = skipped.map(|skip| (skip.send, skip.seen));
            let is_accepted = |send: u32, by: u64| matches!(lobby.sends[send as usize].outcome, Outcome::Ok { at, .. } if at.t <= by);
            // A later message shows that it was lost, whenever its ok came.
            let mut lost: Vec<(u32, At)> =
                overtaken.filter(|(send, _)| is_accepted(*send, u64::MAX)).collect();
            if let Some((at, live_since)) = member.settled {
                for (connection, sends) in &lobby.ordered_of {
                    let next = member.heard.get(connection).map_or(0, |heard| heard.next as usize);
                    let rest = sends.get(next..).unwrap_or_default().iter().rev();
                    let live = |send: &&u32| lobby.sends[**send as usize].invoked.t > live_since;
                    let rest = rest.take_while(live).filter(|send| is_accepted(**send, at.t));
                    lost.extend(rest.map(|send| (*send, at)));
                }
            }
            for (send, seen) in lost {
                let send = &lobby.sends[send as usize];
                let is_due = delivery::is_addressed(send, process.user, self.words.host, self.words.others);
                let excused = self.options.allow_ordered_loss
                    || self.excuses.iter().any(|(from, to)| *from <= seen.t && *to >= send.invoked.t);
                self.report.counts.ordered_lost_excused += u64::from(is_due && excused);
                if is_due && !excused {
                    self.report.add(Rule::OrderedLost, &[send.invoked.line, seen.line], || {
                        let name = self.names.text(process.name);
                        format!("{name} was connected and never got an ordered message")
                    });
                }
            }
        }
    }
}

fn is_refused(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Refused { definite: true })
}

impl Lobby {
    fn seqs(&self) -> Vec<u64> {
        let mut seqs: Vec<u64> = self.slots.keys().copied().collect();
        seqs.sort_unstable();
        seqs
    }

    /// Finds the sends of events whose first sight did not tell: seen in the same microsecond but on an earlier
    /// line, or without a nonce and with an edited body.
    fn explain_late(&mut self) {
        let mut bodies: HashMap<u64, Vec<u32>> = HashMap::new();
        for (seq, body, _) in &self.odd_bodies {
            bodies.entry(*seq).or_default().push(*body);
        }
        let mut acked: HashMap<u64, u32> = HashMap::new();
        for ok in &self.acked {
            if let Some(group) = ok.send.and_then(|send| self.sends[send as usize].group) {
                acked.insert(ok.seq, group);
            }
        }
        let mut late = Vec::new();
        for (seq, slot) in self.slots.iter().filter(|(_, slot)| slot.group.is_none()) {
            let (Some(from), kind) = (slot.content.from, slot.content.kind.unwrap_or(0)) else { continue };
            let seen = bodies.get(seq).map_or(&[][..], Vec::as_slice);
            let mut said = std::iter::once(&slot.body).chain(seen);
            let group = said.find_map(|body| self.group_of(slot.nonce, (from, kind, *body), *seq));
            let by_ok = acked.get(seq).copied().filter(|group| {
                let group = &self.groups[*group as usize];
                let is_edited = self.is_edited(*seq);
                is_edited && !group.has_nonce && self.sends[group.attempts[0] as usize].user == from
            });
            late.extend(group.or(by_ok).map(|group| (*seq, group, slot.at.line)));
        }
        for (seq, group, line) in late {
            self.groups[group as usize].assign(seq, line);
            self.slots.entry(seq).and_modify(|slot| slot.group = Some(group));
        }
    }

    fn is_edited(&self, seq: u64) -> bool {
        self.changed.contains(&seq)
    }

    fn first_sent(&self, group: u32) -> u64 {
        let attempts = &self.groups[group as usize].attempts;
        attempts.first().map_or(u64::MAX, |send| self.sends[*send as usize].invoked.t)
    }
}
