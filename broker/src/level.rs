//! A broker that carries far more than its share asks some of its sessions to come again, so that a broker that is new
//! takes load. It acts for itself only: how many brokers there are it learns from the names that lead to all of them
//! (in Kubernetes a headless Service), how many sessions there are from the loads that the nodes publish.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mlms_protocol::{CloseCode, SessionId};
use rand::seq::IndexedRandom;
use tokio_util::sync::CancellationToken;

use crate::drain::{BATCH, announce_batch};
use crate::edge::Edge;

/// Times the mean at which a broker begins, and at which it stops.
const BEGIN: f64 = 1.2;
const END: f64 = 1.05;
/// Fewer sessions than this above the mean are not worth a reconnect.
const LEAST: f64 = 4.0;
/// Share of its sessions that a broker asks at one look.
const SHARE: f64 = 0.05;
/// Looks at which the brokers have to be the same before anything is done: a rolling restart causes no moves.
const CALM: u32 = 3;

/// How far a broker is with it.
#[derive(Debug, Default)]
struct Level {
    brokers: usize,
    calm: u32,
    leveling: bool,
}

impl Level {
    /// How many sessions are to go now, of `own` at this broker and `all` at all nodes.
    fn excess(&mut self, brokers: usize, own: usize, all: usize) -> usize {
        if self.brokers != brokers {
            *self = Level { brokers, ..Level::default() };
        }
        self.calm = self.calm.saturating_add(1);
        if brokers < 2 || self.calm < CALM {
            return 0;
        }
        let (own, mean) = (as_float(own), as_float(all.max(own)) / as_float(brokers));
        self.leveling = own - mean >= LEAST && own > mean * if self.leveling { END } else { BEGIN };
        if !self.leveling {
            return 0;
        }
        let most = (own * SHARE).ceil().min((own - mean * END).ceil());
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count, not negative")]
        let most = most.max(0.0) as usize;
        most
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn as_float(count: usize) -> f64 {
    count as f64
}

/// Looks at the loads until `stop`. Without names of brokers there is nothing to do.
pub(crate) async fn run(edge: Arc<Edge>, stop: CancellationToken) {
    if edge.config.peers.is_empty() {
        return;
    }
    let mut level = Level::default();
    while stop.run_until_cancelled(tokio::time::sleep(edge.config.level_every)).await.is_some() {
        let Some(brokers) = count(&edge.config.peers).await else {
            level = Level::default();
            continue;
        };
        let all = edge.directory.view().nodes.values().map(|node| node.load.sessions as usize).sum();
        let own = edge.sessions.count();
        let going = level.excess(brokers, own, all);
        if going > 0 {
            tracing::info!(
                brokers,
                own,
                all,
                going,
                "other brokers have more room: some sessions come again"
            );
            let asked = stop.run_until_cancelled(ask(&edge, own, going)).await;
            if asked.is_none() {
                return;
            }
        }
    }
}

/// Asks sessions at random, of each node its share.
async fn ask(edge: &Edge, own: usize, going: usize) {
    let mut left = going;
    for (address, sessions) in edge.sessions.snapshot() {
        let share = (going * sessions.len()).div_ceil(own.max(1)).min(left);
        left -= share;
        let chosen: Vec<SessionId> = sessions.choose_multiple(&mut rand::rng(), share).cloned().collect();
        for batch in chosen.chunks(BATCH) {
            let code = CloseCode::Rebalance;
            let outcome = announce_batch(&address, &edge.keys, batch, code, edge.config.level_every).await;
            edge.metrics.bye(outcome);
            edge.metrics.leveled(batch.len());
        }
    }
}

/// The brokers that the names lead to. None: not all can be looked up, and nothing is known.
async fn count(peers: &[String]) -> Option<usize> {
    let mut found: HashSet<(IpAddr, u16)> = HashSet::new();
    for name in peers {
        let addresses = tokio::time::timeout(Duration::from_secs(2), tokio::net::lookup_host(name)).await;
        match addresses {
            Ok(Ok(addresses)) => found.extend(addresses.map(|address| (address.ip(), address.port()))),
            Ok(Err(error)) => {
                tracing::debug!(name, %error, "brokers cannot be looked up");
                return None;
            }
            Err(_) => return None,
        }
    }
    Some(found.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a broker that is calm gives at one look.
    fn excess(brokers: usize, own: usize, all: usize) -> usize {
        let mut level = Level { brokers, calm: CALM, leveling: false };
        level.excess(brokers, own, all)
    }

    #[test]
    fn only_a_broker_far_above_the_mean_gives_and_never_below_it() {
        assert_eq!(excess(2, 1_000, 1_000), 50, "one in twenty, the new one has none");
        assert_eq!(excess(2, 550, 1_000), 0, "a tenth above the mean is near enough");
        assert_eq!(excess(2, 400, 1_000), 0);
        assert_eq!(excess(1, 1_000, 1_000), 0, "there is nobody else");
        assert_eq!(excess(10, 5, 5), 1);
        assert_eq!(excess(2, 6, 6), 0, "too few to bother");
        assert_eq!(excess(4, 1_000, 100), 50, "the nodes' word is older than its own");
    }

    #[test]
    fn it_goes_on_until_it_is_near_the_mean_and_begins_anew_when_the_brokers_change() {
        let mut level = Level::default();
        assert_eq!((level.excess(2, 1_000, 1_000), level.excess(2, 1_000, 1_000)), (0, 0), "not calm yet");
        let (mut own, mut looks) = (1_000, 0);
        loop {
            match level.excess(2, own, 1_000) {
                0 => break,
                going => own -= going,
            }
            looks += 1;
        }
        assert!((500..=530).contains(&own), "{own}");
        assert!(looks < 20, "{looks}");
        assert_eq!(level.excess(2, 580, 1_000), 0, "it has stopped, and begins only far above");
        assert_eq!(level.excess(3, 1_000, 1_000), 0, "one more broker: first calm again");
    }
}
