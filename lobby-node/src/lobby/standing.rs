//! What somebody may do in a lobby: the higher of what the membership and the token give.

use mlms_protocol::{MemberRole, Role, UserId};

use super::{Caller, State};

/// Ascending: who may moderate whom is a comparison of ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// Neither a member nor anybody special.
    Outsider,
    Spectator,
    Player,
    Moderator,
    Host,
    /// A token with the role `moderator`, `admin` or `server`: it needs no membership.
    Overseer,
}

impl From<MemberRole> for Rank {
    fn from(role: MemberRole) -> Self {
        match role {
            MemberRole::Spectator => Rank::Spectator,
            MemberRole::Player => Rank::Player,
            MemberRole::Moderator => Rank::Moderator,
            MemberRole::Host => Rank::Host,
        }
    }
}

impl Caller {
    /// Whether its token runs games: what it starts and reports is believed.
    pub(crate) fn runs_games(&self) -> bool {
        self.system || self.has(Role::Server) || self.has(Role::Admin)
    }
}

impl State {
    pub(super) fn rank(&self, caller: &Caller) -> Rank {
        if caller.has(Role::Moderator) || caller.runs_games() {
            return Rank::Overseer;
        }
        self.rank_of(&caller.user)
    }

    /// The rank that a user's membership gives.
    pub(super) fn rank_of(&self, user: &UserId) -> Rank {
        self.member(user).map_or(Rank::Outsider, |member| member.role.into())
    }
}
