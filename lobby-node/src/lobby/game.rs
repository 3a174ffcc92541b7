//! The rules of a game's flow: who is ready, who starts and finishes, who may say what happened.

use mlms_protocol::lobby::{Member, Reporters};
use mlms_protocol::{Body, Change, ErrorCode, Kind, MemberRole, Refusal, UserId};

use super::decide::refuse;
use super::dedupe::Recorded;
use super::{Caller, Decision, State};

/// Largest amount of one report, either way: what every client's numbers hold exactly.
const AMOUNT_MAX: u64 = 1 << 53;

impl State {
    pub(super) fn decide_ready(member: &Member, ready: bool) -> Result<Decision, Refusal> {
        if member.role == MemberRole::Spectator {
            return refuse(ErrorCode::Forbidden, "spectators do not play");
        }
        let change = Change::Ready { user: member.user.clone(), ready };
        Ok(Decision::Change(vec![change], Recorded::Changed))
    }

    pub(super) fn decide_start(&self, caller: &Caller) -> Result<Decision, Refusal> {
        if !self.runs_games_here(caller) {
            return refuse(ErrorCode::Forbidden, "only the host or the game's server starts a game");
        }
        if self.game.is_some() {
            return refuse(ErrorCode::Conflict, "a game is under way already");
        }
        if self.players().next().is_none() {
            return refuse(ErrorCode::Conflict, "nobody is here to play");
        }
        let game = self.games + 1;
        let change = Change::GameStarted { game, by: caller.by() };
        Ok(Decision::Change(vec![change], Recorded::Game(game)))
    }

    pub(super) fn decide_report(
        &self,
        caller: &Caller,
        stat: &str,
        amount: i64,
        user: Option<&UserId>,
    ) -> Result<Decision, Refusal> {
        let of = user.unwrap_or(&caller.user);
        let host = self.host.as_ref() == Some(&caller.user);
        let believed = caller.runs_games()
            || match self.settings.reports {
                Reporters::Server => false,
                Reporters::Host => host,
                Reporters::Members => host || *of == caller.user,
            };
        if !believed {
            return refuse(ErrorCode::Forbidden, "the lobby does not take this report from you");
        }
        if Kind::new(stat).is_err() {
            return refuse(ErrorCode::BadRequest, "`stat` must be 1 to 32 of a-z, 0-9, `_`, `.` and `-`");
        }
        if amount.unsigned_abs() > AMOUNT_MAX {
            return refuse(ErrorCode::BadRequest, "`amount` must be within 2^53");
        }
        let Some(game) = self.game else {
            return refuse(ErrorCode::Conflict, "no game is under way");
        };
        if self.member(of).is_none_or(|member| member.role == MemberRole::Spectator) {
            return refuse(ErrorCode::NotFound, "`user` does not play here");
        }
        let by = caller.by();
        let change = Change::Reported { game, user: of.clone(), stat: stat.to_owned(), amount, by };
        Ok(Decision::Change(vec![change], Recorded::Game(game)))
    }

    pub(super) fn decide_finish(&self, caller: &Caller, results: Option<&Body>) -> Result<Decision, Refusal> {
        if !self.runs_games_here(caller) {
            return refuse(ErrorCode::Forbidden, "only the host or the game's server finishes a game");
        }
        let Some(game) = self.game else {
            return refuse(ErrorCode::Conflict, "no game is under way");
        };
        let players = self.players().cloned().collect();
        let by = caller.by();
        let change = Change::GameFinished { game, by, players, results: results.cloned() };
        Ok(Decision::Change(vec![change], Recorded::Game(game)))
    }

    /// A token's `moderator` watches over people, not over games; it may still be the host.
    fn runs_games_here(&self, caller: &Caller) -> bool {
        caller.runs_games() || self.host.as_ref() == Some(&caller.user)
    }

    /// Whether players come in at all at the moment.
    pub(crate) fn is_joinable(&self) -> bool {
        self.game.is_none() || self.settings.join_in_progress
    }

    /// Members who play.
    fn players(&self) -> impl Iterator<Item = &UserId> {
        let members = self.members_after(None).map(|(_, member)| member);
        members.filter(|member| member.role != MemberRole::Spectator).map(|member| &member.user)
    }
}
