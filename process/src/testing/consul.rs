//! A server that answers questions for one key as Consul documents it, or as a script says.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// One answer of a script.
pub(crate) struct Said {
    pub(crate) status: u16,
    pub(crate) index: Option<u64>,
    pub(crate) body: String,
}

/// The key's value with its index; the index of a store without it is 1.
#[derive(Clone)]
struct Entry {
    index: u64,
    value: Option<String>,
}

#[derive(Clone)]
pub(crate) struct Consul {
    address: std::net::SocketAddr,
    entry: watch::Sender<Entry>,
    script: Arc<Mutex<VecDeque<Said>>>,
    questions: watch::Sender<Vec<String>>,
    tokens: Arc<Mutex<Vec<String>>>,
}

impl Consul {
    /// Follows the script as long as it lasts, then the semantics.
    pub(crate) async fn start(script: VecDeque<Said>) -> Consul {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let consul = Consul {
            address: listener.local_addr().unwrap(),
            entry: watch::Sender::new(Entry { index: 1, value: None }),
            script: Arc::new(Mutex::new(script)),
            questions: watch::Sender::new(Vec::new()),
            tokens: Arc::default(),
        };
        let serving = consul.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                tokio::spawn(async move { serving.answer(stream).await });
            }
        });
        consul
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn put(&self, value: &str) {
        self.entry.send_modify(|entry| {
            entry.index += 1;
            entry.value = Some(value.to_owned());
        });
    }

    pub(crate) fn delete(&self) {
        self.entry.send_modify(|entry| {
            entry.index += 1;
            entry.value = None;
        });
    }

    /// Waits until so many questions were asked.
    pub(crate) async fn asked(&self, count: usize) {
        self.questions.subscribe().wait_for(|questions| questions.len() >= count).await.unwrap();
    }

    pub(crate) fn questions(&self) -> Vec<String> {
        self.questions.borrow().clone()
    }

    pub(crate) fn tokens(&self) -> Vec<String> {
        self.tokens.lock().unwrap().clone()
    }

    async fn answer(&self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 || line == "\r\n" {
                break;
            }
            head.push(line.trim_end().to_owned());
        }
        let Some(path) = head.first().and_then(|line| line.split(' ').nth(1)).map(str::to_owned) else {
            return;
        };
        let token = head.iter().find_map(|line| line.strip_prefix("x-consul-token: "));
        self.tokens.lock().unwrap().push(token.unwrap_or_default().to_owned());
        self.questions.send_modify(|questions| questions.push(path.clone()));
        let scripted = self.script.lock().unwrap().pop_front();
        let said = match scripted {
            Some(said) => said,
            None => self.wait_for(&path).await,
        };
        let index = said.index.map_or(String::new(), |index| format!("X-Consul-Index: {index}\r\n"));
        let answer = format!(
            "HTTP/1.1 {} Said\r\n{index}content-length: {}\r\nconnection: close\r\n\r\n{}",
            said.status,
            said.body.len(),
            said.body
        );
        // The other side may have gone.
        let _ = stream.into_inner().write_all(answer.as_bytes()).await;
    }

    /// Answers when the index is above the one asked for, or the wait is over.
    async fn wait_for(&self, path: &str) -> Said {
        let number = |name: &str| {
            let value = path.split('&').find_map(|part| part.strip_prefix(name))?;
            value.trim_end_matches("ms").parse::<u64>().ok()
        };
        if let (Some(index), Some(wait)) = (number("index="), number("wait=")) {
            let mut changes = self.entry.subscribe();
            let changed = changes.wait_for(|entry| entry.index > index);
            // Whether it changed or the time is over, the answer is what is there now.
            let _ = tokio::time::timeout(Duration::from_millis(wait + wait / 16), changed).await;
        }
        let Entry { index, value } = self.entry.borrow().clone();
        Said {
            status: if value.is_some() { 200 } else { 404 },
            index: Some(index),
            body: value.unwrap_or_default(),
        }
    }
}
