//! Which node a user or a shard belongs to, computed alike by every process: rendezvous (highest random weight)
//! hashing over xxh3. The golden vectors below fix it for ever; a change moves every user of a running fleet.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::ids::{LobbyId, NodeName, Shard, UserId};

/// Shards of a deployment, fixed for its life.
pub const SHARD_COUNT: u16 = 512;

/// The shard that a lobby belongs to.
#[must_use]
pub fn shard_of(lobby: &LobbyId) -> Shard {
    let slot = xxh3_64(lobby.as_str().as_bytes()) % u64::from(SHARD_COUNT);
    Shard(u16::try_from(slot).expect("a remainder of a u16 fits a u16"))
}

fn weight(key: &[u8], node: &NodeName) -> u64 {
    xxh3_64_with_seed(key, xxh3_64(node.as_str().as_bytes()))
}

fn ranked<'a>(key: &[u8], nodes: impl IntoIterator<Item = &'a NodeName>) -> Vec<&'a NodeName> {
    let mut weighed: Vec<_> = nodes.into_iter().map(|node| (weight(key, node), node)).collect();
    weighed.sort_unstable_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    weighed.into_iter().map(|(_, node)| node).collect()
}

/// The nodes in the order in which a user's session should try them.
#[must_use]
pub fn nodes_for_user<'a>(user: &UserId, nodes: impl IntoIterator<Item = &'a NodeName>) -> Vec<&'a NodeName> {
    ranked(user.as_str().as_bytes(), nodes)
}

/// The nodes in the order in which they should own a shard.
#[must_use]
pub fn nodes_for_shard<'a>(shard: Shard, nodes: impl IntoIterator<Item = &'a NodeName>) -> Vec<&'a NodeName> {
    ranked(&shard.0.to_le_bytes(), nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: usize) -> Vec<NodeName> {
        (0..count).map(|i| NodeName::new(&format!("node-{i}")).expect("valid")).collect()
    }

    #[test]
    fn golden_vectors() {
        let shard = |id: &str| shard_of(&LobbyId::new(id).expect("valid")).0;
        let nodes = nodes(4);
        let user = |id: &str| nodes_for_user(&UserId::new(id).expect("valid"), &nodes)[0].to_string();
        let owner = |s: u16| nodes_for_shard(Shard(s), &nodes)[0].to_string();
        let seen = format!(
            "{:?} {:?} {:?}",
            ["lounge", "arena", "Arena", "a-b_c"].map(shard),
            ["ann", "bob", "Ännchen", "🦀"].map(user),
            [0, 1, 255, 511].map(owner),
        );
        insta::assert_snapshot!(seen);
    }

    #[test]
    fn a_leaving_node_moves_only_its_own() {
        let five = nodes(5);
        let mut moved = 0;
        for i in 0..2_000 {
            let user = UserId::new(&format!("user-{i}")).expect("valid");
            let before = nodes_for_user(&user, &five)[0];
            let after = nodes_for_user(&user, &five[..4])[0];
            if before == &five[4] {
                moved += 1;
            } else {
                assert_eq!(before, after);
            }
        }
        assert!((300..500).contains(&moved), "{moved} of 2000 users were on the fifth node");
    }
}
