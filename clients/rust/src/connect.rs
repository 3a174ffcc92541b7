//! From a URL and a token to an open WebSocket: the transport, the handshake, and what a refusal means.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mlms_protocol::{Encoding, LobbyId};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Response, Uri, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, handshake::client::Request};

use crate::options::InvalidOptions;

/// tungstenite allocates its read buffer whole at the start, 128 KiB by default.
const READ_BUFFER_BYTES: usize = 4 << 10;
/// Small frames are gathered up to this size before they are written.
const WRITE_BUFFER_BYTES: usize = 4 << 10;
/// A pause that a server asks for by `Retry-After` is believed up to here.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// What a WebSocket runs over.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

pub(crate) type Socket = WebSocketStream<Box<dyn Transport>>;

/// Where a transport leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub host: String,
    pub port: u16,
    pub tls: bool,
}

type TransportFuture = Pin<Box<dyn Future<Output = io::Result<Box<dyn Transport>>> + Send>>;

/// How transports are made: TCP, or a test's own pipes.
#[derive(Clone)]
pub struct Connector(Arc<dyn Fn(Target) -> TransportFuture + Send + Sync>);

impl Connector {
    /// TCP, and TLS over it where the URL says so.
    #[must_use]
    pub fn tcp() -> Self {
        Self::boxed(|target| Box::pin(open_tcp(target)))
    }

    /// A function that gives anything that reads and writes.
    pub fn new<F, T, S>(open: F) -> Self
    where
        F: Fn(Target) -> T + Send + Sync + 'static,
        T: Future<Output = io::Result<S>> + Send + 'static,
        S: Transport + 'static,
    {
        Self::boxed(move |target| {
            let opening = open(target);
            Box::pin(async move { Ok(Box::new(opening.await?) as Box<dyn Transport>) })
        })
    }

    fn boxed(open: impl Fn(Target) -> TransportFuture + Send + Sync + 'static) -> Self {
        Connector(Arc::new(open))
    }

    async fn open(&self, target: Target) -> io::Result<Box<dyn Transport>> {
        (self.0)(target).await
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector(…)")
    }
}

async fn open_tcp(target: Target) -> io::Result<Box<dyn Transport>> {
    // An IPv6 address stands in brackets in a URL, and without them for the resolver.
    let host = target.host.trim_start_matches('[').trim_end_matches(']');
    let tcp = TcpStream::connect((host, target.port)).await?;
    // Commands are small and wait for answers: never hold one back to fill a packet.
    tcp.set_nodelay(true)?;
    if target.tls { open_tls(host, tcp).await } else { Ok(Box::new(tcp)) }
}

#[cfg(feature = "tls")]
async fn open_tls(host: &str, tcp: TcpStream) -> io::Result<Box<dyn Transport>> {
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto, pki_types::ServerName};
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    Ok(Box::new(tls))
}

#[cfg(not(feature = "tls"))]
#[expect(clippy::unused_async, reason = "stands for the one that waits")]
async fn open_tls(_host: &str, _tcp: TcpStream) -> io::Result<Box<dyn Transport>> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "built without the feature `tls`"))
}

/// A URL, taken apart once.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    target: Target,
    /// With a path, without a query.
    base: String,
    query: Option<String>,
}

impl Address {
    pub(crate) fn parse(url: &str) -> Result<Self, InvalidOptions> {
        let wrong = || InvalidOptions::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let tls = match uri.scheme_str() {
            Some("ws") => false,
            Some("wss") if cfg!(feature = "tls") => true,
            Some("wss") => return Err(InvalidOptions::NoTls),
            _ => return Err(wrong()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?.to_owned();
        let authority = uri.authority().ok_or_else(wrong)?;
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let path = if uri.path() == "/" { "/ws" } else { uri.path() };
        let base = format!("{}://{authority}{path}", if tls { "wss" } else { "ws" });
        Ok(Address { target: Target { host, port, tls }, base, query: uri.query().map(str::to_owned) })
    }

    fn request(&self, lobby: Option<&LobbyId>) -> String {
        let lobby = lobby.map(|lobby| format!("lobby={lobby}"));
        let query: Vec<&str> = self.query.as_deref().into_iter().chain(lobby.as_deref()).collect();
        if query.is_empty() { self.base.clone() } else { format!("{}?{}", self.base, query.join("&")) }
    }
}

/// Why no connection came about.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// Coming again may help, not before this pause if one is named.
    Again { after: Option<Duration>, why: String },
    /// The token was not accepted.
    Unauthorized,
    /// Coming again does not help.
    Refused { status: Option<u16>, message: String },
}

/// Opens one WebSocket.
pub(crate) async fn connect(
    connector: &Connector,
    address: &Address,
    token: &str,
    encoding: Encoding,
    lobby: Option<&LobbyId>,
    message_bytes_max: usize,
) -> Result<Socket, ConnectError> {
    let request = upgrade_request(address, token, encoding, lobby)
        .map_err(|message| ConnectError::Refused { status: None, message })?;
    let again = |error: &dyn fmt::Display| ConnectError::Again { after: None, why: error.to_string() };
    let transport = connector.open(address.target.clone()).await.map_err(|error| again(&error))?;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(message_bytes_max.max(1 << 20))
        .max_message_size(Some(message_bytes_max))
        .max_frame_size(Some(message_bytes_max));
    match tokio_tungstenite::client_async_with_config(request, transport, Some(config)).await {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(response)) => Err(refusal(&response)),
        Err(
            error @ tungstenite::Error::Protocol(
                tungstenite::error::ProtocolError::SecWebSocketSubProtocolError(_),
            ),
        ) => Err(ConnectError::Refused { status: None, message: error.to_string() }),
        Err(error) => Err(again(&error)),
    }
}

fn upgrade_request(
    address: &Address,
    token: &str,
    encoding: Encoding,
    lobby: Option<&LobbyId>,
) -> Result<Request, String> {
    let mut request = address.request(lobby).into_client_request().map_err(|error| error.to_string())?;
    let mut bearer = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| "the token holds characters that no header may hold".to_owned())?;
    bearer.set_sensitive(true);
    request.headers_mut().insert(header::AUTHORIZATION, bearer);
    let protocol = HeaderValue::from_static(encoding.subprotocol());
    request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    Ok(request)
}

fn refusal(response: &Response<Option<Vec<u8>>>) -> ConnectError {
    let status = response.status().as_u16();
    let body = response.body().as_deref().unwrap_or_default();
    let message: String = String::from_utf8_lossy(body).trim().chars().take(200).collect();
    match status {
        401 => ConnectError::Unauthorized,
        408 | 425 | 429 | 500..=599 => {
            let after = response.headers().get(header::RETRY_AFTER);
            let seconds: Option<u64> = after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
            let after = seconds.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
            ConnectError::Again { after, why: format!("HTTP {status} {message}") }
        }
        _ => ConnectError::Refused { status: Some(status), message },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_become_targets_and_requests() {
        let lobby = LobbyId::new("lounge").unwrap();
        for (url, host, port, request) in [
            ("ws://localhost:8080", "localhost", 8080, "ws://localhost:8080/ws?lobby=lounge"),
            ("ws://localhost/", "localhost", 80, "ws://localhost/ws?lobby=lounge"),
            ("ws://[::1]:9/chat?a=b", "[::1]", 9, "ws://[::1]:9/chat?a=b&lobby=lounge"),
        ] {
            let address = Address::parse(url).expect(url);
            assert_eq!((address.target.host.as_str(), address.target.port), (host, port));
            assert_eq!(address.request(Some(&lobby)), request);
        }
        for bad in ["", "localhost", "http://localhost", "ws://", "ws:///ws"] {
            assert_eq!(Address::parse(bad).err(), Some(InvalidOptions::Url(bad.to_owned())), "{bad}");
        }
    }
}
