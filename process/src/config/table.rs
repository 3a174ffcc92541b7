//! The one table of settings: key, environment name, meaning and unit, how it is read and how it is shown.
//! Files, environment, flags, `default-config` and `check-config` all come from it.

use std::path::PathBuf;
use std::time::Duration;

use super::forms::{
    algorithms, cluster_keys, consul_key, gelf_target, header_lines, log_filter, may_create, non_empty,
    notice, origins, redis_prefix, seconds, statsd_prefix, words,
};
use super::mistake::Wrong;
use super::shown::{HIDDEN, hidden, shown_url, url_without_password};
use super::value::{self, Given};
use super::{
    AllowedOrigins, JwksSource, LogFormat, MayCreate, Settings, StatsdTags, TraceEncoding, Transport,
};

/// How a setting is shown as a TOML value; None: it is not set.
type Show = fn(&Settings) -> Option<String>;

pub(super) struct Setting {
    pub(super) key: &'static str,
    /// The environment name where it does not follow from the key.
    env: Option<&'static str>,
    pub(super) doc: &'static str,
    /// Shown in the default configuration, commented out, where there is no default or it depends on the role.
    pub(super) example: Option<&'static str>,
    /// A bare secret: never shown, not accepted as a flag.
    pub(super) secret: bool,
    pub(super) set: fn(&mut Settings, Given<'_>) -> Result<(), Wrong>,
    pub(super) show: Show,
}

impl Setting {
    /// `MLMS_NODE_LISTEN` for `node.listen`, `MLMS_LIMIT_CHATS_PER_S` for `limits.chats_per_s`.
    pub(super) fn env(&self) -> String {
        match (self.env, self.key.strip_prefix("limits.")) {
            (Some(name), _) => name.to_owned(),
            (None, Some(limit)) => format!("MLMS_LIMIT_{}", limit.to_ascii_uppercase()),
            (None, None) => format!("MLMS_{}", self.key.replace('.', "_").to_ascii_uppercase()),
        }
    }

    const fn env_named(mut self, name: &'static str) -> Self {
        self.env = Some(name);
        self
    }

    const fn example(mut self, toml: &'static str) -> Self {
        self.example = Some(toml);
        self
    }

    const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }
}

const fn setting(
    key: &'static str,
    doc: &'static str,
    set: fn(&mut Settings, Given<'_>) -> Result<(), Wrong>,
    show: Show,
) -> Setting {
    Setting { key, env: None, doc, example: None, secret: false, set, show }
}

macro_rules! limit {
    ($name:ident, $least:expr, $most:expr, $doc:expr) => {
        setting(
            concat!("limits.", stringify!($name)),
            $doc,
            |s, given| put(&mut s.limits.$name, value::number(given, $least, $most)),
            |s| Some(s.limits.$name.to_string()),
        )
    };
}

fn put<T>(place: &mut T, value: Result<T, Wrong>) -> Result<(), Wrong> {
    *place = value?;
    Ok(())
}

fn put_some<T>(place: &mut Option<T>, value: Result<T, Wrong>) -> Result<(), Wrong> {
    put(place, value.map(Some))
}

/// A text as a TOML basic string.
pub(super) fn toml_text(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn toml_list<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    let items: Vec<String> = items.into_iter().map(toml_text).collect();
    format!("[{}]", items.join(", "))
}

/// Every setting, sections together, those without a section first (as TOML wants it).
pub(super) const TABLE: &[Setting] = &[
    setting(
        "listen",
        "Address of the broker's public listener: WebSockets, REST and the page.",
        |s, given| put(&mut s.listen, value::listen_address(given)),
        |s| Some(toml_text(&s.listen.to_string())),
    ),
    setting(
        "admin_listen",
        "Address of the operator's listener: /live /ready /health /metrics. Beyond loopback all but probes and\nmetrics need a token with the role admin.",
        |s, given| put(&mut s.admin_listen, value::listen_address(given)),
        |s| Some(toml_text(&s.admin_listen.to_string())),
    ),
    setting(
        "data_dir",
        "Standalone: folder of the embedded database and of the secret that signs tokens.",
        |s, given| put(&mut s.data_dir, non_empty(given).map(PathBuf::from)),
        |s| Some(toml_text(&s.data_dir.display().to_string())),
    ),
    setting(
        "ephemeral",
        "Standalone: keep journal and store in memory only; everything is lost at the end.",
        |s, given| put(&mut s.ephemeral, value::boolean(given)),
        |s| Some(s.ephemeral.to_string()),
    ),
    setting(
        "guests",
        "Whether POST /v1/guests mints tokens for anyone. Default: true in standalone, else false.",
        |s, given| put(&mut s.guests, value::boolean(given)),
        |s| Some(s.guests.to_string()),
    )
    .example("false"),
    setting(
        "token_in_query",
        "Whether a token is accepted as ?token= (it then stands in logs of proxies).\nDefault: true in standalone, else false.",
        |s, given| put(&mut s.token_in_query, value::boolean(given)),
        |s| Some(s.token_in_query.to_string()),
    )
    .example("false"),
    setting(
        "allowed_origins",
        "Web pages that may connect: a list of origins such as \"https://play.example.com\", or \"*\" for any.\nEmpty: only pages of the host that the request itself names.",
        |s, given| put(&mut s.allowed_origins, origins(given)),
        |s| {
            Some(match &s.allowed_origins {
                AllowedOrigins::SameHost => "[]".to_owned(),
                AllowedOrigins::Any => toml_list(["*"]),
                AllowedOrigins::Listed(origins) => toml_list(origins.iter().map(String::as_str)),
            })
        },
    ),
    setting(
        "trusted_proxies",
        "Networks whose X-Forwarded-For is believed, for example \"10.0.0.0/8\". Empty: nobody's.",
        |s, given| {
            put(&mut s.trusted_proxies, value::list(given)?.into_iter().map(value::network).collect::<Result<_, _>>())
        },
        |s| {
            let networks: Vec<String> = s.trusted_proxies.iter().map(ToString::to_string).collect();
            Some(toml_list(networks.iter().map(String::as_str)))
        },
    ),
    setting(
        "connections_max",
        "Connections at once at the broker's or the node's listener; one more is told 503 with Retry-After. What\n/scale says is measured against it.",
        |s, given| put(&mut s.connections_max, value::number(given, 1, 10_000_000)),
        |s| Some(s.connections_max.to_string()),
    ),
    setting(
        "drain_seconds",
        "Seconds that a stopping process gives its sessions to leave; it ends early with the last one.",
        |s, given| put(&mut s.drain, seconds(given, 0, 3_600)),
        |s| Some(s.drain.as_secs().to_string()),
    ),
    setting(
        "heartbeat_ms",
        "Milliseconds between two pings to a session.",
        |s, given| put(&mut s.heartbeat, value::number(given, 100, 3_600_000).map(Duration::from_millis)),
        |s| Some(s.heartbeat.as_millis().to_string()),
    ),
    setting(
        "broker.peers",
        "host:port names that lead to all brokers, as a headless Service of Kubernetes does. A broker far above their\nmean asks some of its sessions to come again (4001). Empty: none does.",
        |s, given| {
            let names = value::list(given)?.into_iter();
            let names = names.map(|name| value::reachable_address(Given::Text(name)));
            put(&mut s.broker_peers, names.collect::<Result<_, _>>())
        },
        |s| Some(toml_list(s.broker_peers.iter().map(String::as_str))),
    ),
    setting(
        "node.listen",
        "Address of the lobby node's listener, for brokers and players sent straight to it.",
        |s, given| put(&mut s.node.listen, value::listen_address(given)),
        |s| Some(toml_text(&s.node.listen.to_string())),
    ),
    setting(
        "node.name",
        "The node's name, the same after a restart: users are placed by it. Default: the host's name.",
        |s, given| put(&mut s.node.name, value::node_name(given)),
        |s| Some(toml_text(s.node.name.as_str())),
    )
    .example("\"node-1\""),
    setting(
        "node.address",
        "host:port at which brokers and other nodes reach this node. Default: node.listen.",
        |s, given| put(&mut s.node.address, value::reachable_address(given)),
        |s| Some(toml_text(&s.node.address)),
    )
    .example("\"node-1.internal:8090\""),
    setting(
        "node.public_url",
        "ws:// or wss:// URL at which players reach this node directly. Not set: only through a broker.",
        |s, given| put_some(&mut s.node.public_url, value::web_url(given, &["ws", "wss"], "wss://node-1.play.example.com")),
        |s| s.node.public_url.as_deref().map(toml_text),
    )
    .example("\"wss://node-1.play.example.com\""),
    setting(
        "node.workers",
        "Worker threads for lobbies and sessions; 0: one a core.",
        |s, given| put(&mut s.node.workers, value::number(given, 0, 1_024)),
        |s| Some(s.node.workers.to_string()),
    ),
    setting(
        "node.backlog_bytes_max",
        "Bytes of journal that may wait for the database and the message broker; beyond it durable messages get\n`degraded` until the backlog has shrunk.",
        |s, given| put(&mut s.node.backlog_bytes_max, value::number(given, 1_048_576, 1_099_511_627_776)),
        |s| Some(s.node.backlog_bytes_max.to_string()),
    ),
    setting(
        "redis.url",
        "Redis that the processes meet through. Needed by broker and lobby-node; not set in standalone: in memory.",
        |s, given| {
            let schemes = &["redis", "rediss", "redis-cluster", "rediss-cluster", "redis-sentinel", "rediss-sentinel"];
            put_some(&mut s.redis.url, value::secret_url(given, schemes, "redis://127.0.0.1:6379"))
        },
        |s| url_without_password(&s.redis.url),
    )
    .example("\"redis://127.0.0.1:6379\""),
    setting(
        "redis.prefix",
        "Put before every key and channel, so that deployments can share a server.",
        |s, given| put(&mut s.redis.prefix, redis_prefix(given)),
        |s| Some(toml_text(&s.redis.prefix)),
    ),
    setting(
        "database.url",
        "Database of the event store, mysql:// or sqlite://. Needed by lobby-node; not set in standalone: SQLite in\ndata_dir.",
        |s, given| put_some(&mut s.database_url, value::secret_url(given, &["mysql", "sqlite"], "mysql://user@127.0.0.1:3306/mlms")),
        |s| url_without_password(&s.database_url),
    )
    .example("\"sqlite://./data/mlms.db\""),
    setting(
        "amqp.url",
        "RabbitMQ for domain events. Needed by achievements; not set elsewhere: no domain events leave the process.",
        |s, given| put_some(&mut s.amqp_url, value::secret_url(given, &["amqp", "amqps"], "amqp://user@127.0.0.1:5672/%2f")),
        |s| url_without_password(&s.amqp_url),
    )
    .example("\"amqp://127.0.0.1:5672/%2f\""),
    setting(
        "achievements.rules",
        "TOML file that says what achievements there are. Not set: the two that come with the service.",
        |s, given| put_some(&mut s.achievement_rules, non_empty(given).map(PathBuf::from)),
        |s| s.achievement_rules.as_ref().map(|path| toml_text(&path.display().to_string())),
    )
    .example("\"/etc/mlms/achievements.toml\""),
    setting(
        "cluster.key",
        "Key by which brokers sign tickets for nodes: base64 of 32 bytes (openssl rand -base64 32). Two with a comma\nwhile it is changed: the first signs, both verify. Needed outside standalone, the same everywhere.",
        |s, given| put_some(&mut s.cluster_keys, cluster_keys(given)),
        |s| hidden(&s.cluster_keys),
    )
    .example("\"\"")
    .secret(),
    setting(
        "jwt.hs256_secret",
        "Secret of HS256 tokens, which should have 32 bytes or more (a shorter one is warned of); also signs guests' tokens.\nNot set in standalone, and no other key: a random one, kept beside the database.",
        |s, given| put_some(&mut s.jwt.hs256_secret, value::secret(given)),
        |s| hidden(&s.jwt.hs256_secret),
    )
    .env_named("MLMS_JWT_HS256_SECRET")
    .example("\"\"")
    .secret(),
    setting(
        "jwt.public_key_file",
        "PEM file with the public key of RS256, ES256 or EdDSA tokens.",
        |s, given| put_some(&mut s.jwt.public_key_file, non_empty(given).map(PathBuf::from)),
        |s| s.jwt.public_key_file.as_ref().map(|path| toml_text(&path.display().to_string())),
    )
    .example("\"/etc/mlms/jwt.pem\""),
    setting(
        "jwt.jwks_url",
        "JSON Web Key Set with the public keys of tokens: https://, http://, file:// or a path. Read again every\nfew minutes and when no key fits a token.",
        |s, given| put_some(&mut s.jwt.jwks, non_empty(given).map(|text| JwksSource::parse(&text))),
        |s| s.jwt.jwks.as_ref().map(|source| toml_text(&shown_url(&source.to_string()))),
    )
    .example("\"https://id.example.com/.well-known/jwks.json\""),
    setting(
        "jwt.algorithms",
        "Accepted algorithms, of HS256, RS256, ES256, EdDSA. Empty: those of the given keys.",
        |s, given| put(&mut s.jwt.algorithms, algorithms(given)),
        |s| Some(toml_list(s.jwt.algorithms.iter().map(|algorithm| algorithm.name()))),
    ),
    setting(
        "jwt.issuer",
        "The iss that a token must carry. Not set: not looked at.",
        |s, given| put_some(&mut s.jwt.issuer, non_empty(given)),
        |s| s.jwt.issuer.as_deref().map(toml_text),
    )
    .example("\"https://id.example.com/\""),
    setting(
        "jwt.audience",
        "A token must carry one of these as aud. Empty: not looked at.",
        |s, given| put(&mut s.jwt.audience, value::list(given).map(|all| all.into_iter().map(str::to_owned).collect())),
        |s| Some(toml_list(s.jwt.audience.iter().map(String::as_str))),
    ),
    setting(
        "lobby.grace_seconds",
        "Seconds that a member whose connection is lost keeps the seat.",
        |s, given| put(&mut s.lobby.grace, seconds(given, 0, 86_400)),
        |s| Some(s.lobby.grace.as_secs().to_string()),
    ),
    setting(
        "lobby.empty_seconds",
        "Seconds that an empty lobby stays in memory.",
        |s, given| put(&mut s.lobby.empty_ttl, seconds(given, 0, 86_400)),
        |s| Some(s.lobby.empty_ttl.as_secs().to_string()),
    ),
    setting(
        "lobby.create",
        "Who may create lobbies: \"anyone\", or a list of the roles admin, moderator, server. Empty: nobody.",
        |s, given| put(&mut s.lobby.create, may_create(given)),
        |s| {
            Some(match &s.lobby.create {
                MayCreate::Anyone => toml_text("anyone"),
                MayCreate::Roles(roles) => toml_list(roles.iter().map(|role| role.as_str())),
            })
        },
    ),
    setting(
        "lobby.word_filter",
        "Words that no chat of any lobby may hold, beside each lobby's own list; bad* stands for every word that\nbegins so. Changes while the process runs.",
        |s, given| put(&mut s.lobby.word_filter, words(given)),
        |s| Some(toml_list(s.lobby.word_filter.iter().map(String::as_str))),
    ),
    setting(
        "maintenance.enabled",
        "No lobby is created while it is true, and all players get a notice. Changes while the process runs.",
        |s, given| put(&mut s.maintenance.enabled, value::boolean(given)),
        |s| Some(s.maintenance.enabled.to_string()),
    ),
    setting(
        "maintenance.message",
        "What the notice says. Changes while the process runs.",
        |s, given| put(&mut s.maintenance.message, notice(given)),
        |s| Some(toml_text(&s.maintenance.message)),
    ),
    setting(
        "consul.url",
        "Consul whose key-value store is watched for settings: http:// or https://. Not set: only the file counts.",
        |s, given| put_some(&mut s.consul.url, value::web_url(given, &["http", "https"], "http://127.0.0.1:8500")),
        |s| s.consul.url.as_deref().map(|url| toml_text(&shown_url(url))),
    )
    .example("\"http://127.0.0.1:8500\""),
    setting(
        "consul.key",
        "Key that holds settings as TOML, as the file does; they weigh more than the file and less than the\nenvironment. What needs a restart waits for one that finds it in the file.",
        |s, given| put(&mut s.consul.key, consul_key(given)),
        |s| Some(toml_text(&s.consul.key)),
    ),
    setting(
        "consul.token",
        "Token by which Consul lets the key be read.",
        |s, given| put_some(&mut s.consul.token, value::secret(given)),
        |s| hidden(&s.consul.token),
    )
    .example("\"\"")
    .secret(),
    setting(
        "consul.wait_seconds",
        "Seconds that one question to Consul waits for a change.",
        |s, given| put(&mut s.consul.wait, seconds(given, 1, 600)),
        |s| Some(s.consul.wait.as_secs().to_string()),
    ),
    setting(
        "log.filter",
        "What is logged: a level, or levels a part, for example \"info,mlms_broker=debug\".",
        |s, given| put(&mut s.log.filter, log_filter(given)),
        |s| Some(toml_text(&s.log.filter)),
    )
    .env_named("MLMS_LOG"),
    setting(
        "log.format",
        "\"text\" for people, \"json\" for machines.",
        |s, given| {
            let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
            put(&mut s.log.format, value::choice(given, &formats))
        },
        |s| Some(toml_text(if s.log.format == LogFormat::Json { "json" } else { "text" })),
    ),
    setting(
        "log.gelf",
        "Graylog server that gets every line as GELF besides standard error: udp://host:port or tcp://host:port.",
        |s, given| put_some(&mut s.log.gelf, gelf_target(given)),
        |s| {
            s.log.gelf.as_ref().map(|target| {
                let scheme = if target.transport == Transport::Udp { "udp" } else { "tcp" };
                toml_text(&format!("{scheme}://{}", target.address))
            })
        },
    )
    .example("\"udp://graylog.internal:12201\""),
    setting(
        "trace.otlp_url",
        "Collector that takes spans as OTLP over HTTP; without a path /v1/traces is asked. Not set: nothing is traced.",
        |s, given| put_some(&mut s.trace.otlp_url, value::web_url(given, &["http", "https"], "http://collector.internal:4318")),
        |s| s.trace.otlp_url.as_deref().map(|url| toml_text(&shown_url(url))),
    )
    .example("\"http://collector.internal:4318\""),
    setting(
        "trace.encoding",
        "\"protobuf\" or \"json\": how spans are written.",
        |s, given| {
            let encodings = [("protobuf", TraceEncoding::Protobuf), ("json", TraceEncoding::Json)];
            put(&mut s.trace.encoding, value::choice(given, &encodings))
        },
        |s| Some(toml_text(if s.trace.encoding == TraceEncoding::Json { "json" } else { "protobuf" })),
    ),
    setting(
        "trace.headers",
        "Header lines of the requests to the collector, for example \"authorization=Bearer …\".",
        |s, given| put(&mut s.trace.headers, header_lines(given)),
        |s| if s.trace.headers.is_empty() { Some("[]".to_owned()) } else { Some(format!("[{HIDDEN}]")) },
    )
    .secret(),
    setting(
        "trace.sample_ratio",
        "Share of the sessions and requests without a traceparent that are traced, 0 to 1. One with a traceparent says\nitself whether it is. Changes while the process runs.",
        |s, given| put(&mut s.trace.sample_ratio, value::ratio(given)),
        |s| Some(format!("{:?}", s.trace.sample_ratio)),
    ),
    setting(
        "trace.messages_per_s_max",
        "Messages and requests traced a second and process; further ones go on untraced.",
        |s, given| put(&mut s.trace.messages_per_s_max, value::number(given, 1, 1_000_000)),
        |s| Some(s.trace.messages_per_s_max.to_string()),
    ),
    setting(
        "statsd.address",
        "host:port of a statsd server that gets all metrics over UDP, besides /metrics. Not set: none.",
        |s, given| put_some(&mut s.statsd.address, value::reachable_address(given)),
        |s| s.statsd.address.as_deref().map(toml_text),
    )
    .example("\"127.0.0.1:8125\""),
    setting(
        "statsd.prefix",
        "Put before every name, for example \"game1.\".",
        |s, given| put(&mut s.statsd.prefix, statsd_prefix(given)),
        |s| Some(toml_text(&s.statsd.prefix)),
    ),
    setting(
        "statsd.period_seconds",
        "Seconds between two reports.",
        |s, given| put(&mut s.statsd.period, seconds(given, 1, 3_600)),
        |s| Some(s.statsd.period.as_secs().to_string()),
    ),
    setting(
        "statsd.tags",
        "\"dogstatsd\": labels as tags (|#name:value); \"names\": labels' values in the metric's name.",
        |s, given| {
            let tags = [("dogstatsd", StatsdTags::Dogstatsd), ("names", StatsdTags::Names)];
            put(&mut s.statsd.tags, value::choice(given, &tags))
        },
        |s| Some(toml_text(if s.statsd.tags == StatsdTags::Names { "names" } else { "dogstatsd" })),
    ),
    limit!(frame_bytes_max, 1_024, 16_777_216, "Bytes of the largest frame accepted from a client."),
    limit!(chat_bytes_max, 1, 16_777_216, "Bytes of the longest chat text."),
    limit!(lobbies_per_session_max, 1, 100_000, "Lobbies that one session may be in at once."),
    limit!(commands_per_s, 0, 1_000_000, "Commands a second and session; 0: unlimited."),
    limit!(commands_burst, 0, 1_000_000, "Commands that a session may send at once after a pause."),
    limit!(chats_per_s, 0, 1_000_000, "Chat messages a second and session; 0: unlimited."),
    limit!(chats_burst, 0, 1_000_000, "Chat messages that a session may send at once after a pause."),
    limit!(joins_per_s, 0, 1_000_000, "Joins and resumed lobbies a second and session; 0: unlimited."),
    limit!(creates_per_minute, 0, 1_000_000, "Lobbies that one user may create in a minute, counted by each node that a session of the user is at; 0: unlimited."),
    limit!(outbox_bytes_max, 1_024, 1_073_741_824, "Bytes that may wait for one slow connection before it is closed."),
    limit!(sessions_per_user_max, 0, 100_000, "Sessions of one user; a further one closes the oldest. 0: no limit."),
    limit!(connections_per_address_max, 0, 10_000_000, "Connections from one client address at one broker. 0: no limit."),
    limit!(members_per_lobby_max, 1, 100_000, "Members of one lobby, unless its own settings say less."),
    limit!(resume_events_max, 0, 1_000_000, "Events of one lobby kept in memory for resuming."),
    limit!(resume_seconds_max, 0, 86_400, "Seconds for which events are kept in memory for resuming."),
    limit!(resume_bytes_max, 0, 1_073_741_824, "Bytes of events of one lobby kept in memory for resuming."),
];
