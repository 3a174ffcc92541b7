//! The accept loop over real sockets on loopback.

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::StatusCode;
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use super::*;

struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    metrics: ListenerMetrics,
    loop_task: JoinHandle<()>,
}

impl Server {
    async fn start<S, F>(options: HttpOptions, service: S) -> Server
    where
        S: Fn(Request<Incoming>, PeerAddr) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, metrics) = (CancellationToken::new(), ListenerMetrics::new(&Registry::new(), "test"));
        let loop_task = tokio::spawn(serve(listener, options, metrics.clone(), service, stop.clone()));
        Server { address, stop, metrics, loop_task }
    }

    async fn hello(options: HttpOptions) -> Server {
        Server::start(options, |request, peer| async move {
            assert_eq!(request.extensions().get::<PeerAddr>(), Some(&peer));
            answer("hello")
        })
        .await
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.loop_task.await.unwrap();
    }
}

fn answer(text: &'static str) -> Response<Full<Bytes>> {
    Response::new(Full::new(Bytes::from_static(text.as_bytes())))
}

/// Sends a request and reads until the server closes.
async fn exchange(mut stream: TcpStream, request: &[u8]) -> String {
    stream.write_all(request).await.unwrap();
    read_to_end(stream).await
}

async fn read_to_end(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    // A reset after the answer is as good as an end.
    let _ = stream.read_to_end(&mut text).await;
    String::from_utf8_lossy(&text).into_owned()
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn a_request_is_answered_and_counted() {
    let server = Server::hello(HttpOptions::default()).await;
    let text = exchange(server.connect().await, GET).await;
    assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("hello"), "{text}");
    assert_eq!(server.metrics.accepted.get(), 1);
    let open = server.metrics.open.clone();
    server.stop().await;
    assert_eq!(open.get(), 0);
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off() {
    let options = HttpOptions { header_read_timeout: Duration::from_millis(50), ..HttpOptions::default() };
    let server = Server::hello(options).await;
    // The reads end only because the server closes.
    let (silent, slow) = (server.connect().await, server.connect().await);
    assert!(!exchange(slow, b"GET / HTTP/1.1\r\nhost: x\r\nx-").await.contains("hello"));
    assert!(!read_to_end(silent).await.contains("hello"));
    server.stop().await;
}

#[tokio::test]
async fn oversized_heads_are_refused() {
    let options = HttpOptions { header_bytes_max: 4_096, header_lines_max: 8, ..HttpOptions::default() };
    let server = Server::hello(options).await;
    let check = async |extra: String| {
        let request = format!("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{extra}\r\n");
        exchange(server.connect().await, request.as_bytes()).await
    };
    assert!(check(String::new()).await.starts_with("HTTP/1.1 200"));
    assert!(
        check(format!("x: {}\r\n", "a".repeat(5_000))).await.starts_with("HTTP/1.1 431"),
        "too many bytes"
    );
    assert!(check("x: 1\r\n".repeat(20)).await.starts_with("HTTP/1.1 431"), "too many lines");
    server.stop().await;
}

#[tokio::test]
async fn garbage_is_refused_and_the_next_is_served() {
    let server = Server::hello(HttpOptions::default()).await;
    assert!(
        exchange(server.connect().await, b"\x16\x03\x01\x02\x00\r\n\r\n").await.starts_with("HTTP/1.1 400")
    );
    assert!(exchange(server.connect().await, GET).await.ends_with("hello"));
    server.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_cap_are_told_to_come_back() {
    let server = Server::hello(HttpOptions { connections_max: 1, ..HttpOptions::default() }).await;
    let mut first = server.connect().await;
    first.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut head = [0; 8];
    first.read_exact(&mut head).await.unwrap();

    let refused = read_to_end(server.connect().await).await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("retry-after"), "{refused}");
    assert_eq!(server.metrics.refused.with_label_values(&["too_many_connections"]).get(), 1);

    drop(first);
    while server.metrics.open.get() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(exchange(server.connect().await, GET).await.ends_with("hello"), "the place is free again");
    server.stop().await;
}

#[tokio::test]
async fn an_upgraded_connection_counts_while_it_is_held() {
    let (upgraded, mut sessions) = mpsc::channel(1);
    let service = move |mut request: Request<Incoming>, _| {
        let upgraded = upgraded.clone();
        async move {
            let held = request.extensions().get::<Held>().unwrap().clone();
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move { upgraded.send((upgrade.await.unwrap(), held)).await });
            let mut response = answer("");
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert("upgrade", "echo".parse().unwrap());
            response.headers_mut().insert("connection", "upgrade".parse().unwrap());
            response
        }
    };
    let server = Server::start(HttpOptions::default(), service).await;
    let mut client = server.connect().await;
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n")
        .await
        .unwrap();
    let (session, held) = sessions.recv().await.unwrap();
    let parts = session.downcast::<TokioIo<TcpStream>>().unwrap();
    let mut socket = parts.io.into_inner();
    assert!(socket.nodelay().unwrap());
    socket.write_all(b"raw").await.unwrap();

    // The listener ends without waiting for the upgraded connection, which goes on and still counts.
    let open = server.metrics.open.clone();
    server.stop().await;
    assert_eq!(open.get(), 1);
    drop((socket, held));
    assert_eq!(open.get(), 0);
    assert!(read_to_end(client).await.ends_with("raw"));
}

#[tokio::test]
async fn stopping_lets_the_request_under_way_finish() {
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begun_here, go_here) = (begun.clone(), go.clone());
    let service = move |_, _| {
        let (begun, go) = (begun.clone(), go.clone());
        async move {
            begun.notify_one();
            go.notified().await;
            answer("late but whole")
        }
    };
    let server = Server::start(HttpOptions::default(), service).await;
    let idle = server.connect().await;
    let client = tokio::spawn(exchange(server.connect().await, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"));
    begun_here.notified().await;
    server.stop.cancel();
    go_here.notify_one();
    assert!(client.await.unwrap().ends_with("late but whole"));
    server.loop_task.await.unwrap();
    assert_eq!(read_to_end(idle).await, "", "idle connections are closed");
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_panic_in_one_request_leaves_the_others_alone() {
    let count = Arc::new(AtomicUsize::new(0));
    let service = move |_, _| {
        let first = count.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            assert!(!first, "the first request panics");
            answer("hello")
        }
    };
    let server = Server::start(HttpOptions::default(), service).await;
    assert_eq!(exchange(server.connect().await, GET).await, "");
    assert!(exchange(server.connect().await, GET).await.ends_with("hello"));
    server.stop().await;
}
