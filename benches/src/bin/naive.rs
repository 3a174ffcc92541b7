//! What most people would write first: a task a connection, tungstenite with its defaults, one `tokio::sync::broadcast`
//! a lobby.
//!
//! `naive PORT`

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use futures_util::{SinkExt as _, StreamExt as _};
use mlms_benches::{Send, greeting, lobby_of, user_of};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;

/// Messages that a lobby keeps for a slow member.
const CAPACITY: usize = 4_096;

type Lobbies = Arc<Mutex<HashMap<String, broadcast::Sender<String>>>>;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let port: u16 = std::env::args().nth(1).context("naive PORT")?.parse()?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let lobbies = Lobbies::default();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // A session that ends with an error has ended.
        tokio::spawn(session(stream, Arc::clone(&lobbies)));
    }
}

async fn session(stream: TcpStream, lobbies: Lobbies) -> anyhow::Result<()> {
    let (mut lobby, mut user) = (String::new(), String::new());
    #[expect(clippy::result_large_err, reason = "the shape that tungstenite asks for")]
    let look = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        lobby = lobby_of(&request.uri().to_string()).unwrap_or("none").to_owned();
        let bearer = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        user = bearer.and_then(user_of).unwrap_or_default();
        response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("mlms.v1.json"));
        Ok(response)
    };
    let mut socket = tokio_tungstenite::accept_hdr_async(stream, look).await?;
    let sender = {
        let mut lobbies = lobbies.lock().unwrap_or_else(PoisonError::into_inner);
        lobbies.entry(lobby.clone()).or_insert_with(|| broadcast::channel(CAPACITY).0).clone()
    };
    let mut events = sender.subscribe();
    for text in greeting(&lobby, &user) {
        socket.send(Message::text(text)).await?;
    }
    loop {
        tokio::select! {
            event = events.recv() => socket.send(Message::text(event?)).await?,
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => {
                    let Some(send) = Send::read(&text) else { continue };
                    socket.send(Message::text(send.ok())).await?;
                    sender.send(send.event(&lobby, &user))?;
                }
                Some(Ok(Message::Close(_))) | None => return Ok(()),
                Some(message) => drop(message?),
            }
        }
    }
}
