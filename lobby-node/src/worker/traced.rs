//! What is recorded of a command that is traced, on its way through session, owner, journal, archive and the other
//! nodes. Whatever is not traced carries nothing, and costs a look at an empty option.

use std::time::Duration;

use mlms_process::trace::{Kind, Span, now};
use mlms_protocol::{LobbyId, Shard, TraceParent};

use super::{Envelope, Origin, Worker};
use crate::lobby::Caller;
use crate::node::Node;

/// The spans of a command; they end when it is answered.
#[derive(Debug)]
pub(crate) struct Traced {
    /// At the owner. Before the other: it ends first.
    owner: Option<Span>,
    /// At the session, or as it came from another node.
    received: Span,
}

impl Envelope {
    /// What follows from the command is recorded under this.
    pub(crate) fn traced(&self) -> Option<TraceParent> {
        let traced = self.trace.as_ref()?;
        Some(traced.owner.as_ref().unwrap_or(&traced.received).context())
    }

    /// The lobby takes the command. Lines of the log carry the ids until the guard is dropped.
    pub(crate) fn begin_owner(&mut self, node: &Node) -> Option<tracing::span::EnteredSpan> {
        let traced = self.trace.as_mut()?;
        if !matches!(self.origin, Origin::Node { .. }) && traced.owner.is_none() {
            traced.owner = node
                .tracer
                .span("owner.command", Kind::Internal, &traced.received.context())
                .map(|span| span.with("mlms.node", node.name.as_str()));
        }
        Some(traced.owner.as_ref().unwrap_or(&traced.received).in_log().entered())
    }
}

impl Node {
    /// Begins to trace a command of a session or a call that is traced.
    pub(crate) fn trace_command(
        &self,
        name: &'static str,
        parent: Option<&TraceParent>,
        caller: &Caller,
        lobby: &LobbyId,
        op: &'static str,
    ) -> Option<Box<Traced>> {
        let parent = self.tracer.admit(parent?)?;
        let span = self.tracer.span(name, Kind::Server, &parent)?;
        let span = span.with("mlms.op", op).with("mlms.lobby", lobby.as_str());
        let received = span.with("mlms.user", caller.user.as_str()).with("mlms.node", self.name.as_str());
        Some(Box::new(Traced { owner: None, received }))
    }

    /// Goes on with a command that is traced at another node.
    pub(super) fn trace_forwarded(
        &self,
        parent: Option<TraceParent>,
        op: &'static str,
    ) -> Option<Box<Traced>> {
        let span = self.tracer.span("owner.command", Kind::Consumer, &parent?)?;
        let received = span.with("mlms.op", op).with("mlms.node", self.name.as_str());
        Some(Box::new(Traced { owner: None, received }))
    }

    /// Entries of these contexts are in the journal now, or the try has failed.
    pub(super) fn trace_append(
        &self,
        traces: &[(usize, TraceParent)],
        shard: Shard,
        took: Duration,
        failed: bool,
    ) {
        let began = now().saturating_sub(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        for (_, parent) in traces {
            let Some(span) = self.tracer.span_since("journal.append", Kind::Client, parent, began) else {
                return;
            };
            let mut span = span.with("mlms.shard", u64::from(shard.0));
            if failed {
                span.fail("no answer, or not the owner any more");
            }
        }
    }

    /// Spans of the same name, one for each context.
    pub(super) fn trace_each(&self, name: &'static str, kind: Kind, traces: &[TraceParent]) -> Vec<Span> {
        traces.iter().filter_map(|parent| self.tracer.span(name, kind, parent)).collect()
    }
}

impl Worker {
    /// An event is about to be written to the members here; the span ends when it is.
    pub(super) fn trace_delivery(&mut self, trace: Option<TraceParent>, kind: Kind) {
        if let Some(parent) = trace
            && let Some(span) = self.node.tracer.span("deliver", kind, &parent)
        {
            self.delivering.push(span.with("mlms.node", self.node.name.as_str()));
        }
    }

    /// An event goes to other nodes.
    pub(super) fn trace_relay(&self, trace: Option<TraceParent>, nodes: usize) -> Option<TraceParent> {
        let span = self.node.tracer.span("relay.event", Kind::Producer, &trace?)?;
        let span = span.with("mlms.nodes", nodes as u64);
        Some(span.context())
    }
}
