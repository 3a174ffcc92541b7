//! Pages of a lobby's history, on the way and at the end.

use super::Judge;
use super::lobby::Final;
use super::process::At;
use crate::record::History;
use crate::rule::Rule;

impl Judge {
    pub(super) fn history(&mut self, at: At, history: &History<'_>) {
        self.report.counts.history_reads += 1;
        let number = self.lobby(&history.lobby);
        let mut next = history.after.saturating_add(1);
        for (index, event) in history.events.iter().enumerate() {
            let Some((seq, epoch)) = event.seq.zip(event.epoch) else {
                self.void(at.line, "has an event without epoch and seq");
                continue;
            };
            if index == 0 && seq > next {
                self.lobbies[number].late_starts.push((next, seq, at.line));
            } else if seq != next {
                self.report.add(Rule::HistoryGap, &[at.line], || {
                    format!("a history has seq {seq} where {next} belongs")
                });
            }
            next = seq.saturating_add(1);
            self.sequenced(number, at, (epoch, seq), event, history.is_final);
        }
        let lobby = &mut self.lobbies[number];
        let acked = lobby.acked_before(history.started);
        if !history.more && !history.is_final && acked.seq >= next {
            self.report.add(Rule::AckedLost, &[acked.line, at.line], || {
                format!("a history ends before seq {}, which got its ok before the reading", acked.seq)
            });
        }
        if history.is_final {
            let first = lobby.last_read.get_or_insert(Final {
                after: history.after,
                started: history.started,
                line: at.line,
            });
            first.after = first.after.min(history.after);
            first.started = first.started.min(history.started);
            first.line = at.line;
        }
    }
}
