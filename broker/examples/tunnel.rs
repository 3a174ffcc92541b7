//! A broker whose only node is the given address, for the WebSocket conformance suite: what goes through the tunnel
//! must come out of it. The suite can send no token, so a gate in front of the broker puts one into the handshake.
//!
//! `cargo run --release -p mlms-broker --example tunnel -- NODE [LISTEN]` prints the gate's address.

use std::net::SocketAddr;
use std::time::Duration;

use mlms_broker::{Broker, BrokerConfig};
use mlms_cluster::Embedded;
use mlms_cluster::directory::RENEWAL;
use mlms_cluster::view::{NodeLoad, NodeRecord, NodeState};
use mlms_process::config::{JwtSettings, ProcessRole, Settings};
use mlms_process::health::{Health, Readiness};
use mlms_process::jwt::{Minter, Verifier, install_crypto_provider};
use mlms_process::shutdown::Shutdown;
use mlms_process::trace::Tracer;
use mlms_protocol::ticket::ClusterKeys;
use mlms_protocol::{Incarnation, NodeName, UserId};
use prometheus::Registry;
use secrecy::SecretString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Longest head of a handshake that the gate takes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    install_crypto_provider();
    let mut arguments = std::env::args().skip(1);
    let node: SocketAddr = arguments.next().ok_or("usage: tunnel NODE [LISTEN]")?.parse()?;
    let listen: SocketAddr = arguments.next().as_deref().unwrap_or("127.0.0.1:0").parse()?;

    let cluster = Embedded::in_memory(None);
    let directory = cluster.directory();
    let record = NodeRecord {
        name: NodeName::new("echo")?,
        incarnation: Incarnation(1),
        address: node.to_string(),
        public_url: None,
        state: NodeState::Ready,
        load: NodeLoad::default(),
    };
    directory.renew(&record).await?;
    let renewed = directory.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(RENEWAL).await;
            renewed.renew(&record).await.expect("a directory in memory takes it");
        }
    });

    let secret = SecretString::from("this secret only opens an echo..");
    let jwt = JwtSettings { hs256_secret: Some(secret), ..Settings::defaults(ProcessRole::Tool).jwt };
    let minter = Minter::new(&jwt).ok_or("a secret mints")?;
    let token = minter.mint(&UserId::new("suite")?, None, &[], Duration::from_secs(3_600)).token;
    let broker = Broker {
        config: BrokerConfig { connections_per_address_max: 10_000, ..BrokerConfig::default() },
        directory,
        verifier: Verifier::new(&jwt)?.0,
        tracer: Tracer::default(),
        players: None,
        minter: None,
        keys: ClusterKeys::random(),
        listener: TcpListener::bind("127.0.0.1:0").await?,
        registry: Registry::new(),
        health: Health::new(),
        readiness: Readiness::new(),
        shutdown: Shutdown::new(),
    };
    let broker = broker.start()?;

    let gate = TcpListener::bind(listen).await?;
    announce(gate.local_addr()?);
    loop {
        let (near, _) = gate.accept().await?;
        let (address, token) = (broker.local_addr(), token.clone());
        // A connection that breaks is the suite's to judge.
        tokio::spawn(async move { pass(near, address, &token).await });
    }
}

#[expect(clippy::print_stdout, reason = "the script that starts it reads the address")]
fn announce(address: SocketAddr) {
    println!("{address}");
}

/// Carries one connection to the broker, with `GET /ws` and the token in its head.
async fn pass(mut near: TcpStream, broker: SocketAddr, token: &str) -> std::io::Result<()> {
    near.set_nodelay(true)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_BYTES_MAX {
        head.push(near.read_u8().await?);
    }
    let line = head.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let mut far = TcpStream::connect(broker).await?;
    far.set_nodelay(true)?;
    far.write_all(format!("GET /ws HTTP/1.1\r\nAuthorization: Bearer {token}\r\n").as_bytes()).await?;
    far.write_all(&head[line..]).await?;
    tokio::io::copy_bidirectional(&mut near, &mut far).await?;
    Ok(())
}
