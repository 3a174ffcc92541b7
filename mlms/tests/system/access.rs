//! Who may do what over REST: every operation of the served OpenAPI document by everybody, in a public and in a private
//! lobby, against the table in `access.txt`. Beside it, what a caller without access learns of a private lobby, and what
//! nobody gets on a socket. (Operations on a socket by everybody with a token: the lobby node's tests.)

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt as _;
use mlms_protocol::Role;
use mlms_protocol::command::OPERATIONS;
use mlms_test_servers::matrix::{Layout, Matrix};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::cluster::{Cluster, PATIENCE};
use crate::player::seq;
use crate::rest::Caller;

const TABLE: &str = include_str!("access.txt");

/// The columns. Nobody has no token; the last three hold tokens with a role, and are not members.
const WHO: [&str; 13] = [
    "nobody",
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
/// What is tried beside the plain operations: behind the colon stands what is special.
const VARIANTS: [&str; 15] = [
    "DELETE /lobbies/{lobby}/members/{user}:own",
    "PUT /lobbies/{lobby}/members/{user}/role:own",
    "PUT /lobbies/{lobby}/members/{user}/role:moderator",
    "POST /lobbies/{lobby}/messages:game",
    "PATCH /lobbies/{lobby}/messages/{seq}:own",
    "DELETE /lobbies/{lobby}/messages/{seq}:own",
    "GET /players/{user}/sessions:own",
    "DELETE /players/{user}/sessions:own",
    "DELETE /players/{user}/sessions/{session}:own",
    "GET /players/{user}/export:own",
    "DELETE /players/{user}:own",
    "GET /players/{user}/stats:own",
    "GET /players/{user}/achievements:own",
    "GET /audit:of",
    "GET /lobbies:find",
];
/// Scenes at a time.
const ABREAST: usize = 8;

/// A lobby with everybody in it whom an operation may be about, and the one who tries it.
struct Scene<'a> {
    cluster: &'a Cluster,
    lobby: String,
    number: u64,
    /// A message of the host, and one of whoever tries, if he could ever speak.
    theirs: u64,
    own: u64,
}

impl<'a> Scene<'a> {
    async fn set(cluster: &'a Cluster, private: bool, who: &str, game: bool) -> Scene<'a> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let server = cluster.caller("stagehand", &[Role::Server]);
        let mut scene = Scene { cluster, lobby: format!("place-{number}"), number, theirs: 0, own: 0 };
        let mut host = cluster.player_in(&scene.named("host"), &scene.lobby).await;
        scene.theirs = seq(&host.chat(&scene.lobby, "hello").await);
        scene.own = scene.theirs;
        let place = format!("/v1/lobbies/{}", scene.lobby);
        if private {
            server.must("PATCH", &place, json!({"settings": {"visibility": "private"}})).await;
        }
        let invite = server.must("POST", &format!("{place}/invites"), json!({})).await["invite"].clone();
        let join = json!({"op": "join", "lobby": scene.lobby, "invite": invite});
        // Members stay for a while when their connections end.
        cluster.player(&scene.named("other")).await.ask(join.clone()).await.unwrap();
        if !["nobody", "outsider", "invited", "overseer", "server", "admin"].contains(&who) {
            let mut sam = cluster.player(&scene.named("sam")).await;
            sam.ask(join).await.unwrap();
            scene.own = seq(&sam.chat(&scene.lobby, "mine").await);
        }
        let sam = scene.named("sam");
        match who {
            "moderator" | "spectator" => {
                let path = format!("{place}/members/{sam}/role");
                server.must("PUT", &path, json!({"role": who})).await;
            }
            "host" => _ = server.must("PUT", &format!("{place}/host"), json!({"user": sam})).await,
            "kicked" => _ = server.must("DELETE", &format!("{place}/members/{sam}"), Value::Null).await,
            "banned" => _ = server.must("PUT", &format!("{place}/bans/{sam}"), json!({})).await,
            "muted" => _ = server.must("PUT", &format!("{place}/mutes/{sam}"), json!({})).await,
            _ => {}
        }
        server.must("PUT", &format!("{place}/bans/{}", scene.named("ghost")), json!({})).await;
        server.must("PUT", &format!("{place}/mutes/{}", scene.named("quiet")), json!({})).await;
        if game {
            server.must("POST", &format!("{place}/games"), Value::Null).await;
        }
        scene
    }

    /// A user of this scene only.
    fn named(&self, who: &str) -> String {
        format!("{who}-{}", self.number)
    }

    /// What a row sends: method, path and body.
    async fn request(&self, row: &str) -> (String, String, Value) {
        let (operation, special) = row.split_once(':').map_or((row, ""), |(row, special)| (row, special));
        let (method, path) = operation.split_once(' ').unwrap();
        let whom = match (operation, special) {
            (_, "own") => "sam",
            ("DELETE /lobbies/{lobby}/bans/{user}", _) => "ghost",
            ("DELETE /lobbies/{lobby}/mutes/{user}", _) => "quiet",
            ("GET /bans/{user}" | "DELETE /bans/{user}", _) => "rogue",
            ("PUT /bans/{user}", _) => "troll",
            _ => "other",
        };
        let whom = self.named(whom);
        if operation.ends_with(" /bans/{user}") && method != "PUT" {
            let server = self.cluster.caller("stagehand", &[Role::Server]);
            server.must("PUT", &format!("/v1/bans/{whom}"), json!({})).await;
        }
        let number = if special == "own" { self.own } else { self.theirs };
        let path = path.replace("{lobby}", &self.lobby).replace("{user}", &whom);
        let path = path.replace("{seq}", &number.to_string()).replace("{session}", "none");
        let query = match special {
            "of" => "?user=somebody",
            "find" => "?filter=%7B%7D",
            _ => "",
        };
        (method.to_owned(), format!("/v1{path}{query}"), self.body(operation, special))
    }

    fn body(&self, operation: &str, special: &str) -> Value {
        let other = self.named("other");
        match (operation, special) {
            ("PATCH /lobbies/{lobby}", _) => json!({"settings": {"name": "Mine"}}),
            ("PUT /lobbies/{lobby}/members/{user}/role", "moderator") => json!({"role": "moderator"}),
            ("PUT /lobbies/{lobby}/members/{user}/role", _) => json!({"role": "spectator"}),
            ("PUT /lobbies/{lobby}/host", _) => json!({"user": other}),
            ("POST /lobbies/{lobby}/messages", "game") => json!({"kind": "game", "body": {"move": 1}}),
            ("POST /lobbies/{lobby}/messages", _) => json!({"body": "hi"}),
            ("PATCH /lobbies/{lobby}/messages/{seq}", _) => json!({"body": "x"}),
            ("POST /lobbies/{lobby}/games/current/reports", _) => {
                json!({"stat": "damage", "amount": 1, "user": other})
            }
            (
                "POST /connect"
                | "POST /guests"
                | "POST /lobbies"
                | "POST /lobbies/{lobby}/invites"
                | "POST /lobbies/{lobby}/games"
                | "POST /lobbies/{lobby}/games/current/finish"
                | "PUT /lobbies/{lobby}/bans/{user}"
                | "PUT /lobbies/{lobby}/mutes/{user}"
                | "PUT /bans/{user}",
                _,
            ) => json!({}),
            (reading, _) if reading.starts_with("GET ") || reading.starts_with("DELETE ") => Value::Null,
            (other, _) => panic!("nobody has said what `{other}` sends; the matrix needs it"),
        }
    }

    fn caller(&self, who: &str) -> Option<Caller<'_>> {
        let roles: &[Role] = match who {
            "nobody" => return None,
            "overseer" => &[Role::Moderator],
            "server" => &[Role::Server],
            "admin" => &[Role::Admin],
            _ => &[],
        };
        Some(self.cluster.caller(&self.named("sam"), roles))
    }
}

/// Every operation that the service says it has, and the variants.
async fn rows(cluster: &Cluster) -> Vec<String> {
    let (_, document) = cluster.request("GET", "/openapi.json", &[], "").await;
    let mut rows: Vec<String> = VARIANTS.map(str::to_owned).to_vec();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let Some(path) = path.strip_prefix("/v1") else { continue };
        rows.extend(
            methods
                .as_object()
                .unwrap()
                .keys()
                .map(|method| format!("{} {path}", method.to_ascii_uppercase())),
        );
    }
    rows.sort_by(|a, b| {
        let by_path =
            |row: &str| row.split_once(' ').map(|(method, path)| (path.to_owned(), method.to_owned()));
        by_path(a).cmp(&by_path(b))
    });
    rows
}

/// Sections with their rows: what is about no lobby is tried once.
fn sections(rows: &[String]) -> Vec<(&'static str, &str)> {
    let mut all = Vec::new();
    for section in ["service", "public", "private"] {
        let fits = |row: &&String| row.contains("{lobby}") == (section != "service");
        all.extend(rows.iter().filter(fits).map(|row| (section, row.as_str())));
    }
    all
}

async fn without_rates() -> Cluster {
    let settings = [
        ("MLMS_LIMIT_COMMANDS_PER_S", "0"),
        ("MLMS_LIMIT_CREATES_PER_MINUTE", "0"),
        ("MLMS_LIMIT_CONNECTIONS_PER_ADDRESS_MAX", "10000"),
    ];
    Cluster::with(&settings).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_may_do_over_rest_what_the_table_says_and_nothing_else() {
    let mut cluster = without_rates().await;
    let layout = Layout { who: &WHO, words: 2, row_width: 50, cell_width: 12 };
    let (expected, rows) = (Matrix::read(TABLE, layout), rows(&cluster).await);
    let plan = sections(&rows);
    let tries = plan.iter().flat_map(|(section, row)| WHO.map(|who| (*section, *row, who)));
    let cluster_now = &cluster;
    let outcomes = futures_util::stream::iter(tries).map(async |(section, row, who)| {
        let game = row.contains("/current/");
        let scene = Scene::set(cluster_now, section == "private", who, game).await;
        let (method, path, body) = scene.request(row).await;
        let (status, answer) = match scene.caller(who) {
            Some(caller) => caller.call(&method, &path, body).await,
            None => cluster_now.request(&method, &path, &[], &body.to_string()).await,
        };
        (section, row, who, status, answer)
    });
    let mut told: BTreeMap<(&str, &str), BTreeMap<&str, String>> = BTreeMap::new();
    let mut statuses: BTreeMap<String, BTreeSet<u16>> = BTreeMap::new();
    let mut outcomes = outcomes.buffer_unordered(ABREAST);
    while let Some((section, row, who, status, answer)) = outcomes.next().await {
        let cell = match answer["code"].as_str() {
            Some(code) if status >= 400 => code.to_owned(),
            _ => status.to_string(),
        };
        statuses.entry(cell.clone()).or_default().insert(status);
        told.entry((section, row)).or_default().insert(who, cell);
    }
    drop(outcomes);
    let told = plan.iter().map(|(section, row)| {
        let cells = &told[&(*section, *row)];
        (*section, (*row).to_owned(), WHO.iter().map(|who| cells[who].clone()).collect())
    });
    expected.hold(&told.collect::<Vec<_>>());
    assert!(statuses.values().all(|all| all.len() == 1), "one code, one status: {statuses:?}");
    cluster.stop().await;
}

/// An answer as it came, without what differs between any two: the date and the request's number.
async fn raw(cluster: &Cluster, method: &str, path: &str, token: Option<&str>, body: &Value) -> String {
    let mut stream = TcpStream::connect(cluster.address()).await.unwrap();
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let text = format!(
        "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n{token}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        cluster.address(),
        body.len()
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await;
    read.expect("an answer comes").unwrap();
    let lines = answer
        .split("\r\n")
        .filter(|line| !line.starts_with("date: ") && !line.starts_with("x-request-id: "));
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_lobby_is_told_from_none_by_no_byte_of_an_answer() {
    let mut cluster = without_rates().await;
    let server = cluster.caller("stagehand", &[Role::Server]);
    let rows: Vec<String> = rows(&cluster).await.into_iter().filter(|row| row.contains("{lobby}")).collect();
    for (who, closed) in [
        ("nobody", false),
        ("outsider", false),
        ("invited", false),
        ("kicked", false),
        ("banned", false),
        ("outsider", true),
    ] {
        let mut scene = Scene::set(&cluster, true, who, false).await;
        let hidden = scene.lobby.clone();
        if closed {
            server.must("DELETE", &format!("/v1/lobbies/{hidden}"), Value::Null).await;
        }
        let token = (who != "nobody").then(|| cluster.token(&scene.named("sam")));
        for row in &rows {
            let (method, path, body) = scene.request(row).await;
            let there = raw(&cluster, &method, &path, token.as_deref(), &body).await;
            // As long as the other's name.
            scene.lobby = format!("never{}", &hidden[5..]);
            let (method, path, body) = scene.request(row).await;
            let nowhere = raw(&cluster, &method, &path, token.as_deref(), &body).await;
            scene.lobby.clone_from(&hidden);
            assert_eq!(there, nowhere, "{row} by {who}, closed: {closed}");
            assert!(there.starts_with("HTTP/1.1 4"), "{row} by {who}: {there}");
        }
    }
    // Neither the list nor a search has it, for nobody but those who may moderate everywhere.
    let scene = Scene::set(&cluster, true, "outsider", false).await;
    let outsider = cluster.caller(&scene.named("sam"), &[]);
    for path in ["/v1/lobbies?limit=100", "/v1/lobbies?filter=%7B%7D&limit=100"] {
        let list = outsider.must("GET", path, Value::Null).await;
        assert!(!list.to_string().contains(&format!("\"{}\"", scene.lobby)), "{list}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn nobody_gets_no_session_and_no_answer_to_any_command() {
    let mut cluster = without_rates().await;
    let ann = cluster.player_in("ann", "den").await;
    for operation in OPERATIONS {
        let mut answers = BTreeSet::new();
        for target in ["/ws", "/ws?lobby=den", "/lobbies/den/ws", "/ws?lobby=never", "/ws?token=x.y.z"] {
            let mut stream = TcpStream::connect(cluster.address()).await.unwrap();
            let head = format!(
                "GET {target} HTTP/1.1\r\nhost: {}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                cluster.address()
            );
            // As if it were let in: a masked text frame, the mask all zeros.
            let command =
                json!({"id": 1, "op": operation, "lobby": "den", "kind": "chat", "body": "hi"}).to_string();
            let length = u8::try_from(command.len()).unwrap();
            assert!(length < 126, "{command}");
            let mut sent = head.into_bytes();
            sent.extend([0x81, 0x80 | length, 0, 0, 0, 0]);
            sent.extend(command.as_bytes());
            stream.write_all(&sent).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = Vec::new();
            // A reset is an end, too.
            let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
            let _ = read.expect("the connection ends");
            let answer = String::from_utf8_lossy(&answer).into_owned();
            let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            // What follows the first answer is told that it is no HTTP.
            let body = body.split("HTTP/1.1 ").next().unwrap_or_default().to_owned();
            assert!(answer.starts_with("HTTP/1.1 401"), "{operation} {target}: {answer}");
            assert!(!answer.contains("\"ok\"") && !answer.contains("den"), "{operation} {target}: {answer}");
            answers.insert((target == "/ws?token=x.y.z", body));
        }
        assert!(answers.len() <= 2, "{operation}: a lobby makes no difference: {answers:?}");
    }
    drop(ann);
    cluster.stop().await;
}
