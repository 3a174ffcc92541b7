//! What can be set at the edge.

use std::time::Duration;

use mlms_process::config::{AllowedOrigins, Network, Settings};

/// The broker's settings.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// Which web pages may connect.
    pub allowed_origins: AllowedOrigins,
    /// Whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed.
    pub trusted_proxies: Vec<Network>,
    /// Whether `?token=` is accepted at a handshake.
    pub token_in_query: bool,
    /// Connections from one client address (an IPv6 /64 is one).
    pub connections_per_address_max: usize,
    /// How long a stopping broker gives its players to leave.
    pub drain: Duration,
    /// Requests that a user may make in a second, and at once; 0: unlimited. A game's back end may make more.
    pub requests_per_s: u32,
    pub requests_burst: u32,
    /// Guest tokens that one address may ask for in a minute, and at once; 0: unlimited.
    pub guests_per_minute: u32,
    /// How long a guest's token is valid.
    pub guest_ttl: Duration,
    /// Handshakes with nodes under way at once; further ones wait for their turn, briefly.
    pub handshakes_max: usize,
    /// Connections at once, tunnels included; one more is told to come back later.
    pub connections_max: usize,
    /// `host:port` names that lead to all brokers; empty: this one never asks its sessions to go to another.
    pub peers: Vec<String>,
    /// How often the broker compares itself with them.
    pub level_every: Duration,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        BrokerConfig {
            allowed_origins: AllowedOrigins::SameHost,
            trusted_proxies: Vec::new(),
            token_in_query: false,
            connections_per_address_max: 100,
            drain: Duration::from_secs(20),
            requests_per_s: 50,
            requests_burst: 100,
            guests_per_minute: 60,
            guest_ttl: Duration::from_secs(24 * 3_600),
            handshakes_max: 256,
            connections_max: 100_000,
            peers: Vec::new(),
            level_every: Duration::from_secs(5),
        }
    }
}

impl From<&Settings> for BrokerConfig {
    fn from(settings: &Settings) -> Self {
        BrokerConfig {
            allowed_origins: settings.allowed_origins.clone(),
            trusted_proxies: settings.trusted_proxies.clone(),
            token_in_query: settings.token_in_query,
            connections_per_address_max: settings.limits.connections_per_address_max,
            drain: settings.drain,
            requests_per_s: settings.limits.commands_per_s,
            requests_burst: settings.limits.commands_burst,
            connections_max: settings.connections_max,
            peers: settings.broker_peers.clone(),
            ..BrokerConfig::default()
        }
    }
}
