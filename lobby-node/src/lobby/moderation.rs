//! The rules of moderation: who may put out, ban, mute and promote whom, and the memory of it. Every member sees a
//! decision at the same place in the lobby's events.

use std::collections::BTreeMap;

use mlms_protocol::command::{Moderate, Moderation};
use mlms_protocol::{Change, ErrorCode, LobbyEvent, MemberRole, Millis, Refusal, Seq, UserId};
use serde::{Deserialize, Serialize};

use super::decide::refuse;
use super::dedupe::Recorded;
use super::standing::Rank;
use super::{Caller, Decision, State};

/// Users whom one lobby bans, and whom it mutes, at most: the state is kept in memory and in every snapshot.
const RESTRICTED_MAX: usize = 10_000;
/// Put-out users whom a lobby remembers; beyond it the longest ago are forgotten.
const PUT_OUT_MAX: usize = 1_024;
/// Longest time of a ban or mute: ten years. Without a time it is for ever.
const FOR_S_MAX: u64 = 10 * 365 * 24 * 3_600;
/// Longest reason, in characters.
const REASON_CHARS_MAX: usize = 200;

/// Who is kept out or silent, and who was put out since they last came in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Restrictions {
    /// Until when; `None`: for ever. What has run out is forgotten when the room is needed.
    bans: BTreeMap<UserId, Option<Millis>>,
    mutes: BTreeMap<UserId, Option<Millis>>,
    /// Those who were kicked or banned, with the event, until they join again by themselves.
    put_out: BTreeMap<UserId, Seq>,
}

/// Whether something that holds until then still holds.
fn holds(until: Option<Millis>, now: Millis) -> bool {
    until.is_none_or(|until| until > now)
}

fn insert(map: &mut BTreeMap<UserId, Option<Millis>>, user: &UserId, until: Option<Millis>, now: Millis) {
    if map.len() >= RESTRICTED_MAX {
        map.retain(|_, until| holds(*until, now));
    }
    map.insert(user.clone(), until);
}

fn is_full(map: &BTreeMap<UserId, Option<Millis>>, now: Millis) -> bool {
    map.len() >= RESTRICTED_MAX && map.values().all(|until| holds(*until, now))
}

fn check(
    map: &BTreeMap<UserId, Option<Millis>>,
    user: &UserId,
    now: Millis,
    refusal: Refusal,
) -> Result<(), Refusal> {
    match map.get(user) {
        Some(until) if holds(*until, now) => {
            Err(Refusal { retry_ms: until.map(|until| until.0.saturating_sub(now.0)), ..refusal })
        }
        _ => Ok(()),
    }
}

impl Restrictions {
    pub(super) fn apply(&mut self, event: &LobbyEvent) {
        match &event.change {
            Change::Joined { user, .. } => _ = self.put_out.remove(user),
            Change::Kicked { user, .. } => self.note_put_out(user, event.seq),
            Change::Banned { user, until, .. } => {
                insert(&mut self.bans, user, *until, event.at);
                self.note_put_out(user, event.seq);
            }
            Change::Unbanned { user, .. } => _ = self.bans.remove(user),
            Change::Muted { user, until, .. } => insert(&mut self.mutes, user, *until, event.at),
            Change::Unmuted { user, .. } => _ = self.mutes.remove(user),
            Change::Closed { .. } => *self = Restrictions::default(),
            _ => {}
        }
    }

    fn note_put_out(&mut self, user: &UserId, seq: Seq) {
        self.put_out.insert(user.clone(), seq);
        if self.put_out.len() > PUT_OUT_MAX {
            let oldest = self.put_out.iter().min_by_key(|(_, seq)| **seq).map(|(user, _)| user.clone());
            oldest.map(|user| self.put_out.remove(&user));
        }
    }

    pub(super) fn check_ban(&self, user: &UserId, now: Millis) -> Result<(), Refusal> {
        check(&self.bans, user, now, Refusal::new(ErrorCode::Banned, "you are banned from the lobby"))
    }

    pub(super) fn check_mute(&self, user: &UserId, now: Millis) -> Result<(), Refusal> {
        check(&self.mutes, user, now, Refusal::new(ErrorCode::Muted, "you are muted in the lobby"))
    }

    /// Whether the user's last membership was ended by somebody else.
    pub(super) fn was_put_out(&self, user: &UserId) -> bool {
        self.put_out.contains_key(user)
    }
}

impl State {
    pub(super) fn decide_moderate(
        &self,
        caller: &Caller,
        rank: Rank,
        moderate: &Moderate,
        now: Millis,
    ) -> Result<Decision, Refusal> {
        let Moderate { action, user, for_s, reason } = moderate;
        if reason.as_ref().is_some_and(|reason| reason.chars().count() > REASON_CHARS_MAX) {
            return refuse(ErrorCode::BadRequest, "`reason` has at most 200 characters");
        }
        let until = match for_s {
            None => None,
            Some(1..=FOR_S_MAX) => for_s.map(|for_s| now.after(std::time::Duration::from_secs(for_s))),
            Some(_) => return refuse(ErrorCode::BadRequest, "`for_s` must be 1 to 315360000 seconds"),
        };
        let changes = match action {
            Moderation::Transfer => self.transfer(caller, rank, user)?,
            Moderation::Role(role) => self.assign(caller, rank, user, *role)?,
            action => {
                if rank < Rank::Moderator {
                    return refuse(ErrorCode::Forbidden, "only moderators and the host may do that");
                }
                if !caller.system && (rank <= self.rank_of(user) || *user == caller.user) {
                    return refuse(ErrorCode::Forbidden, "that is not yours to do to this user");
                }
                self.restrict(caller, *action, user, until, reason.clone(), now)?
            }
        };
        Ok(Decision::Change(changes, Recorded::Changed))
    }

    fn restrict(
        &self,
        caller: &Caller,
        action: Moderation,
        user: &UserId,
        until: Option<Millis>,
        reason: Option<String>,
        now: Millis,
    ) -> Result<Vec<Change>, Refusal> {
        let by = caller.by();
        let is_member = self.member(user).is_some();
        let user = user.clone();
        let Restrictions { bans, mutes, .. } = &self.restrictions;
        let full = |map| match is_full(map, now) {
            true => refuse(ErrorCode::Conflict, "the lobby's list is full; take somebody off it"),
            false => Ok(()),
        };
        let listed = |map: &BTreeMap<UserId, Option<Millis>>| match map.get(&user) {
            Some(until) if holds(*until, now) => Ok(()),
            _ => refuse(ErrorCode::NotFound, "the user is not on the lobby's list"),
        };
        let change = match action {
            Moderation::Kick if !is_member => {
                return refuse(ErrorCode::NotFound, "the user is not a member");
            }
            Moderation::Kick => {
                let departs = Change::Kicked { user: user.clone(), by, reason };
                return Ok(self.departing(&user, departs));
            }
            Moderation::Ban => {
                full(bans)?;
                let departs = Change::Banned { user: user.clone(), by, until, reason };
                return Ok(if is_member { self.departing(&user, departs) } else { vec![departs] });
            }
            Moderation::Mute => {
                full(mutes)?;
                Change::Muted { user, by, until, reason }
            }
            Moderation::Unban => {
                listed(bans)?;
                Change::Unbanned { user, by }
            }
            Moderation::Unmute => {
                listed(mutes)?;
                Change::Unmuted { user, by }
            }
            Moderation::Transfer | Moderation::Role(_) => unreachable!("they have rules of their own"),
        };
        Ok(vec![change])
    }

    fn transfer(&self, caller: &Caller, rank: Rank, user: &UserId) -> Result<Vec<Change>, Refusal> {
        if rank < Rank::Host {
            return refuse(ErrorCode::Forbidden, "only the host hands the lobby over");
        }
        match self.rank_of(user) {
            Rank::Outsider => refuse(ErrorCode::NotFound, "the user is not a member"),
            Rank::Host => refuse(ErrorCode::Conflict, "the user is the host already"),
            _ => Ok(vec![Change::HostChanged { user: Some(user.clone()), by: caller.by() }]),
        }
    }

    /// Hosts make moderators; moderators say who plays and who watches; everybody may step back to watching.
    fn assign(
        &self,
        caller: &Caller,
        rank: Rank,
        user: &UserId,
        role: MemberRole,
    ) -> Result<Vec<Change>, Refusal> {
        if role == MemberRole::Host {
            return refuse(ErrorCode::BadRequest, "`transfer` makes a host");
        }
        let steps_back = *user == caller.user && role == MemberRole::Spectator;
        if rank < Rank::Moderator && !steps_back {
            return refuse(ErrorCode::Forbidden, "only moderators and the host may do that");
        }
        let Some(member) = self.member(user) else {
            return refuse(ErrorCode::NotFound, "the user is not a member");
        };
        let allowed = match rank {
            _ if member.role == MemberRole::Host => false,
            _ if steps_back => true,
            rank => rank > member.role.into() && rank > role.into(),
        };
        if !allowed {
            return refuse(ErrorCode::Forbidden, "that is not yours to do to this user");
        }
        let change = Change::Updated {
            by: caller.by(),
            settings: None,
            user: Some(user.clone()),
            role: Some(role),
            attributes: None,
        };
        Ok(vec![change])
    }
}
