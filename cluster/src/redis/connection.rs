//! Connections to Redis as this crate wants them: every wait and every buffer has a bound, nothing is sent twice
//! behind the caller's back, and scripts are found again after a restart emptied Redis's cache of them.

use std::sync::LazyLock;
use std::time::Duration;

use fred::clients::Client;
use fred::error::Error;
use fred::interfaces::{ClientLike, LuaInterface};
use fred::types::config::{
    Config, ConnectionConfig, PerformanceConfig, ReconnectPolicy, TcpConfig, UnresponsiveConfig,
};
use fred::types::{ConnectHandle, Value};

/// How long a command may take. Two in a row fit between a node's renewal and the end of its lease.
pub(super) const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection on which an answer is overdue for so long is given up; it may be half open.
const UNRESPONSIVE: Duration = Duration::from_secs(3);
/// Commands that may wait for a connection, beyond which they fail at once. A reading of the view in a Redis
/// Cluster asks for every shard by itself, and every shard may have an append under way.
const COMMANDS_MAX: usize = 8_192;
/// Messages between a subscriber's socket and its reader, in fred's only channel for them; its default of 32 loses
/// half of a burst.
pub(super) const SUBSCRIBER_MESSAGES_MAX: usize = 65_536;
/// Events (reconnects) between a client and its reader.
const EVENTS_MAX: usize = 64;
/// Pauses between attempts to connect, in milliseconds. Short: everything waits for the first that succeeds.
const RECONNECT_MS: (u32, u32) = (50, 250);

/// A client and the task of fred's that drives it.
pub(super) struct Connection {
    pub(super) client: Client,
    driver: ConnectHandle,
}

impl Connection {
    /// Connects, and keeps reconnecting for ever after the first success.
    pub(super) async fn open(config: &Config, is_subscriber: bool) -> Result<Connection, Error> {
        let performance = PerformanceConfig {
            default_command_timeout: COMMAND_TIMEOUT,
            broadcast_channel_capacity: if is_subscriber { SUBSCRIBER_MESSAGES_MAX } else { EVENTS_MAX },
            ..PerformanceConfig::default()
        };
        let connection = ConnectionConfig {
            connection_timeout: COMMAND_TIMEOUT,
            internal_command_timeout: COMMAND_TIMEOUT,
            // What an append without an answer means is for the journal to decide.
            max_command_attempts: 1,
            max_command_buffer_len: COMMANDS_MAX,
            unresponsive: UnresponsiveConfig {
                max_timeout: Some(UNRESPONSIVE),
                interval: Duration::from_millis(500),
            },
            tcp: TcpConfig { nodelay: Some(true), ..TcpConfig::default() },
            ..ConnectionConfig::default()
        };
        let policy = ReconnectPolicy::new_exponential(0, RECONNECT_MS.0, RECONNECT_MS.1, 2);
        let client = Client::new(config.clone(), Some(performance), Some(connection), Some(policy));
        let driver = client.init().await?;
        Ok(Connection { client, driver })
    }

    /// Closes the connection and waits for its driver.
    pub(super) async fn close(self) {
        if let Err(error) = self.client.quit().await {
            tracing::debug!(%error, "a connection to Redis was not closed cleanly");
            self.driver.abort();
        }
        // It ends with an error when Redis is away, which is no news by now.
        _ = self.driver.await;
    }
}

/// A script, known to Redis by its hash.
pub(super) struct Script {
    source: &'static str,
    hash: LazyLock<String>,
}

macro_rules! script {
    ($name:literal) => {{
        const SOURCE: &str = include_str!(concat!("scripts/", $name, ".lua"));
        $crate::redis::connection::Script::new(SOURCE, || fred::util::sha1_hash(SOURCE))
    }};
}
pub(super) use script;

impl Script {
    pub(super) const fn new(source: &'static str, hash: fn() -> String) -> Self {
        Script { source, hash: LazyLock::new(hash) }
    }

    /// Runs the script in one round trip, or two when Redis does not know it (any more).
    pub(super) async fn run(
        &self,
        client: &Client,
        keys: Vec<String>,
        arguments: Vec<Value>,
    ) -> Result<Value, Error> {
        match client.evalsha(self.hash.as_str(), keys.clone(), arguments.clone()).await {
            Err(error) if error.details().starts_with("NOSCRIPT") => {
                client.eval(self.source, keys, arguments).await
            }
            outcome => outcome,
        }
    }
}
