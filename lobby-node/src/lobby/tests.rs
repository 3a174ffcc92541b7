//! The rules, without a runtime. A script says who does what; the helper says what came of it.

mod doors;
mod flow;
mod lasting;
mod powers;
mod words;

use std::sync::Arc;
use std::time::Duration;

use mlms_protocol::command::{
    History, Invite, Join, Lock, Moderate, Moderation, Position, Recipients, Send, Update,
};
use mlms_protocol::lobby::{Reporters, Settings};
use mlms_protocol::{
    Answer, Body, Change, Class, Epoch, ErrorCode, Kind, Limits, LobbyCommand, LobbyEvent, LobbyId,
    MemberRole, Millis, Nonce, Refusal, Role, Seq, SessionId, UserId,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

/// A lobby with the log that led to it.
struct Table {
    state: State,
    epoch: Epoch,
    now: Millis,
    rules: Rules,
    log: Vec<Entry>,
    /// Marks that the next entry takes along.
    reads: Vec<(UserId, Seq)>,
}

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

impl Table {
    fn new() -> Self {
        Table {
            state: State::new(LobbyId::new("lounge").unwrap()),
            epoch: Epoch(1),
            now: Millis(1_000),
            rules: Rules {
                limits: Arc::new(Limits {
                    members_per_lobby_max: 4,
                    resume_events_max: 50,
                    ..Limits::default()
                }),
                grace: Duration::from_secs(60),
                empty_ttl: Duration::from_secs(60),
                creators: None,
                words: Arc::default(),
                maintenance: None,
            },
            log: Vec::new(),
            reads: Vec::new(),
        }
    }

    fn commit(
        &mut self,
        changes: Vec<Change>,
        key: Option<(UserId, CommandKey)>,
        recorded: Recorded,
    ) -> String {
        let mut seq = self.state.seq;
        let (lobby, epoch, at) = (self.state.lobby.clone(), self.epoch, self.now);
        let events = changes.into_iter().map(|change| {
            seq = seq.next();
            LobbyEvent { lobby: lobby.clone(), epoch, seq, at, change }
        });
        let entry = Entry { events: events.collect(), key, recorded, reads: std::mem::take(&mut self.reads) };
        self.log.push(Entry::decode(&entry.encode()).unwrap());
        let told: Vec<_> = self.state.apply_entry(entry).iter().map(|event| told(&event.change)).collect();
        told.join(" ")
    }

    /// Carries out `who[+role] verb [argument] [#nonce]`, and tells what came of it.
    fn run(&mut self, line: &str) -> String {
        let (line, nonce) = match line.split_once(" #") {
            Some((line, nonce)) => (line, Some(Nonce::new(nonce).unwrap())),
            None => (line, None),
        };
        let mut words = line.split(' ');
        let (who, verb, argument) = (words.next().unwrap(), words.next().unwrap(), words.next());
        let (who, role) = who.split_once('+').map_or((who, None), |(who, role)| (who, Role::parse(role)));
        let command = match verb {
            "wait" => {
                self.now = self.now.after(Duration::from_secs(argument.unwrap().parse().unwrap()));
                return String::new();
            }
            "moves" => {
                self.epoch.0 += argument.map_or(1, |by| by.parse().unwrap());
                return String::new();
            }
            "times_out" => {
                let changes = self.state.departure(&user(who), Some("timeout"));
                return self.commit(changes, None, Recorded::Done);
            }
            "join" | "watch" | "create" | "resume" => LobbyCommand::Join(Join {
                create: (verb == "create").then(|| Settings {
                    capacity: argument.and_then(|argument| argument.parse().ok()),
                    close_when_empty: argument == Some("closing"),
                    join_in_progress: argument != Some("strict"),
                    reports: match argument {
                        Some("host-reports") => Reporters::Host,
                        Some("all-report") => Reporters::Members,
                        _ => Reporters::Server,
                    },
                    ..Settings::default()
                }),
                resumed: verb == "resume",
                role: (verb == "watch").then_some(MemberRole::Spectator),
                ..Join::default()
            }),
            "leave" | "leaves_one" => LobbyCommand::Leave,
            "close" => LobbyCommand::Close,
            "typing" => LobbyCommand::Typing,
            "history" => LobbyCommand::History(History { before: None, after: None, limit: 10 }),
            "roster" => LobbyCommand::Roster {
                cursor: argument.map(str::to_owned).filter(|cursor| cursor != "-"),
                limit: words.next().map(|limit| limit.parse().unwrap()),
            },
            "look" => LobbyCommand::Look,
            "set" => LobbyCommand::Update(Update {
                settings: Some(object(argument.unwrap())),
                lock: None,
                attributes: None,
            }),
            "wear" => LobbyCommand::Update(Update {
                settings: None,
                lock: None,
                attributes: Some(object(argument.unwrap())),
            }),
            "lock" | "unlock" => LobbyCommand::Update(Update {
                settings: None,
                lock: Some(match argument {
                    Some(hash) => Lock::Hash(hash.to_owned()),
                    None => Lock::Remove,
                }),
                attributes: None,
            }),
            "opens" => LobbyCommand::Join(Join { opened: argument.map(str::to_owned), ..Join::default() }),
            "invited" => LobbyCommand::Join(Join { invite: argument.map(str::to_owned), ..Join::default() }),
            "invite" => LobbyCommand::Invite(Invite {
                secret: argument.unwrap().to_owned(),
                uses: words.next().map(|uses| uses.parse().unwrap()),
                for_s: words.next().map(|for_s| for_s.parse().unwrap()),
            }),
            "edit" => LobbyCommand::Edit {
                seq: Seq(argument.unwrap().parse().unwrap()),
                body: Body::text(words.next().unwrap_or("")),
            },
            "delete" => LobbyCommand::Delete { seq: Seq(argument.unwrap().parse().unwrap()) },
            "react" => LobbyCommand::React {
                seq: Seq(argument.unwrap().parse().unwrap()),
                emoji: words.next().unwrap_or("").to_owned(),
            },
            "read" => LobbyCommand::Read { seq: Seq(argument.unwrap().parse().unwrap()) },
            "denounce" => LobbyCommand::ReportMessage {
                seq: Seq(argument.unwrap().parse().unwrap()),
                reason: words.next().map(str::to_owned),
            },
            "keep" => LobbyCommand::Send(Send {
                kind: Kind::new("game").unwrap(),
                body: Body::json(&serde_json::from_str(words.next().unwrap()).unwrap()),
                class: Class::Durable,
                key: argument.map(str::to_owned),
                to: Recipients::Everyone,
            }),
            "ready" | "unready" => LobbyCommand::Ready { ready: verb == "ready" },
            "start" => LobbyCommand::Start,
            "report" => LobbyCommand::Report {
                stat: argument.unwrap().to_owned(),
                amount: words.next().unwrap().parse().unwrap(),
                user: words.next().map(user),
            },
            "finish" => LobbyCommand::Finish { results: None },
            "kick" | "ban" | "unban" | "mute" | "unmute" | "transfer" | "moderator" | "player"
            | "spectator" | "host" => LobbyCommand::Moderate(Moderate {
                action: match verb {
                    "kick" => Moderation::Kick,
                    "ban" => Moderation::Ban,
                    "unban" => Moderation::Unban,
                    "mute" => Moderation::Mute,
                    "unmute" => Moderation::Unmute,
                    "transfer" => Moderation::Transfer,
                    role => Moderation::Role(MemberRole::parse(role).unwrap()),
                },
                user: user(argument.unwrap()),
                for_s: words.next().map(|for_s| for_s.parse().unwrap()),
                reason: None,
            }),
            "chat" => said("chat", argument.unwrap(), Class::Durable, Recipients::Everyone),
            "game" => said("game", "x", Class::Ordered, recipients(argument)),
            "wink" => said("game", "x", Class::Ephemeral, recipients(argument)),
            other => panic!("{other}?"),
        };
        let session = SessionId::new(&format!("{who}-1")).unwrap();
        let caller = Caller {
            session,
            user: user(who),
            name: who.to_uppercase(),
            roles: role.into_iter().collect(),
            system: false,
        };
        let key = nonce.map(CommandKey::Nonce);
        if let Some(outcome) = key.as_ref().and_then(|key| self.state.outcome(&caller.user, key, self.now)) {
            return format!("dup {}", outcome.seq);
        }
        match self.state.decide(&caller, &command, verb != "leaves_one", self.now, &self.rules) {
            Err(refusal) => refusal.code.as_str().to_owned(),
            Ok(Decision::Change(changes, recorded)) => {
                self.commit(changes, key.map(|key| (caller.user, key)), recorded)
            }
            Ok(Decision::Attach(changes)) if changes.is_empty() => "attached".to_owned(),
            Ok(Decision::Attach(changes)) => self.commit(changes, None, Recorded::Changed),
            Ok(Decision::Pass(passing)) => {
                format!("{} to {:?}", passing.class.as_str(), passing.to).replace('"', "")
            }
            Ok(Decision::History(_)) => "history".to_owned(),
            Ok(Decision::Look { full }) => format!("look full:{full}"),
            Ok(Decision::Read(seq)) => {
                if let Some(seq) = self.state.mark_read(&caller.user, seq) {
                    self.reads.push((caller.user.clone(), seq));
                }
                let mark = self.state.mark_of(&caller.user);
                format!("read {} unread {}", mark.read, mark.unread)
            }
            Ok(Decision::File(report)) => {
                let around: Vec<_> = report.context.iter().map(|event| event.seq.to_string()).collect();
                format!("report {} among {}", report.message.seq, around.join(","))
            }
            Ok(Decision::Recall(seq)) => format!("recall {seq}"),
            Ok(Decision::Answer(Answer::Done)) => "done".to_owned(),
            Ok(Decision::Answer(Answer::Roster { members, next })) => {
                let names: Vec<_> = members.iter().map(|member| member.user.as_str()).collect();
                format!("{} next {}", names.join(","), next.as_deref().unwrap_or("-"))
            }
            Ok(Decision::Answer(other)) => panic!("{other:?}"),
        }
    }
}

fn object(json: &str) -> serde_json::Map<String, serde_json::Value> {
    serde_json::from_str(json).unwrap()
}

fn recipients(argument: Option<&str>) -> Recipients {
    match argument {
        None => Recipients::Everyone,
        Some("host") => Recipients::Host,
        Some("others") => Recipients::Others,
        Some(name) => Recipients::Users(vec![user(name)]),
    }
}

fn said(kind: &str, text: &str, class: Class, to: Recipients) -> LobbyCommand {
    LobbyCommand::Send(Send { kind: Kind::new(kind).unwrap(), body: Body::text(text), class, key: None, to })
}

fn told(change: &Change) -> String {
    match change {
        Change::Joined { user, role, .. } => format!("joined:{user}:{}", role.as_str()),
        Change::Left { user, reason } => match reason {
            Some(reason) => format!("left:{user}:{reason}"),
            None => format!("left:{user}"),
        },
        Change::HostChanged { user: Some(user), .. } => format!("host:{user}"),
        Change::HostChanged { user: None, .. } => "host:-".to_owned(),
        Change::Updated { user: Some(user), role: Some(role), .. } => format!("{user}:{role}"),
        Change::Ready { user, ready } => format!("ready:{user}:{ready}"),
        Change::GameStarted { game, .. } => format!("started:{game}"),
        Change::Reported { game, user, stat, amount, .. } => {
            format!("reported:{game}:{user}:{stat}:{amount}")
        }
        Change::GameFinished { game, players, .. } => {
            let players: Vec<_> = players.iter().map(UserId::as_str).collect();
            format!("finished:{game}:{}", players.join(","))
        }
        Change::Kicked { user, .. }
        | Change::Banned { user, .. }
        | Change::Unbanned { user, .. }
        | Change::Muted { user, .. }
        | Change::Unmuted { user, .. } => format!("{}:{user}", change.name()),
        other => other.name().to_owned(),
    }
}

/// Plays a script of lines `what is done -> what comes of it`, and gives the table as it is then.
fn check(script: &str) -> Table {
    check_at(Table::new(), script)
}

fn check_at(mut table: Table, script: &str) -> Table {
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (does, expected) = line.split_once("->").unwrap_or((line, ""));
        assert_eq!(table.run(does.trim()), expected.trim(), "at `{line}` of\n{script}");
    }
    table
}

#[test]
fn the_first_to_join_creates_the_lobby_and_hosts_it() {
    check(
        "ann join -> not_found
         ann create -> updated joined:ann:host
         bob join -> joined:bob:player
         cat create -> joined:cat:player
         ann join -> attached
         bob create -> attached",
    );
    check("ann watch -> not_found");
}

#[test]
fn a_spectator_does_not_become_host_while_a_player_could() {
    let table = check(
        "ann create -> updated joined:ann:host
         bob watch -> joined:bob:spectator
         cat join -> joined:cat:player
         ann leave -> left:ann host:cat
         cat leave -> left:cat host:bob
         dan join -> joined:dan:player
         bob leave -> left:bob host:dan
         dan leave -> left:dan host:-
         eve join -> joined:eve:host",
    );
    assert_eq!(table.state.member(&user("eve")).unwrap().role, MemberRole::Host);
}

#[test]
fn a_full_lobby_refuses_and_lets_in_again_when_there_is_room() {
    check(
        "ann create 2 -> updated joined:ann:host
         bob join -> joined:bob:player
         cat join -> lobby_full
         cat watch -> lobby_full
         bob join -> attached
         bob leave -> left:bob
         cat join -> joined:cat:player",
    );
    // The deployment's own limit holds where the lobby sets none, and bounds what it may set.
    check(
        "ann create 5 -> bad_request
         ann create 0 -> bad_request
         ann create -> updated joined:ann:host
         bob join -> joined:bob:player
         cat join -> joined:cat:player
         dan join -> joined:dan:player
         eve join -> lobby_full",
    );
}

#[test]
fn only_who_may_creates() {
    let mut table = Table::new();
    table.rules.creators = Some(vec![Role::Server, Role::Admin]);
    check_at(
        table,
        "ann create -> forbidden
         ann+moderator create -> forbidden
         bot+server create -> updated joined:bot:host
         ann create -> joined:ann:player",
    );
}

#[test]
fn strangers_do_nothing() {
    for does in ["leave", "chat hi", "game", "wink", "typing", "history", "roster", "close", "start"] {
        let table = check(&format!("bob {does} -> not_found"));
        let table =
            check_at(table, &format!("ann create -> updated joined:ann:host\n bob {does} -> not_member"));
        let table = check_at(table, &format!("ann close -> closed\n ann {does} -> lobby_closed"));
        assert_eq!(table.state.seq, Seq(3), "{does}");
    }
}

#[test]
fn leaving_ends_a_membership_when_no_other_session_holds_it() {
    check(
        "ann create -> updated joined:ann:host
         ann leaves_one -> done
         ann chat hi -> message
         ann leave -> left:ann host:-
         ann chat hi -> not_member
         ann leave -> not_member
         ann join -> joined:ann:host
         ann times_out -> left:ann:timeout host:-",
    );
}

#[test]
fn a_lobby_that_closes_when_empty_closes_with_its_last_member() {
    check(
        "ann create closing -> updated joined:ann:host
         bob join -> joined:bob:player
         ann leave -> left:ann host:bob
         bob times_out -> left:bob:timeout closed
         bob join -> lobby_closed
         bob chat hi -> lobby_closed
         bob create -> updated joined:bob:host
         bob leave -> left:bob host:-
         ann join -> joined:ann:host",
    );
}

#[test]
fn the_host_closes_and_so_does_who_watches_over_all() {
    check(
        "ann create -> updated joined:ann:host
         bob join -> joined:bob:player
         bob close -> forbidden
         cat close -> not_member
         ann close -> closed
         ann chat hi -> lobby_closed
         bob join -> lobby_closed",
    );
    for role in ["moderator", "admin", "server"] {
        check(&format!("ann create -> updated joined:ann:host\n bot+{role} close -> closed"));
        check(&format!("bot+{role} close -> not_found"));
    }
}

#[test]
fn each_class_of_message_goes_its_way() {
    check(
        "ann create -> updated joined:ann:host
         bob join -> joined:bob:player
         ann chat hi -> message
         ann game -> ordered to Everyone
         ann wink -> ephemeral to Everyone
         ann game others -> ordered to EveryoneBut(ann)
         bob game host -> ordered to Users([ann])
         bob wink cat -> ephemeral to Users([cat])
         bob typing -> ephemeral to EveryoneBut(bob)
         bob start -> forbidden
         ann leave -> left:ann host:bob
         bob game host -> ordered to Users([bob])",
    );
}

#[test]
fn a_nonce_counts_once_per_user_within_its_window() {
    let table = check(
        "ann create -> updated joined:ann:host
         bob join -> joined:bob:player
         ann chat hi #1 -> message
         ann chat hi #1 -> dup 4
         bob chat hi #1 -> message
         ann chat ho #2 -> message
         ann wait 299
         ann chat hi #1 -> dup 4
         ann chat ho #2 -> dup 6
         ann wait 1
         ann chat hi #1 -> message
         ann wait 299
         ann chat hi #1 -> dup 7",
    );
    // Memory of what was forgotten is given back as new ones come.
    let table = check_at(table, "ann wait 600\n ann chat x #3 -> message");
    assert_eq!(State::from_snapshot(&table.state.snapshot()).unwrap().snapshot(), table.state.snapshot());
    check_at(
        table,
        "ann leave #4 -> left:ann host:bob
         ann leave #4 -> dup 10
         bob close #5 -> closed
         bob close #5 -> dup 11",
    );
}

#[test]
fn a_roster_is_paged_in_the_order_of_joining_whoever_comes_and_goes() {
    let table = check(
        "ann create -> updated joined:ann:host
         bob join -> joined:bob:player
         cat join -> joined:cat:player
         ann roster -> ann,bob,cat next -
         ann roster - 2 -> ann,bob next 1
         bob leave -> left:bob
         bob join -> joined:bob:player
         ann roster 1 2 -> cat,bob next -
         ann roster - 0 -> bad_request
         ann roster - 101 -> bad_request
         ann roster first -> bad_request
         bob leave -> left:bob",
    );
    // The places go on where they were, also in the memory of another owner.
    let rebuilt = State::from_snapshot(&table.state.snapshot()).unwrap();
    check_at(
        Table { state: rebuilt, ..table },
        "dan join -> joined:dan:player
         ann roster 3 -> dan next -",
    );
}

/// Ann at seq 2, chats at 3 and 4 of epoch 1; 5 and 6 of epoch 3; the owner is at epoch 4.
fn moved() -> Table {
    check(
        "ann create -> updated joined:ann:host
         ann chat a -> message
         ann chat b -> message
         ann moves 2
         ann chat c -> message
         ann chat d -> message
         ann moves",
    )
}

#[test]
fn a_position_is_valid_where_its_epoch_fits_the_events_on_both_sides() {
    let table = moved();
    for (epoch, seq, missed) in [
        (1, 1, Some(5)),
        (1, 2, Some(4)),
        (1, 4, Some(2)),
        // Told by a later owner before anything new happened.
        (2, 4, Some(2)),
        (3, 4, Some(2)),
        (3, 5, Some(1)),
        (3, 6, Some(0)),
        (4, 6, Some(0)),
        // Of a life that another owner's events replaced.
        (1, 5, None),
        (2, 5, None),
        (1, 6, None),
        (2, 6, None),
        // Nobody was ever told these.
        (2, 3, None),
        (3, 3, None),
        (4, 4, None),
        (4, 5, None),
        (0, 2, None),
        (5, 6, None),
        (3, 7, None),
        (4, 7, None),
        (u64::MAX, u64::MAX, None),
        (0, 0, None),
        (1, 0, None),
    ] {
        let position = Position { epoch: Epoch(epoch), seq: Seq(seq) };
        let found = table.state.missed_since(position, table.epoch, &table.rules.limits);
        assert_eq!(found, missed, "({epoch}, {seq})");
    }
}

#[test]
fn what_is_forgotten_cannot_be_resumed_and_what_is_not_saved_is_not_forgotten() {
    let mut table = moved();
    let later = table.now.after(Duration::from_secs(601));
    let limits = Arc::clone(&table.rules.limits);
    let missed = |state: &State, epoch, seq| {
        state.missed_since(Position { epoch: Epoch(epoch), seq: Seq(seq) }, Epoch(4), &limits)
    };
    table.state.trim_recent(&limits, Seq(3), later);
    assert_eq!(table.state.recent_floor(), Seq(3));
    assert_eq!(missed(&table.state, 1, 2), None);
    assert_eq!(missed(&table.state, 1, 3), Some(3));
    table.state.trim_recent(&limits, Seq(6), later);
    assert_eq!(table.state.recent_floor(), Seq(6));
    assert_eq!([missed(&table.state, 3, 5), missed(&table.state, 3, 6)], [None, Some(0)]);
    // More events than a resume may bring are a snapshot, though they are in memory.
    for _ in 0..51 {
        assert_eq!(table.run("ann chat x"), "message");
    }
    assert_eq!([missed(&table.state, 3, 6), missed(&table.state, 4, 7)], [None, Some(50)]);
}

#[test]
fn history_and_resume_do_not_reach_behind_a_close() {
    let table = check(
        "ann create -> updated joined:ann:host
         ann chat a -> message
         ann close -> closed
         bob create -> updated joined:bob:host
         bob chat b -> message",
    );
    assert_eq!((table.state.floor, table.state.seq), (Seq(4), Seq(7)));
    let missed = |seq| {
        table.state.missed_since(Position { epoch: Epoch(1), seq: Seq(seq) }, Epoch(1), &table.rules.limits)
    };
    assert_eq!([missed(2), missed(3), missed(4), missed(5)], [None, None, Some(3), Some(2)]);
    let view = table.state.view(&user("bob"), |_| false);
    assert_eq!(view.messages.iter().map(|message| message.seq).collect::<Vec<_>>(), [Seq(7)]);
    assert_eq!(view.members.iter().map(|member| member.user.as_str()).collect::<Vec<_>>(), ["bob"]);
}

#[test]
fn a_state_shows_the_own_entry_first_and_the_last_messages() {
    let mut table = check(
        "ann create -> updated joined:ann:host
         bob join -> joined:bob:player
         cat join -> joined:cat:player",
    );
    for number in 0..60 {
        table.run(&format!("ann chat {number}"));
    }
    let view = table.state.view(&user("cat"), |who| *who == user("bob"));
    let seen: Vec<_> = view.members.iter().map(|member| (member.user.as_str(), member.away)).collect();
    assert_eq!(seen, [("cat", false), ("ann", false), ("bob", true)]);
    let texts: Vec<_> = view.messages.iter().map(|message| message.seq.0).collect();
    assert_eq!(texts, (15..=64).collect::<Vec<_>>());
}

#[test]
fn unreadable_bytes_are_an_error() {
    for bytes in [&b""[..], b"\x00", b"\x02\x80", b"\x01\xc1", b"\x01\x80"] {
        assert!(Entry::decode(bytes).is_err() && State::from_snapshot(bytes).is_err(), "{bytes:?}");
    }
}

/// The same events give the same state, whatever part of them came as a snapshot.
#[test]
fn a_snapshot_and_an_overlapping_log_rebuild_the_state() {
    for seed in 0..300 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut table = Table::new();
        // Taken behind that many entries.
        let mut snapshots = Vec::new();
        for _ in 0..random.random_range(1..120) {
            let [who, whom] =
                [(); 2].map(|()| ["ann", "bob", "cat", "dan", "eve"][random.random_range(0..5)]);
            let nonce = random.random_range(0..12);
            let does = match random.random_range(0..36) {
                0..3 => "create closing".to_owned(),
                3..5 => "create 3".to_owned(),
                5 => "watch".to_owned(),
                6..8 => "leave".to_owned(),
                8 => format!("close #{nonce}"),
                9 => "wait 40".to_owned(),
                10 => "moves".to_owned(),
                11 if table.state.member(&user(who)).is_some() => "times_out".to_owned(),
                12 => format!("kick {whom}"),
                13 => format!("ban {whom} {}", random.random_range(1..100)),
                14 => format!("unban {whom}"),
                15 => format!("mute {whom}"),
                16 => format!("unmute {whom}"),
                17 => format!("transfer {whom}"),
                18 => format!("moderator {whom}"),
                19 => format!("start #{nonce}"),
                20 => "finish".to_owned(),
                21 => "ready".to_owned(),
                22 => format!("edit {} new", random.random_range(1..20)),
                23 => format!("delete {}", random.random_range(1..20)),
                24 => "set {\"slow_mode_s\":3}".to_owned(),
                25 => format!("invite s{nonce} 2 30"),
                26 => format!("invited s{nonce}"),
                27 => "lock h".to_owned(),
                28 => "unlock".to_owned(),
                _ => format!("chat hi #{nonce}"),
            };
            table.run(&format!("{who} {does}"));
            if random.random_bool(0.1) {
                snapshots.push((table.log.len(), table.state.snapshot()));
            }
        }
        for (behind, bytes) in snapshots {
            let mut rebuilt = State::from_snapshot(&bytes).unwrap();
            let overlap = random.random_range(0..=behind);
            for entry in &table.log[overlap..] {
                rebuilt.apply_entry(entry.clone());
            }
            assert!(rebuilt.snapshot() == table.state.snapshot(), "seed {seed}, behind {behind} entries");
            let floor = rebuilt.recent_floor();
            let recent = |state: &State| -> Vec<_> {
                state.events_after(floor).into_iter().flatten().cloned().collect()
            };
            assert_eq!(recent(&rebuilt), recent(&table.state), "seed {seed}");
        }
    }
}
