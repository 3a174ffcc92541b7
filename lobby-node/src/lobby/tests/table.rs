//! A lobby with the log that led to it, and the language of the scripts: who does what, and what comes of it.

use super::*;

/// A lobby with the log that led to it.
pub(super) struct Table {
    pub(super) state: State,
    pub(super) epoch: Epoch,
    pub(super) now: Millis,
    pub(super) rules: Rules,
    pub(super) log: Vec<Entry>,
    /// Marks that the next entry takes along.
    pub(super) reads: Vec<(UserId, Seq)>,
}

impl Table {
    pub(super) fn new() -> Self {
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

    pub(super) fn commit(
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
    pub(super) fn run(&mut self, line: &str) -> String {
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
            "forget" => LobbyCommand::Forget { user: user(argument.unwrap()), alias: user("nobody") },
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
            system: who == "service",
            expects: None,
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
            Ok(Decision::Forget(changes)) => {
                let told = self.commit(changes, None, Recorded::Changed);
                self.state.forget(&user(argument.unwrap()), &user("nobody"));
                told
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

pub(super) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

pub(super) fn object(json: &str) -> serde_json::Map<String, serde_json::Value> {
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

pub(super) fn said(kind: &str, text: &str, class: Class, to: Recipients) -> LobbyCommand {
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
pub(super) fn check(script: &str) -> Table {
    check_at(Table::new(), script)
}

pub(super) fn check_at(mut table: Table, script: &str) -> Table {
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (does, expected) = line.split_once("->").unwrap_or((line, ""));
        assert_eq!(table.run(does.trim()), expected.trim(), "at `{line}` of\n{script}");
    }
    table
}
