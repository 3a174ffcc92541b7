//! How a TCP connection to another process finds out that its machine is gone: that one sends no FIN, and without this the
//! connection would stand until somebody gives it up.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;

/// How long what was said may stay without an acknowledgement: while something is under way, no keepalive is sent.
const UNHEARD: Duration = Duration::from_secs(30);

/// Lets the kernel find out that the peer is gone, and sends what is small at once. What the kernel cannot do it does not
/// do: then that is found out later.
pub fn watch(socket: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    let socket = SockRef::from(socket);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&keepalive);
    let _ = socket.set_tcp_user_timeout(Some(UNHEARD));
}
