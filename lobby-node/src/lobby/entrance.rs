//! The rules of coming in: who may create, who sees a private lobby, what a password or an invite opens.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use mlms_protocol::command::{Create, Invite, Join, Lock};
use mlms_protocol::lobby::{Settings, Visibility};
use mlms_protocol::{Change, ErrorCode, LobbyEvent, MemberRole, Millis, Refusal};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::decide::{Rules, no_such_lobby, refuse};
use super::dedupe::Recorded;
use super::standing::Rank;
use super::{Caller, Decision, State};

/// Invites of one lobby that are good at once.
const INVITES_MAX: usize = 100;
/// Most uses of one invite, and its longest life: a year.
const USES_MAX: u32 = 10_000;
const FOR_S_MAX: u64 = 365 * 24 * 3_600;
/// When to try again to create a lobby during maintenance.
const MAINTENANCE_RETRY_MS: u64 = 60_000;
/// As the hash of a password is kept; it is none.
const DECOY: &str = "argon2id$00000000000000000000000000000000$0000000000000000000000000000000000000000000000000000000000000000";

/// What opens a lobby.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Entrance {
    /// The password's hash.
    lock: Option<String>,
    /// By their names.
    invites: BTreeMap<String, Open>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Open {
    left: Option<u32>,
    until: Option<Millis>,
}

impl Open {
    fn is_good(&self, now: Millis) -> bool {
        self.left != Some(0) && self.until.is_none_or(|until| until > now)
    }
}

/// The name under which an invite is known and told: nobody finds the secret from it.
fn name_of(secret: &str) -> String {
    let digest = Sha256::digest(secret.as_bytes());
    digest.iter().take(16).fold(String::new(), |mut name, byte| {
        write!(name, "{byte:02x}").expect("writing to memory cannot fail");
        name
    })
}

impl Entrance {
    pub(super) fn apply(&mut self, event: &LobbyEvent) {
        match &event.change {
            Change::Locked { hash, .. } => self.lock.clone_from(hash),
            Change::Invited { invite, uses, until, .. } => {
                self.invites.retain(|_, invite| invite.is_good(event.at));
                self.invites.insert(invite.clone(), Open { left: *uses, until: *until });
            }
            Change::InviteUsed { invite, .. } => {
                if let Some(Open { left: Some(left), .. }) = self.invites.get_mut(invite) {
                    *left = left.saturating_sub(1);
                }
            }
            Change::Closed { .. } => *self = Entrance::default(),
            _ => {}
        }
    }

    /// The invite's name, if it is a good one.
    fn invited(&self, secret: Option<&str>, now: Millis) -> Option<String> {
        let name = name_of(secret?);
        self.invites.get(&name).filter(|invite| invite.is_good(now))?;
        Some(name)
    }
}

impl State {
    /// Whether outsiders are told that there is no such lobby.
    pub(crate) fn is_hidden(&self) -> bool {
        self.settings.visibility == Visibility::Private
    }

    /// Whether a join's refusal must not tell a private lobby from none.
    fn is_none_to(&self, join: &Join) -> bool {
        if self.open { self.is_hidden() } else { join.create.is_none() }
    }

    /// The lock that a join's password is to be tried at, before the join can be decided. Where there is none, or
    /// nobody is to know of it, it is one that nothing opens: the time that an answer takes tells nothing either.
    pub(crate) fn lock_for(&self, caller: &Caller, join: &Join, now: Millis) -> Option<&str> {
        if join.again || join.password.is_none() || self.rank(caller) != Rank::Outsider {
            return None;
        }
        if self.open && self.entrance.invited(join.invite.as_deref(), now).is_some() {
            return None;
        }
        let may_enter = self.open && self.restrictions.check_ban(&caller.user, now).is_ok();
        match self.entrance.lock.as_deref().filter(|_| may_enter) {
            Some(lock) => (join.opened.as_deref() != Some(lock)).then_some(lock),
            None => self.is_none_to(join).then_some(DECOY),
        }
    }

    /// What somebody hears who has tried too many passwords.
    pub(crate) fn too_many_guesses(&self, join: &Join, refusal: Refusal) -> Refusal {
        if self.is_none_to(join) { no_such_lobby() } else { refusal }
    }

    /// Whether somebody who is no member may come in, as far as there is room; gives the invite that is used for it.
    pub(super) fn check_entry(
        &self,
        caller: &Caller,
        join: &Join,
        now: Millis,
    ) -> Result<Option<String>, Refusal> {
        let invite = self.entrance.invited(join.invite.as_deref(), now);
        let let_in = invite.is_some() || self.rank(caller) == Rank::Overseer;
        let unlocked = self.entrance.lock.as_ref().is_none_or(|lock| join.opened.as_ref() == Some(lock));
        if self.is_hidden() && !let_in && (self.entrance.lock.is_none() || !unlocked) {
            return match join.create {
                // The id is not to be had, whatever stands behind it.
                Some(_) => refuse(ErrorCode::Forbidden, "you may not create this lobby"),
                None => Err(no_such_lobby()),
            };
        }
        // Only who would be let in otherwise hears of it: to all others a private lobby is none.
        self.restrictions.check_ban(&caller.user, now)?;
        if join.resumed && self.restrictions.was_put_out(&caller.user) {
            return refuse(ErrorCode::NotMember, "you were put out of the lobby; join again");
        }
        if self.settings.invite_only && !let_in {
            return refuse(ErrorCode::Forbidden, "the lobby is open to invited users only");
        }
        if !unlocked && !let_in {
            return refuse(ErrorCode::WrongPassword, "that is not the lobby's password");
        }
        let plays = join.role.unwrap_or(MemberRole::Player) != MemberRole::Spectator;
        if self.game.is_some() && plays && !self.settings.join_in_progress {
            let refusal = Refusal::new(ErrorCode::Conflict, "a game is under way; join as a spectator");
            return Err(refusal.retry_after(5_000));
        }
        Ok(invite)
    }

    /// The events with which a lobby begins.
    pub(super) fn creation(
        caller: &Caller,
        settings: &Settings,
        lock: Option<&Lock>,
        rules: &Rules,
    ) -> Result<Vec<Change>, Refusal> {
        let named = rules.creators.as_ref().is_none_or(|roles| roles.iter().any(|role| caller.has(*role)));
        if !named && !caller.system {
            return refuse(ErrorCode::Forbidden, "you may not create lobbies here");
        }
        if let Some(message) = &rules.maintenance {
            let refusal = Refusal::new(ErrorCode::Maintenance, message.as_ref());
            return Err(refusal.retry_after(MAINTENANCE_RETRY_MS));
        }
        settings
            .check(rules.limits.members_per_lobby_max)
            .map_err(|why| Refusal::new(ErrorCode::BadRequest, why))?;
        let mut changes = vec![Change::Updated {
            by: caller.by(),
            settings: Some(Box::new(settings.clone())),
            user: None,
            role: None,
            attributes: None,
        }];
        if let Some(Lock::Hash(hash)) = lock {
            changes.push(Change::Locked { by: caller.by(), hash: Some(hash.clone()) });
        }
        Ok(changes)
    }

    pub(super) fn decide_create(
        &self,
        caller: &Caller,
        create: &Create,
        rules: &Rules,
    ) -> Result<Decision, Refusal> {
        if self.open && self.is_hidden() && self.rank(caller) == Rank::Outsider {
            // As a join with `create` hears it.
            return refuse(ErrorCode::Forbidden, "you may not create this lobby");
        }
        if self.open {
            return refuse(ErrorCode::Conflict, "there is a lobby of this id");
        }
        let changes = Self::creation(caller, &create.settings, create.lock.as_ref(), rules)?;
        Ok(Decision::Change(changes, Recorded::Changed))
    }

    pub(super) fn decide_invite(
        &self,
        caller: &Caller,
        rank: Rank,
        invite: &Invite,
        now: Millis,
    ) -> Result<Decision, Refusal> {
        if rank < Rank::Moderator {
            return refuse(ErrorCode::Forbidden, "only moderators and the host invite");
        }
        if !invite.uses.is_none_or(|uses| (1..=USES_MAX).contains(&uses)) {
            return refuse(ErrorCode::BadRequest, "`uses` must be 1 to 10000");
        }
        let until = match invite.for_s {
            None => None,
            Some(for_s @ 1..=FOR_S_MAX) => Some(now.after(Duration::from_secs(for_s))),
            Some(_) => return refuse(ErrorCode::BadRequest, "`for_s` must be 1 to 31536000 seconds"),
        };
        if invite.secret.is_empty() {
            return refuse(ErrorCode::BadRequest, "an invite needs a secret");
        }
        if self.entrance.invites.values().filter(|invite| invite.is_good(now)).count() >= INVITES_MAX {
            return refuse(ErrorCode::Conflict, "the lobby has a hundred invites out");
        }
        let change =
            Change::Invited { invite: name_of(&invite.secret), by: caller.by(), uses: invite.uses, until };
        Ok(Decision::Change(vec![change], Recorded::Changed))
    }
}
