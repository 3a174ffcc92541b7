//! How records are written in Redis. Each begins with what scripts compare; numbers are decimal text, because a
//! script's numbers are doubles.

use mlms_protocol::{Epoch, Incarnation, NodeName};

use crate::journal::EntryId;
use crate::view::{NodeRecord, ShardRecord};

/// A shard's record: `<epoch> <incarnation> <node>`. Scripts compare the whole text.
pub(super) fn write_owner(record: &ShardRecord) -> String {
    format!("{} {} {}", record.epoch.0, record.incarnation.0, record.node)
}

pub(super) fn read_owner(text: &str) -> Option<ShardRecord> {
    let mut parts = text.splitn(3, ' ');
    let epoch = Epoch(parts.next()?.parse().ok()?);
    let incarnation = Incarnation(parts.next()?.parse().ok()?);
    Some(ShardRecord { node: NodeName::new(parts.next()?).ok()?, incarnation, epoch })
}

/// An incarnation of fixed width, so that texts compare as numbers do.
pub(super) fn write_incarnation(incarnation: Incarnation) -> String {
    format!("{:020}", incarnation.0)
}

/// A node's lease: `<incarnation, 20 digits> <record as JSON>`.
pub(super) fn read_lease(text: &str) -> Option<NodeRecord> {
    let (incarnation, record) = text.split_once(' ')?;
    let record: NodeRecord = serde_json::from_str(record).ok()?;
    (incarnation.parse() == Ok(record.incarnation.0)).then_some(record)
}

/// Whether a lease was ended, rather than that it ran out: `<incarnation, 20 digits> retired`.
pub(super) fn is_retired(text: &str, incarnation: Incarnation) -> bool {
    text.strip_suffix(" retired").is_some_and(|run| run.parse() == Ok(incarnation.0))
}

/// An entry's id, as a stream writes it.
pub(super) fn write_id(id: EntryId) -> String {
    format!("{}-{}", id.epoch, id.n)
}

pub(super) fn read_id(text: &str) -> Option<EntryId> {
    let (epoch, n) = text.split_once('-')?;
    Some(EntryId { epoch: epoch.parse().ok()?, n: n.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{NodeLoad, NodeState};

    #[test]
    fn records_survive_the_way_through_redis() {
        let node = NodeName::new("node-1").unwrap();
        let owner = ShardRecord { node: node.clone(), incarnation: Incarnation(u64::MAX), epoch: Epoch(7) };
        assert_eq!(read_owner(&write_owner(&owner)), Some(owner));
        let id = EntryId { epoch: u64::MAX, n: 3 };
        assert_eq!(read_id(&write_id(id)), Some(id));
        let record = NodeRecord {
            name: node,
            incarnation: Incarnation(9),
            address: "a:1".to_owned(),
            public_url: None,
            state: NodeState::Ready,
            load: NodeLoad::default(),
        };
        let json = serde_json::to_string(&record).unwrap();
        let lease = format!("{} {json}", write_incarnation(record.incarnation));
        assert_eq!(read_lease(&lease), Some(record));
    }

    #[test]
    fn what_is_no_record_is_passed_over() {
        for text in ["", "1", "1 2", "x 2 node-1", "1 2 NODE", "-1 2 node-1"] {
            assert_eq!(read_owner(text), None, "{text}");
        }
        for text in ["", "1", "1-", "-1", "a-b"] {
            assert_eq!(read_id(text), None, "{text}");
        }
        assert_eq!(read_lease("00000000000000000001 {}"), None);
    }

    #[test]
    fn incarnations_compare_as_text() {
        assert!(write_incarnation(Incarnation(9)) < write_incarnation(Incarnation(10)));
        assert!(write_incarnation(Incarnation(10)) < write_incarnation(Incarnation(u64::MAX)));
    }
}
