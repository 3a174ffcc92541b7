//! Waiting for a server that is not there yet when a process starts: where everything starts at once, whoever needs
//! somebody else should not die of being first. A mistake is never waited for.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::Instant;

/// How long a command waits, and a process for a file of its own: short of what whoever started it has patience for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(1);
/// How often the log says so again.
const REMINDER: Duration = Duration::from_secs(60);

/// Tries until it succeeds, fails for good, or patience ends; without a patience as long as it takes. `tell` hears each
/// failure that is waited for.
///
/// # Errors
/// The last failure.
pub(crate) async fn patiently<T, E: Display>(
    what: &str,
    patience: Option<Duration>,
    passes: impl Fn(&E) -> bool,
    mut tell: impl FnMut(&E),
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, E> {
    let begun = Instant::now();
    let mut said: Option<Instant> = None;
    loop {
        match attempt().await {
            Err(error) if passes(&error) && patience.is_none_or(|patience| begun.elapsed() < patience) => {
                tell(&error);
                if said.is_none_or(|said| said.elapsed() >= REMINDER) {
                    let seconds = begun.elapsed().as_secs();
                    tracing::warn!("{error}; waiting for {what}, {seconds} s so far");
                    said = Some(Instant::now());
                }
            }
            outcome => return outcome,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_passes_is_waited_for_and_a_mistake_is_not() {
        let mut tries = 0;
        let begun = Instant::now();
        let heard = std::cell::Cell::new(0);
        let found = patiently(
            "it",
            Some(PATIENCE),
            |_| true,
            |_| heard.set(heard.get() + 1),
            async || {
                tries += 1;
                if tries < 10 { Err("not there") } else { Ok(7) }
            },
        );
        assert_eq!(found.await, Ok(7));
        assert_eq!((begun.elapsed(), heard.get()), (Duration::from_secs(9), 9));

        let begun = Instant::now();
        let wrong = patiently("it", None, |_| false, |_| (), async || Err::<(), _>("wrong"));
        assert_eq!(wrong.await, Err("wrong"));
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let gone = patiently("it", Some(PATIENCE), |_| true, |_| (), async || Err::<(), _>("gone"));
        assert_eq!(gone.await, Err("gone"));
        assert_eq!(begun.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_is_waited_for_as_long_as_it_takes() {
        let begun = Instant::now();
        let late = async || {
            let late = begun.elapsed() < Duration::from_secs(86_400);
            if late { Err("not there") } else { Ok(()) }
        };
        assert_eq!(patiently("it", None, |_| true, |_| (), late).await, Ok(()));
    }
}
