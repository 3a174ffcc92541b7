//! Messages that members bring to the notice of those who moderate the service, with what stood around them.

use std::sync::Arc;

use mlms_protocol::lobby::Member;
use mlms_protocol::{Change, ErrorCode, LobbyEvent, Millis, Refusal};
use mlms_store::MessageReport;

use super::decide::refuse;
use super::{Decision, State};

/// Messages before and behind the one that is meant.
const AROUND: usize = 5;
/// Longest reason, in characters.
const REASON_CHARS_MAX: usize = 500;

impl State {
    pub(super) fn decide_report_message(
        &self,
        member: &Member,
        message: &Arc<LobbyEvent>,
        reason: Option<&String>,
        now: Millis,
    ) -> Result<Decision, Refusal> {
        if reason.is_some_and(|reason| reason.chars().count() > REASON_CHARS_MAX) {
            return refuse(ErrorCode::BadRequest, "`reason` has at most 500 characters");
        }
        if matches!(&message.change, Change::Message { from: Some(from), .. } if *from == member.user) {
            return refuse(ErrorCode::BadRequest, "that is your own message");
        }
        Ok(Decision::File(Box::new(MessageReport {
            by: member.user.clone(),
            at: now,
            reason: reason.cloned(),
            context: self.around(message.seq, AROUND),
            message: LobbyEvent::clone(message),
        })))
    }
}
