//! The way to a lobby node: opens a trunk, or a session with a ticket, and tells a node which sessions are leaving. A
//! request to a node is built from parsed fields only; nothing a client sent is passed on as it came.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::request;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use mlms_process::tcp;
use mlms_process::trunk::{self, Stream, Trunk};
use mlms_protocol::ticket::{Boarding, ClusterKeys};
use mlms_protocol::trace::TRACEPARENT;
use mlms_protocol::{CloseCode, SessionId};
use serde::Serialize;
use tokio::net::TcpStream;

use crate::handshake::{self, Handshake, Subprotocol};
use crate::passenger::unix_seconds;
use crate::trace;
use crate::tunnel::End;

/// How long a node may take to accept a TCP connection. A SYN that is lost is sent again after a second (RFC 6298
/// section 2.1); that one is to count.
const CONNECT_PATIENCE: Duration = Duration::from_millis(1_500);
/// How long a node may take to answer a handshake; a frozen one still accepts connections.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);
/// How long a node may take to take a batch of leaving sessions.
const BYE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a broker's signature is good: a node's clock may be some seconds behind or ahead.
const SIGNATURE_TTL_S: u64 = 60;
/// Bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Why a node did not take a session.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum NodeRefusal {
    #[error("cannot connect: {0}")]
    Connect(Arc<std::io::Error>),
    #[error("does not accept the connection in time")]
    ConnectTimeout,
    #[error("does not answer in time")]
    AnswerTimeout,
    #[error("breaks the handshake: {0}")]
    Broken(&'static str),
    /// Draining or full: the next one may do.
    #[error("has no room")]
    Unavailable,
    /// The ticket is not taken.
    #[error("does not take the ticket")]
    Ticket,
    #[error("forbids the session")]
    Forbidden,
    #[error("limits the session")]
    Limited,
    #[error("answers {0}")]
    Status(StatusCode),
}

impl NodeRefusal {
    /// The metric label.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            NodeRefusal::Connect(_) => "connect",
            NodeRefusal::ConnectTimeout => "connect_timeout",
            NodeRefusal::AnswerTimeout => "answer_timeout",
            NodeRefusal::Broken(_) => "broken",
            NodeRefusal::Unavailable => "unavailable",
            NodeRefusal::Ticket => "ticket",
            NodeRefusal::Forbidden => "forbidden",
            NodeRefusal::Limited => "limited",
            NodeRefusal::Status(_) => "status",
        }
    }

    /// What an answer other than yes means.
    pub(crate) fn of_status(status: StatusCode) -> NodeRefusal {
        match status {
            StatusCode::SERVICE_UNAVAILABLE => NodeRefusal::Unavailable,
            StatusCode::UNAUTHORIZED => NodeRefusal::Ticket,
            StatusCode::FORBIDDEN => NodeRefusal::Forbidden,
            StatusCode::TOO_MANY_REQUESTS => NodeRefusal::Limited,
            other => NodeRefusal::Status(other),
        }
    }

    fn connect(error: std::io::Error) -> NodeRefusal {
        NodeRefusal::Connect(Arc::new(error))
    }
}

impl From<trunk::Unopened> for NodeRefusal {
    fn from(unopened: trunk::Unopened) -> NodeRefusal {
        match unopened {
            trunk::Unopened::Refused(status) => match StatusCode::from_u16(status) {
                Ok(status) => NodeRefusal::of_status(status),
                Err(_) => NodeRefusal::Broken("its status is none"),
            },
            trunk::Unopened::Over => NodeRefusal::Broken("the trunk has ended"),
        }
    }
}

/// Opens a session: sends the handshake with the ticket, and returns the connection once the node has answered 101.
///
/// # Errors
/// See [`NodeRefusal`]. Cancel safe: a dropped attempt closes the connection, and the ticket is spent or expires.
pub(crate) async fn open_session(
    address: &str,
    ticket: &str,
    handshake: &Handshake,
) -> Result<End, NodeRefusal> {
    let stream = connect(address).await?;
    let mut request = Request::builder()
        .uri("/ws")
        .header(header::HOST, address)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, &handshake.key)
        .header(header::AUTHORIZATION, format!("Bearer {ticket}"));
    if let Subprotocol::Spoken(name) = handshake.subprotocol {
        request = request.header(header::SEC_WEBSOCKET_PROTOCOL, name);
    }
    let request = request.body(Full::default()).map_err(|_| NodeRefusal::Broken("its address is no host"))?;
    let answer = async {
        let response = exchange(stream, request, async |response| Ok(response.map(drop))).await?;
        check_answer(&response, handshake)?;
        let upgrade = hyper::upgrade::on(response);
        handshake::raw(upgrade).await.ok_or(NodeRefusal::Broken("the connection ended at the 101"))
    };
    tokio::time::timeout(ANSWER_PATIENCE, answer).await.unwrap_or(Err(NodeRefusal::AnswerTimeout))
}

fn check_answer(response: &Response<()>, handshake: &Handshake) -> Result<(), NodeRefusal> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(NodeRefusal::of_status(response.status()));
    }
    let headers: &HeaderMap = response.headers();
    if headers.get(header::SEC_WEBSOCKET_ACCEPT).is_none_or(|accept| *accept != handshake.accept()) {
        return Err(NodeRefusal::Broken("its accept does not answer the key"));
    }
    let spoken = match handshake.subprotocol {
        Subprotocol::Spoken(name) => Some(HeaderValue::from_static(name)),
        _ => None,
    };
    if headers.get(header::SEC_WEBSOCKET_PROTOCOL) != spoken.as_ref() {
        return Err(NodeRefusal::Broken("it chose another subprotocol"));
    }
    Ok(())
}

/// What a node says to a trunk.
pub(crate) enum TrunkAnswer {
    Taken(End),
    /// It knows of none: it is of the release before.
    Unknown,
}

/// Opens a trunk.
///
/// # Errors
/// See [`NodeRefusal`].
pub(crate) async fn open_trunk(address: &str, keys: &ClusterKeys) -> Result<TrunkAnswer, NodeRefusal> {
    let stream = connect(address).await?;
    let request = signed(address, keys, Purpose::Trunk)
        .method("GET")
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, trunk::PROTOCOL)
        .body(Full::default())
        .map_err(|_| NodeRefusal::Broken("its address is no host"))?;
    let answer = async {
        let response = exchange(stream, request, async |response| Ok(response.map(drop))).await?;
        match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => {}
            StatusCode::NOT_FOUND | StatusCode::UPGRADE_REQUIRED => return Ok(TrunkAnswer::Unknown),
            // Of the broker's own signature: no ticket was shown yet.
            StatusCode::UNAUTHORIZED => {
                return Err(NodeRefusal::Broken("it does not take the broker's signature"));
            }
            other => return Err(NodeRefusal::of_status(other)),
        }
        let upgrade = hyper::upgrade::on(response);
        let end = handshake::raw(upgrade).await;
        end.map(TrunkAnswer::Taken).ok_or(NodeRefusal::Broken("the connection ended at the 101"))
    };
    tokio::time::timeout(ANSWER_PATIENCE, answer).await.unwrap_or(Err(NodeRefusal::AnswerTimeout))
}

/// Opens a session on a trunk.
///
/// # Errors
/// See [`NodeRefusal`]. Cancel safe: a dropped attempt closes the stream, and the ticket is spent or expires.
pub(crate) async fn open_stream(
    trunk: &Trunk,
    ticket: &str,
    handshake: &Handshake,
) -> Result<Stream, NodeRefusal> {
    let subprotocol = match handshake.subprotocol {
        Subprotocol::Spoken(name) => Some(name.to_owned()),
        _ => None,
    };
    let boarding = Boarding { ticket: ticket.to_owned(), subprotocol, traceparent: trace::context() };
    let request = serde_json::to_vec(&boarding).expect("texts serialize");
    let opened = tokio::time::timeout(ANSWER_PATIENCE, trunk.open(&request)).await;
    Ok(opened.map_err(|_| NodeRefusal::AnswerTimeout)??)
}

/// What a broker asks a node to do, as its signature says.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    /// Sessions lose their broker.
    Bye,
    /// A command of a REST caller.
    Command,
    /// Sessions are ended by an operator.
    Disconnect,
    /// How the node and the services behind it are.
    Health,
    /// A connection for many sessions.
    Trunk,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Purpose::Bye => "bye",
            Purpose::Command => "command",
            Purpose::Disconnect => "disconnect",
            Purpose::Health => "health",
            Purpose::Trunk => "trunk",
        }
    }
}

/// Sends a node something signed, and gives its whole answer.
///
/// # Errors
/// When the node cannot be reached or does not answer in time.
pub(crate) async fn post(
    address: &str,
    keys: &ClusterKeys,
    purpose: Purpose,
    body: Bytes,
    patience: Duration,
    answer_bytes_max: usize,
) -> Result<(StatusCode, Bytes), NodeRefusal> {
    let stream = connect(address).await?;
    let request = signed(address, keys, purpose)
        .method("POST")
        .header(header::CONNECTION, "close")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|_| NodeRefusal::Broken("its address is no host"))?;
    let answer = exchange(stream, request, async |response| whole(response, answer_bytes_max).await);
    let answer = tokio::time::timeout(patience, answer).await;
    answer.unwrap_or(Err(NodeRefusal::AnswerTimeout))
}

/// The head of a request that is signed for its purpose.
fn signed(address: &str, keys: &ClusterKeys, purpose: Purpose) -> request::Builder {
    #[derive(Serialize)]
    struct Claims {
        exp: u64,
        aud: &'static str,
        sub: &'static str,
    }
    let exp = unix_seconds() + SIGNATURE_TTL_S;
    let token = keys.sign(&Claims { exp, aud: "node", sub: purpose.name() });
    Request::builder()
        .uri(format!("/internal/{}", purpose.name()))
        .header(header::HOST, address)
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
}

/// Tells a node that these sessions are to leave this broker: it closes each with a `bye` of this code, and they come
/// back at some point of the window.
///
/// # Errors
/// When the node cannot be reached or does not take the list.
pub(crate) async fn announce_leaving(
    address: &str,
    keys: &ClusterKeys,
    sessions: &[SessionId],
    code: CloseCode,
    window: Duration,
) -> Result<(), NodeRefusal> {
    #[derive(Serialize)]
    struct Leaving<'a> {
        sessions: &'a [SessionId],
        code: u16,
        window_ms: [u128; 2],
    }
    let leaving = Leaving { sessions, code: code.number(), window_ms: [0, window.as_millis()] };
    let body = serde_json::to_vec(&leaving).expect("ids and numbers serialize");
    match post(address, keys, Purpose::Bye, Bytes::from(body), BYE_PATIENCE, HEAD_BYTES_MAX).await?.0 {
        status if status.is_success() => Ok(()),
        other => Err(NodeRefusal::Status(other)),
    }
}

async fn connect(address: &str) -> Result<TcpStream, NodeRefusal> {
    let connected = tokio::time::timeout(CONNECT_PATIENCE, TcpStream::connect(address)).await;
    let stream = connected.map_err(|_| NodeRefusal::ConnectTimeout)?.map_err(NodeRefusal::connect)?;
    tcp::watch(&stream);
    Ok(stream)
}

/// Sends one request on a connection of its own, and reads the answer. At a 101 hyper hands the connection over and its
/// driver ends, at any other answer it ends because the body is dropped and nobody will send again; so both are awaited
/// here and no task is left.
async fn exchange<T>(
    stream: TcpStream,
    mut request: Request<Full<Bytes>>,
    read: impl AsyncFnOnce(Response<Incoming>) -> Result<T, NodeRefusal>,
) -> Result<T, NodeRefusal> {
    if let Some(context) = trace::header() {
        request.headers_mut().insert(TRACEPARENT, context);
    }
    let broken = |_| NodeRefusal::Broken("the connection fails");
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let answer = async move { read(sender.send_request(request).await.map_err(broken)?).await };
    let (answer, _) = tokio::join!(answer, connection.with_upgrades());
    answer
}

/// A whole answer up to a bound.
async fn whole(response: Response<Incoming>, bytes_max: usize) -> Result<(StatusCode, Bytes), NodeRefusal> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, bytes_max).collect().await;
    let body = body.map_err(|_| NodeRefusal::Broken("its answer breaks off or is too long"))?;
    Ok((head.status, body.to_bytes()))
}
