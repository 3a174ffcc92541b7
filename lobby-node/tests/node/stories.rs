//! Stories of a few players each, a file a subject in `stories/`; here is what they begin with.

mod connection;
mod membership;
mod owner;
mod resume;
mod talk;

use mlms_protocol::{Change, Event, Limits, LobbyId};

use crate::fleet::{Fleet, Plan, lobby};
use crate::line::Line;

/// Limits that get in nobody's way.
pub(crate) fn no_rates() -> Limits {
    Limits { commands_per_s: 0, chats_per_s: 0, joins_per_s: 0, creates_per_minute: 0, ..Limits::default() }
}

async fn fleet(limits: Limits) -> std::sync::Arc<Fleet> {
    Fleet::start(Plan { limits, ..Plan::default() }).await
}

pub(crate) fn text(event: &Event) -> Option<String> {
    match event {
        Event::Message(message) => message.body.as_text(),
        Event::Lobby(event) => match &event.change {
            Change::Message { body, .. } => body.as_text(),
            _ => None,
        },
        _ => None,
    }
}

/// A lobby that the node owns, because ann enters it there first.
pub(crate) async fn owned_by(fleet: &Fleet, number: usize) -> (LobbyId, Line) {
    for _ in 0..100 {
        let lobby = lobby(&format!("lobby-{}", fleet.unique()));
        let mut ann = fleet.connect(number, "ann").await;
        ann.join(&lobby).await;
        if fleet.owner(&lobby) == Some(number) {
            return (lobby, ann);
        }
        ann.close().await;
    }
    panic!("node {number} owns nothing");
}
