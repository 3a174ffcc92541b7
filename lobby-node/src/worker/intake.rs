//! A lobby takes a command or a node's sessions: it decides, applies what follows, and queues what it will say.

use mlms_protocol::command::Join;
use mlms_protocol::reply::Joined;
use mlms_protocol::{Answer, Change, Class, ErrorCode, JoinStatus, LobbyCommand, Millis, Refusal};

use super::live::{AttachTask, Lobby, Output, mark_event, presence_event};
use super::shard::OwnedShard;
use super::speech::Emit;
use super::{Envelope, Origin};
use crate::limiter::Grant;
use crate::lobby::{CommandKey, Decision, MEMBERSHIP_ENDED, Outcome, Recorded};
use crate::node::Node;
use crate::wire::Attaching;

/// Events decided but not committed, in one lobby; beyond it new commands get `overloaded`.
const PENDING_MAX: usize = 4_096;

impl Lobby {
    pub(super) fn take(
        &mut self,
        owned: &mut OwnedShard,
        node: &Node,
        mut envelope: Envelope,
        out: &mut Vec<Emit>,
    ) {
        if envelope.trace.is_some() {
            let _in_log = envelope.begin_owner(node);
            owned.tracing = envelope.traced();
            self.take_any(owned, node, envelope, out);
            owned.tracing = None;
            return;
        }
        self.take_any(owned, node, envelope, out);
    }

    fn take_any(&mut self, owned: &mut OwnedShard, node: &Node, envelope: Envelope, out: &mut Vec<Emit>) {
        let now = node.clock.now().max(self.state.at);
        let sender = envelope.caller.user.clone();
        if let Some(refusal) = self.refused_already(&envelope) {
            let reply = Output::Reply(Err(refusal));
            return self.speak_behind(owned, Some(sender), Some(envelope), vec![reply]);
        }
        if let Some(key) = &envelope.key
            && let Some(outcome) = self.state.outcome(&sender, key, now)
        {
            let reply = match envelope.command {
                // A join that is sent again by its node, as its answer was lost, begins no second membership.
                LobbyCommand::Join(_) if self.state.member(&sender).is_none() => {
                    Err(Refusal::new(ErrorCode::NotMember, MEMBERSHIP_ENDED))
                }
                LobbyCommand::Join(_) => return self.take_new(owned, node, envelope, now, out),
                // Whoever asked did not do this before, and must not believe that it is done now.
                ref command if !outcome.recorded.answers(command) => {
                    Err(Refusal::new(ErrorCode::Conflict, "the nonce is that of another command"))
                }
                _ => Ok(answer_to(&envelope.command, outcome, true)),
            };
            let reply = Output::Reply(reply);
            return self.speak_behind(owned, Some(sender), Some(envelope), vec![reply]);
        }
        if envelope.key.as_ref().is_some_and(|key| self.state.is_reused(&sender, key, now)) {
            let text = "the Idempotency-Key is that of another request";
            let reply = Output::Reply(Err(Refusal::new(ErrorCode::Conflict, text)));
            return self.speak_behind(owned, Some(sender), Some(envelope), vec![reply]);
        }
        if self.pending.len() >= PENDING_MAX {
            let refusal =
                Refusal::new(ErrorCode::Overloaded, "the lobby has too much under way").retry_after(500);
            out.push(Emit::Reply { envelope, outcome: Err(refusal) });
            return;
        }
        self.take_new(owned, node, envelope, now, out);
    }

    /// How an earlier sending of this command was decided that nobody has been told yet, if it was refused. What its
    /// session said behind it may be decided too: it must not be carried out behind that.
    fn refused_already(&self, envelope: &Envelope) -> Option<Refusal> {
        let Origin::Node { node, token, of: Some(of), .. } = &envelope.origin else { return None };
        if *token <= of + 1 {
            // The first sending.
            return None;
        }
        let is_same = |origin: &Origin| matches!(origin, Origin::Node { node: other, of: Some(number), .. } if other == node && number == of);
        let same =
            self.pending.iter().find(|one| one.envelope.as_ref().is_some_and(|one| is_same(&one.origin)))?;
        same.outputs.iter().find_map(|output| match output {
            Output::Reply(Err(refusal)) => Some(refusal.clone()),
            _ => None,
        })
    }

    /// Takes a command that was not carried out before.
    fn take_new(
        &mut self,
        owned: &mut OwnedShard,
        node: &Node,
        envelope: Envelope,
        now: Millis,
        out: &mut Vec<Emit>,
    ) {
        let sender = envelope.caller.user.clone();
        let alone = self.is_alone(&envelope.caller);
        if let LobbyCommand::Join(join) = &envelope.command
            && let Some(lock) = self.state.lock_for(&envelope.caller, join, now)
        {
            let lock = lock.to_owned();
            if let Err(refusal) = self.guesses.may_try(&sender, now) {
                let refusal = self.state.too_many_guesses(join, refusal);
                return self.speak_behind(
                    owned,
                    Some(sender),
                    Some(envelope),
                    vec![Output::Reply(Err(refusal))],
                );
            }
            return out.push(Emit::Try { envelope, lock });
        }
        if let LobbyCommand::Create(_) = envelope.command
            && !self.state.open
            && !envelope.caller.runs_games()
            && let Grant::Later(ms) = node.creates.take(&sender)
        {
            let refusal = Refusal::new(ErrorCode::RateLimited, "too many lobbies created").retry_after(ms);
            return self.speak_behind(owned, Some(sender), Some(envelope), vec![Output::Reply(Err(refusal))]);
        }
        let decision = match &envelope.found {
            None => self.state.decide(&envelope.caller, &envelope.command, alone, now, &node.rules.load()),
            // In memory by now, or as the database has it.
            Some(found) => {
                let message = found.as_ref();
                self.state.decide_about(&envelope.caller, &envelope.command, message, now, &node.rules.load())
            }
        };
        match decision {
            Err(refusal) => {
                self.speak_behind(owned, Some(sender), Some(envelope), vec![Output::Reply(Err(refusal))]);
            }
            Ok(Decision::Pass(passing)) if passing.class == Class::Ordered && self.is_unnamed(owned) => {
                let text = "the lobby has a new node, and members are not attached to it yet";
                let refusal = Refusal::new(ErrorCode::OwnerUnavailable, text).retry_after(500);
                self.speak_behind(owned, Some(sender), Some(envelope), vec![Output::Reply(Err(refusal))]);
            }
            Ok(Decision::Pass(passing)) => {
                node.metrics.messages.of(passing.class).inc();
                self.pass(owned.epoch, passing, Some(envelope), out);
            }
            Ok(Decision::Recall(of)) => {
                let altered = self.state.alterations();
                out.push(Emit::Recall { envelope, of, altered });
            }
            Ok(Decision::Read(seq)) => {
                let told = self.state.mark_read(&sender, seq);
                let mark = self.state.mark_of(&sender);
                let mut outputs = vec![Output::Reply(Ok(Answer::Read(mark)))];
                if let Some(seq) = told {
                    self.reads.insert(sender.clone(), seq);
                    self.reads_unsaved = true;
                    if !self.is_alone(&envelope.caller) {
                        outputs.push(Output::Pass(mark_event(&self.state.lobby, &sender, mark)));
                    }
                }
                self.speak_behind(owned, Some(sender), Some(envelope), outputs);
            }
            Ok(Decision::File(report)) => out.push(Emit::File { envelope, report }),
            Ok(Decision::Forget(changes)) => {
                let LobbyCommand::Forget { user, alias } = &envelope.command else { return };
                // The next entry would take it along.
                self.reads.remove(user);
                let events = self.commit(owned, changes, None, Recorded::Changed, now);
                self.state.forget(user, alias);
                self.speak_behind(owned, None, None, events.into_iter().map(Output::Event).collect());
                out.push(Emit::Forget { envelope });
            }
            Ok(Decision::Look { full }) => {
                let mut state = self.state.view(&sender, |user| self.is_away(user));
                if !full {
                    state.members.clear();
                    state.messages.clear();
                    state.retained.clear();
                }
                let (epoch, seq) = (owned.epoch, self.state.seq);
                let answer = Answer::Look { epoch, seq, state: Box::new(state) };
                self.speak_behind(owned, Some(sender), Some(envelope), vec![Output::Reply(Ok(answer))]);
            }
            Ok(Decision::History(query)) => {
                self.speak_behind(owned, Some(sender), Some(envelope), vec![Output::History(query)]);
            }
            Ok(Decision::Answer(answer)) => {
                let answer = self.complete(answer);
                if let LobbyCommand::Leave = envelope.command {
                    self.detach(&envelope.caller.session, &sender, now);
                }
                self.speak_behind(owned, Some(sender), Some(envelope), vec![Output::Reply(Ok(answer))]);
            }
            Ok(Decision::Change(changes, recorded)) => {
                let key = envelope.key.clone();
                let changes = changes.into_iter().map(|change| with_nonce(change, key.as_ref())).collect();
                if recorded == Recorded::Sent {
                    node.metrics.messages.of(Class::Durable).inc();
                }
                let events = self.commit(owned, changes, key.map(|key| (sender.clone(), key)), recorded, now);
                let last = events.last().expect("a change has at least one event");
                let outcome = Outcome { recorded, epoch: last.epoch, seq: last.seq, at: last.at };
                let mut outputs: Vec<_> = events.into_iter().map(Output::Event).collect();
                outputs.push(Output::Reply(Ok(answer_to(&envelope.command, outcome, false))));
                self.speak_behind(owned, Some(sender), Some(envelope), outputs);
            }
            Ok(Decision::Attach(changes)) => self.join(owned, node, envelope, changes, now),
        }
    }

    fn join(
        &mut self,
        owned: &mut OwnedShard,
        node: &Node,
        envelope: Envelope,
        changes: Vec<Change>,
        now: Millis,
    ) {
        let sender = envelope.caller.user.clone();
        let LobbyCommand::Join(join) = &envelope.command else { return };
        let since = join.since;
        if !self.state.open
            && let Some(ms) = join.create_later_ms
        {
            let refusal = Refusal::new(ErrorCode::RateLimited, "too many lobbies created").retry_after(ms);
            return self.speak_behind(owned, Some(sender), Some(envelope), vec![Output::Reply(Err(refusal))]);
        }
        let mut outputs = Vec::new();
        let joins = !changes.is_empty();
        if joins {
            let key = envelope.key.clone().map(|key| (sender.clone(), key));
            let events = self.commit(owned, changes, key, Recorded::Changed, now);
            outputs.extend(events.into_iter().map(Output::Event));
        }
        let from = match &envelope.origin {
            Origin::Session(..) | Origin::Call(_) => None,
            Origin::Node { node, .. } => Some(node.clone()),
        };
        let was_away = self.attach(&envelope.caller, from.as_ref());
        if was_away && !joins {
            outputs.push(Output::Pass(presence_event(&self.state.lobby, &sender, false)));
        }
        self.empty_since = None;
        let missed = since.and_then(|since| {
            self.state
                .missed_since(since, owned.epoch, &node.rules.load().limits)
                .map(|missed| (since, missed))
        });
        let mark = Some(self.state.mark_of(&sender));
        let joined = match missed {
            Some((since, missed)) => Joined {
                lobby: self.state.lobby.clone(),
                epoch: since.epoch,
                seq: since.seq,
                status: JoinStatus::Resumed,
                missed,
                state: None,
                mark,
            },
            None => Joined {
                lobby: self.state.lobby.clone(),
                epoch: owned.epoch,
                seq: self.state.seq,
                status: if since.is_some() { JoinStatus::Snapshot } else { JoinStatus::Joined },
                missed: 0,
                state: Some(Box::new(self.state.view(&sender, |user| self.is_away(user)))),
                mark,
            },
        };
        node.metrics.joins.with_label_values(&[joined.status.as_str()]).inc();
        outputs.push(Output::Reply(Ok(Answer::Joined(joined))));
        self.speak_behind(owned, Some(sender), Some(envelope), outputs);
    }

    /// Fills in what only the connections know.
    fn complete(&self, mut answer: Answer) -> Answer {
        if let Answer::Roster { members, .. } = &mut answer {
            for member in members {
                member.away = self.is_away(&member.user);
            }
        }
        answer
    }

    pub(super) fn take_attach(&mut self, owned: &mut OwnedShard, node: &Node, task: AttachTask, now: Millis) {
        let from = task.from.as_ref().map(|(name, _)| name.clone());
        let listed = task.sessions.iter().map(|attaching| &attaching.caller.session);
        let listed: Vec<_> = listed.chain(&task.joining).cloned().collect();
        let mut outputs = Vec::new();
        let mut refused = Vec::new();
        for Attaching { caller, .. } in &task.sessions {
            if self.state.member(&caller.user).is_none() {
                let join = LobbyCommand::Join(Join { resumed: true, ..Join::default() });
                match self.state.decide(caller, &join, true, now, &node.rules.load()) {
                    Ok(Decision::Attach(changes)) => {
                        let events = self.commit(owned, changes, None, Recorded::Changed, now);
                        outputs.extend(events.into_iter().map(Output::Event));
                    }
                    Ok(_) => {}
                    Err(refusal) => {
                        refused.push((caller.session.clone(), refusal));
                        continue;
                    }
                }
            }
            if self.attach(caller, from.as_ref()) {
                outputs.push(Output::Pass(presence_event(&self.state.lobby, &caller.user, false)));
            }
        }
        // Sessions that the node does not name any more are gone.
        let gone: Vec<_> = self
            .presence
            .iter()
            .flat_map(|(user, presence)| presence.sessions.iter().map(move |session| (user, session)))
            .filter(|(_, (session, at))| *at == from && !listed.contains(session))
            .map(|(user, (session, _))| (user.clone(), session.clone()))
            .collect();
        for (user, session) in gone {
            if self.detach(&session, &user, now) {
                outputs.push(Output::Pass(presence_event(&self.state.lobby, &user, true)));
            }
        }
        self.empty_since = None;
        outputs.push(Output::Attached(task, refused));
        self.speak_behind(owned, None, None, outputs);
    }
}

fn with_nonce(change: Change, key: Option<&CommandKey>) -> Change {
    let mut change = change;
    if let (Change::Message { nonce, .. }, Some(CommandKey::Nonce(given))) = (&mut change, key) {
        *nonce = Some(given.clone());
    }
    change
}

fn answer_of(outcome: Outcome, dup: bool) -> Answer {
    let Outcome { recorded, epoch, seq, at } = outcome;
    match recorded {
        Recorded::Sent => Answer::Sent { epoch, seq, at, dup },
        Recorded::Changed => Answer::Changed { seq, game: None },
        Recorded::Game(game) => Answer::Changed { seq, game: Some(game) },
        Recorded::Done => Answer::Done,
    }
}

fn answer_to(command: &LobbyCommand, outcome: Outcome, dup: bool) -> Answer {
    match command {
        LobbyCommand::Invite(invite) => Answer::Invited { seq: outcome.seq, invite: invite.secret.clone() },
        _ => answer_of(outcome, dup),
    }
}
