//! A lobby node as the broker sees it: takes tickets, on a trunk or with a handshake each, and then echoes raw bytes.

use std::collections::HashSet;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};

use bytes::{Buf as _, Bytes};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use mlms_process::http::{self, HttpOptions, ListenerMetrics};
use mlms_process::trunk::{Opening, PROTOCOL, Stream, Trunk};
use mlms_protocol::ticket::{ClusterKeys, Ticket};
use mlms_protocol::{NodeName, SessionId};
use prometheus::Registry;
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How a node answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// 101, then every byte comes back.
    Echo,
    /// 101, then the connection is handed to the test.
    HandOver,
    /// Some other status.
    Status(u16),
    /// Ends the trunk; without one, 101 with an accept of another key.
    Broken,
    /// Takes the request and never answers.
    Frozen,
}

/// Of which release nodes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    Present,
    /// The one before: its nodes know of no trunks.
    Before,
}

/// The same test on nodes of this release and of the one before.
macro_rules! on_nodes_of_both_releases {
    ($($test:ident),* $(,)?) => {
        $(mod $test {
            use crate::node::Release;

            #[tokio::test]
            async fn with_trunks() {
                super::$test(Release::Present).await;
            }

            #[tokio::test]
            async fn without() {
                super::$test(Release::Before).await;
            }
        })*
    };
}
pub(crate) use on_nodes_of_both_releases;

pub(crate) struct Node {
    pub(crate) name: NodeName,
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    handed_over: tokio::sync::Mutex<mpsc::Receiver<TcpStream>>,
    _stop: DropGuard,
}

struct Shared {
    keys: ClusterKeys,
    release: Release,
    name: NodeName,
    manner: Mutex<Manner>,
    is_deaf: watch::Sender<bool>,
    used: Mutex<HashSet<SessionId>>,
    seen: watch::Sender<Vec<Seen>>,
    byes: watch::Sender<Vec<Leaving>>,
    hand_over: mpsc::Sender<TcpStream>,
}

/// A handshake that reached the node.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) ticket: Ticket,
}

/// A batch of leaving sessions.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Leaving {
    pub(crate) sessions: Vec<SessionId>,
    pub(crate) code: u16,
    pub(crate) window_ms: [u64; 2],
}

impl Node {
    pub(crate) async fn start(name: &str, keys: ClusterKeys, release: Release) -> Node {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (hand_over, handed_over) = mpsc::channel(16);
        let name = NodeName::new(name).unwrap();
        let shared = Arc::new(Shared {
            keys,
            release,
            name: name.clone(),
            manner: Mutex::new(Manner::Echo),
            is_deaf: watch::Sender::default(),
            used: Mutex::default(),
            seen: watch::Sender::default(),
            byes: watch::Sender::default(),
            hand_over,
        });
        let stop = CancellationToken::new();
        let answering = shared.clone();
        let service = move |request, _| answer(answering.clone(), request);
        let metrics = ListenerMetrics::new(&Registry::new(), "node");
        tokio::spawn(http::serve(listener, HttpOptions::default(), metrics, service, stop.clone()));
        let handed_over = tokio::sync::Mutex::new(handed_over);
        Node { name, address, shared, handed_over, _stop: stop.drop_guard() }
    }

    pub(crate) fn set_manner(&self, manner: Manner) {
        *self.shared.manner.lock().unwrap() = manner;
    }

    /// While it is deaf it reads nothing of its trunks, and writes nothing there.
    pub(crate) fn set_deaf(&self, is_deaf: bool) {
        self.shared.is_deaf.send_replace(is_deaf);
    }

    /// The handshakes with a good ticket so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.borrow().clone()
    }

    /// The next connection of a node that hands over.
    pub(crate) async fn connection(&self) -> TcpStream {
        let mut connections = self.handed_over.lock().await;
        tokio::time::timeout(crate::stage::PATIENCE, connections.recv()).await.expect("one comes").unwrap()
    }

    /// Waits for the news of leaving sessions.
    pub(crate) async fn bye(&self) -> Leaving {
        let mut byes = self.shared.byes.subscribe();
        let byes = tokio::time::timeout(crate::stage::PATIENCE, byes.wait_for(|byes| !byes.is_empty())).await;
        byes.expect("the news comes").unwrap()[0].clone()
    }

    pub(crate) fn byes(&self) -> usize {
        self.shared.byes.borrow().len()
    }
}

/// What a node says of the services behind it.
const WELL: &str = r#"{"services":{"journal":{"state":"ok","since":1},"amqp":{"state":"ok","since":2}}}"#;

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if *shared.manner.lock().unwrap() == Manner::Frozen {
        std::future::pending::<()>().await;
    }
    let token = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = token.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or("").to_owned();
    match request.uri().path() {
        "/internal/trunk" if shared.release == Release::Before => status(404),
        "/internal/trunk" => take_trunk(&shared, &token, request),
        "/internal/bye" => take_bye(&shared, &token, request).await,
        "/internal/health" => {
            let Manner::Status(number) = *shared.manner.lock().unwrap() else {
                return Response::new(Full::from(WELL));
            };
            status(number)
        }
        _ => take_handshake(&shared, &token, request),
    }
}

fn take_handshake(
    shared: &Arc<Shared>,
    token: &str,
    mut request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let ticket = shared.keys.open(token).ok().filter(|ticket| ticket.node == shared.name);
    let Some(ticket) = ticket else { return status(401) };
    let headers = request.headers().iter();
    let seen = Seen {
        target: request.uri().to_string(),
        headers: headers
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect(),
        ticket: ticket.clone(),
    };
    shared.seen.send_modify(|all| all.push(seen));
    let manner = *shared.manner.lock().unwrap();
    if let Manner::Status(number) = manner {
        return status(number);
    }
    if !shared.used.lock().unwrap().insert(ticket.session) {
        return status(401);
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let hand_over = shared.hand_over.clone();
    tokio::spawn(async move {
        let parts = upgrade.await.unwrap().downcast::<TokioIo<TcpStream>>().unwrap();
        assert!(parts.read_buf.is_empty(), "nothing comes before the 101");
        let mut stream = parts.io.into_inner();
        if manner == Manner::HandOver {
            hand_over.send(stream).await.unwrap();
        } else {
            let (mut from, mut to) = stream.split();
            // The end of the connection ends the echo, whichever way.
            let _ = tokio::io::copy(&mut from, &mut to).await;
        }
    });
    let key = match manner {
        Manner::Broken => "AAAAAAAAAAAAAAAAAAAAAA==".as_bytes(),
        _ => request.headers()[header::SEC_WEBSOCKET_KEY].as_bytes(),
    };
    let mut response = status(101);
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::try_from(derive_accept_key(key)).unwrap());
    if let Some(protocol) = request.headers().get(header::SEC_WEBSOCKET_PROTOCOL) {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol.clone());
    }
    response
}

/// Whether a broker signed this for its purpose.
fn is_signed(shared: &Shared, token: &str, purpose: &str) -> bool {
    #[derive(Clone, Deserialize)]
    struct Claims {
        aud: String,
        sub: String,
    }
    shared.keys.verify::<Claims>(token).is_ok_and(|claims| claims.aud == "node" && claims.sub == purpose)
}

fn take_trunk(shared: &Arc<Shared>, token: &str, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    if !is_signed(shared, token, "trunk") || request.headers()[header::UPGRADE] != PROTOCOL {
        return status(401);
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let shared = shared.clone();
    tokio::spawn(async move {
        let parts = upgrade.await.unwrap().downcast::<TokioIo<TcpStream>>().unwrap();
        let broken = CancellationToken::new();
        let breaking = broken.clone();
        let opened = |opening: Opening| take_opening(&shared, opening, &breaking);
        let trunk = Trunk::new(None);
        let mut run =
            pin!(trunk.run(parts.io.into_inner(), parts.read_buf, opened, CancellationToken::new()));
        let mut is_deaf = shared.is_deaf.subscribe();
        let run = async {
            loop {
                tokio::select! {
                    biased;
                    _ = is_deaf.wait_for(|is_deaf| *is_deaf) => {}
                    outcome = &mut run => return outcome,
                }
                let _ = is_deaf.wait_for(|is_deaf| !is_deaf).await;
            }
        };
        if let Some(outcome) = broken.run_until_cancelled(run).await {
            outcome.unwrap();
        }
    });
    let mut response = status(101);
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
    response
}

fn take_opening(shared: &Arc<Shared>, opening: Opening, broken: &CancellationToken) {
    let request: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&opening.request).unwrap();
    let ticket = shared.keys.open(request["ticket"].as_str().unwrap()).ok();
    let Some(ticket) = ticket.filter(|ticket| ticket.node == shared.name) else { return opening.refuse(401) };
    let headers = request.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()));
    let seen =
        Seen { target: "/internal/trunk".to_owned(), headers: headers.collect(), ticket: ticket.clone() };
    shared.seen.send_modify(|all| all.push(seen));
    let manner = *shared.manner.lock().unwrap();
    match manner {
        Manner::Status(number) => return opening.refuse(number),
        Manner::Broken | Manner::Frozen => {
            if manner == Manner::Broken {
                broken.cancel();
            }
            // Never answered, for as long as the test lasts: dropped, it would be refused.
            tokio::spawn(async move {
                std::future::pending::<()>().await;
                drop(opening);
            });
            return;
        }
        Manner::Echo | Manner::HandOver => {}
    }
    if !shared.used.lock().unwrap().insert(ticket.session) {
        return opening.refuse(401);
    }
    let stream = opening.accept();
    let hand_over = shared.hand_over.clone();
    tokio::spawn(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
        let mut theirs = theirs.unwrap().0;
        if manner == Manner::HandOver {
            hand_over.send(theirs).await.unwrap();
        } else {
            tokio::spawn(async move {
                let (mut from, mut to) = theirs.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
        bridge(stream, ours.unwrap()).await;
    });
}

/// Makes a stream of a trunk a connection.
async fn bridge(stream: Stream, socket: TcpStream) {
    let (mut from, to) = socket.into_split();
    stream.deliver_to(to);
    let up = async {
        let mut space = vec![0; 1 << 16];
        loop {
            let length = from.read(&mut space).await.unwrap_or(0);
            if length == 0 {
                return stream.end();
            }
            let mut bytes = Bytes::copy_from_slice(&space[..length]);
            while !bytes.is_empty() {
                let Ok(written) = poll_fn(|cx| stream.poll_write(cx, &bytes)).await else { return };
                bytes.advance(written);
            }
        }
    };
    let down = poll_fn(|cx| stream.poll_delivered(cx));
    // Whichever way it ends, both ends are gone then.
    let _ = tokio::join!(up, down);
}

async fn take_bye(shared: &Shared, token: &str, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let manner = *shared.manner.lock().unwrap();
    if let Manner::Status(number) = manner {
        return status(number);
    }
    if !is_signed(shared, token, "bye") {
        return status(401);
    }
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let leaving: Leaving = serde_json::from_slice(&body).unwrap();
    shared.byes.send_modify(|all| all.push(leaving));
    status(202)
}

fn status(number: u16) -> Response<Full<Bytes>> {
    // A body, as nodes' problems have one: the broker must not wait for it to be read.
    let body = if number == 101 { "" } else { "{\"code\":\"test\"}" };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = StatusCode::from_u16(number).unwrap();
    response
}
