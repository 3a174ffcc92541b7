//! The handle that an application holds, its verbs, and the stream of what happens.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use mlms_protocol::command::{History, Join, Recipients, Send};
use mlms_protocol::event::ReadMark;
use mlms_protocol::lobby::Member;
use mlms_protocol::reply::Joined;
use mlms_protocol::{
    Answer, Body, Class, Command, Epoch, Event, Kind, LobbyCommand, LobbyEvent, LobbyId, Millis, Nonce,
    Refusal, Request, Seq, UserId,
};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connect::Address;
use crate::driver::{ClosedReason, Driver, State};
use crate::ledger::{Ask, Ledger};
use crate::options::{InvalidOptions, Options, TokenSource};

/// Why a command did not succeed. What a caller can do stands at each.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// The service refused; it can be tried again where `retry_ms` is present.
    #[error("refused ({}): {}", .0.code, .0.message)]
    Refused(Refusal),
    /// An unsequenced message while there is no connection; it was not sent.
    #[error("not connected")]
    NotConnected,
    /// The connection was lost before the answer to an unsequenced message; it may or may not have been delivered.
    #[error("the connection was lost before the answer")]
    Lost,
    /// No answer in time; it may or may not have happened, or may still. The same nonce makes a repeat safe.
    #[error("no answer in time")]
    TimedOut,
    /// The frame is larger than the server takes; it was not sent.
    #[error("{bytes} bytes in one frame, the server takes {max}")]
    TooLarge { bytes: usize, max: usize },
    /// The client is closed for good; what was unanswered may or may not have happened.
    #[error("closed: {0}")]
    Closed(ClosedReason),
    /// The server answered something else than was asked.
    #[error("the answer is not one to `{0}`")]
    Unexpected(&'static str),
}

/// What happens, in the order of the wire.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    /// An event from the server. Sequenced ones come once each and without a gap.
    Event(Event),
    /// A join, or an automatic resume, came out: what follows of this lobby follows this position. After a
    /// `snapshot` or `joined`, start from its state; after `resumed`, the missed events come first.
    Joined(Joined),
    /// A lobby could not be resumed: this client is no longer in it.
    Ended { lobby: LobbyId, refusal: Refusal },
}

/// The stream of what happens. It is bounded: while the application leaves it full, the client reads nothing more
/// from the server, answers to commands included. So read it in another task than the one that awaits commands.
/// Dropped, it stops nothing.
#[derive(Debug)]
pub struct Events(mpsc::Receiver<Incoming>);

impl Events {
    /// The next one; `None` after the client is closed and everything was read. Cancel safe.
    pub async fn recv(&mut self) -> Option<Incoming> {
        self.0.recv().await
    }

    /// The next one if it is there already.
    pub fn try_recv(&mut self) -> Option<Incoming> {
        self.0.try_recv().ok()
    }
}

impl futures_util::Stream for Events {
    type Item = Incoming;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Incoming>> {
        self.0.poll_recv(context)
    }
}

/// A message to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    send: Send,
    nonce: Option<Nonce>,
}

impl Message {
    /// A chat message: durable.
    #[must_use]
    pub fn chat(text: &str) -> Self {
        let kind = Kind::new("chat").expect("a valid kind");
        Message::build(kind, Body::text(text), Class::Durable)
    }

    /// A message of another kind: ordered, unless told otherwise.
    #[must_use]
    pub fn new(kind: Kind, body: Body) -> Self {
        let class = if kind.is_chat() { Class::Durable } else { Class::Ordered };
        Message::build(kind, body, class)
    }

    fn build(kind: Kind, body: Body, class: Class) -> Self {
        Message { send: Send { kind, body, class, key: None, to: Recipients::Everyone }, nonce: None }
    }

    #[must_use]
    pub fn class(mut self, class: Class) -> Self {
        self.send.class = class;
        self
    }

    /// Ephemeral, and of those with this key only the newest waits for a slow receiver.
    #[must_use]
    pub fn latest(mut self, key: impl Into<String>) -> Self {
        self.send.key = Some(key.into());
        self.class(Class::Ephemeral)
    }

    /// A value that lasts: durable, and the newest of each key is in the `state` of whoever joins later. A null body
    /// takes it away.
    #[must_use]
    pub fn retained(mut self, key: impl Into<String>) -> Self {
        self.send.key = Some(key.into());
        self.class(Class::Durable)
    }

    /// For some members only; such a message is never durable.
    #[must_use]
    pub fn to(mut self, to: Recipients) -> Self {
        self.send.to = to;
        if self.send.class == Class::Durable { self.class(Class::Ordered) } else { self }
    }

    /// The key by which a repeat is recognised; drawn by the client where it is left out.
    #[must_use]
    pub fn nonce(mut self, nonce: Nonce) -> Self {
        self.nonce = Some(nonce);
        self
    }
}

/// Where a durable message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    pub epoch: Epoch,
    pub seq: Seq,
    pub at: Millis,
    /// The nonce was known: this is the first one's place.
    pub dup: bool,
}

/// One user's session with the service; clones are the same client. It closes when [`Client::close`] is called or
/// the last handle is dropped.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Ask>,
}

#[derive(Debug)]
struct Shared {
    options: Arc<Options>,
    state: watch::Receiver<State>,
    stop: CancellationToken,
    tasks: TaskTracker,
    nonce_prefix: u64,
    nonces: AtomicU64,
}

impl Client {
    /// Starts a client; it connects in the background. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The options cannot work, whatever the server says.
    pub fn connect(options: Options) -> Result<(Client, Events), InvalidOptions> {
        options.check()?;
        let address = Address::parse(&options.url)?;
        let mut random = options.seed.map_or_else(StdRng::from_os_rng, StdRng::seed_from_u64);
        let options = Arc::new(options);
        let (commands, command_queue) = mpsc::channel(options.commands_max);
        let (event_queue, events) = mpsc::channel(options.events_max);
        let (state_sender, state) = watch::channel(State::Connecting);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let nonce_prefix = random.random();
        let ledger = Ledger::new(options.encoding, StdRng::from_rng(&mut random));
        let driver = Driver::new(
            options.clone(),
            address,
            command_queue,
            event_queue,
            state_sender,
            stop.clone(),
            (ledger, random),
        );
        tasks.spawn(driver.run());
        tasks.close();
        let nonces = AtomicU64::new(1);
        let shared = Arc::new(Shared { options, state, stop, tasks, nonce_prefix, nonces });
        Ok((Client { shared, commands }, Events(events)))
    }

    /// What the connection is doing, to look at and to wait on.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<State> {
        self.shared.state.clone()
    }

    /// Waits until the server has said `welcome`.
    ///
    /// # Errors
    /// The client is closed.
    pub async fn opened(&self) -> Result<(), Error> {
        let mut state = self.state();
        let settled =
            state.wait_for(|state| matches!(state, State::Open { .. } | State::Closed { .. })).await;
        match settled.map(|state| state.clone()) {
            Ok(State::Closed { reason }) => Err(Error::Closed(reason)),
            Ok(_) => Ok(()),
            Err(_) => Err(self.closed()),
        }
    }

    /// Closes the connection politely, and waits until the client's task has ended. What was not answered fails.
    pub async fn close(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.wait().await;
    }

    /// Enters a lobby, or comes back to it from a position.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn join(&self, lobby: &LobbyId, join: Join) -> Result<Joined, Error> {
        match self.ask(lobby, LobbyCommand::Join(join)).await? {
            Answer::Joined(joined) => Ok(joined),
            _ => Err(Error::Unexpected("join")),
        }
    }

    /// Leaves a lobby.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn leave(&self, lobby: &LobbyId) -> Result<(), Error> {
        self.ask(lobby, LobbyCommand::Leave).await.map(drop)
    }

    /// Says something: durable, so the answer means that it is kept.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn chat(&self, lobby: &LobbyId, text: &str) -> Result<Sent, Error> {
        self.send(lobby, Message::chat(text)).await?.ok_or(Error::Unexpected("send"))
    }

    /// Sends a message; its place is known when it is durable.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn send(&self, lobby: &LobbyId, message: Message) -> Result<Option<Sent>, Error> {
        let command = Command::Lobby(lobby.clone(), LobbyCommand::Send(message.send));
        match self.request(command, message.nonce).await? {
            Answer::Sent { epoch, seq, at, dup } => Ok(Some(Sent { epoch, seq, at, dup })),
            Answer::Done => Ok(None),
            _ => Err(Error::Unexpected("send")),
        }
    }

    /// Shows the others that the user is typing.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn typing(&self, lobby: &LobbyId) -> Result<(), Error> {
        self.ask(lobby, LobbyCommand::Typing).await.map(drop)
    }

    /// A page of past events, ascending, and whether there are more.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn history(&self, lobby: &LobbyId, page: History) -> Result<(Vec<LobbyEvent>, bool), Error> {
        match self.ask(lobby, LobbyCommand::History(page)).await? {
            Answer::History { events, more } => Ok((events, more)),
            _ => Err(Error::Unexpected("history")),
        }
    }

    /// A page of members, and the cursor of the next one.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn roster(
        &self,
        lobby: &LobbyId,
        cursor: Option<String>,
        limit: Option<u32>,
    ) -> Result<(Vec<Member>, Option<String>), Error> {
        match self.ask(lobby, LobbyCommand::Roster { cursor, limit }).await? {
            Answer::Roster { members, next } => Ok((members, next)),
            _ => Err(Error::Unexpected("roster")),
        }
    }

    /// Everything up to `seq` has been read, on all of the user's devices.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn read(&self, lobby: &LobbyId, seq: Seq) -> Result<ReadMark, Error> {
        match self.ask(lobby, LobbyCommand::Read { seq }).await? {
            Answer::Read(mark) => Ok(mark),
            _ => Err(Error::Unexpected("read")),
        }
    }

    /// Brings a message to the notice of those who moderate the service.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn report_message(
        &self,
        lobby: &LobbyId,
        seq: Seq,
        reason: Option<String>,
    ) -> Result<(), Error> {
        self.ask(lobby, LobbyCommand::ReportMessage { seq, reason }).await.map(drop)
    }

    /// From now on what this user says does not reach the own user, in any lobby. Gives the whole list.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn block(&self, user: &UserId) -> Result<Vec<UserId>, Error> {
        self.blocks(Command::Block { user: user.clone() }).await
    }

    /// # Errors
    /// See [`Error`].
    pub async fn unblock(&self, user: &UserId) -> Result<Vec<UserId>, Error> {
        self.blocks(Command::Unblock { user: user.clone() }).await
    }

    /// Whom the own user blocks.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn blocked(&self) -> Result<Vec<UserId>, Error> {
        self.blocks(Command::Blocked).await
    }

    async fn blocks(&self, command: Command) -> Result<Vec<UserId>, Error> {
        match self.request(command, None).await? {
            Answer::Blocks { users } => Ok(users),
            _ => Err(Error::Unexpected("block")),
        }
    }

    /// The server's time.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ping(&self) -> Result<Millis, Error> {
        match self.request(Command::Ping, None).await? {
            Answer::Pong { now } => Ok(now),
            _ => Err(Error::Unexpected("ping")),
        }
    }

    /// Prolongs the session with a fresh token of the same user, which later connections use as well. Gives the time
    /// at which it expires.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn auth(&self, token: impl Into<String>) -> Result<Millis, Error> {
        let token = token.into();
        match self.request(Command::Auth { token: token.clone() }, None).await? {
            Answer::Auth { expires_at } => {
                self.token_source().replace(token).await;
                Ok(expires_at)
            }
            _ => Err(Error::Unexpected("auth")),
        }
    }

    fn token_source(&self) -> &TokenSource {
        &self.shared.options.token
    }

    async fn ask(&self, lobby: &LobbyId, command: LobbyCommand) -> Result<Answer, Error> {
        self.request(Command::Lobby(lobby.clone(), command), None).await
    }

    /// Any command. A state-changing one gets a nonce where none is given, and is repeated until it is answered;
    /// reads are repeated, too. Dropping the future gives the command up: it is not repeated, and may have happened.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn request(&self, command: Command, nonce: Option<Nonce>) -> Result<Answer, Error> {
        let changes = match &command {
            Command::Lobby(_, command) => command.changes_state(),
            Command::Find(find) => find.quick.is_some(),
            _ => false,
        };
        let nonce = nonce.or_else(|| changes.then(|| self.next_nonce()));
        let (reply, answer) = oneshot::channel();
        let ask = Ask { request: Request { id: None, nonce, command }, reply };
        let asking = async {
            self.commands.send(ask).await.map_err(|_| self.closed())?;
            answer.await.map_err(|_| self.closed())?
        };
        timeout(self.shared.options.command_timeout, asking).await.unwrap_or(Err(Error::TimedOut))
    }

    fn next_nonce(&self) -> Nonce {
        let number = self.shared.nonces.fetch_add(1, Ordering::Relaxed);
        Nonce::new(&format!("{:016x}-{number:x}", self.shared.nonce_prefix)).expect("at most 33 bytes")
    }

    fn closed(&self) -> Error {
        match &*self.shared.state.borrow() {
            State::Closed { reason } => Error::Closed(reason.clone()),
            _ => Error::Closed(ClosedReason::ByOwner),
        }
    }
}
