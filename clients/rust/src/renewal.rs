//! Hands the server a new token before the old one ends, so that the session goes on.

use std::future::{Future, pending};
use std::pin::Pin;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mlms_protocol::Millis;
use serde::Deserialize;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::options::{TokenError, TokenSource};

/// A token is renewed this long before its end, or in the last tenth of its life, whichever is sooner; one that ends
/// very soon, in the middle of what is left.
const AHEAD: Duration = Duration::from_secs(60);
/// Shortest pause between two tokens.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest pause that is slept through in one go.
const PAUSE_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);

type Fetching = Pin<Box<dyn Future<Output = Result<String, TokenError>> + Send>>;

/// The tokens of one connection.
pub(crate) struct Renewal {
    source: TokenSource,
    /// The one that the server has.
    held: String,
    /// The server's time at a local one.
    clock: Option<(Millis, Instant)>,
    step: Step,
}

enum Step {
    /// Nothing to wait for: the token cannot be read, or there is no other.
    Idle,
    Waiting(Pin<Box<Sleep>>),
    Fetching(Fetching),
}

impl Renewal {
    pub(crate) fn new(source: TokenSource, held: &str) -> Self {
        Renewal { source, held: held.to_owned(), clock: None, step: Step::Idle }
    }

    /// The server has taken the token, at this time of its own.
    pub(crate) fn begin(&mut self, server_now: Millis) {
        self.clock = Some((server_now, Instant::now()));
        self.wait();
    }

    /// The token that the server has.
    pub(crate) fn held(&self) -> &str {
        &self.held
    }

    fn wait(&mut self) {
        self.step = Step::Idle;
        let (Some((server, local)), Some(ends)) = (self.clock, ends_at(&self.held)) else { return };
        let passed = Duration::from_millis(ends.0.saturating_sub(server.0));
        let left = passed.saturating_sub(local.elapsed());
        let ahead = AHEAD.max(left / 10);
        let pause = left.saturating_sub(ahead).max(left / 2).clamp(PAUSE_MIN, PAUSE_MAX);
        self.step = Step::Waiting(Box::pin(sleep_until(Instant::now() + pause)));
    }

    /// The next token to give to the server. Cancel safe.
    pub(crate) async fn next(&mut self) -> String {
        loop {
            match &mut self.step {
                Step::Idle => pending().await,
                Step::Waiting(sleep) => {
                    sleep.await;
                    let (source, held) = (self.source.clone(), self.held.clone());
                    self.step = Step::Fetching(Box::pin(async move { source.newer(&held).await }));
                }
                Step::Fetching(fetching) => match fetching.await {
                    Ok(token) if token != self.held => {
                        self.held.clone_from(&token);
                        self.wait();
                        return token;
                    }
                    // There is no other: the server closes in time, and the next connection asks again.
                    Ok(_) | Err(_) => self.step = Step::Idle,
                },
            }
        }
    }
}

/// The `exp` of a JWT; nothing of an opaque token, which only the server can read.
fn ends_at(token: &str) -> Option<Millis> {
    #[derive(Deserialize)]
    struct Claims {
        exp: f64,
    }
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?.trim_end_matches('=')).ok()?;
    let Claims { exp } = serde_json::from_slice(&payload).ok()?;
    let ends = Duration::try_from_secs_f64(exp).ok()?;
    Some(Millis(u64::try_from(ends.as_millis()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(exp: &str) -> String {
        format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(format!("{{\"sub\":\"ann\",\"exp\":{exp}}}")))
    }

    #[test]
    fn the_end_of_a_token_is_read_where_it_stands() {
        assert_eq!(ends_at(&token("1780000000")), Some(Millis(1_780_000_000_000)));
        for strange in ["", "t0", "a.b.c", "e30.e30.x", &token("-1"), &token("1e400"), &token("\"x\"")] {
            assert_eq!(ends_at(strange), None, "{strange}");
        }
    }
}
