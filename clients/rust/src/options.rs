//! What a client can be told: where, as whom, in which encoding, and within which bounds.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mlms_protocol::{Encoding, LobbyId};
use tokio::sync::Mutex;

use crate::connect::Connector;

/// Everything a client is told at its start.
#[derive(Debug, Clone)]
pub struct Options {
    /// `ws://host[:port]` (or `wss://` with the feature `tls`); `/ws` is added where there is no path.
    pub url: String,
    pub token: TokenSource,
    pub encoding: Encoding,
    /// Routes the first connection to this lobby's owner, joining it at once (created if it does not exist); the
    /// outcome comes as a `snapshot` event. Later connections resume instead.
    pub lobby: Option<LobbyId>,
    /// Events that wait for the application. When it is behind by that many, the client stops reading the socket.
    pub events_max: usize,
    /// Commands that are unanswered or wait for the connection; further callers wait for room.
    pub commands_max: usize,
    /// How long one command may take, waiting for room and for a connection included.
    pub command_timeout: Duration,
    /// How long one attempt to connect may take, up to `welcome`.
    pub connect_timeout: Duration,
    /// Longest random pause before the first retry; doubled with each further one.
    pub backoff_first: Duration,
    /// Longest random pause before any retry.
    pub backoff_max: Duration,
    /// A session that lasted this long makes the next retry a first one again.
    pub stable_after: Duration,
    /// Largest frame taken from the server, in bytes. A snapshot or a page of history holds many messages.
    pub message_bytes_max: usize,
    /// Where jitter and nonces come from; the operating system where it is left out.
    pub seed: Option<u64>,
    pub connector: Connector,
    /// Sees every frame; for recorders and for whoever looks for a fault.
    pub tap: Option<Tap>,
}

impl Options {
    /// The defaults for a server and a user.
    pub fn new(url: impl Into<String>, token: TokenSource) -> Self {
        Options {
            url: url.into(),
            token,
            encoding: Encoding::Json,
            lobby: None,
            events_max: 1_024,
            commands_max: 256,
            command_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            backoff_first: Duration::from_millis(500),
            backoff_max: Duration::from_secs(20),
            stable_after: Duration::from_secs(30),
            message_bytes_max: 4 << 20,
            seed: None,
            connector: Connector::tcp(),
            tap: None,
        }
    }

    pub(crate) fn check(&self) -> Result<(), InvalidOptions> {
        if self.events_max == 0 || self.commands_max == 0 {
            return Err(InvalidOptions::Zero);
        }
        Ok(())
    }
}

/// What passes on a connection, as a [`Tap`] is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tapped<'a> {
    /// The upgrade has succeeded.
    Opened,
    /// A frame is about to be written.
    Sending(&'a [u8]),
    /// A frame was read; the client has not acted on it yet.
    Received(&'a [u8]),
    /// The connection is over; what was not answered cannot be answered any more.
    Lost,
}

/// A function that is told of everything that passes, from the client's own task: it must not block.
#[derive(Clone)]
pub struct Tap(Arc<dyn Fn(Tapped<'_>) + Send + Sync>);

impl Tap {
    /// Calls this function.
    pub fn new(tell: impl Fn(Tapped<'_>) + Send + Sync + 'static) -> Self {
        Tap(Arc::new(tell))
    }
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tap(…)")
    }
}

impl Options {
    pub(crate) fn tell(&self, tapped: Tapped<'_>) {
        if let Some(Tap(tell)) = &self.tap {
            tell(tapped);
        }
    }
}

/// Options that no connection can be made with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOptions {
    #[error("`{0}` is no ws:// address")]
    Url(String),
    #[error("wss:// needs the feature `tls`")]
    NoTls,
    #[error("events_max and commands_max must be above 0")]
    Zero,
}

/// Why there is no token.
pub type TokenError = Box<dyn std::error::Error + Send + Sync>;

type TokenFuture = Pin<Box<dyn Future<Output = Result<String, TokenError>> + Send>>;

/// Where a user's token comes from. Clones share one token, and while one of them fetches a new one the others wait
/// for it instead of asking again.
#[derive(Clone)]
pub struct TokenSource {
    provide: Arc<dyn Fn() -> TokenFuture + Send + Sync>,
    cached: Arc<Mutex<Option<String>>>,
}

impl TokenSource {
    /// One token, for as long as it is good.
    pub fn fixed(token: impl Into<String>) -> Self {
        let token = token.into();
        Self::provider(move || std::future::ready(Ok(token.clone())))
    }

    /// A function that fetches a fresh token; asked first, again some time before the last one ends (where that can be
    /// read from it), and whenever the server has found it expired.
    pub fn provider<F, T>(provide: F) -> Self
    where
        F: Fn() -> T + Send + Sync + 'static,
        T: Future<Output = Result<String, TokenError>> + Send + 'static,
    {
        TokenSource { provide: Arc::new(move || Box::pin(provide())), cached: Arc::new(Mutex::new(None)) }
    }

    /// The current token, fetched if there is none. Cancel safe: the next caller fetches.
    pub(crate) async fn get(&self) -> Result<String, TokenError> {
        let mut cached = self.cached.lock().await;
        if let Some(token) = &*cached {
            return Ok(token.clone());
        }
        let token = (self.provide)().await?;
        *cached = Some(token.clone());
        Ok(token)
    }

    /// Forgets this token, unless somebody has replaced it already.
    pub(crate) async fn discard(&self, stale: &str) {
        let mut cached = self.cached.lock().await;
        if cached.as_deref() == Some(stale) {
            *cached = None;
        }
    }

    /// A token other than this one, fetched unless somebody has replaced it already.
    pub(crate) async fn newer(&self, stale: &str) -> Result<String, TokenError> {
        let mut cached = self.cached.lock().await;
        if let Some(token) = cached.as_ref().filter(|token| *token != stale) {
            return Ok(token.clone());
        }
        let token = (self.provide)().await?;
        *cached = Some(token.clone());
        Ok(token)
    }

    /// Puts a token in place, for the next connection.
    pub(crate) async fn replace(&self, token: String) {
        *self.cached.lock().await = Some(token);
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSource(…)")
    }
}
