//! An endpoint that sends every frame back, on exactly the connection code of a session. It exists for the WebSocket
//! conformance suite; no process offers it to players.

use std::sync::Arc;

use bytes::Bytes;
use mlms_protocol::Encoding;
use prometheus::Registry;

use crate::connection::{Connection, Incoming, Socket};
use crate::metrics::Metrics;
use crate::outbox::Drained;

/// Serves one upgraded connection until it ends.
pub async fn serve(socket: Socket, read_already: Bytes, frame_bytes_max: usize) {
    let metrics = Arc::new(Metrics::new(&Registry::new()));
    let open =
        Connection::open(socket, read_already, Encoding::Json, frame_bytes_max, usize::MAX, metrics).await;
    let Ok((mut connection, outbox)) = open else { return };
    loop {
        tokio::select! {
            incoming = connection.receive(&outbox) => match incoming {
                Some(Incoming::Text(text)) => outbox.push(&Encoding::Json.websocket_frame(&text)),
                Some(Incoming::Binary(bytes)) => outbox.push(&Encoding::Msgpack.websocket_frame(&bytes)),
                Some(Incoming::Alive) => {}
                None => break,
            },
            drained = outbox.drain() => if drained == Drained::Broken {
                return;
            },
        }
    }
    outbox.finish(std::time::Duration::from_secs(2)).await;
}
