//! One of every frame, with fixed values: what the golden files show and what the mutations start from.

use mlms_protocol::code::CloseCode;
use mlms_protocol::command::{
    Find, History, Invite, Join, Lock, Moderate, Moderation, Position, Recipients, ResumePoint, Send, Update,
};
use mlms_protocol::event::{LobbyState, PassingMessage, ReadMark};
use mlms_protocol::lobby::{HostPolicy, Member, Reporters, Settings, Visibility};
use mlms_protocol::reply::Joined;
use mlms_protocol::{
    Answer, Body, Change, Class, Command, Epoch, ErrorCode, Event, JoinStatus, Kind, Limits, LobbyCommand,
    LobbyEvent, LobbyId, MemberRole, Millis, NodeName, Nonce, NoticeCode, Reconnect, Refusal, Request, Seq,
    SessionId, UserId,
};
use serde_json::{Map, Value, json};

const AT: Millis = Millis(1_780_000_000_123);

pub(crate) fn lobby() -> LobbyId {
    LobbyId::new("lounge").unwrap()
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

pub(crate) fn chat(text: &str) -> Send {
    Send {
        kind: Kind::new("chat").unwrap(),
        body: Body::text(text),
        class: Class::Durable,
        key: None,
        to: Recipients::Everyone,
    }
}

fn settings() -> Settings {
    Settings {
        name: Some("The Lounge".to_owned()),
        capacity: Some(4),
        visibility: Visibility::Unlisted,
        close_when_empty: true,
        join_in_progress: false,
        reports: Reporters::Members,
        locked: true,
        invite_only: true,
        spectators_send: true,
        slow_mode_s: 5,
        word_filter: vec!["spam*".to_owned()],
        host_policy: HostPolicy::Listed,
        hosts: vec![user("ann")],
        metadata: object(json!({"map": "ice", "rounds": 3})),
    }
}

/// Every command a client can send, by the name of its golden file.
pub(crate) fn requests() -> Vec<(&'static str, Request)> {
    let game = |to, class, key: Option<&str>| {
        LobbyCommand::Send(Send {
            kind: Kind::new("game").unwrap(),
            body: Body::json(&json!({"x": 1, "y": -2.5, "tags": ["a", null, true]})),
            class,
            key: key.map(str::to_owned),
            to,
        })
    };
    let moderate = |action, for_s, reason: Option<&str>| {
        LobbyCommand::Moderate(Moderate {
            action,
            user: user("bob"),
            for_s,
            reason: reason.map(str::to_owned),
        })
    };
    let history = |before, after, limit| LobbyCommand::History(History { before, after, limit });
    let lobby_commands = vec![
        ("join", LobbyCommand::Join(Join::default())),
        (
            "join_full",
            LobbyCommand::Join(Join {
                create: Some(Settings { locked: false, ..settings() }),
                lock: Some(Lock::Password("sesame".to_owned())),
                saved: true,
                since: Some(Position { epoch: Epoch(3), seq: Seq(41) }),
                password: Some("sesame".to_owned()),
                invite: Some("i-1".to_owned()),
                role: Some(MemberRole::Spectator),
                resumed: false,
                again: false,
                opened: None,
                create_later_ms: None,
            }),
        ),
        ("leave", LobbyCommand::Leave),
        ("send_chat", LobbyCommand::Send(chat("héllo 🦀"))),
        ("send_game", game(Recipients::Everyone, Class::Ordered, None)),
        ("send_to_host", game(Recipients::Host, Class::Ordered, None)),
        ("send_to_others_latest", game(Recipients::Others, Class::Ephemeral, Some("cursor"))),
        (
            "send_retained",
            LobbyCommand::Send(Send {
                kind: Kind::new("game").unwrap(),
                body: Body::json(&json!({"red": 3, "blue": 1})),
                class: Class::Durable,
                key: Some("score".to_owned()),
                to: Recipients::Everyone,
            }),
        ),
        ("send_to_users", game(Recipients::Users(vec![user("ann"), user("Ännchen")]), Class::Ordered, None)),
        ("typing", LobbyCommand::Typing),
        ("history_before", history(Some(Seq(100)), None, 50)),
        ("history_after", history(None, Some(Seq(100)), 200)),
        ("roster", LobbyCommand::Roster { cursor: Some("bob".to_owned()), limit: Some(100) }),
        (
            "update",
            LobbyCommand::Update(Update {
                settings: Some(object(json!({"capacity": 8}))),
                lock: Some(Lock::Remove),
                attributes: Some(object(json!({"team": "red"}))),
            }),
        ),
        ("invite", LobbyCommand::Invite(Invite { secret: String::new(), uses: Some(3), for_s: Some(3_600) })),
        ("close", LobbyCommand::Close),
        ("ready", LobbyCommand::Ready { ready: true }),
        ("start", LobbyCommand::Start),
        ("report", LobbyCommand::Report { stat: "damage".to_owned(), amount: 501, user: Some(user("bob")) }),
        ("finish", LobbyCommand::Finish { results: Some(Body::json(&json!({"winner": "ann"}))) }),
        ("kick", moderate(Moderation::Kick, None, Some("spam"))),
        ("ban", moderate(Moderation::Ban, Some(3_600), Some("spam"))),
        ("unban", moderate(Moderation::Unban, None, None)),
        ("mute", moderate(Moderation::Mute, Some(60), None)),
        ("unmute", moderate(Moderation::Unmute, None, None)),
        ("transfer", moderate(Moderation::Transfer, None, None)),
        ("role", moderate(Moderation::Role(MemberRole::Moderator), None, None)),
        ("edit", LobbyCommand::Edit { seq: Seq(42), body: Body::text("hello") }),
        ("delete", LobbyCommand::Delete { seq: Seq(42) }),
        ("react", LobbyCommand::React { seq: Seq(42), emoji: "🎉".to_owned() }),
        ("read", LobbyCommand::Read { seq: Seq(42) }),
        (
            "report_message",
            LobbyCommand::ReportMessage { seq: Seq(42), reason: Some("he swears".to_owned()) },
        ),
    ];
    let mut requests: Vec<_> = lobby_commands
        .into_iter()
        .map(|(name, command)| {
            let nonce = command.changes_state().then(|| Nonce::new("0192-n1").unwrap());
            (name, Request { id: Some(7), nonce, command: Command::Lobby(lobby(), command) })
        })
        .collect();
    let point = |lobby: &str, seq| ResumePoint::new(LobbyId::new(lobby).unwrap(), Epoch(3), Seq(seq));
    let session_commands = vec![
        ("resume", Command::Resume(vec![point("lounge", 41), point("arena", 0)])),
        ("auth", Command::Auth { token: "e30.e30.c2ln".to_owned() }),
        ("ping", Command::Ping),
        ("block", Command::Block { user: user("bob") }),
        ("unblock", Command::Unblock { user: user("bob") }),
        ("blocked", Command::Blocked),
        (
            "find",
            Command::Find(Find {
                filter: Some(object(json!({"map": "ice"}))),
                cursor: Some("c2".to_owned()),
                limit: Some(20),
                quick: Some(Value::Bool(true)),
            }),
        ),
    ];
    requests.extend(
        session_commands
            .into_iter()
            .map(|(name, command)| (name, Request { id: Some(u32::MAX), nonce: None, command })),
    );
    requests.push(("ping_without_id", Request { id: None, nonce: None, command: Command::Ping }));
    requests
}

fn retained() -> Change {
    Change::Message {
        kind: Kind::new("game").unwrap(),
        from: Some(user("ann")),
        body: Body::json(&json!({"red": 3, "blue": 1})),
        nonce: None,
        key: Some("score".to_owned()),
    }
}

fn mark() -> ReadMark {
    ReadMark { read: Seq(40), unread: 2 }
}

/// Every sequenced event, by the name of its golden file.
pub(crate) fn lobby_events() -> Vec<(&'static str, LobbyEvent)> {
    let by = || Some(user("ann"));
    let reason = || Some("spam".to_owned());
    let changes = vec![
        (
            "message",
            Change::Message {
                kind: Kind::new("chat").unwrap(),
                from: by(),
                body: Body::text("héllo\n\"🦀\""),
                nonce: Some(Nonce::new("n-1").unwrap()),
                key: None,
            },
        ),
        (
            "message_system",
            Change::Message {
                kind: Kind::new("game").unwrap(),
                from: None,
                body: Body::json(&json!({"round": 2})),
                nonce: None,
                key: None,
            },
        ),
        ("retained", retained()),
        ("joined", Change::Joined { user: user("bob"), name: "Bob".to_owned(), role: MemberRole::Player }),
        ("left", Change::Left { user: user("bob"), reason: Some("connection_lost".to_owned()) }),
        ("host_changed", Change::HostChanged { user: Some(user("bob")), by: by() }),
        (
            "updated",
            Change::Updated {
                by: by(),
                settings: Some(Box::new(settings())),
                user: Some(user("bob")),
                role: Some(MemberRole::Moderator),
                attributes: Some(object(json!({"team": "red"}))),
            },
        ),
        ("locked", Change::Locked { by: by(), hash: Some(String::new()) }),
        (
            "invited",
            Change::Invited { invite: "9f86d081".to_owned(), by: by(), uses: Some(3), until: Some(AT) },
        ),
        ("invite_used", Change::InviteUsed { invite: "9f86d081".to_owned(), user: user("bob") }),
        ("ready", Change::Ready { user: user("bob"), ready: true }),
        ("game_started", Change::GameStarted { game: 5, by: by() }),
        (
            "reported",
            Change::Reported { game: 5, user: user("bob"), stat: "damage".to_owned(), amount: -3, by: by() },
        ),
        (
            "game_finished",
            Change::GameFinished {
                game: 5,
                by: by(),
                players: vec![user("ann"), user("bob")],
                results: Some(Body::json(&json!({"winner": "ann"}))),
            },
        ),
        ("kicked", Change::Kicked { user: user("bob"), by: by(), reason: reason() }),
        ("banned", Change::Banned { user: user("bob"), by: by(), until: Some(AT), reason: reason() }),
        ("unbanned", Change::Unbanned { user: user("bob"), by: by() }),
        ("muted", Change::Muted { user: user("bob"), by: by(), until: Some(AT), reason: None }),
        ("unmuted", Change::Unmuted { user: user("bob"), by: by() }),
        ("edited", Change::Edited { of: Seq(41), by: user("ann"), body: Body::text("hello") }),
        ("deleted", Change::Deleted { of: Seq(41), by: user("ann") }),
        ("reacted", Change::Reacted { of: Seq(41), user: user("bob"), emoji: "🎉".to_owned() }),
        ("closed", Change::Closed { by: by(), reason: Some("over".to_owned()) }),
    ];
    changes
        .into_iter()
        .map(|(name, change)| {
            (name, LobbyEvent { lobby: lobby(), epoch: Epoch(3), seq: Seq(42), at: AT, change })
        })
        .collect()
}

fn state() -> LobbyState {
    let member = |name: &str, role, away| Member {
        user: user(name),
        name: name.to_uppercase(),
        role,
        away,
        ready: !away,
        attributes: object(json!({"team": "red"})),
    };
    let named = |prefix: &str| {
        lobby_events().into_iter().filter(|(name, _)| name.starts_with(prefix)).map(|e| e.1).collect()
    };
    LobbyState {
        settings: settings(),
        host: Some(user("ann")),
        members: vec![member("bob", MemberRole::Player, true), member("ann", MemberRole::Host, false)],
        members_total: 2,
        game: Some(5),
        messages: named("message"),
        retained: named("retained"),
    }
}

/// Every event a session can get, by the name of its golden file.
pub(crate) fn events() -> Vec<(String, Event)> {
    let mut events: Vec<(String, Event)> =
        lobby_events().into_iter().map(|(name, event)| (name.to_owned(), Event::Lobby(event))).collect();
    let (lobby, bob) = (lobby(), user("bob"));
    let others = vec![
        (
            "welcome",
            Event::Welcome {
                session: SessionId::new("0192abcd-1").unwrap(),
                user: user("ann"),
                node: NodeName::new("node-1").unwrap(),
                heartbeat_ms: 25_000,
                limits: Limits::default(),
                now: AT,
            },
        ),
        (
            "message_passing",
            Event::Message(PassingMessage {
                lobby: lobby.clone(),
                kind: Kind::new("game").unwrap(),
                from: Some(bob.clone()),
                at: AT,
                body: Body::json(&json!([1, 2, 3])),
            }),
        ),
        ("away", Event::Away { lobby: lobby.clone(), user: bob.clone() }),
        ("back", Event::Back { lobby: lobby.clone(), user: bob.clone() }),
        ("typing", Event::Typing { lobby: lobby.clone(), user: bob.clone() }),
        ("saved", Event::Saved { lobby: lobby.clone(), seq: Seq(40) }),
        ("caught_up", Event::CaughtUp { lobby: lobby.clone(), seq: Seq(42) }),
        (
            "snapshot",
            Event::Snapshot {
                lobby: lobby.clone(),
                epoch: Epoch(3),
                seq: Seq(42),
                state: Box::new(state()),
                mark: Some(mark()),
            },
        ),
        ("read", Event::Read { lobby: lobby.clone(), user: bob.clone(), mark: mark() }),
        ("lag", Event::Lag { lobby: lobby.clone(), dropped: 17 }),
        ("achievement", Event::Achievement { user: bob, achievement: "veteran".to_owned(), at: AT }),
        (
            "error",
            Event::Error {
                code: ErrorCode::LobbyFull,
                message: "the lobby is full".to_owned(),
                op: Some("join".to_owned()),
                lobby: Some(lobby),
                retry_ms: Some(500),
            },
        ),
        (
            "error_bare",
            Event::Error {
                code: ErrorCode::Internal,
                message: String::new(),
                op: None,
                lobby: None,
                retry_ms: None,
            },
        ),
    ];
    events.extend(others.into_iter().map(|(name, event)| (name.to_owned(), event)));
    for code in NoticeCode::ALL {
        events.push((
            format!("notice_{code}"),
            Event::Notice { code: *code, message: "the journal".to_owned() },
        ));
    }
    for code in close_codes() {
        let (reconnect, window_ms) = match code {
            CloseCode::Draining | CloseCode::Rebalance => (Reconnect::Window, Some((500, 15_000))),
            code if code.invites_reconnect() => (Reconnect::Now, None),
            _ => (Reconnect::Never, None),
        };
        let bye = Event::Bye { code: code.number(), reason: code.as_str().to_owned(), reconnect, window_ms };
        events.push((format!("bye_{}", code.as_str()), bye));
    }
    events
}

pub(crate) fn close_codes() -> [CloseCode; 16] {
    use CloseCode::{
        BadToken, Banned, Draining, Flood, Internal, Kicked, MessageTooBig, NoPong, Overloaded,
        ProtocolError, Rebalance, Replaced, SlowConsumer, TokenExpired, TooManyConnections,
        UnsupportedSubprotocol,
    };
    [
        Draining,
        Rebalance,
        SlowConsumer,
        NoPong,
        Internal,
        TokenExpired,
        Overloaded,
        Flood,
        BadToken,
        ProtocolError,
        UnsupportedSubprotocol,
        Kicked,
        Banned,
        Replaced,
        TooManyConnections,
        MessageTooBig,
    ]
}

/// Every kind of reply: golden name, operation asked, outcome.
pub(crate) fn replies() -> Vec<(String, &'static str, Result<Answer, Refusal>)> {
    let joined = |status, missed, state: Option<LobbyState>| Joined {
        lobby: lobby(),
        epoch: Epoch(3),
        seq: Seq(42),
        status,
        missed,
        state: state.map(Box::new),
        mark: Some(mark()),
    };
    let full = Refusal::new(ErrorCode::LobbyFull, "the lobby is full");
    let answers = vec![
        ("done", "leave", Answer::Done),
        ("joined", "join", Answer::Joined(joined(JoinStatus::Joined, 0, Some(state())))),
        ("join_snapshot", "join", Answer::Joined(joined(JoinStatus::Snapshot, 0, Some(state())))),
        ("join_resumed", "join", Answer::Joined(joined(JoinStatus::Resumed, 3, None))),
        (
            "resumed",
            "resume",
            Answer::Resumed(vec![
                Ok(joined(JoinStatus::Resumed, 1, None)),
                Err((LobbyId::new("arena").unwrap(), full)),
            ]),
        ),
        ("sent", "send", Answer::Sent { epoch: Epoch(3), seq: Seq(42), at: AT, dup: false }),
        ("sent_again", "send", Answer::Sent { epoch: Epoch(3), seq: Seq(42), at: AT, dup: true }),
        ("send_unsequenced", "send", Answer::Done),
        (
            "history",
            "history",
            Answer::History { events: lobby_events().into_iter().map(|e| e.1).collect(), more: true },
        ),
        ("roster", "roster", Answer::Roster { members: state().members, next: Some("c".to_owned()) }),
        ("changed", "kick", Answer::Changed { seq: Seq(42), game: None }),
        ("changed_game", "start", Answer::Changed { seq: Seq(42), game: Some(5) }),
        (
            "found",
            "find",
            Answer::Found {
                lobbies: vec![json!({"lobby": "lounge", "members": 3, "capacity": 4})],
                next: Some("0000000003 lounge".to_owned()),
            },
        ),
        ("found_quick", "find", Answer::Joined(joined(JoinStatus::Joined, 0, Some(state())))),
        ("invited", "invite", Answer::Invited { seq: Seq(42), invite: "secret".to_owned() }),
        ("look", "look", Answer::Look { epoch: Epoch(3), seq: Seq(42), state: Box::new(state()) }),
        ("read", "read", Answer::Read(mark())),
        ("blocks", "block", Answer::Blocks { users: vec![user("bob"), user("cat")] }),
        ("auth", "auth", Answer::Auth { expires_at: AT }),
        ("pong", "ping", Answer::Pong { now: AT }),
    ];
    let mut replies: Vec<_> =
        answers.into_iter().map(|(name, op, answer)| (name.to_owned(), op, Ok(answer))).collect();
    for code in ErrorCode::ALL {
        let mut refusal = Refusal::new(*code, format!("refused: {code}"));
        if matches!(code, ErrorCode::RateLimited | ErrorCode::Overloaded | ErrorCode::OwnerUnavailable) {
            refusal = refusal.retry_after(500);
        }
        replies.push((format!("err_{code}"), "send", Err(refusal)));
    }
    replies
}
