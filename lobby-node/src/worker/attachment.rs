//! This node's side of one lobby, wherever the lobby is owned: its audience, its place in the events, and the
//! commands that wait for the owner's answer.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use mlms_protocol::command::Position;
use mlms_protocol::{Change, Epoch, LobbyEvent, LobbyId, NodeName, Seq};
use tokio::time::Instant;

use super::Envelope;
use super::unanswered::{Former, Unanswered};
use crate::audience::Audience;
use crate::lobby::Passing;
use crate::metrics::Metrics;
use crate::session::{Gather, SessionHandle};
use crate::wire::Attaching;

/// Messages without a seq that may wait for this node's own attach; beyond it more are refused.
const AHEAD_MAX: usize = 1_024;

/// This node's side of one lobby.
pub(super) struct Attachment {
    pub(super) audience: Audience,
    /// The last event that was passed on.
    pub(super) position: Position,
    pub(super) feed: Feed,
    /// The sessions that the last attach named; the owner takes all others of this node for gone.
    named: HashSet<u64>,
    pub(super) unanswered: Unanswered,
    /// Pages that were asked for: for whom, and behind which event.
    pub(super) pages: HashMap<u64, (Arc<SessionHandle>, Seq)>,
    /// Sessions that pull, and whose page nobody can be asked for at the moment.
    pub(super) owed: Vec<Arc<SessionHandle>>,
    /// Resumes whose reply may not be out, by session.
    pub(super) resuming: HashMap<u64, Arc<Gather>>,
    /// Sessions that have to join anew as soon as their resume is answered. The flag: they want `saved` events.
    pub(super) doomed: HashMap<u64, (Arc<SessionHandle>, bool)>,
    /// Messages without a seq of a lobby that is owned here, said before this node's own attach was answered: the events
    /// before them come with that answer.
    ahead: Vec<Passing>,
    /// Joins of sessions that still pull, by session. They were carried out, and wait for their turn to be answered.
    pub(super) held: HashMap<u64, Vec<Envelope>>,
}

pub(super) enum Feed {
    /// The lobby is owned here. Not attached: the owner will say what came between.
    Local {
        attached: bool,
    },
    Remote {
        owner: NodeName,
        attach: Attach,
    },
    /// Nobody is known to own the lobby.
    Lost,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Attach {
    Attached,
    Asked {
        token: u64,
        at: Instant,
        /// The owner has gone on feeding this node all the while, and nothing of it is known to be missing: it is only
        /// told anew who is here.
        whole: bool,
    },
}

impl Attachment {
    pub(super) fn new(lobby: LobbyId, feed: Feed, metrics: Arc<Metrics>) -> Self {
        Attachment {
            audience: Audience::new(lobby, metrics),
            position: Position { epoch: Epoch(0), seq: Seq(0) },
            feed,
            named: HashSet::new(),
            unanswered: Unanswered::default(),
            pages: HashMap::new(),
            owed: Vec::new(),
            resuming: HashMap::new(),
            doomed: HashMap::new(),
            held: HashMap::new(),
            ahead: Vec::new(),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.audience.is_empty()
            && self.unanswered.is_empty()
            && self.doomed.is_empty()
            && self.held.is_empty()
    }

    /// Whether a session's resume of this lobby is not answered yet: nothing of the lobby may reach it before.
    pub(super) fn is_resuming(&mut self, session: u64) -> bool {
        let is_open = self.resuming.get(&session).is_some_and(|gather| !gather.is_answered());
        if !is_open {
            self.resuming.remove(&session);
        }
        is_open
    }

    /// Everyone here, as the owner wants to know them in an attach.
    pub(super) fn attaching(&mut self) -> Vec<Attaching> {
        self.named = self.audience.sessions().map(|session| session.number).collect();
        let sessions = self.audience.sessions();
        sessions
            .map(|session| Attaching {
                caller: session.caller.as_ref().clone(),
                wants_saved: self.audience.wants_saved(session),
            })
            .collect()
    }

    /// Whether somebody was seated since the last attach left, by a join that was on its way before it: the owner has
    /// let go of that session again.
    pub(super) fn has_unnamed(&self) -> bool {
        self.audience.sessions().any(|session| !self.named.contains(&session.number))
    }

    /// The lobby is owned here from now on.
    pub(super) fn become_local(&mut self, former: Former) {
        self.lose_owner(former);
        self.feed = Feed::Local { attached: self.audience.is_empty() };
    }

    /// The owner is gone, or is this node no more.
    pub(super) fn lose_owner(&mut self, former: Former) {
        self.feed = Feed::Lost;
        self.ahead.clear();
        self.owe_pages();
        self.unanswered.lose_owner(former);
    }

    /// Pages that were asked for do not come any more.
    fn owe_pages(&mut self) {
        self.owed.extend(self.pages.drain().map(|(_, (session, _))| session));
    }

    pub(super) fn is_attached(&self) -> bool {
        match &self.feed {
            Feed::Local { attached } => *attached,
            Feed::Remote { attach, .. } => *attach == Attach::Attached,
            Feed::Lost => false,
        }
    }

    /// Passes on what a lobby that is owned here says without a seq.
    pub(super) fn pass_own(&mut self, passing: Passing) {
        if matches!(self.feed, Feed::Local { attached: false }) {
            self.ahead.push(passing);
        } else {
            self.audience.stage_passing(passing);
        }
    }

    /// Whether as much as may waits for this node's own attach.
    pub(super) fn is_crowded(&self) -> bool {
        self.ahead.len() >= AHEAD_MAX
    }

    /// The events that were missing are passed on: now what was said behind them.
    pub(super) fn pass_ahead(&mut self) {
        for passing in std::mem::take(&mut self.ahead) {
            self.audience.stage_passing(passing);
        }
    }

    /// Whether what the owner says is passed on.
    pub(super) fn hears(&self) -> bool {
        self.is_attached()
            || matches!(self.feed, Feed::Remote { attach: Attach::Asked { whole: true, .. }, .. })
    }

    pub(super) fn is_fed_by(&self, node: &NodeName) -> bool {
        matches!(&self.feed, Feed::Remote { owner, .. } if owner == node)
    }

    /// Passes an event on if it is the next one. `false`: something is missing before it.
    pub(super) fn pass_on(&mut self, epoch: Epoch, event: Arc<LobbyEvent>) -> bool {
        if event.seq <= self.position.seq || epoch < self.position.epoch {
            return true;
        }
        if event.seq != self.position.seq.next() {
            return false;
        }
        self.position = Position { epoch: event.epoch.max(self.position.epoch), seq: event.seq };
        self.audience.stage_event(Arc::clone(&event));
        match &event.change {
            Change::Left { user, .. } | Change::Kicked { user, .. } | Change::Banned { user, .. } => {
                self.audience.part(Some(user), event.seq);
            }
            Change::Closed { .. } => self.audience.part(None, event.seq),
            _ => {}
        }
        true
    }
}
