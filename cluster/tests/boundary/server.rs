//! A real redis-server for one test, on a free port and in a folder of its own; it ends with the test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a server may take to start. Generous: the machine may be busy.
const START: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(10);

pub(crate) struct Server {
    process: Child,
    port: u16,
    folder: PathBuf,
    settings: Vec<String>,
}

impl Server {
    /// Starts a server with an append-only file.
    pub(crate) async fn start() -> Server {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(settings: &[&str]) -> Server {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("mlms-redis-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        for _ in 0..5 {
            // Another process may take the port before the server does.
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
            let process = spawn(port, &folder, &settings);
            let mut server = Server { process, port, folder: folder.clone(), settings: settings.clone() };
            if server.is_up().await {
                return server;
            }
        }
        panic!("redis-server does not start");
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    async fn is_up(&mut self) -> bool {
        let began = Instant::now();
        while began.elapsed() < START {
            if self.process.try_wait().unwrap().is_some() {
                return false;
            }
            if self.try_ask("PING").is_some_and(|answer| answer == "+PONG") {
                return true;
            }
            tokio::time::sleep(PAUSE).await;
        }
        false
    }

    fn try_ask(&self, command: &str) -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(format!("{command}\r\n").as_bytes()).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        Some(line.trim_end().to_owned())
    }

    /// Sends an inline command and gives the first line of the answer.
    pub(crate) fn ask(&self, command: &str) -> String {
        self.try_ask(command).expect("the server answers")
    }

    /// Sends an inline command and gives the whole answer.
    fn ask_all(&self, command: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Breaks the connections of all subscribers.
    pub(crate) fn kill_subscribers(&self) -> String {
        self.ask("CLIENT KILL TYPE pubsub")
    }

    /// Ends the server as a power loss of the process would; its data stays.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts the server again, with its data and on its port.
    pub(crate) async fn restart(&mut self) {
        self.process = spawn(self.port, &self.folder, &self.settings);
        assert!(self.is_up().await, "redis-server does not start again");
    }

    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.process.id().to_string()]).status();
        assert!(status.unwrap().success());
    }
}

/// A Redis Cluster of three masters without replicas.
pub(crate) struct Cluster(Vec<Server>);

impl Cluster {
    pub(crate) async fn start() -> Cluster {
        let mut servers = Vec::new();
        let mut buses = Vec::new();
        for slots in ["0 5460", "5461 10922", "10923 16383"] {
            let bus = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
            let settings = ["--cluster-enabled", "yes", "--cluster-port", &bus.to_string()];
            let server = Server::start_with(&settings).await;
            assert_eq!(server.ask(&format!("CLUSTER ADDSLOTSRANGE {slots}")), "+OK");
            servers.push(server);
            buses.push(bus);
        }
        for (server, bus) in servers.iter().zip(&buses).skip(1) {
            let meet = format!("CLUSTER MEET 127.0.0.1 {} {bus}", server.port);
            assert_eq!(servers[0].ask(&meet), "+OK");
        }
        let began = Instant::now();
        let knows_all = |server: &Server| {
            let info = server.ask_all("CLUSTER INFO");
            info.contains("cluster_state:ok") && info.contains("cluster_size:3")
        };
        while !servers.iter().all(knows_all) {
            assert!(began.elapsed() < START, "the cluster does not form");
            tokio::time::sleep(PAUSE).await;
        }
        Cluster(servers)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis-cluster://127.0.0.1:{}", self.0[0].port)
    }

    pub(crate) fn kill_subscribers(&self) {
        for server in &self.0 {
            server.kill_subscribers();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A frozen process takes a kill too.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn spawn(port: u16, folder: &PathBuf, settings: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"])
        .args(["--maxmemory-policy", "noeviction"])
        .arg("--dir")
        .arg(folder)
        .args(settings)
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("redis-server is installed (Debian: apt install redis-server)")
}
