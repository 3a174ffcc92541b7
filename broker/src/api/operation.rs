//! The table of operations under `/v1`: method and path, who may call, what goes in and comes out. Requests are
//! dispatched by it and the OpenAPI document is written from it, so that neither knows what the other does not.

use hyper::Method;
use mlms_protocol::Role;

use crate::metrics::Route;

/// What an operation does; `api.rs` has the one `match` over them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Connect,
    Guest,
    LobbyList,
    LobbyCreate,
    LobbyGet,
    LobbyUpdate,
    LobbyClose,
    Invite,
    MemberList,
    MemberKick,
    MemberRole,
    HostSet,
    LobbyBan,
    LobbyUnban,
    LobbyMute,
    LobbyUnmute,
    MessageList,
    MessageSend,
    MessageEdit,
    MessageDelete,
    GameStart,
    GameReport,
    GameFinish,
    GameResults,
    LobbyAudit,
    PlayerStats,
    PlayerAchievements,
    PlayerSessions,
    SessionsEnd,
    SessionEnd,
    PlayerExport,
    PlayerErase,
    BanList,
    BanGet,
    BanSet,
    BanLift,
    Audit,
    ReportList,
}

/// Who may call, before anybody looks at what it is about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Access {
    /// Without a token, too.
    Anybody,
    /// With any good token; the lobby's owner knows more.
    Token,
    /// With a token that has one of these roles.
    Roles(&'static [Role]),
}

/// One operation.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) verb: Verb,
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) route: Route,
    pub(crate) access: Access,
    /// One line for the reference.
    pub(crate) summary: &'static str,
    /// Parameters of the query, each described under this key among the document's parameters; what stands behind the
    /// key's last `_` is the name on the wire.
    pub(crate) query: &'static [&'static str],
    /// The schema of the body.
    pub(crate) body: Option<&'static str>,
    pub(crate) body_bytes_max: usize,
    /// What it answers when it did what was asked: status and schema.
    pub(crate) answers: &'static [(u16, Option<&'static str>)],
    /// Refusals beyond those that every operation may answer.
    pub(crate) refuses: &'static [u16],
}

/// Bytes of most bodies.
const SMALL: usize = 16 * 1024;
/// Bytes of a body that carries an application's own values.
const LARGE: usize = 128 * 1024;
/// What a lobby's owner may say no with.
const OWNER: &[u16] = &[404, 410, 500, 504];
const OWNER_CHANGE: &[u16] = &[404, 409, 410, 500, 504];
/// Those that take an `If-Match`, too.
const OWNER_MATCH: &[u16] = &[404, 409, 410, 412, 500, 504];
const OWNER_SAY: &[u16] = &[404, 409, 410, 422, 500, 504];

/// Who has powers over users.
const GUARDS: Access = Access::Roles(&[Role::Moderator, Role::Server, Role::Admin]);
/// Who keeps players' data.
const KEEPERS: Access = Access::Roles(&[Role::Server, Role::Admin]);

const fn op(
    verb: Verb,
    route: Route,
    method: Method,
    path: &'static str,
    summary: &'static str,
) -> Operation {
    Operation {
        verb,
        method,
        path,
        route,
        access: Access::Token,
        summary,
        query: &[],
        body: None,
        body_bytes_max: SMALL,
        answers: &[(200, Some("Changed"))],
        refuses: OWNER,
    }
}

impl Operation {
    const fn query(mut self, query: &'static [&'static str]) -> Self {
        self.query = query;
        self
    }

    const fn body(mut self, schema: &'static str) -> Self {
        self.body = Some(schema);
        self
    }

    const fn large(mut self) -> Self {
        self.body_bytes_max = LARGE;
        self
    }

    const fn answers(mut self, answers: &'static [(u16, Option<&'static str>)]) -> Self {
        self.answers = answers;
        self
    }

    const fn refuses(mut self, statuses: &'static [u16]) -> Self {
        self.refuses = statuses;
        self
    }

    const fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// The parameters' names on the wire.
    pub(crate) fn query_names(&self) -> impl Iterator<Item = &'static str> {
        self.query.iter().map(|key| key.rsplit('_').next().unwrap_or(key))
    }

    /// Whether it changes nothing.
    pub(crate) fn is_reading(&self) -> bool {
        self.method == Method::GET
    }
}

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const PATCH: Method = Method::PATCH;
const DELETE: Method = Method::DELETE;

/// Every operation. Paths with the same first operation stand together; `{…}` is one segment, percent-encoded.
pub(crate) const OPERATIONS: &[Operation] = &[
    op(Verb::Connect, Route::Connect, POST, "/v1/connect", "A ticket for a WebSocket, and where to open it.")
        .body("ConnectRequest")
        .answers(&[(200, Some("Ticket"))])
        .refuses(&[]),
    op(
        Verb::Guest,
        Route::Guests,
        POST,
        "/v1/guests",
        "A token for somebody without one, where guests are let in.",
    )
    .access(Access::Anybody)
    .body("GuestRequest")
    .answers(&[(201, Some("Guest"))])
    .refuses(&[404]),
    op(
        Verb::LobbyList,
        Route::Lobbies,
        GET,
        "/v1/lobbies",
        "Public lobbies; with a filter those that fit, as `find` does.",
    )
    .query(&["filter", "cursor", "limit"])
    .answers(&[(200, Some("LobbyPage"))])
    .refuses(&[500, 504]),
    op(
        Verb::LobbyCreate,
        Route::Lobbies,
        POST,
        "/v1/lobbies",
        "Creates a lobby; the first player to join it is its host.",
    )
    .body("LobbyCreate")
    .large()
    .answers(&[(201, Some("LobbyCreated"))])
    .refuses(&[404, 409, 500, 504]),
    op(
        Verb::LobbyGet,
        Route::Lobbies,
        GET,
        "/v1/lobbies/{lobby}",
        "A lobby as it is. Members and messages are shown to who may read there.",
    )
    .answers(&[(200, Some("Lobby")), (304, None)]),
    op(
        Verb::LobbyUpdate,
        Route::Lobbies,
        PATCH,
        "/v1/lobbies/{lobby}",
        "Changes settings: those that are named; null gives one its default.",
    )
    .body("LobbyUpdate")
    .large()
    .refuses(OWNER_MATCH),
    op(Verb::LobbyClose, Route::Lobbies, DELETE, "/v1/lobbies/{lobby}", "Closes the lobby.")
        .refuses(OWNER_MATCH),
    op(
        Verb::Invite,
        Route::Invites,
        POST,
        "/v1/lobbies/{lobby}/invites",
        "Makes an invite; its secret is told once.",
    )
    .body("InviteRequest")
    .answers(&[(201, Some("Invite"))])
    .refuses(OWNER_CHANGE),
    op(
        Verb::MemberList,
        Route::Members,
        GET,
        "/v1/lobbies/{lobby}/members",
        "Members in the order in which they joined.",
    )
    .query(&["member_cursor", "limit"])
    .answers(&[(200, Some("MemberPage"))]),
    op(
        Verb::MemberKick,
        Route::Members,
        DELETE,
        "/v1/lobbies/{lobby}/members/{user}",
        "Puts a member out, who may join again.",
    )
    .query(&["reason"]),
    op(
        Verb::MemberRole,
        Route::Members,
        PUT,
        "/v1/lobbies/{lobby}/members/{user}/role",
        "Gives a member a role.",
    )
    .body("RoleRequest")
    .refuses(OWNER_CHANGE),
    op(Verb::HostSet, Route::Members, PUT, "/v1/lobbies/{lobby}/host", "Makes another member the host.")
        .body("HostRequest")
        .refuses(OWNER_CHANGE),
    op(
        Verb::LobbyBan,
        Route::Members,
        PUT,
        "/v1/lobbies/{lobby}/bans/{user}",
        "Keeps a user out of the lobby, for a time or for ever.",
    )
    .body("Restriction")
    .refuses(OWNER_CHANGE),
    op(
        Verb::LobbyUnban,
        Route::Members,
        DELETE,
        "/v1/lobbies/{lobby}/bans/{user}",
        "Lets a banned user in again.",
    ),
    op(
        Verb::LobbyMute,
        Route::Members,
        PUT,
        "/v1/lobbies/{lobby}/mutes/{user}",
        "Silences a user in the lobby, for a time or for ever.",
    )
    .body("Restriction")
    .refuses(OWNER_CHANGE),
    op(
        Verb::LobbyUnmute,
        Route::Members,
        DELETE,
        "/v1/lobbies/{lobby}/mutes/{user}",
        "Lets a muted user speak again.",
    ),
    op(
        Verb::MessageList,
        Route::Messages,
        GET,
        "/v1/lobbies/{lobby}/messages",
        "The lobby's history: all its events, ascending; the newest without a position.",
    )
    .query(&["before", "after", "history_limit"])
    .answers(&[(200, Some("History"))]),
    op(
        Verb::MessageSend,
        Route::Messages,
        POST,
        "/v1/lobbies/{lobby}/messages",
        "Says something: as the system with the role `server` or `admin`, else as the member that one is.",
    )
    .body("Message")
    .large()
    .answers(&[(201, Some("Sent")), (202, Some("Empty"))])
    .refuses(OWNER_SAY),
    op(
        Verb::MessageEdit,
        Route::Messages,
        PATCH,
        "/v1/lobbies/{lobby}/messages/{seq}",
        "Gives a message of one's own another body.",
    )
    .body("MessageEdit")
    .large()
    .refuses(OWNER_SAY),
    op(
        Verb::MessageDelete,
        Route::Messages,
        DELETE,
        "/v1/lobbies/{lobby}/messages/{seq}",
        "Blanks a message: one's own, or as a moderator.",
    ),
    op(Verb::GameStart, Route::Games, POST, "/v1/lobbies/{lobby}/games", "Starts a game.")
        .answers(&[(201, Some("GameChanged"))])
        .refuses(OWNER_CHANGE),
    op(
        Verb::GameReport,
        Route::Games,
        POST,
        "/v1/lobbies/{lobby}/games/current/reports",
        "Says that something happened to a player of the game under way.",
    )
    .body("Report")
    .answers(&[(201, Some("GameChanged"))])
    .refuses(OWNER_CHANGE),
    op(
        Verb::GameFinish,
        Route::Games,
        POST,
        "/v1/lobbies/{lobby}/games/current/finish",
        "Ends the game under way, with its results.",
    )
    .body("GameFinish")
    .large()
    .answers(&[(200, Some("GameChanged"))])
    .refuses(OWNER_CHANGE),
    op(Verb::GameResults, Route::Games, GET, "/v1/lobbies/{lobby}/results", "Games that were finished, with their results, the newest first; the database has them a moment later.")
        .query(&["before", "limit"])
        .answers(&[(200, Some("History"))]),
    op(Verb::LobbyAudit, Route::Audit, GET, "/v1/lobbies/{lobby}/audit", "What moderators and hosts decided in the lobby, the newest first.")
        .access(GUARDS)
        .query(&["before", "limit"])
        .answers(&[(200, Some("History"))])
        .refuses(&[404]),
    op(Verb::PlayerSessions, Route::Players, GET, "/v1/players/{user}/sessions", "A player's open sessions; one's own, or with a role.")
        .answers(&[(200, Some("Sessions"))])
        .refuses(&[]),
    op(Verb::SessionsEnd, Route::Players, DELETE, "/v1/players/{user}/sessions", "Ends all of a player's sessions with 4504; one's own, or with a role.")
        .answers(&[(200, Some("SessionsClosed"))])
        .refuses(&[404]),
    op(Verb::SessionEnd, Route::Players, DELETE, "/v1/players/{user}/sessions/{session}", "Ends one of a player's sessions with 4504; one's own, or with a role.")
        .answers(&[(200, Some("SessionsClosed"))])
        .refuses(&[404]),
    op(Verb::PlayerExport, Route::Players, GET, "/v1/players/{user}/export", "Everything that is kept of a player, its events in pages; one's own, or with the role server or admin.")
        .query(&["export_cursor", "history_limit"])
        .answers(&[(200, Some("Export"))])
        .refuses(&[404]),
    op(Verb::PlayerErase, Route::Players, DELETE, "/v1/players/{user}", "Forgets a player, a part a call: again until it is complete.")
        .access(KEEPERS)
        .answers(&[(200, Some("Erased"))])
        .refuses(&[404, 500, 504]),
    op(Verb::BanList, Route::Bans, GET, "/v1/bans", "Users who are banned from the service, by their ids.")
        .access(GUARDS)
        .query(&["ban_cursor", "limit"])
        .answers(&[(200, Some("BanPage"))])
        .refuses(&[404]),
    op(Verb::BanGet, Route::Bans, GET, "/v1/bans/{user}", "A user's ban from the service.")
        .access(GUARDS)
        .answers(&[(200, Some("Ban"))])
        .refuses(&[404]),
    op(Verb::BanSet, Route::Bans, PUT, "/v1/bans/{user}", "Bans a user from the service: its sessions end with 4505, and nobody lets it in.")
        .access(GUARDS)
        .body("Restriction")
        .answers(&[(200, Some("Ban"))])
        .refuses(&[404]),
    op(Verb::BanLift, Route::Bans, DELETE, "/v1/bans/{user}", "Lets a banned user in again.")
        .access(GUARDS)
        .answers(&[(200, Some("Ban"))])
        .refuses(&[404]),
    op(Verb::Audit, Route::Audit, GET, "/v1/audit", "What was done to users by the service's powers, the newest first.")
        .access(GUARDS)
        .query(&["audit_cursor", "of_user", "limit"])
        .answers(&[(200, Some("AuditPage"))])
        .refuses(&[404]),
    op(Verb::ReportList, Route::Reports, GET, "/v1/reports", "Messages that members reported, each as it was then and with what was said around it; the newest first.")
        .access(GUARDS)
        .query(&["report_cursor", "limit"])
        .answers(&[(200, Some("ReportPage"))])
        .refuses(&[404]),
    op(Verb::PlayerStats, Route::Players, GET, "/v1/players/{user}/stats", "What a player did in games.")
        .answers(&[(200, Some("Stats"))])
        .refuses(&[404]),
    op(
        Verb::PlayerAchievements,
        Route::Players,
        GET,
        "/v1/players/{user}/achievements",
        "What a player has been awarded.",
    )
    .answers(&[(200, Some("Achievements"))])
    .refuses(&[404]),
];

/// What a request's method and path lead to.
pub(crate) enum Found {
    Nothing,
    /// The path is one, the method not one of its own.
    Path {
        route: Route,
        allow: String,
    },
    /// With the path's segments, still percent-encoded.
    Operation(&'static Operation, Vec<(&'static str, String)>),
}

impl Found {
    pub(crate) fn route(&self) -> Route {
        match self {
            Found::Nothing => Route::Unknown,
            Found::Path { route, .. } => *route,
            Found::Operation(operation, _) => operation.route,
        }
    }
}

/// Finds the operation of a request; a HEAD is a GET whose body nobody wants.
pub(crate) fn find(method: &Method, path: &str) -> Found {
    let wanted = if *method == Method::HEAD { &GET } else { method };
    let mut there = OPERATIONS.iter().filter_map(|operation| Some((operation, fit(operation.path, path)?)));
    let Some(first) = there.next() else { return Found::Nothing };
    let there: Vec<_> = std::iter::once(first).chain(there).collect();
    let route = there[0].0.route;
    let allow = there.iter().map(|(operation, _)| match operation.method {
        Method::GET => "GET, HEAD",
        ref other => other.as_str(),
    });
    let allow = allow.collect::<Vec<_>>().join(", ");
    match there.into_iter().find(|(operation, _)| operation.method == *wanted) {
        Some((operation, segments)) => Found::Operation(operation, segments),
        None => Found::Path { route, allow },
    }
}

/// The values of a template's names in a path. No segment is empty.
fn fit(template: &'static str, path: &str) -> Option<Vec<(&'static str, String)>> {
    let (mut names, mut given) = (template.split('/'), path.split('/'));
    let mut values = Vec::new();
    loop {
        match (names.next(), given.next()) {
            (None, None) => return Some(values),
            (Some(name), Some(segment)) => {
                match name.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
                    Some(name) if !segment.is_empty() => values.push((name, segment.to_owned())),
                    None if name == segment => {}
                    _ => return None,
                }
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_finds_its_operation_or_what_its_path_takes() {
        let check = |method: Method, path: &str| match find(&method, path) {
            Found::Nothing => "nothing".to_owned(),
            Found::Path { allow, .. } => allow,
            Found::Operation(operation, values) => format!("{:?} {values:?}", operation.verb),
        };
        assert_eq!(check(GET, "/v1/lobbies"), "LobbyList []");
        assert_eq!(check(Method::HEAD, "/v1/lobbies/a"), "LobbyGet [(\"lobby\", \"a\")]");
        assert_eq!(
            check(PUT, "/v1/lobbies/a/bans/x%2Fy"),
            "LobbyBan [(\"lobby\", \"a\"), (\"user\", \"x%2Fy\")]"
        );
        assert_eq!(check(PUT, "/v1/lobbies"), "GET, HEAD, POST");
        assert_eq!(check(Method::TRACE, "/v1/lobbies/a/members"), "GET, HEAD");
        for path in
            ["/v1", "/v1/", "/v1/lobbies/", "/v1/lobbies//members", "/v1/lobbies/a/b", "/v1/players/ann/x"]
        {
            assert_eq!(check(GET, path), "nothing", "{path}");
        }
    }

    #[test]
    fn each_method_of_a_path_stands_in_the_table_once() {
        for operation in OPERATIONS {
            let same = |other: &&Operation| other.path == operation.path && other.method == operation.method;
            assert_eq!(OPERATIONS.iter().filter(same).count(), 1, "{} {}", operation.method, operation.path);
            let same = |other: &&Operation| other.verb == operation.verb;
            assert_eq!(OPERATIONS.iter().filter(same).count(), 1, "{:?}", operation.verb);
            assert!(operation.path.starts_with("/v1/"));
        }
    }
}
