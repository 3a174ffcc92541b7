//! A key of Consul's key-value store, watched by blocking queries: the server answers when the key has changed, or
//! when the wait is over. The semantics are those of Consul's page "Blocking Queries": the index goes back to 0 when it
//! goes backwards, is never waited for below 1, a client waits longer than the server (which adds up to a sixteenth),
//! and the loop is rate limited, so that a key that churns is polled and not chased.

use std::time::Duration;

use axum::http::{HeaderMap, Request, StatusCode};
use bytes::Bytes;
use rand::Rng;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use crate::config::ConsulSettings;
use crate::web::Server;

/// The largest value that is read; Consul itself takes 512 KiB.
const BYTES_MAX: usize = 1 << 20;

/// Questions that may follow each other at once.
const BURST: u32 = 3;

/// How much longer than the server's wait an answer may take.
const SLACK: Duration = Duration::from_secs(10);

/// How fast questions may follow each other.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// The time that gives one more question beyond the burst.
    refill: Duration,
    /// Pause after the first failure; it doubles up to the longest.
    pause: Duration,
    pause_max: Duration,
}

const PACE: Pace = Pace {
    refill: Duration::from_secs(5),
    pause: Duration::from_secs(1),
    pause_max: Duration::from_secs(60),
};

/// The watch of one key.
pub(crate) struct Watch {
    server: Server,
    path: String,
    token: Option<SecretString>,
    wait: Duration,
    index: u64,
    failures: u32,
    /// Questions that may be asked at once, as of then.
    allowance: (f64, Instant),
    pace: Pace,
}

/// What a question brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The value; none: there is no such key.
    Value(Option<String>),
    /// There is no answer; the next question comes after a pause.
    Failed(String),
}

impl Watch {
    /// None: no Consul is named.
    ///
    /// # Errors
    /// The URL cannot be used.
    pub(crate) fn new(settings: &ConsulSettings) -> Result<Option<Watch>, String> {
        let Some(url) = &settings.url else { return Ok(None) };
        Ok(Some(Watch {
            server: Server::new(url)?,
            path: format!("{}/v1/kv/{}?raw", url_path(url), settings.key),
            token: settings.token.clone(),
            wait: settings.wait,
            index: 0,
            failures: 0,
            allowance: (f64::from(BURST), Instant::now()),
            pace: PACE,
        }))
    }

    /// Asks once, after whatever pause is due. Cancel safe: a question that is dropped is asked again.
    pub(crate) async fn next(&mut self) -> Answer {
        if self.failures > 0 {
            let pause = self.pace.pause.saturating_mul(1 << (self.failures - 1).min(10));
            let pause = pause.min(self.pace.pause_max);
            // Spread, so that a fleet does not come back all at once.
            let spread = rand::rng().random_range(0.5..1.5);
            tokio::time::sleep(pause.mul_f64(spread)).await;
        }
        self.take_turn().await;
        // The server spreads its answers over a sixteenth more.
        let patience = self.wait + self.wait / 16 + SLACK;
        let asked = tokio::time::timeout(patience, self.ask()).await;
        match asked.unwrap_or_else(|_| Err(format!("no answer within {patience:?}"))) {
            Ok((index, value)) => {
                self.failures = 0;
                self.index = next_index(self.index, index);
                Answer::Value(value)
            }
            Err(why) => {
                self.failures = self.failures.saturating_add(1);
                // A server that was away may be another one, with another count.
                self.index = 0;
                Answer::Failed(why)
            }
        }
    }

    async fn take_turn(&mut self) {
        loop {
            let (left, since) = self.allowance;
            let now = Instant::now();
            let more = now.duration_since(since).as_secs_f64() / self.pace.refill.as_secs_f64();
            let left = (left + more).min(f64::from(BURST));
            self.allowance = (left, now);
            if left >= 1.0 {
                self.allowance.0 -= 1.0;
                return;
            }
            tokio::time::sleep(self.pace.refill.mul_f64(1.0 - left)).await;
        }
    }

    async fn ask(&self) -> Result<(u64, Option<String>), String> {
        let path = match self.index {
            0 => self.path.clone(),
            index => format!("{}&index={index}&wait={}ms", self.path, self.wait.as_millis()),
        };
        let mut request = Request::get(path);
        if let Some(token) = &self.token {
            request = request.header("x-consul-token", token.expose_secret());
        }
        let response = self.server.ask(request, Bytes::new(), BYTES_MAX).await?;
        let value = match response.status() {
            StatusCode::OK => {
                let text = String::from_utf8(response.body().to_vec());
                Some(text.map_err(|_| "the value is not UTF-8".to_owned())?)
            }
            StatusCode::NOT_FOUND => None,
            status => return Err(format!("answered {status}")),
        };
        let index = index_of(response.headers()).ok_or("the answer has no X-Consul-Index")?;
        Ok((index, value))
    }
}

fn url_path(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.find('/').map_or("", |at| rest[at..].trim_end_matches('/'))
}

fn index_of(headers: &HeaderMap) -> Option<u64> {
    headers.get("x-consul-index")?.to_str().ok()?.parse().ok()
}

/// The index to wait for next. Backwards: from the beginning. Never 0 otherwise, which would not wait at all.
fn next_index(before: u64, answered: u64) -> u64 {
    if answered < before { 0 } else { answered.max(1) }
}

#[cfg(test)]
mod tests;
