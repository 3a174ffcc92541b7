//! The settings of every process: one documented struct, filled from a TOML file, the environment and flags, in
//! that order of growing weight. All mistakes are reported together. The one table in `config/table.rs` names each
//! setting's key, environment variable, unit and default; this file says what the rest of the program sees.

mod checks;
mod document;
mod forms;
mod mistake;
mod network;
mod shown;
mod sources;
mod standalone;
mod table;
mod value;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mlms_protocol::limits::Limits;
use mlms_protocol::ticket::ClusterKeys;
use mlms_protocol::{NodeName, Role};
use secrecy::{ExposeSecret, SecretString};

pub use self::document::default_config;
pub use self::mistake::{ConfigErrors, Mistake};
pub use self::network::Network;
pub use self::sources::{FileSource, SharedFlags, Sources};

const DEFAULT_NODE_PORT: u16 = 8090;

/// What a process is; decides which settings it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessRole {
    /// Broker and nodes in one process, embedded parts where no server is named.
    Standalone,
    Broker,
    LobbyNode,
    Achievements,
    /// A short-lived command (`mlms token`, `mlms check-config` of nothing in particular): nothing is required.
    Tool,
}

impl fmt::Display for ProcessRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProcessRole::Standalone => "standalone",
            ProcessRole::Broker => "broker",
            ProcessRole::LobbyNode => "lobby-node",
            ProcessRole::Achievements => "achievements",
            ProcessRole::Tool => "tool",
        })
    }
}

/// Everything that can be set. Debug shows no secret.
#[derive(Debug, Clone)]
pub struct Settings {
    pub role: ProcessRole,
    /// The broker's public listener.
    pub listen: SocketAddr,
    /// Probes, health, metrics and commands of the operator.
    pub admin_listen: SocketAddr,
    /// Where a standalone process keeps its database and its secret.
    pub data_dir: PathBuf,
    /// Standalone only: the journal and the store live in memory.
    pub ephemeral: bool,
    /// Whether `POST /v1/guests` mints tokens.
    pub guests: bool,
    /// Whether `?token=` is accepted.
    pub token_in_query: bool,
    pub allowed_origins: AllowedOrigins,
    /// Whose `X-Forwarded-For` is believed; empty: nobody's.
    pub trusted_proxies: Vec<Network>,
    /// Connections at once at the broker's or the node's listener; saturation is measured against it.
    pub connections_max: usize,
    /// How long a stopping process gives its sessions to leave.
    pub drain: Duration,
    /// Time between two WebSocket pings to one session.
    pub heartbeat: Duration,
    /// `host:port` names that lead to all brokers; none: sessions stay with the broker that they came to.
    pub broker_peers: Vec<String>,
    pub node: NodeSettings,
    pub redis: RedisSettings,
    /// `mysql://` or `sqlite://`. A standalone process without one keeps its data in `sqlite_path`.
    pub database_url: Option<SecretString>,
    /// Without one there are no domain events.
    pub amqp_url: Option<SecretString>,
    /// A TOML file; none: the rules that come with the service.
    pub achievement_rules: Option<PathBuf>,
    /// The first signs tickets, all verify. `prepare` makes up one for a standalone process.
    pub cluster_keys: Option<ClusterKeys>,
    pub jwt: JwtSettings,
    pub lobby: LobbySettings,
    pub maintenance: MaintenanceSettings,
    /// Where settings are read from besides the file.
    pub consul: ConsulSettings,
    pub log: LogSettings,
    pub trace: TraceSettings,
    pub statsd: StatsdSettings,
    pub limits: Limits,
}

/// How a lobby node is known and reached.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    pub listen: SocketAddr,
    /// Stable across restarts: users are placed by it.
    pub name: NodeName,
    /// `host:port` at which brokers and other nodes reach this one.
    pub address: String,
    /// `ws://` or `wss://` URL at which players reach this node directly; none: only through a broker.
    pub public_url: Option<String>,
    /// Worker threads for lobbies and sessions; 0: one a core.
    pub workers: usize,
    /// Bytes of journal that may wait for the database and the message broker.
    pub backlog_bytes_max: u64,
}

#[derive(Debug, Clone)]
pub struct RedisSettings {
    pub url: Option<SecretString>,
    /// Put before every key and channel, so that deployments can share a server.
    pub prefix: String,
}

/// How users' tokens are verified, and signed where a secret is given.
#[derive(Debug, Clone)]
pub struct JwtSettings {
    pub hs256_secret: Option<SecretString>,
    /// A PEM file with an RSA, P-256 or Ed25519 public key.
    pub public_key_file: Option<PathBuf>,
    pub jwks: Option<JwksSource>,
    /// Only these are accepted; empty: those of the given keys.
    pub algorithms: Vec<TokenAlgorithm>,
    /// `iss` must be this; none: not looked at.
    pub issuer: Option<String>,
    /// `aud` must hold one of these; empty: not looked at.
    pub audience: Vec<String>,
}

/// Where the JSON Web Key Set lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwksSource {
    File(PathBuf),
    /// `http://` or `https://`.
    Url(String),
}

/// A signature algorithm of users' tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenAlgorithm {
    Hs256,
    Rs256,
    Es256,
    EdDsa,
}

/// Which web pages may open a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedOrigins {
    /// Only pages of the host that the request names.
    SameHost,
    Any,
    /// These origins (`scheme://host[:port]`, lower case).
    Listed(Vec<String>),
}

impl AllowedOrigins {
    /// Tells whether a request with this `Origin` and `Host` may connect. No `Origin`: not a browser, allowed.
    pub fn allows(&self, origin: Option<&str>, host: Option<&str>) -> bool {
        let Some(origin) = origin else { return true };
        match self {
            AllowedOrigins::Any => true,
            AllowedOrigins::Listed(origins) => origins.iter().any(|one| one.eq_ignore_ascii_case(origin)),
            AllowedOrigins::SameHost => match (origin.split_once("://"), host) {
                (Some(("http" | "https", origin_host)), Some(host)) => origin_host.eq_ignore_ascii_case(host),
                _ => false,
            },
        }
    }
}

#[derive(Debug, Clone)]
pub struct LobbySettings {
    /// How long a member whose connection is lost keeps the seat.
    pub grace: Duration,
    /// How long an empty lobby stays in memory.
    pub empty_ttl: Duration,
    pub create: MayCreate,
    /// Words that no chat of any lobby may hold.
    pub word_filter: Vec<String>,
}

/// A time in which no lobby is created.
#[derive(Debug, Clone)]
pub struct MaintenanceSettings {
    pub enabled: bool,
    /// What players are told.
    pub message: String,
}

impl MaintenanceSettings {
    /// What players are told, while it is on.
    pub fn notice(&self) -> Option<&str> {
        self.enabled.then_some(self.message.as_str())
    }
}

/// A key of Consul's store that holds settings as TOML.
#[derive(Debug, Clone)]
pub struct ConsulSettings {
    /// `http://` or `https://`; none: Consul is not asked.
    pub url: Option<String>,
    pub key: String,
    pub token: Option<SecretString>,
    /// How long one question may wait for a change.
    pub wait: Duration,
}

/// Who may create lobbies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MayCreate {
    Anyone,
    /// Bearers of one of these roles; an empty list: nobody.
    Roles(Vec<Role>),
}

impl MayCreate {
    pub fn allows(&self, roles: &[Role]) -> bool {
        match self {
            MayCreate::Anyone => true,
            MayCreate::Roles(needed) => roles.iter().any(|role| needed.contains(role)),
        }
    }
}

#[derive(Debug, Clone)]
pub struct LogSettings {
    /// Directives of `tracing-subscriber`'s `EnvFilter`, for example `info,mlms_broker=debug`.
    pub filter: String,
    pub format: LogFormat,
    /// Where every line goes besides standard error.
    pub gelf: Option<GelfTarget>,
}

/// A server that takes log lines in the Graylog Extended Log Format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GelfTarget {
    pub transport: Transport,
    /// `host:port`.
    pub address: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// Where spans go, and of what.
#[derive(Debug, Clone)]
pub struct TraceSettings {
    /// A collector that takes OTLP over HTTP; none: nothing is traced.
    pub otlp_url: Option<String>,
    pub encoding: TraceEncoding,
    /// `name=value` lines of the requests to it.
    pub headers: Vec<SecretString>,
    /// Share of the sessions and requests traced that bring no `traceparent`, 0 to 1.
    pub sample_ratio: f64,
    /// Traced messages a second and process; more go on untraced.
    pub messages_per_s_max: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraceEncoding {
    Protobuf,
    Json,
}

/// Metrics as statsd takes them.
#[derive(Debug, Clone)]
pub struct StatsdSettings {
    /// `host:port` for UDP; none: only Prometheus is served.
    pub address: Option<String>,
    pub prefix: String,
    pub period: Duration,
    pub tags: StatsdTags,
}

/// How labels are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatsdTags {
    /// `name:1|c|#label:value`, as Datadog, Telegraf, Vector and statsd_exporter read it.
    Dogstatsd,
    /// `name.value:1|c`, for servers that know no tags.
    Names,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

impl Settings {
    /// Reads all sources and checks the whole against the role.
    ///
    /// # Errors
    /// Every mistake there is, each with its place and its remedy.
    pub fn load(role: ProcessRole, sources: &Sources) -> Result<Settings, ConfigErrors> {
        let mut settings = Settings::defaults(role);
        let mut mistakes = Vec::new();
        let given = sources.apply(&mut settings, &mut mistakes);
        settings.follow_defaults(&given);
        checks::check(&settings, &given, &mut mistakes);
        if mistakes.is_empty() { Ok(settings) } else { Err(ConfigErrors { mistakes }) }
    }

    /// The settings of a role when nothing is given.
    pub fn defaults(role: ProcessRole) -> Settings {
        let standalone = role == ProcessRole::Standalone;
        let node_listen = SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_NODE_PORT));
        Settings {
            role,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            admin_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9080)),
            data_dir: PathBuf::from("./data"),
            ephemeral: false,
            guests: standalone,
            token_in_query: standalone,
            allowed_origins: AllowedOrigins::SameHost,
            trusted_proxies: Vec::new(),
            connections_max: 100_000,
            drain: Duration::from_secs(20),
            heartbeat: Duration::from_millis(25_000),
            broker_peers: Vec::new(),
            node: NodeSettings {
                listen: node_listen,
                name: sources::default_node_name(),
                address: node_listen.to_string(),
                public_url: None,
                workers: 0,
                backlog_bytes_max: 256 << 20,
            },
            redis: RedisSettings { url: None, prefix: "mlms:".to_owned() },
            database_url: None,
            amqp_url: None,
            achievement_rules: None,
            cluster_keys: None,
            jwt: JwtSettings {
                hs256_secret: None,
                public_key_file: None,
                jwks: None,
                algorithms: Vec::new(),
                issuer: None,
                audience: Vec::new(),
            },
            lobby: LobbySettings {
                grace: Duration::from_secs(60),
                empty_ttl: Duration::from_secs(60),
                create: MayCreate::Anyone,
                word_filter: Vec::new(),
            },
            maintenance: MaintenanceSettings {
                enabled: false,
                message: "The service is being maintained; no new lobbies for a while.".to_owned(),
            },
            consul: ConsulSettings {
                url: None,
                key: "mlms/settings".to_owned(),
                token: None,
                wait: Duration::from_secs(300),
            },
            log: LogSettings { filter: "info".to_owned(), format: LogFormat::Text, gelf: None },
            trace: TraceSettings {
                otlp_url: None,
                encoding: TraceEncoding::Protobuf,
                headers: Vec::new(),
                sample_ratio: 0.01,
                messages_per_s_max: 100,
            },
            statsd: StatsdSettings {
                address: None,
                prefix: String::new(),
                period: Duration::from_secs(10),
                tags: StatsdTags::Dogstatsd,
            },
            limits: Limits::default(),
        }
    }

    /// Defaults that depend on other settings.
    fn follow_defaults(&mut self, given: &sources::GivenKeys) {
        if !given.contains("node.address") {
            self.node.address = self.node.listen.to_string();
        }
        // Several nodes on one machine need several names.
        let port = self.node.listen.port();
        if !given.contains("node.name") && port != DEFAULT_NODE_PORT {
            let number = if port == 0 { std::process::id() } else { u32::from(port) };
            self.node.name = sources::numbered_node_name(&self.node.name, number);
        }
        // Guests' tokens are signed with the secret: with only public keys there is nothing to sign with.
        if !given.contains("guests") && self.jwt.hs256_secret.is_none() && self.jwt.has_key() {
            self.guests = false;
        }
    }

    /// Makes up what a standalone process (or a tool beside one) needs and nobody gave: the cluster key, and the
    /// secret of users' tokens, which is kept in a file so that tokens survive a restart. Creates the data folder.
    ///
    /// # Errors
    /// When the file can be neither read nor written.
    pub fn prepare(&mut self) -> Result<(), ConfigErrors> {
        standalone::prepare(self)
    }

    /// The file of the secret that `standalone` makes for itself; `None` when a key is named, or nothing is kept.
    pub fn own_secret_path(&self) -> Option<PathBuf> {
        (!self.ephemeral && !self.jwt.has_key()).then(|| standalone::secret_path(self))
    }

    /// Keys whose values are not the same in both; secrets are not compared.
    pub(crate) fn different_keys(&self, other: &Settings) -> Vec<&'static str> {
        let different = table::TABLE.iter().filter(|setting| (setting.show)(self) != (setting.show)(other));
        different.map(|setting| setting.key).collect()
    }

    /// What is allowed but unwise; to be logged once at the start.
    pub fn warnings(&self) -> Vec<String> {
        checks::warnings(self)
    }

    /// The file of the embedded database: that of a `sqlite://` URL, else `mlms.db` in the data folder. None for other databases, and
    /// when nothing is kept.
    pub fn sqlite_path(&self) -> Option<PathBuf> {
        if self.ephemeral {
            return None;
        }
        match &self.database_url {
            None => Some(self.data_dir.join("mlms.db")),
            Some(url) => {
                let path = url.expose_secret().strip_prefix("sqlite://")?.split('?').next()?;
                (!path.is_empty() && path != ":memory:").then(|| PathBuf::from(path))
            }
        }
    }

    /// The effective settings as TOML, secrets hidden.
    pub fn effective(&self) -> String {
        document::effective(self)
    }
}

impl JwtSettings {
    /// Whether any key is named by which tokens can be verified.
    pub fn has_key(&self) -> bool {
        self.hs256_secret.is_some() || self.public_key_file.is_some() || self.jwks.is_some()
    }
}

impl JwksSource {
    fn parse(text: &str) -> JwksSource {
        if text.starts_with("http://") || text.starts_with("https://") {
            return JwksSource::Url(text.to_owned());
        }
        JwksSource::File(Path::new(text.strip_prefix("file://").unwrap_or(text)).to_path_buf())
    }
}

impl fmt::Display for JwksSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JwksSource::File(path) => write!(f, "{}", path.display()),
            JwksSource::Url(url) => f.write_str(url),
        }
    }
}

impl TokenAlgorithm {
    pub const ALL: [TokenAlgorithm; 4] =
        [TokenAlgorithm::Hs256, TokenAlgorithm::Rs256, TokenAlgorithm::Es256, TokenAlgorithm::EdDsa];

    /// The name in a token's header.
    pub fn name(self) -> &'static str {
        match self {
            TokenAlgorithm::Hs256 => "HS256",
            TokenAlgorithm::Rs256 => "RS256",
            TokenAlgorithm::Es256 => "ES256",
            TokenAlgorithm::EdDsa => "EdDSA",
        }
    }
}
