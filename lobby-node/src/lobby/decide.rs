//! What a command would do to a lobby. One line a command; each rule is a function below.

use std::sync::Arc;
use std::time::Duration;

use mlms_protocol::command::{History, Join, Recipients, Send};
use mlms_protocol::event::PassingMessage;
use mlms_protocol::lobby::Member;
use mlms_protocol::{
    Answer, Change, Class, ErrorCode, Event, Limits, LobbyCommand, LobbyId, MemberRole, Millis, Refusal,
    Role, Seq, UserId,
};
use serde::{Deserialize, Serialize};

use super::dedupe::Recorded;
use super::standing::Rank;
use super::{Caller, State};

/// What a deployment allows in its lobbies.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub limits: Arc<Limits>,
    /// How long a member whose connection is lost stays one.
    pub grace: Duration,
    /// How long an empty lobby stays in memory.
    pub empty_ttl: Duration,
    /// Who may create lobbies; `None`: everybody.
    pub creators: Option<Vec<Role>>,
}

/// Whom an unsequenced event is for, among the members who are connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Target {
    Everyone,
    EveryoneBut(UserId),
    Users(Vec<UserId>),
    /// Sessions that asked for `saved`.
    Savers,
}

/// What passes through a lobby without a seq.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum PassingEvent {
    Message(PassingMessage),
    Typing { lobby: LobbyId, user: UserId },
    Away { lobby: LobbyId, user: UserId },
    Back { lobby: LobbyId, user: UserId },
    Saved { lobby: LobbyId, seq: Seq },
}

impl PassingEvent {
    pub(crate) fn from(&self) -> Option<&UserId> {
        match self {
            PassingEvent::Message(message) => message.from.as_ref(),
            PassingEvent::Typing { user, .. } => Some(user),
            PassingEvent::Away { .. } | PassingEvent::Back { .. } | PassingEvent::Saved { .. } => None,
        }
    }

    pub(crate) fn into_event(self) -> Event {
        match self {
            PassingEvent::Message(message) => Event::Message(message),
            PassingEvent::Typing { lobby, user } => Event::Typing { lobby, user },
            PassingEvent::Away { lobby, user } => Event::Away { lobby, user },
            PassingEvent::Back { lobby, user } => Event::Back { lobby, user },
            PassingEvent::Saved { lobby, seq } => Event::Saved { lobby, seq },
        }
    }
}

/// An unsequenced event on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Passing {
    pub event: PassingEvent,
    pub class: Class,
    /// Latest wins, per sender.
    pub key: Option<String>,
    pub to: Target,
}

/// What a command comes to.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Events to be journaled; the answer follows from the last of them.
    Change(Vec<Change>, Recorded),
    /// An event that passes through.
    Pass(Passing),
    /// The caller is, or becomes, attached: changes may be none when it is a member already.
    Attach(Vec<Change>),
    /// Nothing changes; the events are read when the answer may be given.
    History(History),
    /// Nothing changes.
    Answer(Answer),
}

pub(super) fn refuse<T>(code: ErrorCode, message: &str) -> Result<T, Refusal> {
    Err(Refusal::new(code, message))
}

impl State {
    /// Decides one command. `alone`: the caller's user has no other session in the lobby.
    ///
    /// # Errors
    /// The refusal, as the caller sees it.
    pub(crate) fn decide(
        &self,
        caller: &Caller,
        command: &LobbyCommand,
        alone: bool,
        now: Millis,
        rules: &Rules,
    ) -> Result<Decision, Refusal> {
        if let LobbyCommand::Join(join) = command {
            return self.decide_join(caller, join, now, rules);
        }
        if !self.open {
            return match self.seq.0 {
                0 => refuse(ErrorCode::NotFound, "there is no such lobby"),
                _ => refuse(ErrorCode::LobbyClosed, "the lobby is closed"),
            };
        }
        let rank = self.rank(caller);
        if rank == Rank::Outsider {
            return refuse(ErrorCode::NotMember, "join the lobby first");
        }
        let member = || {
            let member = self.member(&caller.user);
            member.ok_or_else(|| Refusal::new(ErrorCode::NotMember, "join the lobby first"))
        };
        match command {
            LobbyCommand::Leave => Ok(self.decide_leave(member()?, alone)),
            LobbyCommand::Send(send) => self.decide_send(member()?, send, now),
            LobbyCommand::Typing => self.decide_typing(member()?, now),
            LobbyCommand::History(history) => Ok(Decision::History(*history)),
            LobbyCommand::Roster { cursor, limit } => self.decide_roster(cursor.as_deref(), *limit),
            LobbyCommand::Close => self.decide_close(caller, rank),
            LobbyCommand::Ready { ready } => Self::decide_ready(member()?, *ready),
            LobbyCommand::Start => self.decide_start(caller),
            LobbyCommand::Report { stat, amount, user } => {
                self.decide_report(caller, stat, *amount, user.as_ref())
            }
            LobbyCommand::Finish { results } => self.decide_finish(caller, results.as_ref()),
            LobbyCommand::Moderate(moderate) => self.decide_moderate(caller, rank, moderate, now),
            other => Err(Refusal::new(ErrorCode::UnknownOp, format!("`{}` is not offered yet", other.op()))),
        }
    }

    fn decide_join(
        &self,
        caller: &Caller,
        join: &Join,
        now: Millis,
        rules: &Rules,
    ) -> Result<Decision, Refusal> {
        if self.member(&caller.user).is_some() {
            return Ok(Decision::Attach(Vec::new()));
        }
        let mut changes = Vec::new();
        let settings = if self.open {
            self.check_entry(caller, join, now)?;
            &self.settings
        } else {
            let Some(settings) = &join.create else {
                return match self.seq.0 {
                    0 => refuse(ErrorCode::NotFound, "there is no such lobby; `create` makes it"),
                    _ => refuse(ErrorCode::LobbyClosed, "the lobby is closed; `create` opens a new one"),
                };
            };
            let may = rules.creators.as_ref().is_none_or(|roles| roles.iter().any(|role| caller.has(*role)));
            if !may {
                return refuse(ErrorCode::Forbidden, "you may not create lobbies here");
            }
            settings
                .check(rules.limits.members_per_lobby_max)
                .map_err(|why| Refusal::new(ErrorCode::BadRequest, why))?;
            changes.push(Change::Updated {
                by: Some(caller.user.clone()),
                settings: Some(settings.clone()),
                user: None,
                role: None,
                attributes: None,
            });
            settings
        };
        let capacity = settings.capacity.map_or(usize::MAX, |capacity| capacity as usize);
        if self.members_total() >= capacity.min(rules.limits.members_per_lobby_max) {
            return Err(Refusal::new(ErrorCode::LobbyFull, "the lobby is full").retry_after(5_000));
        }
        let wanted = join.role.unwrap_or(MemberRole::Player);
        let role =
            if self.host.is_none() && wanted == MemberRole::Player { MemberRole::Host } else { wanted };
        changes.push(Change::Joined { user: caller.user.clone(), name: caller.name.clone(), role });
        Ok(Decision::Attach(changes))
    }

    /// Whether somebody who is no member may come in, as far as there is room.
    fn check_entry(&self, caller: &Caller, join: &Join, now: Millis) -> Result<(), Refusal> {
        self.restrictions.check_ban(&caller.user, now)?;
        if join.resumed && self.restrictions.was_put_out(&caller.user) {
            return refuse(ErrorCode::NotMember, "you were put out of the lobby; join again");
        }
        let plays = join.role.unwrap_or(MemberRole::Player) != MemberRole::Spectator;
        if self.game.is_some() && plays && !self.settings.join_in_progress {
            let refusal = Refusal::new(ErrorCode::Conflict, "a game is under way; join as a spectator");
            return Err(refusal.retry_after(5_000));
        }
        Ok(())
    }

    /// What the departure of a member brings about: a new host, or the end of the lobby.
    pub(crate) fn departure(&self, user: &UserId, reason: Option<&str>) -> Vec<Change> {
        self.departing(user, Change::Left { user: user.clone(), reason: reason.map(str::to_owned) })
    }

    /// Like [`State::departure`], for whatever event ends the membership.
    pub(super) fn departing(&self, user: &UserId, departs: Change) -> Vec<Change> {
        let mut changes = vec![departs];
        if self.members_total() == 1 && self.settings.close_when_empty {
            changes.push(Change::Closed { by: None, reason: Some("empty".to_owned()) });
        } else if self.host.as_ref() == Some(user) {
            changes.push(Change::HostChanged { user: self.next_host(user).cloned(), by: None });
        }
        changes
    }

    fn decide_leave(&self, member: &Member, alone: bool) -> Decision {
        if alone {
            Decision::Change(self.departure(&member.user, None), Recorded::Done)
        } else {
            Decision::Answer(Answer::Done)
        }
    }

    fn decide_close(&self, caller: &Caller, rank: Rank) -> Result<Decision, Refusal> {
        if rank < Rank::Host {
            return refuse(ErrorCode::Forbidden, "only the host closes the lobby");
        }
        let closed = Change::Closed { by: Some(caller.user.clone()), reason: None };
        Ok(Decision::Change(vec![closed], Recorded::Changed))
    }

    fn decide_send(&self, member: &Member, send: &Send, now: Millis) -> Result<Decision, Refusal> {
        // Who is muted goes on playing.
        self.check_voice(member, !send.kind.is_game(), now)?;
        let from = Some(member.user.clone());
        if send.class == Class::Durable {
            let message =
                Change::Message { kind: send.kind.clone(), from, body: send.body.clone(), nonce: None };
            return Ok(Decision::Change(vec![message], Recorded::Sent));
        }
        let to = match &send.to {
            Recipients::Everyone => Target::Everyone,
            Recipients::Others => Target::EveryoneBut(member.user.clone()),
            Recipients::Host => Target::Users(self.host.iter().cloned().collect()),
            Recipients::Users(users) => Target::Users(users.clone()),
        };
        let message = PassingMessage {
            lobby: self.lobby.clone(),
            kind: send.kind.clone(),
            from,
            at: now,
            body: send.body.clone(),
        };
        Ok(Decision::Pass(Passing {
            event: PassingEvent::Message(message),
            class: send.class,
            key: send.key.clone(),
            to,
        }))
    }

    fn decide_typing(&self, member: &Member, now: Millis) -> Result<Decision, Refusal> {
        self.check_voice(member, true, now)?;
        let (lobby, user) = (self.lobby.clone(), member.user.clone());
        Ok(Decision::Pass(Passing {
            event: PassingEvent::Typing { lobby, user: user.clone() },
            class: Class::Ephemeral,
            key: Some("typing".to_owned()),
            to: Target::EveryoneBut(user),
        }))
    }

    /// Whether a member may say something. `talk`: it is not a move of the game.
    fn check_voice(&self, member: &Member, talk: bool, now: Millis) -> Result<(), Refusal> {
        if member.role == MemberRole::Spectator {
            return refuse(ErrorCode::Forbidden, "spectators only watch");
        }
        if talk { self.restrictions.check_mute(&member.user, now) } else { Ok(()) }
    }

    fn decide_roster(&self, cursor: Option<&str>, limit: Option<u32>) -> Result<Decision, Refusal> {
        let limit = limit.unwrap_or(mlms_protocol::command::ROSTER_LIMIT_MAX);
        if limit == 0 || limit > mlms_protocol::command::ROSTER_LIMIT_MAX {
            return refuse(ErrorCode::BadRequest, "`limit` must be 1 to 100");
        }
        let place = cursor.map(str::parse).transpose();
        let Ok(place) = place else {
            return refuse(ErrorCode::BadRequest, "`cursor` is not one of this lobby");
        };
        let mut members = self.members_after(place);
        let page: Vec<_> = members.by_ref().take(limit as usize).collect();
        let next = members.next().and_then(|_| page.last().map(|(place, _)| place.to_string()));
        let members = page.into_iter().map(|(_, member)| member.clone()).collect();
        Ok(Decision::Answer(Answer::Roster { members, next }))
    }
}
