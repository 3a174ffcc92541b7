//! What a command would do to a lobby. One line a command; each rule is a function below.

use std::sync::Arc;
use std::time::Duration;

use mlms_protocol::command::{History, Join};
use mlms_protocol::event::{PassingMessage, ReadMark};
use mlms_protocol::lobby::{HostPolicy, Member};
use mlms_protocol::{
    Answer, Change, Class, ErrorCode, Event, Limits, LobbyCommand, LobbyId, MemberRole, Millis, Refusal,
    Role, Seq, TraceParent, UserId,
};
use mlms_store::MessageReport;
use serde::{Deserialize, Serialize};

use super::dedupe::Recorded;
use super::filter::WordFilter;
use super::standing::Rank;
use super::{Caller, MEMBERSHIP_ENDED, State};

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
    /// Words that no lobby lets through, whatever its own list says.
    pub words: Arc<WordFilter>,
    /// No lobby is created, for this reason.
    pub maintenance: Option<Arc<str>>,
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
    Typing {
        lobby: LobbyId,
        user: UserId,
    },
    /// To the user's other sessions.
    Read {
        lobby: LobbyId,
        user: UserId,
        mark: ReadMark,
    },
    Away {
        lobby: LobbyId,
        user: UserId,
    },
    Back {
        lobby: LobbyId,
        user: UserId,
    },
    Saved {
        lobby: LobbyId,
        seq: Seq,
    },
}

impl PassingEvent {
    pub(crate) fn from(&self) -> Option<&UserId> {
        match self {
            PassingEvent::Message(message) => message.from.as_ref(),
            PassingEvent::Typing { user, .. } | PassingEvent::Read { user, .. } => Some(user),
            PassingEvent::Away { .. } | PassingEvent::Back { .. } | PassingEvent::Saved { .. } => None,
        }
    }

    /// Whose words the event carries, unless they are moves of a game.
    pub(crate) fn speaker(&self) -> Option<&UserId> {
        match self {
            PassingEvent::Message(message) if message.kind.is_game() => None,
            PassingEvent::Message(message) => message.from.as_ref(),
            PassingEvent::Typing { user, .. } => Some(user),
            _ => None,
        }
    }

    pub(crate) fn into_event(self) -> Event {
        match self {
            PassingEvent::Message(message) => Event::Message(message),
            PassingEvent::Typing { lobby, user } => Event::Typing { lobby, user },
            PassingEvent::Read { lobby, user, mark } => Event::Read { lobby, user, mark },
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
    /// Of the command that it came with, if that is traced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceParent>,
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
    /// Nothing changes; the lobby is shown as it is, its members and messages only to who may see them.
    Look { full: bool },
    /// The caller has read up to here.
    Read(Seq),
    /// A message is brought to the moderators' notice: the answer comes when they can find it.
    File(Box<MessageReport>),
    /// Events that name nobody, and behind them the caller's user is forgotten, in memory and in the journal: the
    /// answer comes when it is.
    Forget(Vec<Change>),
    /// The message of this seq is not in memory: it is asked for again with what the database has.
    Recall(Seq),
    /// Nothing changes.
    Answer(Answer),
}

pub(super) fn refuse<T>(code: ErrorCode, message: &str) -> Result<T, Refusal> {
    Err(Refusal::new(code, message))
}

/// A lobby that is hidden from somebody is none.
pub(super) fn no_such_lobby() -> Refusal {
    Refusal::new(ErrorCode::NotFound, "there is no such lobby; `create` makes it")
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
        match command {
            LobbyCommand::Join(join) => return self.decide_join(caller, join, now, rules),
            LobbyCommand::Create(create) => return self.decide_create(caller, create, rules),
            LobbyCommand::Forget { user, .. } => return self.decide_forget(caller, user),
            _ => {}
        }
        let rank = self.rank(caller);
        let hidden = self.is_hidden() && rank == Rank::Outsider;
        if !self.open {
            return match self.seq.0 {
                0 => Err(no_such_lobby()),
                _ if hidden => Err(no_such_lobby()),
                _ => refuse(ErrorCode::LobbyClosed, "the lobby is closed"),
            };
        }
        if rank == Rank::Outsider {
            return match command {
                _ if hidden => Err(no_such_lobby()),
                LobbyCommand::Look => Ok(Decision::Look { full: false }),
                _ => refuse(ErrorCode::NotMember, "join the lobby first"),
            };
        }
        if caller.expects.is_some_and(|seq| seq != self.seq) {
            return refuse(ErrorCode::Conflict, "the lobby has changed");
        }
        let member = || {
            let member = self.member(&caller.user);
            member.ok_or_else(|| Refusal::new(ErrorCode::NotMember, "join the lobby first"))
        };
        match command {
            LobbyCommand::Leave => Ok(self.decide_leave(member()?, alone)),
            LobbyCommand::Send(send) if caller.system => {
                self.retained.check(send)?;
                Ok(self.send_from(None, send, now))
            }
            LobbyCommand::Send(send) => self.decide_send(member()?, rank, send, now, rules),
            LobbyCommand::Typing => self.decide_typing(member()?, rank, now),
            LobbyCommand::Look => Ok(Decision::Look { full: true }),
            LobbyCommand::Update(update) => self.decide_update(caller, rank, update, rules),
            LobbyCommand::Invite(invite) => self.decide_invite(caller, rank, invite, now),
            LobbyCommand::Read { seq } => member().map(|_| Decision::Read(*seq)),
            LobbyCommand::Edit { seq, .. }
            | LobbyCommand::Delete { seq }
            | LobbyCommand::ReportMessage { seq, .. }
            | LobbyCommand::React { seq, .. } => match self.event(*seq) {
                Some(event) => self.decide_about(caller, command, Some(event), now, rules),
                None if *seq > self.seq || *seq <= self.floor => {
                    self.decide_about(caller, command, None, now, rules)
                }
                None => Ok(Decision::Recall(*seq)),
            },
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
            LobbyCommand::Join(_) | LobbyCommand::Create(_) | LobbyCommand::Forget { .. } => {
                refuse(ErrorCode::Internal, "it was decided before")
            }
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
        if join.again {
            return refuse(ErrorCode::NotMember, MEMBERSHIP_ENDED);
        }
        let mut changes = Vec::new();
        let mut used = None;
        let settings = if self.open {
            used = self.check_entry(caller, join, now)?;
            &self.settings
        } else {
            let Some(settings) = &join.create else {
                return match self.seq.0 {
                    0 => Err(no_such_lobby()),
                    _ if self.is_hidden() && self.rank(caller) == Rank::Outsider => Err(no_such_lobby()),
                    _ => refuse(ErrorCode::LobbyClosed, "the lobby is closed; `create` opens a new one"),
                };
            };
            changes.extend(Self::creation(caller, settings, join.lock.as_ref(), rules)?);
            settings
        };
        let capacity = settings.capacity.map_or(usize::MAX, |capacity| capacity as usize);
        if self.members_total() >= capacity.min(rules.limits.members_per_lobby_max) {
            return Err(Refusal::new(ErrorCode::LobbyFull, "the lobby is full").retry_after(5_000));
        }
        let wanted = join.role.unwrap_or(MemberRole::Player);
        let may_host = !self.open
            || match self.settings.host_policy {
                HostPolicy::Oldest => true,
                HostPolicy::Listed => self.settings.hosts.contains(&caller.user),
                HostPolicy::Manual => false,
            };
        let hosts = self.host.is_none() && wanted == MemberRole::Player && may_host;
        let role = if hosts { MemberRole::Host } else { wanted };
        let user = caller.user.clone();
        if let Some(invite) = used {
            changes.push(Change::InviteUsed { invite, user: user.clone() });
        }
        changes.push(Change::Joined { user, name: caller.name.clone(), role });
        Ok(Decision::Attach(changes))
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
        let closed = Change::Closed { by: caller.by(), reason: None };
        Ok(Decision::Change(vec![closed], Recorded::Changed))
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
