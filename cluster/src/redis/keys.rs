//! The names of everything that stands in Redis. All keys of a shard share a hash tag, so that a cluster keeps
//! them in one slot and one script may touch them.

use mlms_protocol::{NodeName, Shard, UserId};

/// Makes keys and channels behind a deployment's prefix.
#[derive(Debug)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Keys { prefix: prefix.to_owned() }
    }

    fn named(&self, rest: &str) -> String {
        format!("{}{rest}", self.prefix)
    }

    /// How many shards the deployment has, for its life.
    pub(super) fn shard_count(&self) -> String {
        self.named("shards")
    }

    /// The set of all nodes' names, so that nobody needs SCAN.
    pub(super) fn nodes(&self) -> String {
        self.named("nodes")
    }

    /// A node's lease.
    pub(super) fn node(&self, name: &NodeName) -> String {
        self.named(&format!("node:{name}"))
    }

    /// The newest run of a node, beyond the end of its lease.
    pub(super) fn run(&self, name: &NodeName) -> String {
        self.named(&format!("run:{name}"))
    }

    /// A shard's record.
    pub(super) fn own(&self, shard: Shard) -> String {
        self.named(&format!("own:{{s{}}}", shard.0))
    }

    /// A shard's log.
    pub(super) fn log(&self, shard: Shard) -> String {
        self.named(&format!("log:{{s{}}}", shard.0))
    }

    /// A shard's snapshots, by lobby.
    pub(super) fn snap(&self, shard: Shard) -> String {
        self.named(&format!("snap:{{s{}}}", shard.0))
    }

    /// A user's sessions.
    pub(super) fn user(&self, user: &UserId) -> String {
        self.named(&format!("user:{user}"))
    }

    /// The list of public lobbies that a node owns.
    pub(super) fn lobbies(&self, node: &NodeName) -> String {
        self.named(&format!("lobbies:{node}"))
    }

    /// The channel on which a node receives.
    pub(super) fn inbox(&self, node: &NodeName) -> String {
        self.named(&format!("inbox:{node}"))
    }

    /// The channel on which changes of the directory are told.
    pub(super) fn changes(&self) -> String {
        self.named("changes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_a_shard_share_their_hash_tag() {
        let keys = Keys::new("mlms:");
        let shard = Shard(17);
        assert_eq!(
            [keys.own(shard), keys.log(shard), keys.snap(shard)],
            ["mlms:own:{s17}", "mlms:log:{s17}", "mlms:snap:{s17}"]
        );
    }
}
