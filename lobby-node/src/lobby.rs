//! A lobby as a pure state machine: `decide` says what a command would do, `apply` does it. No I/O, no clock:
//! the same events always give the same state.

mod decide;
mod dedupe;
mod entrance;
mod filter;
mod forgetting;
mod game;
mod marks;
mod messages;
mod moderation;
mod recent;
mod reports;
mod retained;
mod settings;
mod standing;
mod state;
#[cfg(test)]
mod tests;

pub(crate) use decide::{Decision, Passing, PassingEvent, Rules, Target};
pub(crate) use dedupe::{CommandKey, Outcome, Recorded};
pub(crate) use filter::WordFilter;
pub(crate) use state::{Entry, State};

use mlms_protocol::{Role, Seq, SessionId, UserId};
use serde::{Deserialize, Serialize};

/// What a join hears that was carried out, and whose membership is over before it is answered.
pub(crate) const MEMBERSHIP_ENDED: &str = "the membership that the join began has ended";

/// Who gives a command: a session of a user, with what its token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Caller {
    pub session: SessionId,
    pub user: UserId,
    pub name: String,
    pub roles: Vec<Role>,
    /// The service itself, through REST: what it says is from nobody.
    #[serde(default)]
    pub system: bool,
    /// The newest event of the lobby as the caller knows it: of a lobby that has gone on the command is not meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expects: Option<Seq>,
}

impl Caller {
    /// Who did it, as events tell it.
    fn by(&self) -> Option<UserId> {
        (!self.system).then(|| self.user.clone())
    }

    pub(crate) fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }
}
