//! `mlms cluster status`: the nodes of a deployment with what they carry, what is on the move and how far others are
//! behind, and its shards. All of it is what Redis says; lags and moves are told by the nodes with their leases, every
//! two seconds. It writes nothing.

use std::fmt::Write as _;

use anyhow::Context;
use mlms_cluster::view::{NodeState, Progress, ShardRecord};
use mlms_cluster::{Redis, Survey};
use mlms_process::config::{SharedFlags, Sources};
use mlms_process::{ProcessRole, Settings};
use mlms_protocol::Shard;
use secrecy::ExposeSecret;
use serde::Serialize;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print one JSON object, all shards included
    #[arg(long)]
    json: bool,
    /// List every shard that was ever claimed, not only those on the move
    #[arg(long)]
    shards: bool,
    #[command(flatten)]
    flags: SharedFlags,
}

/// Reads the cluster's state and prints it.
pub(crate) fn print(arguments: &Arguments) -> anyhow::Result<()> {
    let settings = Settings::load(ProcessRole::Tool, &Sources::of_this_process(&arguments.flags))?;
    let url = settings.redis.url.as_ref().context("set MLMS_REDIS_URL to the Redis of the deployment")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let survey = runtime.block_on(Redis::survey(url.expose_secret(), &settings.redis.prefix))?;
    let status = Status::of(&survey);
    if arguments.json {
        return super::print(&(serde_json::to_string(&status)? + "\n"));
    }
    super::print(&status.table(arguments.shards))
}

#[derive(Debug, Serialize)]
struct Status {
    nodes: Vec<NodeLine>,
    /// Shards that were on their way when their owners last renewed their leases.
    moves: Vec<MoveLine>,
    shards: ShardsLine,
    /// By number; what was never claimed is left out.
    owners: Vec<ShardLine>,
}

#[derive(Debug, Serialize)]
struct NodeLine {
    name: String,
    state: NodeState,
    address: String,
    public_url: Option<String>,
    incarnation: u64,
    /// Milliseconds since the lease was renewed; a healthy node does it every two seconds.
    renewed_ms_ago: u64,
    sessions: u32,
    lobbies: u32,
    shards: usize,
    /// Journal entries of its shards that are not yet behind archive, snapshot and resume window.
    journal_entries: u64,
    /// What the node has told with its lease, `renewed_ms_ago`. None: it is of the release before, which tells none.
    lags: Option<Lags>,
}

/// How far others are behind a node.
#[derive(Debug, Serialize)]
struct Lags {
    /// Events in the journal that the event store does not have yet.
    archive_events: u64,
    /// Journal entries in the event store whose domain events did not go out yet.
    publish_entries: u64,
    /// Bytes said to other nodes that these have not acknowledged.
    link_bytes: u64,
    /// How long it has heard nothing of the other node that was silent for longest; none: there is no other.
    link_silent_ms: Option<u64>,
    /// Shards given to other nodes since the node's start, and those that nobody took.
    shards_moved: u64,
    shards_kept: u64,
}

#[derive(Debug, Serialize)]
struct MoveLine {
    shard: u16,
    from: String,
    to: String,
    /// Of the present owner; the next one has a higher.
    epoch: Option<u64>,
}

#[derive(Debug, Serialize)]
struct ShardsLine {
    total: usize,
    /// With a living owner.
    owned: usize,
    /// On a draining node: they are moved away.
    leaving: usize,
    /// Their owner is gone: the next command for them makes their heir claim them.
    orphaned: usize,
    journal_entries: u64,
}

/// Where a shard stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Stand {
    Owned,
    Leaving,
    Orphaned,
}

#[derive(Debug, Serialize)]
struct ShardLine {
    shard: u16,
    node: String,
    epoch: u64,
    stand: Stand,
    /// Who takes it over, when it does not stay where it is.
    heir: Option<String>,
    journal_entries: u64,
}

impl Status {
    fn of(survey: &Survey) -> Status {
        let view = &survey.view;
        let claimed = (0..).map(Shard).zip(&view.shards);
        let owners: Vec<ShardLine> = claimed
            .filter_map(|(shard, record)| Some(ShardLine::of(survey, shard, record.as_ref()?)))
            .collect();
        let count = |stand: Stand| owners.iter().filter(|line| line.stand == stand).count();
        let nodes = view.nodes.values().map(|node| {
            let own = || {
                owners
                    .iter()
                    .filter(|line| line.stand != Stand::Orphaned && *line.node == *node.name.as_str())
            };
            let renewed_ago = survey.renewed_ago.get(&node.name).copied().unwrap_or_default();
            NodeLine {
                name: node.name.to_string(),
                state: node.state,
                address: node.address.clone(),
                public_url: node.public_url.clone(),
                incarnation: node.incarnation.0,
                renewed_ms_ago: u64::try_from(renewed_ago.as_millis()).unwrap_or(u64::MAX),
                sessions: node.load.sessions,
                lobbies: node.load.lobbies,
                shards: own().count(),
                journal_entries: own().map(|line| line.journal_entries).sum(),
                lags: node.load.progress.as_ref().map(Lags::of),
            }
        });
        let moves = view.nodes.values().flat_map(|node| {
            let under_way = node.load.progress.iter().flat_map(|progress| &progress.moves);
            under_way.map(|step| MoveLine {
                shard: step.shard.0,
                from: node.name.to_string(),
                to: step.to.to_string(),
                epoch: view.record(step.shard).map(|record| record.epoch.0),
            })
        });
        Status {
            nodes: nodes.collect(),
            moves: moves.collect(),
            shards: ShardsLine {
                total: view.shards.len(),
                owned: count(Stand::Owned) + count(Stand::Leaving),
                leaving: count(Stand::Leaving),
                orphaned: count(Stand::Orphaned),
                journal_entries: owners.iter().map(|line| line.journal_entries).sum(),
            },
            owners,
        }
    }

    /// How far others are behind each node, and the shards on their way.
    fn lags(&self) -> String {
        let titles = ["node", "unarchived", "unpublished", "unacknowledged", "silence", "moved", "kept"];
        let mut rows = vec![titles.map(str::to_owned)];
        rows.extend(self.nodes.iter().map(|node| {
            let Some(lags) = &node.lags else {
                // A node of the release before.
                return [&node.name, "?", "?", "?", "?", "?", "?"].map(str::to_owned);
            };
            let silence = lags.link_silent_ms.map_or("-".to_owned(), |silent| seconds(silent) + " s");
            [
                node.name.clone(),
                lags.archive_events.to_string(),
                lags.publish_entries.to_string(),
                format!("{} B", lags.link_bytes),
                silence,
                lags.shards_moved.to_string(),
                lags.shards_kept.to_string(),
            ]
        }));
        let mut text = aligned(&rows);
        text += match self.moves.len() {
            0 => "\nno shard is on its way to another node.\n",
            _ => "\n",
        };
        for MoveLine { shard, from, to, .. } in &self.moves {
            // Writing to a string cannot fail.
            _ = writeln!(text, "shard {shard} is on its way from {from} to {to}.");
        }
        text
    }

    fn table(&self, all_shards: bool) -> String {
        let mut rows = vec![
            ["node", "state", "address", "renewed", "sessions", "lobbies", "shards", "journal"]
                .map(str::to_owned),
        ];
        rows.extend(self.nodes.iter().map(|node| {
            [
                node.name.clone(),
                if node.state == NodeState::Ready { "ready" } else { "draining" }.to_owned(),
                node.address.clone(),
                seconds(node.renewed_ms_ago) + " s ago",
                node.sessions.to_string(),
                node.lobbies.to_string(),
                node.shards.to_string(),
                node.journal_entries.to_string(),
            ]
        }));
        let mut text = aligned(&rows);
        text.push('\n');
        text += &self.lags();
        let ShardsLine { total, owned, leaving, orphaned, journal_entries } = self.shards;
        let line = format!(
            "\n{owned} of {total} shards have an owner, {leaving} of them on a draining node; {orphaned} lost theirs.\n\
             {journal_entries} entries in the journal.\n"
        );
        text += &line;
        let shown: Vec<&ShardLine> =
            self.owners.iter().filter(|line| all_shards || line.stand != Stand::Owned).collect();
        if !shown.is_empty() {
            let mut rows = vec![["shard", "node", "epoch", "journal", ""].map(str::to_owned)];
            rows.extend(shown.into_iter().map(ShardLine::row));
            text.push('\n');
            text += &aligned(&rows);
        }
        text
    }
}

impl ShardLine {
    fn of(survey: &Survey, shard: Shard, record: &ShardRecord) -> ShardLine {
        let stand = match survey.view.owner(shard) {
            Some(owner) if owner.state == NodeState::Draining => Stand::Leaving,
            Some(_) => Stand::Owned,
            None => Stand::Orphaned,
        };
        let heir = survey.view.heir(shard).filter(|_| stand != Stand::Owned);
        ShardLine {
            shard: shard.0,
            node: record.node.to_string(),
            epoch: record.epoch.0,
            stand,
            heir: heir.map(|heir| heir.name.to_string()),
            journal_entries: survey.entries.get(&shard).copied().unwrap_or(0),
        }
    }

    fn row(&self) -> [String; 5] {
        let remark = match (self.stand, &self.heir) {
            (Stand::Owned, _) => String::new(),
            (Stand::Leaving, Some(heir)) => format!("leaves for {heir}"),
            (Stand::Leaving, None) => "leaves, but no node is ready".to_owned(),
            (Stand::Orphaned, Some(heir)) => format!("its owner is gone; {heir} claims it on demand"),
            (Stand::Orphaned, None) => "its owner is gone, and no node is ready".to_owned(),
        };
        let numbers = [self.epoch, self.journal_entries].map(|number| number.to_string());
        let [epoch, journal] = numbers;
        [self.shard.to_string(), self.node.clone(), epoch, journal, remark]
    }
}

impl Lags {
    fn of(progress: &Progress) -> Lags {
        Lags {
            archive_events: progress.archive_events,
            publish_entries: progress.publish_entries,
            link_bytes: progress.link_bytes,
            link_silent_ms: progress.link_silent_ms,
            shards_moved: progress.moved,
            shards_kept: progress.kept,
        }
    }
}

/// With one decimal.
fn seconds(ms: u64) -> String {
    format!("{}.{}", ms / 1_000, ms % 1_000 / 100)
}

/// Columns as wide as their widest cell.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a string cannot fail.
            _ = write!(line, "{cell:width$}  ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use mlms_cluster::View;
    use mlms_cluster::view::{Move, NodeLoad, NodeRecord};
    use mlms_protocol::{Epoch, Incarnation, NodeName};

    use super::*;

    fn name(text: &str) -> NodeName {
        NodeName::new(text).unwrap()
    }

    fn survey(progress: Option<Progress>) -> Survey {
        let mut view = View::empty();
        let record = NodeRecord {
            name: name("a"),
            incarnation: Incarnation(1),
            address: "a:1".to_owned(),
            public_url: None,
            state: NodeState::Ready,
            load: NodeLoad { progress, ..NodeLoad::default() },
        };
        view.nodes.insert(record.name.clone(), record);
        view.shards[7] = Some(ShardRecord { node: name("a"), incarnation: Incarnation(1), epoch: Epoch(3) });
        let renewed_ago = BTreeMap::from([(name("a"), Duration::from_millis(1_250))]);
        Survey { view, renewed_ago, entries: BTreeMap::new() }
    }

    #[test]
    fn moves_and_lags_are_printed_as_the_nodes_tell_them() {
        let progress = Progress {
            moves: vec![Move { shard: Shard(7), to: name("b") }],
            moved: 11,
            kept: 2,
            archive_events: 345,
            publish_entries: 67,
            link_bytes: 8_901,
            link_silent_ms: Some(2_340),
        };
        let status = Status::of(&survey(Some(progress)));
        let text = status.table(false);
        assert!(text.contains("shard 7 is on its way from a to b."), "{text}");
        let line = text.lines().find(|line| line.contains("8901 B")).expect("a line of lags");
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>(),
            ["a", "345", "67", "8901", "B", "2.3", "s", "11", "2"]
        );
        let json = serde_json::to_value(&status).unwrap();
        let step = serde_json::json!([{ "shard": 7, "from": "a", "to": "b", "epoch": 3 }]);
        assert_eq!((&json["moves"], &json["nodes"][0]["lags"]["archive_events"]), (&step, &345.into()));
    }

    #[test]
    fn a_node_of_the_release_before_tells_neither() {
        let status = Status::of(&survey(None));
        let text = status.table(false);
        assert!(text.contains('?') && text.contains("no shard is on its way"), "{text}");
        assert_eq!(serde_json::to_value(&status).unwrap()["nodes"][0]["lags"], serde_json::Value::Null);
    }
}
