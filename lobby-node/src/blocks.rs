//! Whom users block: kept in the database, held by each of the blocker's sessions, and obeyed where events leave for
//! them. A blocked user's messages keep their places, without their words; nothing tells the blocked user of it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use mlms_protocol::{Answer, ErrorCode, LobbyEvent, LobbyId, Refusal, UserId};
use mlms_store::{BLOCKERS_MAX, StoreError};
use tokio::sync::{mpsc, oneshot};

use crate::node::Node;
use crate::session::SessionHandle;
use crate::wire::LinkMessage;
use crate::worker::ToWorker;

/// Users whom one user blocks at most: every session of the user holds them.
const BLOCKED_MAX: u32 = 500;
/// How long a look at the database may take. Beyond it nobody who joins is known to block anybody until the next join.
const LOAD_TIME: Duration = Duration::from_millis(500);
/// How long no session waits for a database that has not answered one.
const PAUSE_MS: u64 = 5_000;

/// Whom one session's user blocks; empty for nearly everybody.
#[derive(Default)]
pub(crate) struct Blocked(ArcSwapOption<HashSet<UserId>>);

impl Blocked {
    pub(crate) fn set(&self, users: &[UserId]) {
        let users = (!users.is_empty()).then(|| Arc::new(users.iter().cloned().collect()));
        self.0.store(users);
    }

    pub(crate) fn anybody(&self) -> bool {
        self.0.load().is_some()
    }

    pub(crate) fn contains(&self, user: &UserId) -> bool {
        self.0.load().as_ref().is_some_and(|users| users.contains(user))
    }

    /// An answer as the blocker may read it.
    pub(crate) fn withhold(&self, mut answer: Answer) -> Answer {
        if !self.anybody() {
            return answer;
        }
        let strip = |events: &mut Vec<LobbyEvent>| {
            for event in events {
                if event.speaker().is_some_and(|speaker| self.contains(speaker)) {
                    *event = event.without_words();
                }
            }
        };
        match &mut answer {
            Answer::Joined(joined) => {
                if let Some(state) = &mut joined.state {
                    strip(&mut state.messages);
                    strip(&mut state.retained);
                }
            }
            Answer::History { events, .. } => strip(events),
            _ => {}
        }
        answer
    }
}

/// Sessions whose first join may wait for one look; one more joins without.
const WANTED_MAX: usize = 8_192;

/// A session wants to know whom its user blocks.
pub(crate) struct Wanted {
    user: UserId,
    answer: oneshot::Sender<Vec<UserId>>,
}

/// The way of sessions to the one task that asks the database for all of them.
pub(crate) struct Asking {
    wanted: mpsc::Sender<Wanted>,
    /// When the database may be asked again.
    paused_until_ms: AtomicU64,
}

impl Asking {
    pub(crate) fn new() -> (Asking, mpsc::Receiver<Wanted>) {
        let (wanted, asked) = mpsc::channel(WANTED_MAX);
        (Asking { wanted, paused_until_ms: AtomicU64::new(0) }, asked)
    }
}

/// Looks up whom users block, until the node stops: sessions that come together share a look, so that a storm of them
/// costs the database little.
pub(crate) async fn look_up(node: Arc<Node>, mut asked: mpsc::Receiver<Wanted>) {
    let mut batch: Vec<Wanted> = Vec::new();
    loop {
        let taken = node.stop.run_until_cancelled(asked.recv_many(&mut batch, BLOCKERS_MAX)).await;
        if taken.unwrap_or(0) == 0 {
            return;
        }
        let users: Vec<_> = batch.iter().map(|wanted| wanted.user.clone()).collect();
        match tokio::time::timeout(LOAD_TIME, node.store.blocked_by_each(&users)).await {
            Ok(Ok(pairs)) => {
                let mut blocked: HashMap<UserId, Vec<UserId>> = HashMap::new();
                for (user, whom) in pairs {
                    blocked.entry(user).or_default().push(whom);
                }
                for Wanted { user, answer } in batch.drain(..) {
                    // Whoever asked may have gone.
                    _ = answer.send(blocked.get(&user).cloned().unwrap_or_default());
                }
            }
            failed => {
                tracing::warn!(?failed, "what users block cannot be read");
                let until = node.clock.now().0 + PAUSE_MS;
                node.blocks_asking.paused_until_ms.store(until, Ordering::Relaxed);
                // Their senders are dropped, and those of whoever waits behind them.
                batch.clear();
                while asked.try_recv().is_ok() {}
            }
        }
    }
}

fn out_of_reach(error: &StoreError) -> Refusal {
    tracing::warn!(%error, "blocks cannot be kept");
    Refusal::new(ErrorCode::Degraded, "blocks are out of reach").retry_after(1_000)
}

impl Node {
    /// Gives a new session what its user blocks. `false`: the database did not say; a later join asks again.
    pub(crate) async fn load_blocks(&self, session: &SessionHandle) -> bool {
        let Asking { wanted, paused_until_ms } = &self.blocks_asking;
        if paused_until_ms.load(Ordering::Relaxed) > self.clock.now().0 {
            return false;
        }
        let (answer, answered) = oneshot::channel();
        if wanted.try_send(Wanted { user: session.caller.user.clone(), answer }).is_err() {
            return false;
        }
        // One look may be under way already.
        match tokio::time::timeout(2 * LOAD_TIME, answered).await {
            Ok(Ok(users)) => {
                session.blocked.set(&users);
                true
            }
            _ => false,
        }
    }

    /// Changes whom a user blocks, and gives the list as it is then. In force on all of the user's sessions here.
    ///
    /// # Errors
    /// As the user sees it.
    pub(crate) async fn block(
        &self,
        user: &UserId,
        whom: &UserId,
        blocks: bool,
    ) -> Result<Vec<UserId>, Refusal> {
        if user == whom {
            return Err(Refusal::new(ErrorCode::BadRequest, "nobody blocks himself"));
        }
        let known = self.blocked(user).await?;
        if blocks && known.len() >= BLOCKED_MAX as usize && !known.contains(whom) {
            return Err(Refusal::new(ErrorCode::Conflict, "you block 500 users; unblock one first"));
        }
        let changed = match blocks {
            true => self.store.block(user, whom, self.clock.now()).await,
            false => self.store.unblock(user, whom).await,
        };
        changed.map_err(|error| out_of_reach(&error))?;
        let users = self.blocked(user).await?;
        let view = self.directory.view();
        for node in view.nodes.keys().filter(|node| **node != self.name) {
            self.links.send(node, LinkMessage::Blocks(user.clone(), users.clone()).encode());
        }
        if !self.take_blocks(user, &users).await {
            // It is kept; said again, it reaches the lobby that has not heard of it.
            return Err(
                Refusal::new(ErrorCode::Overloaded, "a lobby's node does not keep up").retry_after(1_000)
            );
        }
        Ok(users)
    }

    pub(crate) async fn blocked(&self, user: &UserId) -> Result<Vec<UserId>, Refusal> {
        let users = self.store.blocked_by(user, BLOCKED_MAX).await;
        users.map_err(|error| out_of_reach(&error))
    }

    /// Puts a user's list in force on the sessions here. `false`: a worker that does not keep up has not heard of it.
    async fn take_blocks(&self, user: &UserId, users: &[UserId]) -> bool {
        let mut all = true;
        for (lobby, message) in self.set_blocks(user, users) {
            all &= self.tell(&lobby, message).await.is_ok();
        }
        all
    }

    /// The same for a list of which another node told. Nobody waits for a worker that does not keep up: its lobbies
    /// hear of it when the session joins again.
    pub(crate) fn hear_blocks(&self, user: &UserId, users: &[UserId]) {
        for (lobby, message) in self.set_blocks(user, users) {
            self.mention(&lobby, message);
        }
    }

    /// What the lobbies are to be told of it.
    fn set_blocks(&self, user: &UserId, users: &[UserId]) -> Vec<(LobbyId, ToWorker)> {
        let mut told = Vec::new();
        for session in self.sessions_of(user) {
            session.blocked.set(users);
            let tell =
                |lobby: LobbyId| (lobby.clone(), ToWorker::Blocks { lobby, session: Arc::clone(&session) });
            told.extend(session.lobbies().into_iter().map(tell));
        }
        told
    }
}
