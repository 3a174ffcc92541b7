//! Waiting for a server that is not there yet when a process starts: where everything starts at once, whoever needs
//! somebody else should not die of being first. A mistake is never waited for.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::Instant;

/// Long enough for a database that starts beside us, short of what whoever watches a start has patience for.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(1);

/// Tries until it succeeds, fails for good, or patience ends.
///
/// # Errors
/// The last failure.
pub(crate) async fn patiently<T, E: Display>(
    what: &str,
    passes: impl Fn(&E) -> bool,
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, E> {
    let end = Instant::now() + PATIENCE;
    let mut said = false;
    loop {
        match attempt().await {
            Err(error) if passes(&error) && Instant::now() < end => {
                if !said {
                    tracing::warn!("{error}; waiting for {what}, up to {} s", PATIENCE.as_secs());
                }
                said = true;
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
        let found = patiently(
            "it",
            |_| true,
            async || {
                tries += 1;
                if tries < 10 { Err("not there") } else { Ok(7) }
            },
        );
        assert_eq!(found.await, Ok(7));
        assert_eq!(begun.elapsed(), Duration::from_secs(9));

        let begun = Instant::now();
        assert_eq!(patiently("it", |_| false, async || Err::<(), _>("wrong")).await, Err("wrong"));
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(patiently("it", |_| true, async || Err::<(), _>("gone")).await, Err("gone"));
        assert_eq!(begun.elapsed(), PATIENCE);
    }
}
