//! The rules of saying something: who has a voice, slow mode and word filter, and what may become of a message later.

use std::collections::BTreeMap;
use std::time::Duration;

use mlms_protocol::command::{Recipients, Send};
use mlms_protocol::event::PassingMessage;
use mlms_protocol::lobby::{Member, SLOW_MODE_S_MAX};
use mlms_protocol::{Body, Change, Class, ErrorCode, LobbyCommand, LobbyEvent, Millis, Refusal, Seq, UserId};
use serde::{Deserialize, Serialize};

use super::decide::{PassingEvent, Rules, Target, refuse};
use super::dedupe::Recorded;
use super::filter::WordFilter;
use super::standing::Rank;
use super::{Caller, Decision, Passing, State};

/// Longest reaction, in bytes: one emoji with all its joiners, or a short name.
const EMOJI_BYTES_MAX: usize = 64;

/// When each player last chatted, while the lobby is in slow mode.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Voices {
    last: BTreeMap<UserId, Millis>,
}

impl Voices {
    pub(super) fn apply(&mut self, event: &LobbyEvent, slow_mode_s: u32) {
        match &event.change {
            Change::Message { kind, from: Some(from), .. } if slow_mode_s > 0 && kind.is_chat() => {
                let longest = Duration::from_secs(SLOW_MODE_S_MAX.into());
                self.last.retain(|_, at| at.after(longest) > event.at);
                self.last.insert(from.clone(), event.at);
            }
            Change::Closed { .. } => self.last.clear(),
            _ => {}
        }
    }

    pub(super) fn forget(&mut self, user: &UserId) {
        self.last.remove(user);
    }

    fn check(&self, user: &UserId, slow_mode_s: u32, now: Millis) -> Result<(), Refusal> {
        let Some(last) = self.last.get(user) else { return Ok(()) };
        let again = last.after(Duration::from_secs(slow_mode_s.into()));
        match again.0.saturating_sub(now.0) {
            0 => Ok(()),
            ms => Err(Refusal::new(ErrorCode::SlowMode, "the lobby is in slow mode").retry_after(ms)),
        }
    }
}

fn is_blank(body: &Body) -> bool {
    body.as_text().map_or_else(|| *body == Body::json(&serde_json::Value::Null), |text| text.is_empty())
}

impl State {
    pub(super) fn decide_send(
        &self,
        member: &Member,
        rank: Rank,
        send: &Send,
        now: Millis,
        rules: &Rules,
    ) -> Result<Decision, Refusal> {
        // Who is muted goes on playing.
        self.check_voice(member, rank, !send.kind.is_game(), now)?;
        if send.kind.is_chat() {
            if is_blank(&send.body) {
                return refuse(ErrorCode::BadRequest, "an empty message is a deleted one");
            }
            self.check_words(&send.body, rules)?;
            let slow_mode_s = self.settings.slow_mode_s;
            if slow_mode_s > 0 && rank < Rank::Moderator {
                if send.class != Class::Durable {
                    return refuse(ErrorCode::Forbidden, "in slow mode a chat is durable");
                }
                self.voices.check(&member.user, slow_mode_s, now)?;
            }
        }
        self.retained.check(send)?;
        Ok(self.send_from(Some(&member.user), send, now))
    }

    /// A message from a member, or from the service itself.
    pub(super) fn send_from(&self, from: Option<&UserId>, send: &Send, now: Millis) -> Decision {
        if send.class == Class::Durable {
            let (kind, body) = (send.kind.clone(), send.body.clone());
            let message =
                Change::Message { kind, from: from.cloned(), body, nonce: None, key: send.key.clone() };
            return Decision::Change(vec![message], Recorded::Sent);
        }
        let to = match (&send.to, from) {
            (Recipients::Everyone, _) | (Recipients::Others, None) => Target::Everyone,
            (Recipients::Others, Some(from)) => Target::EveryoneBut(from.clone()),
            (Recipients::Host, _) => Target::Users(self.host.iter().cloned().collect()),
            (Recipients::Users(users), _) => Target::Users(users.clone()),
        };
        let message = PassingMessage {
            lobby: self.lobby.clone(),
            kind: send.kind.clone(),
            from: from.cloned(),
            at: now,
            body: send.body.clone(),
        };
        Decision::Pass(Passing {
            event: PassingEvent::Message(message),
            class: send.class,
            key: send.key.clone(),
            to,
            trace: None,
        })
    }

    pub(super) fn decide_typing(
        &self,
        member: &Member,
        rank: Rank,
        now: Millis,
    ) -> Result<Decision, Refusal> {
        self.check_voice(member, rank, true, now)?;
        let (lobby, user) = (self.lobby.clone(), member.user.clone());
        Ok(Decision::Pass(Passing {
            event: PassingEvent::Typing { lobby, user: user.clone() },
            class: Class::Ephemeral,
            key: Some("typing".to_owned()),
            to: Target::EveryoneBut(user),
            trace: None,
        }))
    }

    /// Whether a member may say something. `talk`: it is not a move of the game.
    fn check_voice(&self, member: &Member, rank: Rank, talk: bool, now: Millis) -> Result<(), Refusal> {
        if rank == Rank::Spectator && !self.settings.spectators_send {
            return refuse(ErrorCode::Forbidden, "spectators only watch");
        }
        if talk { self.restrictions.check_mute(&member.user, now) } else { Ok(()) }
    }

    /// What stood around a message, as far as it is in memory.
    pub(super) fn around(&self, of: Seq, each_side: usize) -> Vec<LobbyEvent> {
        let messages = self.messages();
        let place = messages.partition_point(|message| message.seq < of);
        let behind = place + usize::from(messages.get(place).is_some_and(|message| message.seq == of));
        let before = messages.range(place.saturating_sub(each_side)..place);
        let after = messages.range(behind..(behind + each_side).min(messages.len()));
        before.chain(after).map(|message| LobbyEvent::clone(message)).collect()
    }

    fn check_words(&self, body: &Body, rules: &Rules) -> Result<(), Refusal> {
        let text = body.as_text().unwrap_or_default();
        if rules.words.finds(&text) {
            return refuse(ErrorCode::Rejected, "the service's word filter does not let that through");
        }
        if WordFilter::new(&self.settings.word_filter).finds(&text) {
            return refuse(ErrorCode::Rejected, "the lobby's word filter does not let that through");
        }
        Ok(())
    }

    /// Decides an edit, a deletion or a reaction; `message` is what stands at the seq that it names.
    pub(crate) fn decide_about(
        &self,
        caller: &Caller,
        command: &LobbyCommand,
        message: Option<&std::sync::Arc<LobbyEvent>>,
        now: Millis,
        rules: &Rules,
    ) -> Result<Decision, Refusal> {
        let rank = self.rank(caller);
        let member = self.member(&caller.user);
        let gone = || Refusal::new(ErrorCode::NotFound, "there is no such message");
        let stranger = || Refusal::new(ErrorCode::NotMember, "join the lobby first");
        let Some(event) = message else { return Err(gone()) };
        let Change::Message { kind, from, body, .. } = &event.change else { return Err(gone()) };
        if is_blank(body) {
            return refuse(ErrorCode::NotFound, "the message was deleted");
        }
        let of = event.seq;
        // What the service has said, it may say otherwise.
        let of_system = caller.system && from.is_none();
        let is_author = of_system || (member.is_some() && from.as_ref() == Some(&caller.user));
        let change = match command {
            LobbyCommand::Edit { body, .. } => {
                if !is_author {
                    member.ok_or_else(stranger)?;
                    return refuse(ErrorCode::Forbidden, "only its author edits a message");
                }
                if let Some(member) = member.filter(|_| !of_system) {
                    self.check_voice(member, rank, !kind.is_game(), now)?;
                }
                if is_blank(body) {
                    return refuse(ErrorCode::BadRequest, "an empty message is a deleted one");
                }
                if kind.is_chat() {
                    let Some(text) = body.as_text() else {
                        return refuse(ErrorCode::BadRequest, "the body of a chat must be a string");
                    };
                    if text.len() > rules.limits.chat_bytes_max {
                        return refuse(ErrorCode::TooLarge, "the chat is too long");
                    }
                    if !of_system {
                        self.check_words(body, rules)?;
                    }
                }
                Change::Edited { of, by: caller.user.clone(), body: body.clone() }
            }
            LobbyCommand::Delete { .. } => {
                if !is_author && rank < Rank::Moderator {
                    return refuse(ErrorCode::Forbidden, "only its author and moderators delete a message");
                }
                Change::Deleted { of, by: caller.user.clone() }
            }
            LobbyCommand::React { emoji, .. } => {
                let member = member.ok_or_else(stranger)?;
                self.check_voice(member, rank, true, now)?;
                if emoji.is_empty() || emoji.len() > EMOJI_BYTES_MAX || emoji.chars().any(char::is_control) {
                    return refuse(ErrorCode::BadRequest, "`emoji` must have 1 to 64 bytes, none of control");
                }
                // It may be a word.
                self.check_words(&Body::text(emoji), rules)?;
                Change::Reacted { of, user: caller.user.clone(), emoji: emoji.clone() }
            }
            LobbyCommand::ReportMessage { reason, .. } => {
                return self.decide_report_message(member.ok_or_else(stranger)?, event, reason.as_ref(), now);
            }
            _ => return refuse(ErrorCode::Internal, "it is not about a message"),
        };
        Ok(Decision::Change(vec![change], Recorded::Changed))
    }
}
