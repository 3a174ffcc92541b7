//! What may change about a node while it runs: its limits, the words that no lobby lets through, and maintenance.

use std::sync::{Arc, Weak};

use mlms_protocol::{Event, Limits, NoticeCode};

use crate::lobby::{Rules, WordFilter};
use crate::node::Node;
use crate::session::SessionHandle;

/// What a running node goes by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    pub limits: Limits,
    /// Words that no chat of any lobby may hold.
    pub word_filter: Vec<String>,
    /// Why no lobby is created at the moment, as players are told; `None`: there is no maintenance.
    pub maintenance: Option<String>,
}

/// Changes the terms of a running node. Does not keep it alive.
#[derive(Clone)]
pub struct Dial(Weak<Node>);

impl std::fmt::Debug for Dial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dial({:?})", self.0.upgrade().map(|node| node.name.clone()))
    }
}

impl Dial {
    pub(crate) fn new(node: &Arc<Node>) -> Self {
        Dial(Arc::downgrade(node))
    }

    /// Puts new terms in force: sizes, numbers, words and maintenance for everybody at once, rates and what `welcome`
    /// said for sessions that come from now on. Everybody is told when maintenance begins and when it ends.
    pub fn set(&self, terms: &Terms) {
        let Some(node) = self.0.upgrade() else { return };
        node.creates.set(terms.limits.creates_per_minute);
        let limits = Arc::new(terms.limits.clone());
        let words = Arc::new(WordFilter::new(&terms.word_filter));
        let maintenance: Option<Arc<str>> = terms.maintenance.as_deref().map(Arc::from);
        let before = node.rules.rcu(|rules| Rules {
            limits: Arc::clone(&limits),
            words: Arc::clone(&words),
            maintenance: maintenance.clone(),
            ..Rules::clone(rules)
        });
        match (&before.maintenance, &maintenance) {
            (before, Some(message)) if before.as_ref() != Some(message) => {
                tracing::info!(node = %node.name, message = &**message, "maintenance: no lobby is created");
                node.notify(NoticeCode::Maintenance, message);
            }
            (Some(_), None) => {
                tracing::info!(node = %node.name, "the maintenance is over");
                node.notify(NoticeCode::Recovered, "the maintenance is over");
            }
            _ => {}
        }
    }
}

impl Node {
    /// A session that comes during maintenance hears of it first.
    pub(crate) fn tell_maintenance(&self, session: &SessionHandle) {
        if let Some(message) = &self.rules.load().maintenance {
            let message = message.to_string();
            session.outbox.push_event(&Event::Notice { code: NoticeCode::Maintenance, message });
        }
    }
}
