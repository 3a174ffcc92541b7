//! The process's limit of open files, which a connection each would soon reach.

use anyhow::ensure;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files beside the connections.
const SPARE: u64 = 100;

/// Raises the limit as far as it may be, and sees that it is enough.
///
/// # Errors
/// Even the hard limit is too low for so many clients.
pub(crate) fn raise_files(clients: u32) -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Where it may not be raised the old one is held against what is needed.
    let allowed = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => most,
        Err(_) => limit.current.unwrap_or(u64::MAX),
    };
    let wanted = u64::from(clients) + SPARE;
    ensure!(
        allowed >= wanted,
        "{clients} clients take {wanted} open files, and only {allowed} are allowed (ulimit -Hn)"
    );
    Ok(())
}
