//! A broker's trunk: the sessions of many players on one connection. Each is opened with a ticket, as over a connection
//! of its own, and counts as one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use mlms_process::http::Held;
use mlms_process::trunk::{Opening, PROTOCOL, Trunk};
use mlms_protocol::Encoding;
use mlms_protocol::ticket::Boarding;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Barred, NO_BROKER, Reply, handshake, is_from_broker, refusal, take_ticket};
use crate::connection::Socket;
use crate::node::{Node, Passenger};

/// The trunks of a node.
#[derive(Default)]
pub(crate) struct Trunks {
    running: TaskTracker,
    stop: CancellationToken,
    /// Trunks so far: the next one goes to the worker whose turn it is.
    taken: AtomicUsize,
}

impl Trunks {
    /// Ends all trunks, when what was said on them is out.
    pub(crate) async fn end(&self) {
        self.stop();
        self.running.close();
        self.running.wait().await;
    }

    /// Begins to end all trunks.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }
}

/// Answers a broker that wants a trunk.
#[expect(clippy::result_large_err, reason = "a refusal is an answer like any other, made once a connection")]
pub(super) fn open(node: &Arc<Node>, mut request: Request<Incoming>) -> Result<Reply, Reply> {
    if !is_from_broker(node, request.headers(), "trunk") {
        return Err(refusal(StatusCode::UNAUTHORIZED, NO_BROKER));
    }
    if !handshake::asks_for(&request, PROTOCOL) {
        return Err(refusal(
            StatusCode::UPGRADE_REQUIRED,
            "this is where a trunk begins, of a format known here",
        ));
    }
    let Some(held) = request.extensions_mut().remove::<Held>() else {
        return Err(refusal(StatusCode::SERVICE_UNAVAILABLE, "the connection has no place"));
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let number = node.trunks.taken.fetch_add(1, Ordering::Relaxed);
    let by = node.worker_runtime(number);
    let task_node = Arc::clone(node);
    node.handshakes.spawn(async move {
        match upgrade.await.map(|upgraded| upgraded.downcast::<TokioIo<TcpStream>>()) {
            Ok(Ok(parts)) => {
                let run =
                    run(Arc::clone(&task_node), parts.io.into_inner(), parts.read_buf, held, by.clone());
                task_node.trunks.running.spawn_on(run, &by);
            }
            Ok(Err(_)) => tracing::error!("an upgraded connection is not a TCP stream"),
            Err(error) => tracing::debug!(%error, "a trunk ended before its upgrade"),
        }
    });
    let mut reply = Response::new(Full::new(Bytes::new()));
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = reply.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
    Ok(reply)
}

/// A trunk's whole life, on the thread of one of the workers.
async fn run(node: Arc<Node>, socket: TcpStream, early: Bytes, held: Held, by: Handle) {
    let taken_over = socket.into_std().and_then(|socket| {
        let _entered = by.enter();
        TcpStream::from_std(socket)
    });
    let socket = match taken_over {
        Ok(socket) => socket,
        Err(error) => return tracing::debug!(%error, "a trunk ended while it was taken in"),
    };
    let stop = node.trunks.stop.clone();
    let opened = |opening| admit(&node, &held, opening);
    match Trunk::new(None).run(socket, early, opened, stop).await {
        Ok(()) => tracing::debug!("a broker's trunk has ended"),
        Err(broken) => tracing::error!(%broken, "a broker's trunk is broken"),
    }
}

/// Takes in a session that a broker vouches for, or says why not.
fn admit(node: &Arc<Node>, held: &Held, opening: Opening) {
    match board(node, held, &opening.request) {
        Ok((passenger, encoding, held)) => {
            let socket = Socket::Trunk(opening.accept());
            node.admit(socket, Bytes::new(), encoding, passenger, Some(held));
        }
        Err(Barred { status, text, reason }) => {
            node.metrics.refused_connects.with_label_values(&[reason]).inc();
            tracing::debug!(%status, text, "a session on a trunk is refused");
            opening.refuse(status.as_u16());
        }
    }
}

fn board(node: &Node, held: &Held, request: &[u8]) -> Result<(Passenger, Encoding, Held), Barred> {
    let bad = |text, reason| Barred { status: StatusCode::BAD_REQUEST, text, reason };
    let boarding: Boarding =
        serde_json::from_slice(request).map_err(|_| bad("the opening cannot be read", "opening"))?;
    let encoding = match boarding.subprotocol.as_deref() {
        None => Encoding::Json,
        Some(name) => Encoding::from_subprotocol(name)
            .ok_or_else(|| bad("the subprotocol is not spoken here", "subprotocol"))?,
    };
    // First, so that a ticket is not used up for nothing.
    let held = held.one_more().ok_or(Barred {
        status: StatusCode::SERVICE_UNAVAILABLE,
        text: "the node is full",
        reason: "full",
    })?;
    let ticket = take_ticket(node, &boarding.ticket, None)?;
    let trace = node.tracer.adopt(boarding.traceparent.as_deref());
    Ok((Passenger { trace, ..Passenger::from(ticket) }, encoding, held))
}
