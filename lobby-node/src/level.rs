//! Evens a fleet out after it has grown. Every node looks at the fleet itself: the one with the most lobbies gives
//! shards to the one with the fewest, a few at a time; a node with too many sessions asks some to come back elsewhere,
//! those that say nothing first, and only those that a broker would place on a node with fewer.
//!
//! Nobody plans for the others, so there is no planner that could be missing or be there twice. Loads are those of the
//! leases, two seconds old at most, and each step waits until the last one shows in them.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use mlms_cluster::directory::RENEWAL;
use mlms_cluster::view::{NodeRecord, NodeState, View};
use mlms_protocol::{CloseCode, Incarnation, NodeName, Reconnect, Shard};
use tokio::time::Instant;

use crate::node::Node;
use crate::session::SessionHandle;
use crate::status::{ShardReport, ShardState};
use crate::worker::Moved;

/// For so long nobody must have come, gone, or begun to leave: restarts are not answered with moves.
const SETTLED: Duration = Duration::from_secs(10);
/// Times the fleet's mean: above the first a node begins to give, below the second it stops.
const BEGIN: f64 = 1.2;
const END: f64 = 1.05;
/// Fewer than so many above the mean are not worth anybody's trouble.
const LOBBIES_LEAST: u32 = 4;
const SESSIONS_LEAST: u32 = 5;
/// Shards given in one step, and how many of them at the same time.
const SHARDS_A_STEP: usize = 8;
const MOVES_AT_ONCE: usize = 4;
/// Between two steps: the givers' and the takers' leases tell by then what the last one did.
const STEP: Duration = RENEWAL.saturating_mul(2);
/// Of a node's sessions so many in a hundred may be asked to go in a second, within these bounds.
const SHED_PERCENT: u32 = 1;
const SHED_A_SECOND: (u32, u32) = (1, 100);

/// A node's share of one thing, and whether it is giving some of it away.
#[derive(Debug, Default)]
struct Share {
    gives: bool,
}

impl Share {
    /// How much of `mine` is to be given. `all`: everybody's, `mine` among them.
    fn excess(&mut self, mine: u32, all: &[u32], least: u32) -> u32 {
        let total: f64 = all.iter().copied().map(f64::from).sum();
        let mean = total / all.len().max(1) as f64;
        let above = f64::from(mine) - mean;
        self.gives = match self.gives {
            true => f64::from(mine) > mean * END && above >= 1.0,
            false => f64::from(mine) > mean * BEGIN && above >= f64::from(least),
        };
        // A float's whole part within the bounds of `mine`.
        if self.gives { above as u32 } else { 0 }
    }
}

/// Who takes part, and since when that has not changed.
struct Fleet {
    members: Vec<(NodeName, Incarnation)>,
    since: Instant,
}

impl Fleet {
    fn new() -> Self {
        Fleet { members: Vec::new(), since: Instant::now() }
    }

    /// The ready nodes, if they have been the same for long enough, there are several, and this is one of them.
    fn settled<'a>(&mut self, view: &'a View, me: &NodeName) -> Option<Vec<&'a NodeRecord>> {
        let ready: Vec<_> = view.nodes.values().filter(|node| node.state == NodeState::Ready).collect();
        let members: Vec<_> = ready.iter().map(|node| (node.name.clone(), node.incarnation)).collect();
        if members != self.members || view.nodes.len() != members.len() {
            (self.members, self.since) = (members, Instant::now());
        }
        let is_settled = self.since.elapsed() >= SETTLED && ready.len() > 1;
        (is_settled && ready.iter().any(|node| node.name == *me)).then_some(ready)
    }
}

/// Levels until the node drains or stops.
pub(crate) async fn keep(node: Arc<Node>) {
    tokio::join!(give_shards(&node), shed_sessions(&node));
}

fn is_over(node: &Node) -> bool {
    node.is_draining() || node.stop.is_cancelled()
}

async fn pause(node: &Node, time: Duration) {
    // Cut short: the loop looks.
    let _ = node.stop.run_until_cancelled(tokio::time::sleep(time)).await;
}

// --- shards

async fn give_shards(node: &Node) {
    let (mut fleet, mut share) = (Fleet::new(), Share::default());
    while !is_over(node) {
        pause(node, STEP).await;
        let view = node.directory.view();
        let Some(ready) = fleet.settled(&view, &node.name) else { continue };
        if node.standing.is_degraded() {
            continue;
        }
        let Some((to, count)) = lobbies_to_give(&ready, &node.name, &mut share) else { continue };
        let shards = choose_shards(node.reports().await, count);
        if shards.is_empty() {
            continue;
        }
        let asked = shards.len();
        let moves = shards.into_iter().map(|shard| node.move_shard(shard, to.clone()));
        let moved = futures_util::stream::iter(moves).buffer_unordered(MOVES_AT_ONCE);
        let served = moved.filter(|moved| std::future::ready(*moved == Moved::Served)).count().await;
        tracing::info!(node = %node.name, %to, asked, served, "shards were given to a node with fewer lobbies");
    }
}

/// To whom this node gives lobbies now, and how many at most. Only the fullest gives.
fn lobbies_to_give(ready: &[&NodeRecord], me: &NodeName, share: &mut Share) -> Option<(NodeName, u32)> {
    let lobbies = |node: &NodeRecord| node.load.lobbies;
    let fullest = ready.iter().max_by_key(|node| (lobbies(node), Reverse(&node.name)))?;
    let emptiest = ready.iter().min_by_key(|node| (lobbies(node), &node.name))?;
    let all: Vec<u32> = ready.iter().map(|node| lobbies(node)).collect();
    let mine = ready.iter().find(|node| node.name == *me).map(|node| lobbies(node))?;
    let excess = share.excess(mine, &all, LOBBIES_LEAST);
    if excess == 0 || fullest.name != *me {
        return None;
    }
    // Never so many that the two change places.
    let count = excess.min((mine - lobbies(emptiest)) / 2);
    (count > 0).then(|| (emptiest.name.clone(), count))
}

/// The shards that together hold at most so many lobbies, those with many first: fewer moves.
fn choose_shards(mut reports: Vec<ShardReport>, lobbies: u32) -> Vec<Shard> {
    reports.retain(|report| report.state == ShardState::Serving && report.lobbies > 0);
    reports.sort_by_key(|report| (Reverse(report.lobbies), report.shard));
    let mut left = usize::try_from(lobbies).unwrap_or(usize::MAX);
    let fits = reports.into_iter().filter(|report| {
        let fits = report.lobbies <= left;
        if fits {
            left -= report.lobbies;
        }
        fits
    });
    fits.map(|report| report.shard).take(SHARDS_A_STEP).collect()
}

// --- sessions

async fn shed_sessions(node: &Node) {
    let (mut fleet, mut share) = (Fleet::new(), Share::default());
    // Sessions with a higher number came when shedding had begun: they were placed by the fleet as it is.
    let mut newest = 0;
    while !is_over(node) {
        pause(node, RENEWAL).await;
        let view = node.directory.view();
        let Some(ready) = fleet.settled(&view, &node.name) else {
            share = Share::default();
            continue;
        };
        let mine = u32::try_from(node.metrics.sessions.get()).unwrap_or(0);
        let own = |other: &NodeRecord| if other.name == node.name { mine } else { other.load.sessions };
        let all: Vec<u32> = ready.iter().map(|other| own(other)).collect();
        let was_giving = share.gives;
        let excess = share.excess(mine, &all, SESSIONS_LEAST);
        if !was_giving {
            newest = node.next_session_number();
        }
        if excess == 0 || node.standing.is_degraded() {
            continue;
        }
        let a_second = (mine * SHED_PERCENT / 100).clamp(SHED_A_SECOND.0, SHED_A_SECOND.1);
        let seconds = u32::try_from(RENEWAL.as_secs()).unwrap_or(1);
        let mean = all.iter().sum::<u32>() / u32::try_from(all.len()).unwrap_or(1);
        let roomier: Vec<&NodeName> =
            ready.iter().filter(|other| own(other) < mean).map(|other| &other.name).collect();
        let sessions = choose_sessions(node, &view, &roomier, newest, excess.min(a_second * seconds));
        let gap = RENEWAL / u32::try_from(sessions.len().max(1)).unwrap_or(u32::MAX) / 2;
        for session in &sessions {
            session.outbox.close(CloseCode::Rebalance, "another node has more room", Reconnect::Now, None);
            pause(node, gap).await;
        }
        if !sessions.is_empty() {
            tracing::info!(node = %node.name, sessions = sessions.len(), "sessions were asked to come back elsewhere");
        }
    }
}

/// At most so many sessions that a broker would place on one of these nodes today, those first that have been silent
/// for the longest.
fn choose_sessions(
    node: &Node,
    view: &View,
    roomier: &[&NodeName],
    newest: u64,
    count: u32,
) -> Vec<Arc<SessionHandle>> {
    let mut misplaced: Vec<_> = node
        .sessions()
        .into_iter()
        .filter(|session| session.number < newest && !session.outbox.is_closing())
        .filter(|session| {
            let places = match session.home {
                Some(shard) => view.nodes_for_shard(shard),
                None => view.nodes_for_user(&session.caller.user),
            };
            places.first().is_some_and(|place| roomier.contains(&&place.name))
        })
        .collect();
    misplaced.sort_by_key(|session| (session.spoke_ms.load(Ordering::Relaxed), session.number));
    misplaced.truncate(usize::try_from(count).unwrap_or(usize::MAX));
    misplaced
}

#[cfg(test)]
mod tests {
    use mlms_cluster::view::NodeLoad;

    use super::*;

    fn records(lobbies: &[u32]) -> Vec<NodeRecord> {
        let record = |(number, lobbies): (usize, &u32)| NodeRecord {
            name: NodeName::new(&format!("n{number}")).expect("a name"),
            incarnation: Incarnation(1),
            address: String::new(),
            public_url: None,
            state: NodeState::Ready,
            load: NodeLoad { lobbies: *lobbies, ..NodeLoad::default() },
        };
        lobbies.iter().enumerate().map(record).collect()
    }

    /// What each node gives, in one step of a fleet in which nobody gave before.
    fn gives(lobbies: &[u32]) -> Vec<Option<(String, u32)>> {
        let records = records(lobbies);
        let ready: Vec<&NodeRecord> = records.iter().collect();
        let given = ready.iter().map(|node| lobbies_to_give(&ready, &node.name, &mut Share::default()));
        given.map(|given| given.map(|(to, count)| (to.to_string(), count))).collect()
    }

    #[test]
    fn only_the_fullest_gives_to_the_emptiest_and_never_beyond_the_mean() {
        assert_eq!(gives(&[12, 12, 0]), [Some(("n2".to_owned(), 4)), None, None]);
        assert_eq!(gives(&[10, 14, 0]), [None, Some(("n2".to_owned(), 6)), None]);
        assert_eq!(gives(&[100, 0, 0, 0]), [Some(("n1".to_owned(), 50)), None, None, None]);
    }

    #[test]
    fn a_fleet_that_is_even_enough_is_left_alone() {
        for lobbies in [&[10, 10][..], &[11, 10, 9], &[3, 0], &[0, 0], &[119, 100, 81], &[5]] {
            assert!(gives(lobbies).iter().all(Option::is_none), "{lobbies:?}");
        }
    }

    #[test]
    fn who_has_begun_gives_until_the_mean_is_near() {
        let mut share = Share::default();
        assert_eq!(share.excess(119, &[119, 81], 4), 0, "below the threshold");
        assert_eq!(share.excess(130, &[130, 70], 4), 30);
        assert_eq!(share.excess(110, &[110, 90], 4), 10, "it goes on below the threshold");
        assert_eq!(share.excess(105, &[105, 95], 4), 0);
        assert_eq!(share.excess(110, &[110, 90], 4), 0, "and does not begin again at once");
    }

    #[test]
    fn few_large_shards_move_rather_than_many_small_ones() {
        let report = |shard, lobbies, state| ShardReport {
            shard: Shard(shard),
            state,
            epoch: None,
            peer: None,
            lobbies,
            kept_entries: 0,
            archive_lag: 0,
            waiting: 0,
        };
        let reports = vec![
            report(1, 1, ShardState::Serving),
            report(2, 9, ShardState::Serving),
            report(3, 3, ShardState::Serving),
            report(4, 2, ShardState::Moving),
            report(5, 0, ShardState::Serving),
            report(6, 1, ShardState::Serving),
        ];
        assert_eq!(choose_shards(reports.clone(), 4), [Shard(3), Shard(1)]);
        assert_eq!(choose_shards(reports, 0), []);
    }
}
