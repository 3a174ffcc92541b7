//! Forgetting a user. Its events keep their places and their seqs; they are about somebody whom nobody knows, who said
//! nothing. Bans and mutes stay, and the note that somebody was put out: they are what keeps a user out, and nobody is
//! shown them.

use std::sync::Arc;

use mlms_protocol::{Change, ErrorCode, LobbyEvent, UserId};
use mlms_store::anonymous;

use super::decide::{no_such_lobby, refuse};
use super::{Caller, Decision, State};

impl State {
    /// The events that go along with it name nobody: behind them the journal can let go of everything that does.
    pub(super) fn decide_forget(
        &self,
        caller: &Caller,
        user: &UserId,
    ) -> Result<Decision, mlms_protocol::Refusal> {
        if !caller.system {
            return refuse(ErrorCode::Forbidden, "only the service itself forgets somebody");
        }
        if self.seq.0 == 0 {
            return Err(no_such_lobby());
        }
        if self.member(user).is_some() {
            return refuse(ErrorCode::Conflict, "the user is a member");
        }
        // Settings would open a lobby that is closed.
        let settings = self.open.then(|| {
            let mut settings = self.settings.clone();
            settings.hosts.retain(|host| host != user);
            Box::new(settings)
        });
        Ok(Decision::Forget(vec![Change::Updated {
            by: None,
            settings,
            user: None,
            role: None,
            attributes: None,
        }]))
    }

    /// Forgets a user who is no member. What is in memory is changed in its place; of that the next snapshot knows,
    /// and the journal's older entries do not.
    pub(crate) fn forget(&mut self, user: &UserId, alias: &UserId) {
        let rewrite = |event: &mut Arc<LobbyEvent>| {
            let about_nobody = anonymous(event, user, alias);
            if about_nobody.change != event.change {
                *event = Arc::new(about_nobody);
            }
        };
        self.recent.rewrite(rewrite);
        self.rewrite_messages(rewrite);
        self.retained.forget(user);
        self.marks.forget(user);
        self.voices.forget(user);
        self.dedupe.forget(user);
    }
}
