//! What a process knows about its own contact with Redis. It decides whether a node that is absent from the
//! directory is dead: after an outage of Redis all leases are gone at once, and nobody may claim everybody.

use std::collections::HashMap;
use std::time::Duration;

use mlms_protocol::{Epoch, Incarnation, NodeName};
use tokio::time::Instant;

use crate::directory::{LEASE, RENEWAL};
use crate::view::ShardRecord;

/// A reading or a renewal older than this proves nothing any more.
const STALE: Duration = RENEWAL.saturating_mul(2);
/// A process whose clock differs more than this from Redis's does not claim: times in events would jump.
const SKEW_MAX: Duration = Duration::from_secs(1);

/// Readings, renewals, and the difference of the clocks.
#[derive(Debug, Default)]
pub(super) struct Contact {
    /// Since when every reading succeeded, none late.
    unbroken_since: Option<Instant>,
    last_reading: Option<Instant>,
    /// The nodes of this process, by when their last successful renewal began.
    renewed: HashMap<NodeName, (Incarnation, Instant)>,
    skew: Duration,
    /// Records that the directory has lost, by the place of their shard, with the epoch that was known.
    lost: HashMap<usize, Epoch>,
}

/// Why a claim is not made now.
pub(super) type TooEarly = &'static str;

impl Contact {
    /// A reading that began at `began` has succeeded.
    pub(super) fn on_read(&mut self, began: Instant, now: Instant, skew: Duration) {
        let is_late = self.last_reading.is_none_or(|last| began.duration_since(last) > STALE);
        if is_late || self.unbroken_since.is_none() {
            self.unbroken_since = Some(now);
        }
        self.last_reading = Some(began);
        if (skew > SKEW_MAX) != (self.skew > SKEW_MAX) {
            let skew_ms = u64::try_from(skew.as_millis()).unwrap_or(u64::MAX);
            if skew > SKEW_MAX {
                tracing::error!(skew_ms, "this machine's clock differs from Redis's; no shard is claimed");
            } else {
                tracing::info!(skew_ms, "this machine's clock agrees with Redis's again");
            }
        }
        self.skew = skew;
    }

    /// A reading lacked records that are known. `true`: some of them were there until now. All leases may be gone
    /// with them, so that absence proves nothing for a while.
    pub(super) fn on_lost(&mut self, read: &[Option<ShardRecord>], known: &[Option<ShardRecord>]) -> bool {
        let epoch = |record: &Option<ShardRecord>| record.as_ref().map(|record| record.epoch);
        let lost = read.iter().zip(known).enumerate().filter(|(_, (read, known))| epoch(read) < epoch(known));
        let lost: HashMap<_, _> =
            lost.filter_map(|(place, (_, known))| Some((place, epoch(known)?))).collect();
        let is_new = lost.iter().any(|(place, epoch)| self.lost.get(place) != Some(epoch));
        self.lost = lost;
        if is_new {
            self.on_broken();
        }
        is_new
    }

    /// Whether the absence of a node proves that it is gone. While it does not, nobody inherits, and whoever was there
    /// is still asked for what is theirs: after an outage all leases are gone, and their nodes are not.
    pub(super) fn proves_absence(&self, now: Instant) -> bool {
        self.unbroken_since.is_some_and(|since| now.duration_since(since) >= LEASE)
    }

    /// Something went unanswered, or the connection was made anew.
    pub(super) fn on_broken(&mut self) {
        self.unbroken_since = None;
    }

    /// A renewal has succeeded. `true`: the first one of this run of the node.
    pub(super) fn on_renewed(&mut self, node: &NodeName, incarnation: Incarnation, began: Instant) -> bool {
        let before = self.renewed.insert(node.clone(), (incarnation, began));
        before.is_none_or(|(known, _)| known != incarnation)
    }

    pub(super) fn on_retired(&mut self, node: &NodeName) {
        self.renewed.remove(node);
    }

    /// Whether this process runs the node of a record, or ran it a moment ago.
    pub(super) fn runs(&self, record: &ShardRecord) -> bool {
        self.renewed.get(&record.node).is_some_and(|(incarnation, _)| *incarnation == record.incarnation)
    }

    pub(super) fn check_clock(&self) -> Result<(), TooEarly> {
        if self.skew > SKEW_MAX { Err("a clock that agrees with the cluster's") } else { Ok(()) }
    }

    /// Whether `heir` may take what belongs to a node that is absent.
    pub(super) fn check_inheritance(&self, heir: &ShardRecord, now: Instant) -> Result<(), TooEarly> {
        let fresh = |at: Instant| now.duration_since(at) < STALE;
        let lease = self.renewed.get(&heir.node);
        if !lease.is_some_and(|(incarnation, at)| *incarnation == heir.incarnation && fresh(*at)) {
            return Err("this node's own lease");
        }
        if !self.proves_absence(now) || !self.last_reading.is_some_and(fresh) {
            return Err("proof that the shard's owner is gone");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heir() -> ShardRecord {
        ShardRecord { node: NodeName::new("b").unwrap(), incarnation: Incarnation(1), epoch: Epoch(2) }
    }

    /// Readings and renewals every two seconds, from `from` to `to`.
    fn regular(contact: &mut Contact, start: Instant, seconds: std::ops::RangeInclusive<u64>) {
        for second in seconds.step_by(2) {
            let at = start + Duration::from_secs(second);
            contact.on_renewed(&heir().node, Incarnation(1), at);
            contact.on_read(at, at, Duration::ZERO);
        }
    }

    fn may(contact: &Contact, start: Instant, second: u64) -> bool {
        contact.check_inheritance(&heir(), start + Duration::from_secs(second)).is_ok()
    }

    #[test]
    fn nobody_inherits_before_six_seconds_of_unbroken_contact() {
        let (mut contact, start) = (Contact::default(), Instant::now());
        assert!(!may(&contact, start, 0));
        regular(&mut contact, start, 0..=4);
        assert!(!may(&contact, start, 5));
        regular(&mut contact, start, 6..=6);
        assert!(may(&contact, start, 6));
    }

    #[test]
    fn an_outage_a_pause_and_a_reconnect_begin_the_wait_anew() {
        let start = Instant::now();
        for outage in [0, 1] {
            let mut contact = Contact::default();
            regular(&mut contact, start, 0..=10);
            assert!(may(&contact, start, 10));
            if outage == 0 {
                contact.on_broken();
                assert!(!may(&contact, start, 11));
            } else {
                assert!(!may(&contact, start, 15), "a frozen process must not act on an old reading");
            }
            regular(&mut contact, start, 16..=20);
            assert!(!may(&contact, start, 21));
            regular(&mut contact, start, 22..=22);
            assert!(may(&contact, start, 22));
        }
    }

    #[test]
    fn an_heir_needs_a_lease_of_its_own_run() {
        let (mut contact, start) = (Contact::default(), Instant::now());
        regular(&mut contact, start, 0..=10);
        let at = start + Duration::from_secs(10);
        let other_run = ShardRecord { incarnation: Incarnation(2), ..heir() };
        assert!(contact.check_inheritance(&other_run, at).is_err());
        contact.on_retired(&heir().node);
        assert!(contact.check_inheritance(&heir(), at).is_err());
    }

    #[test]
    fn a_wrong_clock_claims_nothing() {
        let (mut contact, start) = (Contact::default(), Instant::now());
        contact.on_read(start, start, Duration::from_millis(1_500));
        assert!(contact.check_clock().is_err());
        contact.on_read(start, start, Duration::from_millis(20));
        assert!(contact.check_clock().is_ok());
    }
}
