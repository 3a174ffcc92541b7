//! Who may do what: every operation by everybody, in a public and in a private lobby, against the table in `access.txt`.
//! Nobody, who has no token, gets no session at all; that is asked where there are tokens, in the system's tests.

use std::sync::Arc;
use std::time::Duration;

use mlms_protocol::command::{
    Find, History, Invite, Join, Moderate, Moderation, OPERATIONS, ResumePoint, Update,
};
use mlms_protocol::lobby::{Settings, Visibility};
use mlms_protocol::{
    Answer, Body, Class, Command, Epoch, LobbyCommand, LobbyId, MemberRole, Refusal, Role, Seq,
};
use mlms_test_servers::matrix::{Layout, Matrix};

use crate::fleet::{Entrance, Fleet, Plan, lobby, user};
use crate::line::{Line, message};
use crate::stories::no_rates;

const TABLE: &str = include_str!("access.txt");

/// The columns. The last three hold tokens with a role, and are not members.
const WHO: [&str; 12] = [
    "outsider",
    "invited",
    "member",
    "moderator",
    "host",
    "kicked",
    "banned",
    "muted",
    "spectator",
    "overseer",
    "server",
    "admin",
];
/// What is tried beside the plain operations.
const VARIANTS: [&str; 9] = [
    "send:ordered",
    "send:game",
    "send:retain",
    "update:own",
    "role:moderator",
    "role:own",
    "edit:own",
    "delete:own",
    "react:own",
];

/// A lobby with everybody in it whom an operation may be about, and the one who tries it.
struct Scene {
    lobby: LobbyId,
    host: Line,
    other: Line,
    line: Line,
    /// The tests' own names, new in every scene.
    name: String,
    invite: Option<String>,
    /// A message of the host, and one of whoever tries, if he could ever speak.
    theirs: Seq,
    own: Seq,
    position: (Epoch, Seq),
}

impl Scene {
    async fn set(fleet: &Arc<Fleet>, visibility: Visibility, who: &str, game: bool) -> Scene {
        let number = fleet.unique();
        let (place, name) = (lobby(&format!("place-{number}")), format!("sam-{number}"));
        let node = usize::try_from(number % 2).unwrap();
        let mut host = fleet.connect(0, &format!("host-{number}")).await;
        let settings = Settings { visibility, ..Settings::default() };
        host.join_with(&place, Join { create: Some(settings), ..Join::default() }).await.unwrap();
        let invite = LobbyCommand::Invite(Invite::default());
        let Answer::Invited { invite, .. } =
            host.ask(Command::Lobby(place.clone(), invite), None).await.unwrap()
        else {
            panic!("no invite")
        };
        let with_invite = || Join { invite: Some(invite.clone()), ..Join::default() };
        let mut other = fleet.connect(1, &format!("other-{number}")).await;
        other.join_with(&place, with_invite()).await.unwrap();
        let roles = match who {
            "overseer" => vec![Role::Moderator],
            "server" => vec![Role::Server],
            "admin" => vec![Role::Admin],
            _ => Vec::new(),
        };
        let entrance = Entrance { roles, ..Entrance::default() };
        let mut line = fleet.connect_with(node, &name, entrance).await;
        let theirs = host.chat(&place, "hello").await;
        let (mut own, mut position) = (theirs, (Epoch(1), theirs));
        if !["outsider", "invited", "overseer", "server", "admin"].contains(&who) {
            let joined = line.join_with(&place, with_invite()).await.unwrap();
            own = line.chat(&place, "mine").await;
            position = (joined.epoch, joined.seq);
        }
        let mut scene = Scene {
            lobby: place,
            host,
            other,
            line,
            invite: (who == "invited").then_some(invite),
            theirs,
            own,
            position,
            name,
        };
        let me = scene.name.clone();
        match who {
            "moderator" => scene.moderate(Moderation::Role(MemberRole::Moderator), &me).await,
            "spectator" => scene.moderate(Moderation::Role(MemberRole::Spectator), &me).await,
            "host" => scene.moderate(Moderation::Transfer, &me).await,
            "kicked" => scene.moderate(Moderation::Kick, &me).await,
            "banned" => scene.moderate(Moderation::Ban, &me).await,
            "muted" => scene.moderate(Moderation::Mute, &me).await,
            _ => {}
        }
        scene.as_somebody_in_charge(who, Moderation::Ban, "ghost").await;
        scene.as_somebody_in_charge(who, Moderation::Mute, "quiet").await;
        if game {
            let line = if who == "host" { &mut scene.line } else { &mut scene.host };
            line.ask(Command::Lobby(scene.lobby.clone(), LobbyCommand::Start), None).await.unwrap();
        }
        scene
    }

    async fn moderate(&mut self, action: Moderation, whom: &str) {
        let command = self.about(action, whom);
        self.host.ask(command, None).await.unwrap();
    }

    async fn as_somebody_in_charge(&mut self, who: &str, action: Moderation, whom: &str) {
        let command = self.about(action, whom);
        let line = if who == "host" { &mut self.line } else { &mut self.host };
        line.ask(command, None).await.unwrap();
    }

    fn about(&self, action: Moderation, whom: &str) -> Command {
        let moderate = Moderate { action, user: user(whom), for_s: None, reason: None };
        Command::Lobby(self.lobby.clone(), LobbyCommand::Moderate(moderate))
    }

    /// The command that a row tries, in this lobby.
    fn command(&self, fleet: &Fleet, row: &str) -> Command {
        let other = self.name.replace("sam", "other");
        let object = |json: serde_json::Value| json.as_object().cloned();
        let lobby_command = match row {
            "find" => return Command::Find(Find::default()),
            "auth" => {
                let minted = fleet.minter.mint(&user(&self.name), None, &[], Duration::from_secs(100));
                return Command::Auth { token: minted.token };
            }
            "ping" => return Command::Ping,
            "block" => return Command::Block { user: user("troll") },
            "unblock" => return Command::Unblock { user: user("troll") },
            "blocked" => return Command::Blocked,
            "resume" => {
                let (epoch, seq) = self.position;
                return Command::Resume(vec![ResumePoint::new(self.lobby.clone(), epoch, seq)]);
            }
            "kick" => return self.about(Moderation::Kick, &other),
            "ban" => return self.about(Moderation::Ban, &other),
            "unban" => return self.about(Moderation::Unban, "ghost"),
            "mute" => return self.about(Moderation::Mute, &other),
            "unmute" => return self.about(Moderation::Unmute, "quiet"),
            "transfer" => return self.about(Moderation::Transfer, &other),
            "role" => return self.about(Moderation::Role(MemberRole::Spectator), &other),
            "role:moderator" => return self.about(Moderation::Role(MemberRole::Moderator), &other),
            "role:own" => return self.about(Moderation::Role(MemberRole::Spectator), &self.name),
            "send" => return message(&self.lobby, "chat", "hi", Class::Durable),
            "send:ordered" => return message(&self.lobby, "chat", "hi", Class::Ordered),
            "send:game" => return message(&self.lobby, "game", "a move", Class::Ordered),
            "send:retain" => {
                let Command::Lobby(lobby, LobbyCommand::Send(mut send)) =
                    message(&self.lobby, "app.score", "1:0", Class::Durable)
                else {
                    unreachable!()
                };
                send.key = Some("score".to_owned());
                return Command::Lobby(lobby, LobbyCommand::Send(send));
            }
            "join" => LobbyCommand::Join(Join { invite: self.invite.clone(), ..Join::default() }),
            "leave" => LobbyCommand::Leave,
            "typing" => LobbyCommand::Typing,
            "history" => LobbyCommand::History(History { before: None, after: None, limit: 10 }),
            "roster" => LobbyCommand::Roster { cursor: None, limit: None },
            "update" => LobbyCommand::Update(Update {
                settings: object(serde_json::json!({"name": "Mine"})),
                ..Update::default()
            }),
            "update:own" => LobbyCommand::Update(Update {
                attributes: object(serde_json::json!({"team": "red"})),
                ..Update::default()
            }),
            "invite" => LobbyCommand::Invite(Invite::default()),
            "close" => LobbyCommand::Close,
            "ready" => LobbyCommand::Ready { ready: true },
            "start" => LobbyCommand::Start,
            "report" => {
                LobbyCommand::Report { stat: "damage".to_owned(), amount: 1, user: Some(user(&other)) }
            }
            "finish" => LobbyCommand::Finish { results: None },
            "edit" => LobbyCommand::Edit { seq: self.theirs, body: Body::text("x") },
            "edit:own" => LobbyCommand::Edit { seq: self.own, body: Body::text("x") },
            "delete" => LobbyCommand::Delete { seq: self.theirs },
            "delete:own" => LobbyCommand::Delete { seq: self.own },
            "react" => LobbyCommand::React { seq: self.theirs, emoji: "🎉".to_owned() },
            "react:own" => LobbyCommand::React { seq: self.own, emoji: "🎉".to_owned() },
            "read" => LobbyCommand::Read { seq: self.theirs },
            "report_message" => LobbyCommand::ReportMessage { seq: self.theirs, reason: None },
            other => panic!("nobody has said what `{other}` tries; the matrix needs it"),
        };
        Command::Lobby(self.lobby.clone(), lobby_command)
    }

    async fn end(self) {
        for line in [self.host, self.other, self.line] {
            line.close().await;
        }
    }
}

fn told(outcome: &Result<Answer, Refusal>) -> String {
    match outcome {
        Err(refusal) => refusal.code.to_string(),
        Ok(Answer::Resumed(lobbies)) => match &lobbies[0] {
            Ok(_) => "ok".to_owned(),
            Err((_, refusal)) => refusal.code.to_string(),
        },
        Ok(_) => "ok".to_owned(),
    }
}

fn rows() -> Vec<String> {
    let mut rows: Vec<_> = OPERATIONS.iter().chain(&VARIANTS).map(|row| (*row).to_owned()).collect();
    rows.sort();
    rows
}

async fn fleet() -> Arc<Fleet> {
    Fleet::start(Plan { limits: no_rates(), ..Plan::default() }).await
}

#[tokio::test(start_paused = true)]
async fn everybody_may_do_what_the_table_says_and_nothing_else() {
    let fleet = fleet().await;
    let layout = Layout { who: &WHO, words: 1, row_width: 16, cell_width: 11 };
    let mut tried = Vec::new();
    for (section, visibility) in [("public", Visibility::Public), ("private", Visibility::Private)] {
        for row in rows() {
            let mut cells = Vec::new();
            for who in WHO {
                let game = ["report", "finish"].contains(&row.as_str());
                let mut scene = Scene::set(&fleet, visibility, who, game).await;
                let command = scene.command(&fleet, &row);
                cells.push(told(&scene.line.ask(command, None).await));
                scene.end().await;
            }
            tried.push((section, row, cells));
        }
    }
    Matrix::read(TABLE, layout).hold(&tried);
}

#[tokio::test(start_paused = true)]
async fn a_private_lobby_is_told_from_none_by_nothing() {
    let fleet = fleet().await;
    for (who, closed) in [("outsider", false), ("kicked", false), ("outsider", true)] {
        for row in rows() {
            let mut scene = Scene::set(&fleet, Visibility::Private, who, false).await;
            if closed {
                scene.host.ask(Command::Lobby(scene.lobby.clone(), LobbyCommand::Close), None).await.unwrap();
            }
            let there = scene.command(&fleet, &row);
            let hidden = scene.line.ask(there, None).await;
            scene.lobby = lobby(&format!("never-{}", fleet.unique()));
            let nowhere = scene.command(&fleet, &row);
            if let Command::Lobby(..) = &nowhere {
                let none = scene.line.ask(nowhere, None).await;
                assert!(none.is_err(), "{row}: {none:?}");
                assert_eq!(hidden, none, "{row} by {who}, closed: {closed}");
            }
            scene.end().await;
        }
    }
}
