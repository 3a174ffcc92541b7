//! One WebSocket: reading through tungstenite, writing through the outbox. It knows frames, not the protocol;
//! the conformance suite runs against exactly this.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::StreamExt;
use mlms_process::trunk::Stream;
use mlms_protocol::{CloseCode, Encoding};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode as PeerCode;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::metrics::Metrics;
use crate::outbox::{Line, Outbox, Wire};

/// How a close of ours is counted whose peer broke the WebSocket protocol.
const BROKEN: &str = "websocket_protocol";
/// What the library answers to a close whose code no peer may send (RFC 6455 section 7.4).
const FORBIDDEN_CODE: &str = "Protocol violation";

/// The bytes of a connection that has been upgraded.
#[derive(Debug)]
pub enum Socket {
    Tcp(TcpStream),
    /// A stream of a broker's trunk.
    Trunk(Stream),
    /// An in-memory pipe, for tests under a paused clock.
    Pipe(DuplexStream),
}

/// What a peer sent.
#[derive(Debug)]
pub(crate) enum Incoming {
    Text(Bytes),
    Binary(Bytes),
    /// A pong, or a ping that the library has answered: a sign of life.
    Alive,
}

/// A connection's frames, as its task reads them.
pub(crate) struct Connection {
    stream: WebSocketStream<Bytestream>,
}

impl Connection {
    /// Takes over an upgraded socket; `read_already` are bytes behind the handshake. The connection belongs to the runtime
    /// that this is called in.
    pub(crate) async fn open(
        socket: Socket,
        read_already: Bytes,
        encoding: Encoding,
        frame_bytes_max: usize,
        outbox_bytes_max: usize,
        metrics: Arc<Metrics>,
    ) -> io::Result<(Connection, Arc<Outbox>)> {
        let wire = match socket {
            Socket::Tcp(stream) => Wire::Tcp(Line::new(stream)?),
            Socket::Trunk(stream) => Wire::Trunk(stream),
            Socket::Pipe(pipe) => Wire::Pipe(Mutex::new(pipe)),
        };
        let outbox = Arc::new(Outbox::new(encoding, outbox_bytes_max, wire, metrics));
        let stream = Bytestream(Arc::clone(&outbox));
        // The library's own buffers stay small: it reads commands, of which most are a chat or a move of a game, and
        // writes pongs and close frames only.
        let config = WebSocketConfig::default()
            .read_buffer_size(384)
            .write_buffer_size(0)
            .max_write_buffer_size(4 * 1024)
            .max_message_size(Some(frame_bytes_max))
            .max_frame_size(Some(frame_bytes_max));
        let stream =
            WebSocketStream::from_partially_read(stream, read_already.to_vec(), Role::Server, Some(config))
                .await;
        Ok((Connection { stream }, outbox))
    }

    /// Waits for the next frame. `None`: the connection is over; a peer that broke the WebSocket protocol has been
    /// sent its close code. Cancel safe.
    pub(crate) async fn receive(&mut self, outbox: &Outbox) -> Option<Incoming> {
        loop {
            return match self.stream.next().await? {
                Ok(Message::Text(text)) => Some(Incoming::Text(text.into())),
                Ok(Message::Binary(bytes)) => Some(Incoming::Binary(bytes)),
                Ok(Message::Ping(_) | Message::Pong(_)) => Some(Incoming::Alive),
                // The library answers the close by itself on the next read, which then ends the stream.
                Ok(Message::Close(answer)) => {
                    if answer.is_some_and(|answer| {
                        answer.code == PeerCode::Protocol && answer.reason == FORBIDDEN_CODE
                    }) {
                        outbox.count_close(BROKEN);
                    }
                    continue;
                }
                Ok(Message::Frame(_)) => continue,
                Err(error) => {
                    match error {
                        Error::Capacity(CapacityError::MessageTooLong { .. }) => {
                            let code = CloseCode::MessageTooBig;
                            outbox.close_plain(code.number(), "the frame is too large", code.as_str());
                        }
                        // A connection that is lost has broken nothing.
                        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {}
                        Error::Protocol(_) => outbox.close_plain(1002, "not valid WebSocket", BROKEN),
                        Error::Utf8(_) => outbox.close_plain(1007, "text is not UTF-8", "websocket_utf8"),
                        _ => {}
                    }
                    None
                }
            };
        }
    }
}

/// The stream that the WebSocket library sees: what it writes goes to the outbox, whole and at once.
struct Bytestream(Arc<Outbox>);

impl AsyncRead for Bytestream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read(cx, buf)
    }
}

impl AsyncWrite for Bytestream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.push_raw(bytes);
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
