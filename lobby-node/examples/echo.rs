//! The WebSocket conformance suite's counterpart: every path is a WebSocket that sends each frame back, on exactly
//! the connection code of a player's session, and every stream of a trunk is one. It checks no signature and no ticket; no
//! process offers it to players.
//!
//! `cargo run --release -p mlms-lobby-node --example echo -- 127.0.0.1:9001` (port 0: a free one, which it prints).

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use mlms_lobby_node::{Socket, echo};
use mlms_process::http::{self, HttpOptions, ListenerMetrics};
use mlms_process::trunk::{Opening, PROTOCOL, Trunk};
use prometheus::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::sync::CancellationToken;

/// The suite sends messages of up to 16 MiB; players have a far smaller limit.
const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address: SocketAddr = std::env::args().nth(1).as_deref().unwrap_or("127.0.0.1:9001").parse()?;
    let listener = TcpListener::bind(address).await?;
    announce(listener.local_addr()?);
    let metrics = ListenerMetrics::new(&Registry::new(), "echo");
    let service = |request, _| async move { answer(request) };
    http::serve(listener, HttpOptions::default(), metrics, service, CancellationToken::new()).await;
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the script that starts it reads the address")]
fn announce(address: SocketAddr) {
    println!("{address}");
}

fn answer(mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    if request.headers().get(header::UPGRADE).is_some_and(|protocol| protocol == PROTOCOL) {
        tokio::spawn(trunk(hyper::upgrade::on(&mut request)));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
        return response;
    }
    let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY) else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    };
    let accept = derive_accept_key(key.as_bytes());
    let accept = HeaderValue::try_from(accept).expect("base64 is a header value");
    let upgrade = hyper::upgrade::on(&mut request);
    // It lives as long as the process: nothing here waits for the end of a connection.
    tokio::spawn(async move {
        if let Ok(parts) = upgrade.await.map(|upgraded| upgraded.downcast::<TokioIo<TcpStream>>()) {
            let parts = parts.expect("the listener takes TCP only");
            echo::serve(Socket::Tcp(parts.io.into_inner()), parts.read_buf, FRAME_BYTES_MAX).await;
        }
    });
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}

async fn trunk(upgrade: OnUpgrade) {
    let Ok(Ok(parts)) = upgrade.await.map(|upgraded| upgraded.downcast::<TokioIo<TcpStream>>()) else {
        return;
    };
    let opened = |opening: Opening| {
        let socket = Socket::Trunk(opening.accept());
        tokio::spawn(echo::serve(socket, Bytes::new(), FRAME_BYTES_MAX));
    };
    let trunk = Trunk::new(None);
    let run = trunk.run(parts.io.into_inner(), parts.read_buf, opened, CancellationToken::new());
    run.await.expect("the broker keeps to the format");
}
