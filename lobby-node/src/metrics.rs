//! What a lobby node counts. Labels are closed sets, never ids of users or lobbies.

use mlms_process::metrics::register;
use mlms_protocol::Class;
use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, exponential_buckets,
};

/// The metrics of one node.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) sessions: IntGauge,
    pub(crate) lobbies: IntGauge,
    pub(crate) shards: IntGauge,
    pub(crate) refused_connects: IntCounterVec,
    commands: IntCounterVec,
    /// The one of them that most commands are.
    sends: IntCounter,
    pub(crate) refusals: IntCounterVec,
    pub(crate) messages: ByClass,
    pub(crate) deliveries: ByClass,
    pub(crate) delivery_seconds: Histogram,
    pub(crate) shed: IntCounter,
    pub(crate) slow_consumers: IntCounter,
    pub(crate) outbox_bytes: IntGauge,
    pub(crate) loop_lag: Gauge,
    pub(crate) inbox_refused: IntCounter,
    pub(crate) closes: IntCounterVec,
    pub(crate) joins: IntCounterVec,
    pub(crate) append_seconds: Histogram,
    pub(crate) append_entries: Histogram,
    pub(crate) appends_repeated: IntCounter,
    pub(crate) degraded_shards: IntGauge,
    pub(crate) depositions: IntCounter,
    pub(crate) claims: IntCounterVec,
    pub(crate) moves: IntCounterVec,
    pub(crate) move_pause_seconds: Histogram,
    pub(crate) quarantined: IntCounter,
    pub(crate) archived: IntCounter,
    pub(crate) archive_failures: IntCounter,
    pub(crate) archive_failing: IntGauge,
    pub(crate) archive_backlog: IntGauge,
    pub(crate) archive_conflicts: IntCounterVec,
    pub(crate) archive_set_aside: IntCounter,
    pub(crate) backlog_bytes: IntGauge,
    pub(crate) published: IntCounter,
    pub(crate) publish_failures: IntCounter,
    pub(crate) publish_backlog: IntGauge,
    pub(crate) link_resets: IntCounterVec,
    pub(crate) link_batches: IntCounterVec,
    pub(crate) unreadable: IntCounterVec,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        let counter = |name: &str, help: &str| register(registry, IntCounter::new(name, help));
        let gauge = |name: &str, help: &str| register(registry, IntGauge::new(name, help));
        let labelled = |name: &str, help: &str, label: &str| {
            register(registry, IntCounterVec::new(Opts::new(name, help), &[label]))
        };
        let histogram = |name: &str, help: &str, buckets: Vec<f64>| {
            register(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)))
        };
        let buckets =
            |start, factor, count| exponential_buckets(start, factor, count).expect("constants are valid");
        let commands = labelled("mlms_commands_total", "Commands from sessions.", "op");
        Metrics {
            sessions: gauge("mlms_sessions", "Open sessions."),
            lobbies: gauge("mlms_lobbies", "Lobbies in memory that this node owns."),
            shards: gauge("mlms_shards", "Shards that this node owns."),
            refused_connects: labelled(
                "mlms_connects_refused_total",
                "Sessions refused at connect.",
                "reason",
            ),
            sends: commands.with_label_values(&["send"]),
            commands,
            refusals: labelled("mlms_refusals_total", "Commands refused, by error code.", "code"),
            messages: ByClass::new(&labelled(
                "mlms_messages_total",
                "Messages that lobbies took, by class.",
                "class",
            )),
            deliveries: ByClass::new(&labelled(
                "mlms_deliveries_total",
                "Events written to members, by class.",
                "class",
            )),
            delivery_seconds: histogram(
                "mlms_delivery_seconds",
                "Time from an owner's decision to the write to a node's members, of the oldest event in each write.",
                buckets(0.001, 2.0, 14),
            ),
            shed: counter("mlms_ephemeral_shed_total", "Ephemeral events not sent to slow connections."),
            slow_consumers: counter(
                "mlms_slow_consumers_total",
                "Connections closed because they did not keep up.",
            ),
            outbox_bytes: gauge("mlms_outbox_bytes", "Bytes that wait for slow connections."),
            inbox_refused: counter(
                "mlms_inbox_refused_total",
                "What a worker that did not keep up had no room for.",
            ),
            loop_lag: register(
                registry,
                Gauge::new(
                    "mlms_loop_lag_seconds",
                    "How late the latest of the workers' event loops comes to a task.",
                ),
            ),
            closes: labelled("mlms_closes_total", "Sessions closed by the node, by code.", "code"),
            joins: labelled("mlms_joins_total", "Joins and resumes that succeeded, by status.", "status"),
            append_seconds: histogram(
                "mlms_journal_append_seconds",
                "Time of an append to the journal.",
                buckets(0.000_1, 2.0, 16),
            ),
            append_entries: histogram(
                "mlms_journal_append_entries",
                "Entries in one append.",
                buckets(1.0, 2.0, 12),
            ),
            appends_repeated: counter(
                "mlms_journal_appends_repeated_total",
                "Appends repeated for want of an answer.",
            ),
            degraded_shards: gauge(
                "mlms_degraded_shards",
                "Owned shards whose journal does not answer: commands that need it are refused.",
            ),
            depositions: counter(
                "mlms_depositions_total",
                "Shards lost to another owner, found out at an append.",
            ),
            claims: labelled("mlms_claims_total", "Claims of shards, by outcome.", "outcome"),
            moves: labelled("mlms_moves_total", "Shards given to other nodes, by outcome.", "outcome"),
            move_pause_seconds: histogram(
                "mlms_move_pause_seconds",
                "Time from the end of intake at a shard's old owner to the new one's word that it serves.",
                buckets(0.001, 2.0, 14),
            ),
            quarantined: counter(
                "mlms_lobbies_quarantined_total",
                "Lobbies taken out of service after a panic.",
            ),
            archived: counter("mlms_archive_events_total", "Events committed to the event store."),
            archive_failures: counter("mlms_archive_failures_total", "Failed writes to the event store."),
            archive_failing: gauge(
                "mlms_archive_failing_workers",
                "Workers whose last write to the event store failed.",
            ),
            archive_backlog: gauge(
                "mlms_archive_backlog_events",
                "Events journaled but not in the event store yet.",
            ),
            archive_conflicts: labelled(
                "mlms_archive_conflicts_total",
                "Events that met another one of their seq in the event store, by outcome.",
                "outcome",
            ),
            archive_set_aside: counter(
                "mlms_archive_set_aside_total",
                "Events that the event store refused and that were set aside.",
            ),
            backlog_bytes: gauge(
                "mlms_journal_backlog_bytes",
                "Bytes in the journal that wait for the event store or the message broker.",
            ),
            published: counter("mlms_publish_events_total", "Domain events that were taken for good."),
            publish_failures: counter(
                "mlms_publish_failures_total",
                "Domain events that were not taken, or whose place could not be read, by tries.",
            ),
            publish_backlog: gauge(
                "mlms_publish_backlog_entries",
                "Journal entries in the event store whose domain events did not go out yet.",
            ),
            link_resets: labelled("mlms_link_resets_total", "Resets of links between nodes.", "direction"),
            link_batches: labelled(
                "mlms_link_batches_total",
                "Batches between nodes that did not simply arrive: sent again, dropped or ignored.",
                "kind",
            ),
            unreadable: labelled("mlms_unreadable_total", "Records this release cannot read.", "what"),
        }
    }

    pub(crate) fn count_command(&self, op: &'static str) {
        if op == "send" {
            return self.sends.inc();
        }
        self.commands.with_label_values(&[op]).inc();
    }
}

/// A counter for each class, found without a look-up: they are counted for every message.
#[derive(Debug)]
pub(crate) struct ByClass {
    durable: IntCounter,
    ordered: IntCounter,
    ephemeral: IntCounter,
}

impl ByClass {
    fn new(counters: &IntCounterVec) -> Self {
        let of = |class: Class| counters.with_label_values(&[class.as_str()]);
        ByClass { durable: of(Class::Durable), ordered: of(Class::Ordered), ephemeral: of(Class::Ephemeral) }
    }

    pub(crate) fn of(&self, class: Class) -> &IntCounter {
        match class {
            Class::Durable => &self.durable,
            Class::Ordered => &self.ordered,
            Class::Ephemeral => &self.ephemeral,
        }
    }
}
