//! The rules of changing a lobby's settings and a member's own attributes.

use mlms_protocol::command::{Lock, Update};
use mlms_protocol::lobby::METADATA_BYTES_MAX;
use mlms_protocol::{Change, ErrorCode, Refusal};

use super::decide::{Rules, refuse};
use super::dedupe::Recorded;
use super::standing::Rank;
use super::{Caller, Decision, State};

impl State {
    pub(super) fn decide_update(
        &self,
        caller: &Caller,
        rank: Rank,
        update: &Update,
        rules: &Rules,
    ) -> Result<Decision, Refusal> {
        let Update { settings, lock, attributes } = update;
        if settings.is_none() && lock.is_none() && attributes.is_none() {
            return refuse(ErrorCode::BadRequest, "`settings` or `attributes` is needed");
        }
        if (settings.is_some() || lock.is_some()) && rank < Rank::Host {
            return refuse(ErrorCode::Forbidden, "only the host changes the settings");
        }
        let bad = |why| Refusal::new(ErrorCode::BadRequest, why);
        let settings = match settings.as_ref().filter(|settings| !settings.is_empty()) {
            None => None,
            Some(patch) => {
                let settings = self.settings.updated(patch).map_err(bad)?;
                settings.check(rules.limits.members_per_lobby_max).map_err(bad)?;
                Some(settings)
            }
        };
        let attributes = match attributes {
            None => None,
            Some(patch) => {
                let Some(member) = self.member(&caller.user) else {
                    return refuse(ErrorCode::NotMember, "join the lobby first");
                };
                let mut attributes = member.attributes.clone();
                attributes.extend(patch.iter().map(|(name, value)| (name.clone(), value.clone())));
                attributes.retain(|_, value| !value.is_null());
                let bytes = serde_json::to_vec(&attributes).map_or(usize::MAX, |json| json.len());
                if bytes > METADATA_BYTES_MAX {
                    return refuse(ErrorCode::BadRequest, "attributes have at most 4096 bytes of JSON");
                }
                Some(attributes)
            }
        };
        let mut changes = Vec::new();
        if settings.is_some() || attributes.is_some() || lock.is_none() {
            let user = attributes.is_some().then(|| caller.user.clone());
            // An empty change is one, too: its sender gets the seq that it was promised.
            let settings = settings.or_else(|| attributes.is_none().then(|| self.settings.clone()));
            let settings = settings.map(Box::new);
            changes.push(Change::Updated { by: caller.by(), settings, user, role: None, attributes });
        }
        match lock {
            None => {}
            Some(Lock::Remove) => changes.push(Change::Locked { by: caller.by(), hash: None }),
            Some(Lock::Hash(hash)) => {
                changes.push(Change::Locked { by: caller.by(), hash: Some(hash.clone()) });
            }
            Some(Lock::Password(_)) => return refuse(ErrorCode::Internal, "the password was not sealed"),
        }
        Ok(Decision::Change(changes, Recorded::Changed))
    }
}
