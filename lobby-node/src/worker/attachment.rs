//! This node's side of one lobby, wherever the lobby is owned: its audience, its place in the events, and the
//! commands that wait for the owner's answer.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use mlms_protocol::command::Position;
use mlms_protocol::{Change, Class, Epoch, LobbyCommand, LobbyEvent, LobbyId, NodeName, Seq, SessionId};
use tokio::time::Instant;

use super::{Envelope, Origin};
use crate::audience::Audience;
use crate::lobby::Passing;
use crate::metrics::Metrics;
use crate::session::{Gather, SessionHandle};
use crate::wire::Attaching;

/// How long a former owner's word about the commands that it was sent is awaited.
const WORD_TIME: Duration = Duration::from_millis(500);

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
    /// Commands without an answer, in their order.
    pub(super) unanswered: BTreeMap<u64, Unanswered>,
    /// Each session's last one, and perhaps some that were answered since.
    last: HashMap<u64, u64>,
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

/// A command that waits for an owner's answer.
pub(super) struct Unanswered {
    pub(super) envelope: Envelope,
    pub(super) sent: Sent,
}

impl Unanswered {
    pub(super) fn new(envelope: Envelope) -> Self {
        Unanswered { envelope, sent: Sent::No }
    }

    fn is_of(&self, session: u64) -> bool {
        matches!(&self.envelope.origin, Origin::Session(sender, _) if sender.number == session)
    }
}

/// Numbers that one command may be sent under: its token, and how often it was sent.
pub(super) const NUMBERS: u64 = 64;

/// Where a command without an answer stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    No,
    /// To the present owner.
    Present,
    /// To one before; until then its word is awaited.
    Former {
        until: Instant,
    },
    /// To one before, and what its sender sent later has gone to the present one: it cannot be sent again in its order.
    Overtaken,
}

/// What is to be expected of an owner that is one no more.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Former {
    /// It answers or refuses what it was sent.
    Lives,
    Gone,
}

/// An answer that is nobody's.
pub(super) enum Stray {
    /// Of an earlier sending of a command that waits for another answer.
    SentAgain,
    /// Of a command that was given up.
    Unknown,
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
            unanswered: BTreeMap::new(),
            last: HashMap::new(),
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

    /// Sessions that are not here yet, and whose joins are on their way to the owner or back.
    pub(super) fn joining(&self) -> Vec<SessionId> {
        let joins =
            self.unanswered.values().filter_map(|Unanswered { envelope, .. }| match &envelope.origin {
                Origin::Session(session, _) if matches!(envelope.command, LobbyCommand::Join(_)) => {
                    Some(session)
                }
                _ => None,
            });
        joins.map(|session| session.caller.session.clone()).collect()
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
        let now = Instant::now();
        for Unanswered { sent, .. } in self.unanswered.values_mut() {
            if *sent == Sent::Present {
                let until = if former == Former::Lives { now + WORD_TIME } else { now };
                *sent = Sent::Former { until };
            }
        }
    }

    /// Whether the session has sent a `leave` after this command.
    pub(super) fn leaves_after(&self, token: u64, session: u64) -> bool {
        self.unanswered.range(token + 1..).any(|(_, Unanswered { envelope, .. })| {
            matches!(envelope.command, LobbyCommand::Leave)
                && matches!(&envelope.origin, Origin::Session(leaver, _) if leaver.number == session)
        })
    }

    /// A command waits here in its turn, until it is answered.
    pub(super) fn enqueue(&mut self, mut envelope: Envelope) {
        let token = envelope.turn.token;
        if self.unanswered.is_empty() {
            self.last.clear();
        }
        if let Origin::Session(session, _) = &envelope.origin {
            let number = session.number;
            let last = self.last.entry(number).or_default();
            if *last < token {
                envelope.turn.after = *last;
                *last = token;
            } else {
                // It was given back, and others have come behind it meanwhile.
                let mut before = self.unanswered.range(..token).rev();
                envelope.turn.after =
                    before.find(|(_, one)| one.is_of(number)).map_or(0, |(before, _)| *before);
                let mut behind = self.unanswered.range_mut(token + 1..);
                if let Some((_, next)) = behind.find(|(_, one)| one.is_of(number)) {
                    next.envelope.turn.after = token;
                }
            }
        }
        self.unanswered.insert(token, Unanswered::new(envelope));
    }

    /// The command of the same session before this one that has no answer yet, and may still get one.
    pub(super) fn unanswered_before(&self, token: u64) -> Option<u64> {
        let mut before = self.unanswered.get(&token)?.envelope.turn.after;
        loop {
            let one = self.unanswered.get(&before)?;
            if one.sent != Sent::Overtaken {
                return Some(before);
            }
            before = one.envelope.turn.after;
        }
    }

    /// The next command that may go to the present owner. Nothing overtakes what a former owner may still have
    /// carried out, or will refuse: `Err` until that is known, or its time is over.
    pub(super) fn next_unsent(&mut self, now: Instant) -> Result<Option<u64>, ()> {
        let mut next = None;
        for (token, Unanswered { envelope, sent, .. }) in &mut self.unanswered {
            match *sent {
                Sent::No => next = Some(*token),
                Sent::Former { until } if until > now => return Err(()),
                // What has no seq may have been delivered: it is sent again only when it was refused.
                Sent::Former { .. } if !passes(envelope) => {
                    *sent = Sent::No;
                    next = Some(*token);
                }
                Sent::Former { .. } | Sent::Overtaken | Sent::Present => {}
            }
            if next.is_some() {
                break;
            }
        }
        let Some(next) = next else { return Ok(None) };
        let sender = &self.unanswered[&next].envelope.caller.user;
        let sender = sender.clone();
        for Unanswered { envelope, sent, .. } in self.unanswered.range_mut(..next).map(|(_, waiting)| waiting)
        {
            if matches!(sent, Sent::Former { .. }) && envelope.caller.user == sender {
                *sent = Sent::Overtaken;
            }
        }
        Ok(Some(next))
    }

    /// A command goes to the present owner, under a number that tells this sending from those before.
    pub(super) fn send(&mut self, token: u64) -> Option<(u64, &Envelope)> {
        let Unanswered { envelope, sent } = self.unanswered.get_mut(&token)?;
        *sent = Sent::Present;
        envelope.turn.sendings = envelope.turn.sendings % (NUMBERS - 1) + 1;
        Some((token + envelope.turn.sendings, envelope))
    }

    /// The command that an owner speaks of, with its token. Not where it was sent once more meanwhile.
    pub(super) fn last_sent(&mut self, number: u64) -> Option<(u64, &mut Unanswered)> {
        let (sending, token) = (number % NUMBERS, number - number % NUMBERS);
        let waiting = self.unanswered.get_mut(&token)?;
        (waiting.envelope.turn.sendings == sending).then_some((token, waiting))
    }

    /// The command that has been carried out or refused, with its token. The refusal of one that was sent once more
    /// means nothing: the other may be carried out, and its answer is to come.
    pub(super) fn take_answered(&mut self, number: u64, is_refused: bool) -> Result<(u64, Envelope), Stray> {
        let token = number - number % NUMBERS;
        if is_refused && self.unanswered.contains_key(&token) && self.last_sent(number).is_none() {
            return Err(Stray::SentAgain);
        }
        let Unanswered { envelope, .. } = self.unanswered.remove(&token).ok_or(Stray::Unknown)?;
        Ok((token, envelope))
    }

    /// What may be sent to the present owner once more.
    pub(super) fn unsend(&mut self) {
        for Unanswered { envelope, sent, .. } in self.unanswered.values_mut() {
            if *sent == Sent::Present && !passes(envelope) {
                *sent = Sent::No;
            }
        }
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

/// Whether a command passes through the lobby without being journaled.
pub(super) fn passes(envelope: &Envelope) -> bool {
    match &envelope.command {
        LobbyCommand::Send(send) => send.class != Class::Durable,
        command => matches!(command, LobbyCommand::Typing),
    }
}
