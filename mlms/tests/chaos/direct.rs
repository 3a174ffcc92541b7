//! Players who come straight to a lobby node with a ticket, past every broker.

use mlms_protocol::ticket::{ClusterKeys, TICKET_VERSION, Ticket};
use mlms_protocol::{Millis, NodeName, SessionId, UserId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::fleet::{CLUSTER_KEY, Fleet};
use crate::service::PATIENCE;

/// Ann's ticket for the first node, into the lobby `den`.
fn ticket() -> String {
    let ticket = Ticket {
        v: TICKET_VERSION,
        exp: 4_000_000_000,
        session: SessionId::generate(),
        user: UserId::new("ann").unwrap(),
        name: None,
        roles: Vec::new(),
        token_expires_at: Millis(4_000_000_000_000),
        address: "127.0.0.1".to_owned(),
        lobby: Some("den".parse().unwrap()),
        node: NodeName::new("node-1").unwrap(),
    };
    ClusterKeys::new(&[CLUSTER_KEY]).mint(&ticket)
}

/// What came back to a handshake: the head, and the connection behind it.
struct Answer {
    head: String,
    stream: TcpStream,
}

impl Answer {
    fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }

    fn subprotocol(&self) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix("sec-websocket-protocol: "))
    }

    /// The frames until one holds this.
    async fn reads_until(&mut self, wanted: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let found = async {
            while !bytes.windows(wanted.len()).any(|window| window == wanted) {
                bytes.push(self.stream.read_u8().await.unwrap());
            }
        };
        timeout(PATIENCE, found).await.unwrap();
        bytes
    }
}

/// A handshake as a browser makes it: it cannot set headers of its own.
async fn knock(port: u16, target: &str, offers: &str) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!(
        "GET {target} HTTP/1.1\r\nhost: node\r\norigin: https://play.example.com\r\nconnection: Upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         sec-websocket-protocol: {offers}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    let whole = async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
    };
    timeout(PATIENCE, whole).await.unwrap();
    Answer { head: String::from_utf8(head).unwrap().to_ascii_lowercase(), stream }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_brings_its_ticket_among_the_subprotocols() {
    let fleet = Fleet::start(1, 1).await;
    let port = fleet.nodes[0].port;

    let ann = ticket();
    let offers = format!("mlms.v1.msgpack, bearer.{ann}");
    // A ticket that is brought to the wrong lobby is not used up by that.
    for target in ["/ws?lobby=attic", "/ws?lobby="] {
        assert_eq!(knock(port, target, &offers).await.status(), "400", "{target}");
    }
    let mut first = knock(port, "/ws?lobby=den", &offers).await;
    assert_eq!((first.status(), first.subprotocol()), ("101", Some("mlms.v1.msgpack")), "{}", first.head);
    let welcome = first.reads_until(b"snapshot").await;
    assert_eq!(welcome[0], 0x82, "binary frames");
    assert_eq!(knock(port, "/ws", &offers).await.status(), "401", "it opens one door, once");

    let mut plain = knock(port, "/ws", &format!("bearer.{}", ticket())).await;
    assert_eq!((plain.status(), plain.subprotocol()), ("101", None));
    assert_eq!(plain.reads_until(b"snapshot").await[0], 0x81, "text frames");

    let mut unknown = knock(port, "/ws", &format!("mlms.v9.json, bearer.{}", ticket())).await;
    assert_eq!((unknown.status(), unknown.subprotocol()), ("101", None));
    let close = [&[0x88, 25][..], &4502_u16.to_be_bytes(), b"unsupported_subprotocol"].concat();
    let words = unknown.reads_until(&close).await;
    let words = String::from_utf8_lossy(&words).into_owned();
    assert!(words.contains(r#""ev":"bye","code":4502"#) && !words.contains("welcome"), "{words}");

    assert_eq!(knock(port, "/ws", "mlms.v1.json").await.status(), "401", "nothing but a ticket opens it");
    drop((first, plain, unknown));
    fleet.stop().await;
}
