//! Generators of every frame, within the protocol's rules. Bodies are in the encoding asked for, because a frame
//! that is read back carries its body in the frame's own encoding.

use mlms_protocol::command::{
    Find, History, Join, Moderate, Moderation, Position, Recipients, ResumePoint, Send, Update,
};
use mlms_protocol::event::{LobbyState, PassingMessage, ReadMark};
use mlms_protocol::lobby::{Member, Reporters, Settings, Visibility};
use mlms_protocol::reply::Joined;
use mlms_protocol::{
    Answer, Body, Change, Class, Command, Encoding, Epoch, ErrorCode, Event, JoinStatus, Kind, Limits,
    LobbyCommand, LobbyEvent, LobbyId, MemberRole, Millis, NodeName, Nonce, NoticeCode, Reconnect, Refusal,
    Request, Seq, SessionId, UserId,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value};

pub(crate) fn lobby_id() -> impl Strategy<Value = LobbyId> + Clone {
    "[A-Za-z0-9_-]{1,64}".prop_map(|text| LobbyId::new(&text).unwrap())
}

pub(crate) fn user_id() -> impl Strategy<Value = UserId> + Clone {
    "\\PC{1,32}".prop_map(|text| UserId::new(&text).unwrap())
}

fn nonce() -> impl Strategy<Value = Nonce> {
    "\\PC{1,9}".prop_map(|text| Nonce::new(&text).unwrap())
}

fn kind() -> impl Strategy<Value = Kind> {
    "[a-z0-9_.-]{1,32}".prop_map(|text| Kind::new(&text).unwrap())
}

/// Any text, control characters and the rarest planes included.
fn text() -> impl Strategy<Value = String> + Clone {
    vec(any::<char>(), 0..20).prop_map(|chars| chars.into_iter().collect())
}

fn seq() -> impl Strategy<Value = Seq> {
    any::<u64>().prop_map(Seq)
}

fn epoch() -> impl Strategy<Value = Epoch> {
    any::<u64>().prop_map(Epoch)
}

fn millis() -> impl Strategy<Value = Millis> {
    any::<u64>().prop_map(Millis)
}

fn member_role() -> impl Strategy<Value = MemberRole> {
    select(MemberRole::ALL)
}

pub(crate) fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        proptest::num::f64::NORMAL.prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            btree_map(text(), inner, 0..5).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn object() -> impl Strategy<Value = Map<String, Value>> {
    btree_map(text(), value(), 0..4).prop_map(|map| map.into_iter().collect())
}

/// Any body; in MessagePack also what JSON cannot say.
pub(crate) fn body(encoding: Encoding) -> BoxedStrategy<Body> {
    let plain = value().prop_map(move |value| {
        let json = Body::json(&value);
        Body::new(encoding, &json.to(encoding)).unwrap()
    });
    if encoding == Encoding::Json {
        return plain.boxed();
    }
    let binary = vec(any::<u8>(), 0..200).prop_map(|bytes| {
        let mut packed = vec![0xc4, u8::try_from(bytes.len()).unwrap()];
        packed.extend(bytes);
        Body::new(Encoding::Msgpack, &packed).unwrap()
    });
    let integer_key = any::<u8>()
        .prop_map(|key| Body::new(Encoding::Msgpack, &[0x81, 0xcc, key, 0xca, 0x7f, 0xc0, 0, 0]).unwrap());
    prop_oneof![4 => plain, 1 => binary, 1 => integer_key].boxed()
}

fn text_body(encoding: Encoding) -> impl Strategy<Value = Body> {
    text().prop_map(move |text| Body::new(encoding, &Body::text(&text).to(encoding)).unwrap())
}

fn settings() -> impl Strategy<Value = Settings> {
    let visibility = prop_oneof![Just(Visibility::Public), Just(Visibility::Unlisted)];
    let reports = prop_oneof![Just(Reporters::Server), Just(Reporters::Host), Just(Reporters::Members)];
    let flags = (any::<bool>(), any::<bool>());
    (option::of(text()), option::of(any::<u32>()), visibility, flags, reports, object()).prop_map(
        |(name, capacity, visibility, (close_when_empty, join_in_progress), reports, metadata)| Settings {
            name,
            capacity,
            visibility,
            close_when_empty,
            join_in_progress,
            reports,
            metadata,
            ..Settings::default()
        },
    )
}

fn join() -> impl Strategy<Value = Join> {
    let position = (epoch(), seq()).prop_map(|(epoch, seq)| Position { epoch, seq });
    let role = prop_oneof![Just(MemberRole::Player), Just(MemberRole::Spectator)];
    (
        option::of(settings()),
        any::<bool>(),
        option::of(position),
        option::of(text()),
        option::of(text()),
        option::of(role),
    )
        .prop_map(|(create, saved, since, password, invite, role)| Join {
            create,
            saved,
            since,
            password,
            invite,
            role,
            resumed: false,
            again: false,
            ..Join::default()
        })
}

fn send(encoding: Encoding) -> impl Strategy<Value = Send> {
    let to = prop_oneof![
        2 => Just(Recipients::Everyone),
        1 => Just(Recipients::Host),
        1 => Just(Recipients::Others),
        1 => vec(user_id(), 1..5).prop_map(Recipients::Users),
    ];
    (kind(), any::<bool>(), body(encoding), text_body(encoding), select(Class::ALL), "\\PC{1,16}", to)
        .prop_map(|(kind, chat, body, text, class, key, to)| {
            let class = match (class, &to) {
                (Class::Durable, Recipients::Everyone) => Class::Durable,
                (Class::Durable, _) => Class::Ordered,
                (class, _) => class,
            };
            let chat = chat || kind.is_chat();
            Send {
                kind: if chat { Kind::new("chat").unwrap() } else { kind },
                body: if chat { text } else { body },
                key: match (class, &to) {
                    (Class::Ephemeral, _) => Some(key),
                    (Class::Durable, Recipients::Everyone) if key.len() % 2 == 0 => Some(key),
                    _ => None,
                },
                class,
                to,
            }
        })
}

fn history() -> impl Strategy<Value = History> {
    (option::of(seq()), option::of(seq()), 1..=200_u32).prop_map(|(before, after, limit)| History {
        before,
        after: if before.is_some() { None } else { after },
        limit,
    })
}

fn moderate() -> impl Strategy<Value = Moderate> {
    let action = prop_oneof![
        Just(Moderation::Kick),
        Just(Moderation::Ban),
        Just(Moderation::Unban),
        Just(Moderation::Mute),
        Just(Moderation::Unmute),
        Just(Moderation::Transfer),
        member_role().prop_map(Moderation::Role),
    ];
    (action, user_id(), option::of(any::<u64>()), option::of(text()))
        .prop_map(|(action, user, for_s, reason)| Moderate { action, user, for_s, reason })
}

pub(crate) fn lobby_command(encoding: Encoding) -> impl Strategy<Value = LobbyCommand> {
    prop_oneof![
        join().prop_map(LobbyCommand::Join),
        Just(LobbyCommand::Leave),
        send(encoding).prop_map(LobbyCommand::Send),
        Just(LobbyCommand::Typing),
        history().prop_map(LobbyCommand::History),
        (option::of(text()), option::of(any::<u32>()))
            .prop_map(|(cursor, limit)| LobbyCommand::Roster { cursor, limit }),
        (option::of(object()), option::of(object())).prop_map(|(mut settings, attributes)| {
            settings.as_mut().and_then(|settings| settings.remove("password"));
            LobbyCommand::Update(Update { settings, lock: None, attributes })
        }),
        Just(LobbyCommand::Close),
        any::<bool>().prop_map(|ready| LobbyCommand::Ready { ready }),
        Just(LobbyCommand::Start),
        (text(), any::<i64>(), option::of(user_id())).prop_map(|(stat, amount, user)| LobbyCommand::Report {
            stat,
            amount,
            user
        }),
        option::of(body(encoding)).prop_map(|results| LobbyCommand::Finish { results }),
        moderate().prop_map(LobbyCommand::Moderate),
        (seq(), body(encoding)).prop_map(|(seq, body)| LobbyCommand::Edit { seq, body }),
        seq().prop_map(|seq| LobbyCommand::Delete { seq }),
        (seq(), text()).prop_map(|(seq, emoji)| LobbyCommand::React { seq, emoji }),
        seq().prop_map(|seq| LobbyCommand::Read { seq }),
        (seq(), option::of(text())).prop_map(|(seq, reason)| LobbyCommand::ReportMessage { seq, reason }),
    ]
}

pub(crate) fn request(encoding: Encoding) -> impl Strategy<Value = Request> {
    let point = (lobby_id(), epoch(), seq(), any::<bool>(), option::of(text())).prop_map(
        |(lobby, epoch, seq, saved, password)| ResumePoint {
            saved,
            password,
            ..ResumePoint::new(lobby, epoch, seq)
        },
    );
    let not_null = value().prop_filter("null is as good as left out", |value| !value.is_null());
    let find = (option::of(object()), option::of(text()), option::of(any::<u32>()), option::of(not_null))
        .prop_map(|(filter, cursor, limit, quick)| Find { filter, cursor, limit, quick });
    let command = prop_oneof![
        1 => vec(point, 0..8).prop_map(Command::Resume),
        1 => text().prop_map(|token| Command::Auth { token }),
        1 => prop_oneof![Just(Command::Ping), Just(Command::Blocked)],
        1 => prop_oneof![
            user_id().prop_map(|user| Command::Block { user }),
            user_id().prop_map(|user| Command::Unblock { user }),
        ],
        1 => find.prop_map(Command::Find),
        16 => (lobby_id(), lobby_command(encoding)).prop_map(|(lobby, command)| Command::Lobby(lobby, command)),
    ];
    (option::of(any::<u32>()), option::of(nonce()), command).prop_map(|(id, nonce, command)| Request {
        id,
        nonce,
        command,
    })
}

fn change(encoding: Encoding) -> impl Strategy<Value = Change> {
    let by = || option::of(user_id());
    let reason = || option::of(text());
    let sanction = || (user_id(), by(), option::of(millis()), reason());
    let messages = prop_oneof![
        (kind(), by(), body(encoding), option::of(nonce()), option::of(text()))
            .prop_map(|(kind, from, body, nonce, key)| Change::Message { kind, from, body, nonce, key }),
        (seq(), user_id(), body(encoding)).prop_map(|(of, by, body)| Change::Edited { of, by, body }),
        (seq(), user_id()).prop_map(|(of, by)| Change::Deleted { of, by }),
        (seq(), user_id(), text()).prop_map(|(of, user, emoji)| Change::Reacted { of, user, emoji }),
    ];
    let members = prop_oneof![
        (user_id(), text(), member_role()).prop_map(|(user, name, role)| Change::Joined { user, name, role }),
        (user_id(), reason()).prop_map(|(user, reason)| Change::Left { user, reason }),
        (by(), by()).prop_map(|(user, by)| Change::HostChanged { user, by }),
        (
            by(),
            option::of(settings().prop_map(Box::new)),
            by(),
            option::of(member_role()),
            option::of(object())
        )
            .prop_map(|(by, settings, user, role, attributes)| Change::Updated {
                by,
                settings,
                user,
                role,
                attributes
            }),
        (by(), reason()).prop_map(|(by, reason)| Change::Closed { by, reason }),
    ];
    let games = prop_oneof![
        (user_id(), any::<bool>()).prop_map(|(user, ready)| Change::Ready { user, ready }),
        (any::<u64>(), by()).prop_map(|(game, by)| Change::GameStarted { game, by }),
        (any::<u64>(), user_id(), text(), any::<i64>(), by())
            .prop_map(|(game, user, stat, amount, by)| { Change::Reported { game, user, stat, amount, by } }),
        (any::<u64>(), by(), prop::collection::vec(user_id(), 0..3), option::of(body(encoding)))
            .prop_map(|(game, by, players, results)| Change::GameFinished { game, by, players, results }),
    ];
    let moderation = prop_oneof![
        (user_id(), by(), reason()).prop_map(|(user, by, reason)| Change::Kicked { user, by, reason }),
        sanction().prop_map(|(user, by, until, reason)| Change::Banned { user, by, until, reason }),
        (user_id(), by()).prop_map(|(user, by)| Change::Unbanned { user, by }),
        sanction().prop_map(|(user, by, until, reason)| Change::Muted { user, by, until, reason }),
        (user_id(), by()).prop_map(|(user, by)| Change::Unmuted { user, by }),
    ];
    prop_oneof![messages, members, games, moderation]
}

pub(crate) fn lobby_event(encoding: Encoding) -> impl Strategy<Value = LobbyEvent> {
    (lobby_id(), epoch(), seq(), millis(), change(encoding))
        .prop_map(|(lobby, epoch, seq, at, change)| LobbyEvent { lobby, epoch, seq, at, change })
}

fn member() -> impl Strategy<Value = Member> {
    (user_id(), text(), member_role(), any::<bool>(), any::<bool>(), object()).prop_map(
        |(user, name, role, away, ready, attributes)| Member { user, name, role, away, ready, attributes },
    )
}

fn state(encoding: Encoding) -> impl Strategy<Value = LobbyState> {
    (
        settings(),
        option::of(user_id()),
        vec(member(), 0..3),
        any::<u32>(),
        option::of(any::<u64>()),
        vec(lobby_event(encoding), 0..3),
        vec(lobby_event(encoding), 0..2),
    )
        .prop_map(|(settings, host, members, members_total, game, messages, retained)| LobbyState {
            settings,
            host,
            members,
            members_total,
            game,
            messages,
            retained,
        })
}

fn mark() -> impl Strategy<Value = ReadMark> {
    (seq(), any::<u32>()).prop_map(|(read, unread)| ReadMark { read, unread })
}

fn error_code() -> impl Strategy<Value = ErrorCode> {
    select(ErrorCode::ALL)
}

fn limits() -> impl Strategy<Value = Limits> {
    (any::<u32>(), any::<u32>(), any::<u64>()).prop_map(
        |(chats_per_s, commands_burst, resume_seconds_max)| Limits {
            chats_per_s,
            commands_burst,
            resume_seconds_max,
            ..Limits::default()
        },
    )
}

pub(crate) fn event(encoding: Encoding) -> impl Strategy<Value = Event> {
    let welcome = ("[A-Za-z0-9-]{1,48}", user_id(), "[a-z0-9.-]{1,63}", any::<u64>(), limits(), millis())
        .prop_map(|(session, user, node, heartbeat_ms, limits, now)| Event::Welcome {
            session: SessionId::new(&session).unwrap(),
            user,
            node: NodeName::new(&node).unwrap(),
            heartbeat_ms,
            limits,
            now,
        });
    let message = (lobby_id(), kind(), option::of(user_id()), millis(), body(encoding)).prop_map(
        |(lobby, kind, from, at, body)| Event::Message(PassingMessage { lobby, kind, from, at, body }),
    );
    let presence = prop_oneof![
        (lobby_id(), user_id()).prop_map(|(lobby, user)| Event::Away { lobby, user }),
        (lobby_id(), user_id()).prop_map(|(lobby, user)| Event::Back { lobby, user }),
        (lobby_id(), user_id()).prop_map(|(lobby, user)| Event::Typing { lobby, user }),
    ];
    let marks = prop_oneof![
        (lobby_id(), seq()).prop_map(|(lobby, seq)| Event::Saved { lobby, seq }),
        (lobby_id(), seq()).prop_map(|(lobby, seq)| Event::CaughtUp { lobby, seq }),
        (lobby_id(), any::<u64>()).prop_map(|(lobby, dropped)| Event::Lag { lobby, dropped }),
        (lobby_id(), user_id(), mark()).prop_map(|(lobby, user, mark)| Event::Read { lobby, user, mark }),
        (user_id(), text(), millis()).prop_map(|(user, achievement, at)| Event::Achievement {
            user,
            achievement,
            at
        }),
        (select(NoticeCode::ALL), text()).prop_map(|(code, message)| Event::Notice { code, message }),
    ];
    let snapshot = (lobby_id(), epoch(), seq(), state(encoding), option::of(mark())).prop_map(
        |(lobby, epoch, seq, state, mark)| Event::Snapshot {
            lobby,
            epoch,
            seq,
            state: Box::new(state),
            mark,
        },
    );
    let error = (error_code(), text(), option::of(text()), option::of(lobby_id()), option::of(any::<u64>()))
        .prop_map(|(code, message, op, lobby, retry_ms)| Event::Error { code, message, op, lobby, retry_ms });
    let bye = (any::<u16>(), text(), select(Reconnect::ALL), option::of(any::<(u64, u64)>()))
        .prop_map(|(code, reason, reconnect, window_ms)| Event::Bye { code, reason, reconnect, window_ms });
    prop_oneof![
        1 => welcome,
        4 => lobby_event(encoding).prop_map(Event::Lobby),
        1 => message,
        1 => presence,
        1 => marks,
        1 => snapshot,
        1 => error,
        1 => bye,
    ]
}

fn refusal() -> impl Strategy<Value = Refusal> {
    (error_code(), text(), option::of(any::<u64>())).prop_map(|(code, message, retry_ms)| Refusal {
        code,
        message,
        retry_ms,
    })
}

fn joined(encoding: Encoding) -> impl Strategy<Value = Joined> {
    let status = select(JoinStatus::ALL);
    let state = option::of(state(encoding));
    (lobby_id(), epoch(), seq(), status, any::<u64>(), state, option::of(mark())).prop_map(
        |(lobby, epoch, seq, status, missed, state, mark)| Joined {
            lobby,
            epoch,
            seq,
            status,
            missed,
            state: state.map(Box::new),
            mark,
        },
    )
}

/// A reply's outcome together with the operation that it answers.
pub(crate) fn outcome(encoding: Encoding) -> impl Strategy<Value = (&'static str, Result<Answer, Refusal>)> {
    let resumed =
        vec(prop_oneof![joined(encoding).prop_map(Ok), (lobby_id(), refusal()).prop_map(Err)], 0..3);
    let changes = select(vec![
        "update", "close", "ready", "start", "report", "finish", "kick", "ban", "unban", "mute", "unmute",
        "transfer", "role", "edit", "delete", "react",
    ]);
    let ok = |op, answer| (op, Ok(answer));
    prop_oneof![
        select(vec!["leave", "typing", "send", "report_message"]).prop_map(move |op| ok(op, Answer::Done)),
        joined(encoding).prop_map(move |joined| ok("join", Answer::Joined(joined))),
        resumed.prop_map(move |outcomes| ok("resume", Answer::Resumed(outcomes))),
        (epoch(), seq(), millis(), any::<bool>())
            .prop_map(move |(epoch, seq, at, dup)| ok("send", Answer::Sent { epoch, seq, at, dup })),
        (vec(lobby_event(encoding), 0..4), any::<bool>())
            .prop_map(move |(events, more)| ok("history", Answer::History { events, more })),
        (vec(member(), 0..4), option::of(text()))
            .prop_map(move |(members, next)| ok("roster", Answer::Roster { members, next })),
        (changes, seq(), option::of(any::<u64>()))
            .prop_map(move |(op, seq, game)| ok(op, Answer::Changed { seq, game })),
        mark().prop_map(move |mark| ok("read", Answer::Read(mark))),
        vec(user_id(), 0..4).prop_map(move |users| ok("block", Answer::Blocks { users })),
        millis().prop_map(move |expires_at| ok("auth", Answer::Auth { expires_at })),
        millis().prop_map(move |now| ok("ping", Answer::Pong { now })),
        refusal().prop_map(|refusal| ("send", Err(refusal))),
    ]
}
