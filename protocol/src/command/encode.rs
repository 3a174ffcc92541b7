//! Writes a command's frame as a client does. The client and the load test call it.
//! What is the service's own in a command stays out of the frame.

use serde_json::Value;

use super::{Command, LobbyCommand, Lock, Moderation, Recipients, Request, Send};
use crate::code::Class;
use crate::encoding::Encoding;
use crate::lobby::Settings;
use crate::writer::ObjectWriter;

impl Request {
    /// Writes the frame as a client does.
    #[must_use]
    pub fn encode(&self, encoding: Encoding) -> Vec<u8> {
        let mut w = ObjectWriter::new(encoding);
        w.option("id", self.id.as_ref());
        w.field("op", self.command.op());
        w.option("nonce", self.nonce.as_ref());
        write_command(&self.command, &mut w);
        w.finish()
    }
}

fn write_command(command: &Command, w: &mut ObjectWriter) {
    let (lobby, command) = match command {
        Command::Resume(points) => {
            w.field("lobbies", points);
            return;
        }
        Command::ResumePartly(points) => {
            w.field("lobbies", &points.iter().flatten().collect::<Vec<_>>());
            return;
        }
        Command::Auth { token } => {
            w.field("token", token);
            return;
        }
        Command::Ping | Command::Blocked => return,
        Command::Block { user } | Command::Unblock { user } => {
            w.field("user", user);
            return;
        }
        Command::Find(find) => {
            w.option("filter", find.filter.as_ref()).option("cursor", find.cursor.as_ref());
            w.option("limit", find.limit.as_ref()).option("quick", find.quick.as_ref());
            return;
        }
        Command::Lobby(lobby, command) => (lobby, command),
    };
    w.field("lobby", lobby);
    match command {
        LobbyCommand::Join(join) => {
            w.option(
                "create",
                join.create.as_ref().map(|create| with_password(create, join.lock.as_ref())).as_ref(),
            );
            if join.saved {
                w.field("saved", &true);
            }
            w.option("since", join.since.as_ref()).option("password", join.password.as_ref());
            w.option("invite", join.invite.as_ref()).option("role", join.role.as_ref());
        }
        LobbyCommand::Send(send) => write_send(send, w),
        LobbyCommand::History(history) => {
            w.option("before", history.before.as_ref()).option("after", history.after.as_ref());
            w.field("limit", &history.limit);
        }
        LobbyCommand::Roster { cursor, limit } => {
            w.option("cursor", cursor.as_ref()).option("limit", limit.as_ref());
        }
        LobbyCommand::Update(update) => {
            let mut settings = update.settings.clone();
            match &update.lock {
                Some(Lock::Password(password)) => {
                    let settings = settings.get_or_insert_default();
                    settings.insert("password".to_owned(), Value::String(password.clone()));
                }
                Some(Lock::Remove) => {
                    settings.get_or_insert_default().insert("password".to_owned(), Value::Null);
                }
                Some(Lock::Hash(_)) | None => {}
            }
            w.option("settings", settings.as_ref()).option("attributes", update.attributes.as_ref());
        }
        LobbyCommand::Invite(invite) => {
            w.option("uses", invite.uses.as_ref()).option("for_s", invite.for_s.as_ref());
        }
        LobbyCommand::Create(create) => {
            w.field("settings", &with_password(&create.settings, create.lock.as_ref()));
        }
        LobbyCommand::Ready { ready } => {
            w.field("ready", ready);
        }
        LobbyCommand::Report { stat, amount, user } => {
            w.field("stat", stat).field("amount", amount).option("user", user.as_ref());
        }
        LobbyCommand::Finish { results } => {
            if let Some(results) = results {
                w.body("results", results);
            }
        }
        LobbyCommand::Moderate(moderate) => {
            w.field("user", &moderate.user).option("for_s", moderate.for_s.as_ref());
            w.option("reason", moderate.reason.as_ref());
            if let Moderation::Role(role) = moderate.action {
                w.field("role", &role);
            }
        }
        LobbyCommand::Edit { seq, body } => {
            w.field("seq", seq).body("body", body);
        }
        LobbyCommand::Delete { seq } => {
            w.field("seq", seq);
        }
        LobbyCommand::React { seq, emoji } => {
            w.field("seq", seq).field("emoji", emoji);
        }
        LobbyCommand::Read { seq } => {
            w.field("seq", seq);
        }
        LobbyCommand::ReportMessage { seq, reason } => {
            w.field("seq", seq).option("reason", reason.as_ref());
        }
        LobbyCommand::Forget { user, alias } => {
            w.field("user", user).field("alias", alias);
        }
        LobbyCommand::Leave
        | LobbyCommand::Typing
        | LobbyCommand::Close
        | LobbyCommand::Start
        | LobbyCommand::Look => {}
    }
}

/// Settings as a client writes them: it does not say that there is a lock, but gives the password.
fn with_password(settings: &Settings, lock: Option<&Lock>) -> Value {
    let mut value = serde_json::to_value(settings).unwrap_or_default();
    if let Value::Object(fields) = &mut value {
        fields.remove("locked");
        if let Some(Lock::Password(password)) = lock {
            fields.insert("password".to_owned(), Value::String(password.clone()));
        }
    }
    value
}

fn write_send(send: &Send, w: &mut ObjectWriter) {
    w.field("kind", &send.kind).body("body", &send.body).field("class", &send.class);
    w.option("key", send.key.as_ref());
    if send.key.is_some() && send.class == Class::Durable {
        w.field("retain", &true);
    }
    match &send.to {
        Recipients::Everyone => {}
        Recipients::Host => _ = w.field("to", "host"),
        Recipients::Others => _ = w.field("to", "others"),
        Recipients::Users(users) => _ = w.field("to", users),
    }
}
