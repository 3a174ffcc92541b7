//! `mlms cluster status`: the nodes of a deployment with what they carry, and its shards, as Redis says.

use std::fmt::Write as _;

use anyhow::Context;
use mlms_cluster::view::{NodeState, ShardRecord};
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
    let survey = runtime.block_on(async {
        let (redis, task) = Redis::connect(url.expose_secret(), &settings.redis.prefix).await?;
        let task = tokio::spawn(task);
        let survey = redis.survey().await;
        drop(redis);
        task.await?;
        anyhow::Ok(survey?)
    })?;
    let status = Status::of(&survey);
    if arguments.json {
        return super::print(&(serde_json::to_string(&status)? + "\n"));
    }
    super::print(&status.table(arguments.shards))
}

#[derive(Debug, Serialize)]
struct Status {
    nodes: Vec<NodeLine>,
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
            }
        });
        Status {
            nodes: nodes.collect(),
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
                format!("{}.{} s ago", node.renewed_ms_ago / 1_000, node.renewed_ms_ago % 1_000 / 100),
                node.sessions.to_string(),
                node.lobbies.to_string(),
                node.shards.to_string(),
                node.journal_entries.to_string(),
            ]
        }));
        let mut text = aligned(&rows);
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
