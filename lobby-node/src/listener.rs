//! The node's listener: sessions with a ticket, brokers' trunks, and the words of a leaving broker. Nothing else opens a
//! door.

mod handshake;
mod trunk;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use mlms_process::Problem;
use mlms_process::http::Held;
use mlms_protocol::ticket::{Ticket, TicketError};
use mlms_protocol::trace::TRACEPARENT;
use mlms_protocol::{CloseCode, Encoding, ErrorCode, Reconnect, SessionId};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use self::handshake::Subprotocol;
pub(crate) use self::trunk::Trunks;
use crate::connection::{Connection, Socket};
use crate::node::{Node, Passenger};

/// Longest body of what a broker says.
const BYE_BYTES_MAX: usize = 1024 * 1024;

/// Entries that parts of a node write.
const OWN_SERVICES: [&str; 6] = ["achievements", "amqp", "directory", "journal", "store", "workers"];
/// 16 bytes in base64.
const KEY_BYTES: usize = 24;
/// Said to whoever says a broker's words and is none.
const NO_BROKER: &str = "only a broker of this cluster may say that";
/// How long a player whose subprotocol is not spoken may take to hear that.
const TURN_AWAY_TIME: Duration = Duration::from_secs(2);

type Reply = Response<Full<Bytes>>;

/// What a broker signs to be heard.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct BrokerClaims {
    exp: u64,
    aud: String,
    sub: String,
}

/// A broker is leaving or has too much: these sessions of its tunnels are to move.
#[derive(Debug, Deserialize)]
struct Bye {
    sessions: Vec<SessionId>,
    window_ms: (u64, u64),
    /// 4001: the broker stays, and another has more room.
    #[serde(default)]
    code: u16,
}

/// The one dispatch table of the node's listener.
pub(crate) async fn answer(node: Arc<Node>, request: Request<Incoming>) -> Reply {
    let outcome = match (request.method(), request.uri().path()) {
        (&Method::GET, "/ws") => open(&node, request),
        (&Method::GET, "/internal/trunk") => trunk::open(&node, request),
        (&Method::POST, "/internal/bye") => bye(&node, request).await,
        (&Method::POST, "/internal/command") => command(&node, request).await,
        (&Method::POST, "/internal/disconnect") => disconnect(&node, request).await,
        (&Method::POST, "/internal/health") => health(&node, request).await,
        _ => Err(refusal(StatusCode::NOT_FOUND, "there is no such path")),
    };
    outcome.unwrap_or_else(|refusal| refusal)
}

fn refusal(status: StatusCode, detail: &'static str) -> Reply {
    let code = match status {
        StatusCode::UNAUTHORIZED => ErrorCode::Unauthorized,
        StatusCode::FORBIDDEN => ErrorCode::Banned,
        StatusCode::NOT_FOUND => ErrorCode::NotFound,
        StatusCode::PAYLOAD_TOO_LARGE => ErrorCode::TooLarge,
        StatusCode::SERVICE_UNAVAILABLE => ErrorCode::Overloaded,
        _ => ErrorCode::BadRequest,
    };
    let retry_ms = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1_000);
    Problem { status, code, detail: detail.into(), retry_ms }.response()
}

fn traceparent(headers: &HeaderMap) -> Option<&str> {
    headers.get(TRACEPARENT)?.to_str().ok()
}

#[expect(clippy::result_large_err, reason = "a refusal is an answer like any other, made once a connection")]
fn open(node: &Arc<Node>, mut request: Request<Incoming>) -> Result<Reply, Reply> {
    let refuse = |status, text, reason: &str| {
        node.metrics.refused_connects.with_label_values(&[reason]).inc();
        refusal(status, text)
    };
    let headers = request.headers();
    if !handshake::is_upgrade(&request) {
        return Err(refuse(StatusCode::BAD_REQUEST, "this is a WebSocket endpoint", "no_upgrade"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let mut reply = refuse(StatusCode::UPGRADE_REQUIRED, "WebSocket version 13 is needed", "version");
        reply.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return Err(reply);
    }
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| key.len() == KEY_BYTES) else {
        return Err(refuse(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key has 16 bytes in base64", "no_key"));
    };
    let accept = derive_accept_key(key.as_bytes());
    let Some(token) = handshake::ticket(headers) else {
        return Err(refuse(StatusCode::UNAUTHORIZED, "a ticket is needed", "no_ticket"));
    };
    let lobby = handshake::lobby(request.uri().query());
    let ticket = take_ticket(node, token, lobby)
        .map_err(|Barred { status, text, reason }| refuse(status, text, reason))?;
    let subprotocol = Subprotocol::choose(headers);
    let trace = node.tracer.adopt(traceparent(request.headers()));
    let held = request.extensions_mut().remove::<Held>();
    let upgrade = hyper::upgrade::on(&mut request);
    let task_node = Arc::clone(node);
    node.handshakes.spawn(async move {
        match upgrade.await.map(|upgraded| upgraded.downcast::<TokioIo<TcpStream>>()) {
            Ok(Ok(parts)) => {
                let socket = Socket::Tcp(parts.io.into_inner());
                let encoding = match subprotocol {
                    Subprotocol::Default => Encoding::Json,
                    Subprotocol::Spoken(encoding) => encoding,
                    Subprotocol::Unsupported => return turn_away(&task_node, socket).await,
                };
                let passenger = Passenger { trace, ..Passenger::from(ticket) };
                task_node.admit(socket, parts.read_buf, encoding, passenger, held);
            }
            Ok(Err(_)) => tracing::error!("an upgraded connection is not a TCP stream"),
            Err(error) => tracing::debug!(%error, "a connection ended before its upgrade"),
        }
    });
    let mut reply = Response::new(Full::new(Bytes::new()));
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = reply.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let accept = HeaderValue::from_str(&accept).expect("an accept key is base64");
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Subprotocol::Spoken(encoding) = subprotocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(encoding.subprotocol()));
    }
    Ok(reply)
}

/// Tells a player who asks only for subprotocols that nobody here speaks that there is no use in coming again.
async fn turn_away(node: &Node, socket: Socket) {
    let limits = node.limits();
    let (bytes, metrics) = (limits.frame_bytes_max, Arc::clone(&node.metrics));
    let open =
        Connection::open(socket, Bytes::new(), Encoding::Json, bytes, limits.outbox_bytes_max, metrics);
    let Ok((mut connection, outbox)) = open.await else { return };
    let code = CloseCode::UnsupportedSubprotocol;
    outbox.close(code, code.as_str(), Reconnect::Never, None);
    let farewell = async {
        outbox.finish(TURN_AWAY_TIME).await;
        while connection.receive(&outbox).await.is_some() {}
    };
    // Whether the player waited for the words makes no difference any more.
    let _ = tokio::time::timeout(TURN_AWAY_TIME, farewell).await;
}

/// Why a ticket opens no session.
struct Barred {
    status: StatusCode,
    text: &'static str,
    /// The metric label.
    reason: &'static str,
}

impl Barred {
    fn ticket(text: &'static str, reason: &'static str) -> Barred {
        Barred { status: StatusCode::UNAUTHORIZED, text, reason }
    }
}

/// Uses a ticket up, which must be for this node and, if one is named, for this lobby.
fn take_ticket(node: &Node, token: &str, lobby: Option<&str>) -> Result<Ticket, Barred> {
    let ticket = node.keys.open(token).map_err(|error| match error {
        TicketError::Expired => Barred::ticket("the ticket has expired", "ticket_expired"),
        TicketError::Invalid => Barred::ticket("the ticket is not of this cluster", "ticket_invalid"),
        TicketError::Version(_) => Barred::ticket("the ticket is of another release", "ticket_version"),
    })?;
    if ticket.node != node.name {
        return Err(Barred::ticket("the ticket is for another node", "ticket_misdirected"));
    }
    if lobby.is_some_and(|lobby| ticket.lobby.as_ref().is_none_or(|of_ticket| of_ticket.as_str() != lobby)) {
        let (status, text) = (StatusCode::BAD_REQUEST, "the ticket was made for another lobby");
        return Err(Barred { status, text, reason: "ticket_lobby" });
    }
    if !node.use_ticket(&ticket) {
        return Err(Barred::ticket("the ticket was used before", "ticket_used"));
    }
    if node.bans.holds(&ticket.user, node.clock.now()) {
        let (status, text) = (StatusCode::FORBIDDEN, "the user is banned from the service");
        return Err(Barred { status, text, reason: "banned" });
    }
    if node.is_draining() {
        let (status, text) = (StatusCode::SERVICE_UNAVAILABLE, "the node is leaving");
        return Err(Barred { status, text, reason: "draining" });
    }
    Ok(ticket)
}

/// Whether a broker of this cluster signed the request for this purpose.
fn is_from_broker(node: &Node, headers: &HeaderMap, purpose: &str) -> bool {
    let claims = handshake::bearer(headers).and_then(|token| node.keys.verify::<BrokerClaims>(token).ok());
    claims.is_some_and(|claims| claims.aud == "node" && claims.sub == purpose)
}

/// The body of a request that a broker of this cluster signed for this purpose.
async fn from_broker(node: &Node, request: Request<Incoming>, purpose: &str) -> Result<Bytes, Reply> {
    if !is_from_broker(node, request.headers(), purpose) {
        return Err(refusal(StatusCode::UNAUTHORIZED, NO_BROKER));
    }
    let body = Limited::new(request.into_body(), BYE_BYTES_MAX).collect().await;
    let body = body.map_err(|_| refusal(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long"))?;
    Ok(body.to_bytes())
}

/// A command that came by REST. The answer is the reply that a socket would get.
async fn command(node: &Arc<Node>, request: Request<Incoming>) -> Result<Reply, Reply> {
    let trace = node.tracer.adopt(traceparent(request.headers()));
    let body = from_broker(node, request, "command").await?;
    let answer = crate::seam::carry_out(node, &body, trace).await;
    let answer = answer.map_err(|text| refusal(StatusCode::BAD_REQUEST, text))?;
    let mut reply = Response::new(Full::new(answer));
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(reply)
}

async fn bye(node: &Arc<Node>, request: Request<Incoming>) -> Result<Reply, Reply> {
    let body = from_broker(node, request, "bye").await?;
    let bye: Bye = serde_json::from_slice(&body)
        .map_err(|_| refusal(StatusCode::BAD_REQUEST, "not a list of sessions"))?;
    for session in &bye.sessions {
        if let Some(handle) = node.session(session) {
            let (code, text) = if bye.code == CloseCode::Rebalance.number() {
                (CloseCode::Rebalance, "another broker has more room")
            } else {
                (CloseCode::Draining, "the broker is leaving")
            };
            handle.outbox.close(code, text, Reconnect::Window, Some(bye.window_ms));
        }
    }
    let mut reply = Response::new(Full::new(Bytes::new()));
    *reply.status_mut() = StatusCode::ACCEPTED;
    Ok(reply)
}

/// How the node is, and the services that its own parts use.
async fn health(node: &Arc<Node>, request: Request<Incoming>) -> Result<Reply, Reply> {
    from_broker(node, request, "health").await?;
    let mut services = node.health.report();
    // A broker in the same process writes there too, what it learns from here.
    services.retain(|name, _| OWN_SERVICES.contains(&name.as_str()));
    let report = serde_json::json!({ "services": services }).to_string();
    let mut reply = Response::new(Full::new(Bytes::from(report)));
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(reply)
}

/// An operator ends these sessions; their users may come back by themselves, not by a client that reconnects.
async fn disconnect(node: &Arc<Node>, request: Request<Incoming>) -> Result<Reply, Reply> {
    let body = from_broker(node, request, "disconnect").await?;
    let sessions: Vec<SessionId> = serde_json::from_slice(&body)
        .map_err(|_| refusal(StatusCode::BAD_REQUEST, "not a list of sessions"))?;
    let handles: Vec<_> = sessions.iter().filter_map(|session| node.session(session)).collect();
    for handle in &handles {
        handle.outbox.close(CloseCode::Kicked, "disconnected by an operator", Reconnect::Never, None);
    }
    Ok(Response::new(Full::new(Bytes::from(handles.len().to_string()))))
}
