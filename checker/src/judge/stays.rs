//! A process in a lobby: it enters at a position, has caught up, and is there when everything has settled.

use super::lobby::Entered;
use super::process::{At, Stay};
use super::{Judge, Status};
use crate::record::{Entry, Position};
use crate::rule::Rule;

impl Judge {
    pub(super) fn entered(&mut self, index: usize, at: At, entry: &Entry<'_>, status: Status) {
        let resumed = status == Status::Resumed;
        let number = self.lobby(&entry.lobby);
        let call = entry.call.and_then(|call| self.close_call(index, at, call));
        let position = Position { epoch: entry.epoch, seq: entry.seq };
        let lobby = &mut self.lobbies[number];
        let process = &mut self.processes[index];
        let member = process.members.entry(number).or_default();
        let had_position = member.chain.position().is_some();
        let result = if resumed {
            self.report.counts.resumes += 1;
            member.chain.resumed(position, entry.missed, call.as_ref().and_then(|call| call.since))
        } else {
            self.report.counts.snapshots += u64::from(had_position && status == Status::Snapshot);
            lobby.positions.push((entry.seq, entry.epoch, at.line));
            member.chain.entered(position)
        };
        if let Err(fault) = result {
            self.report.add(fault.rule, &[member.last_line, at.line], || fault.text);
        } else if let Some(call) = call.as_ref().filter(|call| !resumed && call.floor.seq > entry.seq) {
            self.report.add(Rule::StaleRead, &[call.floor.line, call.invoked.line, at.line], || {
                let known = call.floor.seq;
                format!("entered at seq {}, but seq {known} was known before it was asked for", entry.seq)
            });
        }
        let asked = call.map_or(at, |call| call.invoked);
        member.asked = asked;
        member.leave = member.leave.filter(|leave| *leave > asked);
        member.left = member.left.filter(|left| left.asked > asked);
        member.live_since = if resumed { u64::MAX } else { at.t };
        member.last_line = at.line;
        member.stays.push(Stay { seq: entry.seq, last: None });
        let entered = Entered { t: at.t, seq: entry.seq, resumed };
        lobby.entries.entry(process.user).or_default().push(entered);
    }

    pub(super) fn caught_up(&mut self, index: usize, at: At, lobby: &str, seq: u64) {
        let number = self.lobby(lobby);
        let member = self.processes[index].members.entry(number).or_default();
        if member.left.is_some() {
            return;
        }
        match member.chain.caught_up(seq) {
            Ok(missed) => self.report.counts.resume_gaps += u64::from(missed > 0),
            Err(fault) => self.report.add(fault.rule, &[member.last_line, at.line], || fault.text),
        }
        member.live_since = at.t;
    }

    pub(super) fn settled(&mut self, index: usize, at: At) {
        let process = &mut self.processes[index];
        for (number, member) in process.members.iter_mut().filter(|(_, member)| member.chain.is_in()) {
            let lobby = &self.lobbies[*number];
            let Some(stay) = member.stays.last().filter(|_| member.leave.is_none()) else { continue };
            // Another process of the user may have joined again since: this one is no longer in.
            let end = lobby.end_after(process.user, stay.seq);
            let has_ended = end.is_some();
            let known = lobby.knowledge.before(at.t);
            let due = end.map_or(known.seq, |end| known.seq.min(end));
            let reached = member.chain.position().map_or(0, |position| position.seq);
            if reached < due {
                self.report.add(Rule::Incomplete, &[member.last_line, known.line, at.line], || {
                    let (process, lobby) = (self.names.text(process.name), self.names.text(lobby.name));
                    format!("{process} ended at seq {reached} of lobby {lobby}, which had reached seq {due}")
                });
            } else if !member.chain.is_live() && !has_ended {
                self.report.add(Rule::CaughtUp, &[member.last_line, at.line], || {
                    "a resume was never followed by caught_up".to_owned()
                });
            }
            if !has_ended {
                member.settled = Some((at, member.live_since));
            }
        }
    }
}
