//! The task behind a client: connects, drives one connection at a time, and decides whether and when to come back.
//! It ends when the client is closed, when every handle is dropped, or when the service says not to come again.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use mlms_protocol::code::CloseCode;
use mlms_protocol::{Encoding, Event, LobbyId, NodeName, Reconnect, SessionId};
use rand::rngs::StdRng;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode as WireCloseCode;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::backoff::{self, Backoff};
use crate::client::{Error, Incoming};
use crate::connect::{self, Address, ConnectError, Socket};
use crate::ledger::{Ask, Ledger, Signal};
use crate::options::{Options, Tapped};
use crate::renewal::Renewal;

/// How long a closing handshake, or a server that said `bye`, is waited for.
const FAREWELL: Duration = Duration::from_secs(2);
const BYE_PATIENCE: Duration = Duration::from_secs(10);
/// A heartbeat shorter than this would take a slow moment for a dead server.
const HEARTBEAT_MIN: Duration = Duration::from_secs(1);

/// What the connection is doing.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// On the way to the server.
    Connecting,
    /// Welcomed; lobbies may still be resuming.
    Open { session: SessionId, node: NodeName },
    /// Comes back by itself at this time.
    Waiting { until: Instant },
    /// Over for good.
    Closed { reason: ClosedReason },
}

/// Why a client will not come back by itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClosedReason {
    #[error("closed by its owner")]
    ByOwner,
    #[error("the token was not accepted")]
    Unauthorized,
    #[error("the connection was refused ({}): {message}", status.map_or_else(|| "no HTTP status".to_owned(), |s| s.to_string()))]
    Refused { status: Option<u16>, message: String },
    #[error("the service ended the session ({code}): {reason}")]
    Ended { code: u16, reason: String },
}

/// How one connection ended.
#[derive(Debug)]
enum End {
    Stopped,
    Bye { code: u16, reason: String, reconnect: Reconnect, window_ms: Option<(u64, u64)> },
    Closed { code: Option<u16>, reason: String },
}

#[derive(Debug)]
pub(crate) struct Driver {
    options: Arc<Options>,
    address: Arc<Address>,
    commands: mpsc::Receiver<Ask>,
    events: mpsc::Sender<Incoming>,
    state: watch::Sender<State>,
    stop: CancellationToken,
    ledger: Ledger,
    backoff: Backoff,
    random: StdRng,
    /// Joined by the URL, until the first welcome.
    first_lobby: Option<LobbyId>,
    /// The last token was refused, and nothing has worked since.
    refused_token: bool,
}

impl Driver {
    pub(crate) fn new(
        options: Arc<Options>,
        address: Address,
        commands: mpsc::Receiver<Ask>,
        events: mpsc::Sender<Incoming>,
        state: watch::Sender<State>,
        stop: CancellationToken,
        (ledger, random): (Ledger, StdRng),
    ) -> Self {
        let backoff = Backoff::new(options.backoff_first, options.backoff_max);
        let first_lobby = options.lobby.clone();
        let address = Arc::new(address);
        Driver {
            options,
            address,
            commands,
            events,
            state,
            stop,
            ledger,
            backoff,
            random,
            first_lobby,
            refused_token: false,
        }
    }

    pub(crate) async fn run(mut self) {
        let reason = self.live().await;
        debug!(%reason, "client closed");
        self.state.send_replace(State::Closed { reason: reason.clone() });
        let error = Error::Closed(reason);
        self.ledger.end(&error);
        self.commands.close();
        while let Some(ask) = self.commands.recv().await {
            _ = ask.reply.send(Err(error.clone()));
        }
        while let Some(incoming) = self.ledger.incoming.pop_front() {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                sent = self.events.send(incoming) => if sent.is_err() { break },
            }
        }
    }

    /// Connection after connection.
    async fn live(&mut self) -> ClosedReason {
        loop {
            self.state.send_replace(State::Connecting);
            let attempt = attempt(self.options.clone(), self.address.clone(), self.first_lobby.clone());
            let Some(attempt) = self.meanwhile(attempt).await else { return ClosedReason::ByOwner };
            let pause = match attempt {
                Ok((socket, token)) => match self.session(socket, &token).await {
                    Ok(pause) => pause,
                    Err(reason) => return reason,
                },
                Err(ConnectError::Again { after, why }) => {
                    debug!(why, "no connection");
                    after.unwrap_or_default() + self.backoff.next(&mut self.random)
                }
                Err(ConnectError::Unauthorized) if self.refused_token => return ClosedReason::Unauthorized,
                Err(ConnectError::Unauthorized) => {
                    self.refused_token = true;
                    self.backoff.next(&mut self.random)
                }
                Err(ConnectError::Refused { status, message }) => {
                    return ClosedReason::Refused { status, message };
                }
            };
            let until = Instant::now() + pause;
            self.state.send_replace(State::Waiting { until });
            if self.meanwhile(sleep_until(until)).await.is_none() {
                return ClosedReason::ByOwner;
            }
        }
    }

    /// Waits for something while there is no connection, taking in commands. `None`: the client is to stop.
    async fn meanwhile<T>(&mut self, something: impl Future<Output = T>) -> Option<T> {
        let mut something = pin!(something);
        loop {
            let room = self.ledger.has_room(self.options.commands_max);
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                output = &mut something => return Some(output),
                ask = self.commands.recv(), if room => self.ledger.accept(ask?, Instant::now()),
            }
        }
    }

    /// One connection from its first frame to its last. Gives the pause before the next one.
    async fn session(&mut self, mut socket: Socket, token: &str) -> Result<Duration, ClosedReason> {
        let began = Instant::now();
        self.options.tell(Tapped::Opened);
        let mut renewal = Renewal::new(self.options.token.clone(), token);
        let end = self.converse(&mut socket, &mut renewal).await;
        self.options.tell(Tapped::Lost);
        if matches!(end, End::Stopped) {
            farewell(&mut socket).await;
            return Err(ClosedReason::ByOwner);
        }
        drop(socket);
        debug!(?end, "connection ended");
        self.ledger.lost();
        if began.elapsed() >= self.options.stable_after {
            self.backoff.reset();
        }
        let code = match &end {
            End::Stopped => None,
            End::Bye { code, .. } => Some(*code),
            End::Closed { code, .. } => *code,
        };
        if code == Some(CloseCode::TokenExpired.number()) {
            self.options.token.discard(renewal.held()).await;
        }
        match end {
            End::Bye { code, reason, reconnect: Reconnect::Never, .. } => {
                Err(ClosedReason::Ended { code, reason })
            }
            End::Bye { reconnect: Reconnect::Window, window_ms: Some(window_ms), .. } => {
                Ok(backoff::inside(window_ms, &mut self.random))
            }
            End::Closed { code: Some(code), reason } if is_final(code) => {
                Err(ClosedReason::Ended { code, reason })
            }
            _ => Ok(self.backoff.next(&mut self.random)),
        }
    }

    /// Reads and writes until the connection ends.
    async fn converse(&mut self, socket: &mut Socket, renewal: &mut Renewal) -> End {
        // How long the server may say nothing; until `welcome` as long as connecting may take.
        let mut silence_max = self.options.connect_timeout;
        let mut deadline = Instant::now() + silence_max;
        let mut was_blocked = false;
        let mut bye = None;
        loop {
            let blocked = !self.hand_over();
            if was_blocked && !blocked {
                // The silence was our own.
                deadline = Instant::now() + silence_max;
            }
            was_blocked = blocked;
            let room = self.ledger.has_room(self.options.commands_max);
            let retry = self.ledger.next_retry();
            // In this order, because it is deterministic and starves nobody: commands end at their bound.
            let message = tokio::select! {
                biased;
                () = self.stop.cancelled() => return End::Stopped,
                ask = self.commands.recv(), if room => {
                    let Some(ask) = ask else { return End::Stopped };
                    self.ledger.accept(ask, Instant::now());
                    continue;
                }
                () = sleep_until(retry.unwrap_or(deadline)), if retry.is_some() => {
                    self.ledger.retry(Instant::now());
                    continue;
                }
                token = renewal.next() => {
                    if bye.is_none() {
                        self.ledger.renew(token, Instant::now());
                    }
                    continue;
                }
                _ = self.events.reserve(), if blocked => continue,
                message = exchange(socket, &mut self.ledger.out, &self.options, !blocked) => message,
                () = sleep_until(deadline), if !blocked => {
                    return bye.unwrap_or(End::Closed { code: None, reason: "the server fell silent".to_owned() });
                }
            };
            let payload = match message {
                Some(Ok(message)) => match Payload::of(message, self.options.encoding) {
                    Payload::Frame(payload) => payload,
                    Payload::Control => {
                        if bye.is_none() {
                            deadline = Instant::now() + silence_max;
                        }
                        continue;
                    }
                    Payload::Close(code, reason) => {
                        _ = timeout(FAREWELL, async { while let Some(Ok(_)) = socket.next().await {} }).await;
                        return bye.unwrap_or(End::Closed { code, reason });
                    }
                    Payload::Wrong => {
                        let reason = "a frame of the other encoding".to_owned();
                        return End::Closed { code: None, reason };
                    }
                },
                Some(Err(error)) => {
                    return bye.unwrap_or_else(|| End::Closed { code: None, reason: error.to_string() });
                }
                None => return bye.unwrap_or(End::Closed { code: None, reason: "end of stream".to_owned() }),
            };
            let now = Instant::now();
            if bye.is_none() {
                deadline = now + silence_max;
            }
            self.options.tell(Tapped::Received(&payload));
            match self.ledger.frame(&payload, now) {
                Ok(Signal::None) => {}
                Ok(Signal::Welcome(event)) => {
                    if let Event::Welcome { now: server_now, .. } = &event {
                        renewal.begin(*server_now);
                    }
                    silence_max = self.welcomed(event).unwrap_or(silence_max);
                    deadline = now + silence_max;
                }
                Ok(Signal::Bye { code, reason, reconnect, window_ms }) => {
                    bye = Some(End::Bye { code, reason, reconnect, window_ms });
                    deadline = now + BYE_PATIENCE;
                }
                Err(error) => return End::Closed { code: None, reason: format!("not understood: {error}") },
            }
        }
    }

    fn welcomed(&mut self, welcome: Event) -> Option<Duration> {
        let Event::Welcome { session, user, node, heartbeat_ms, limits, .. } = welcome else { return None };
        self.first_lobby = None;
        self.refused_token = false;
        self.state.send_replace(State::Open { session, node });
        self.ledger.welcome(user, limits, Instant::now());
        Some(Duration::from_millis(heartbeat_ms.saturating_mul(2)).max(HEARTBEAT_MIN))
    }

    /// Passes news on to the application; false when it is behind and some has to wait.
    fn hand_over(&mut self) -> bool {
        while let Some(incoming) = self.ledger.incoming.pop_front() {
            // An application that dropped the stream wants no news.
            if let Err(mpsc::error::TrySendError::Full(incoming)) = self.events.try_send(incoming) {
                self.ledger.incoming.push_front(incoming);
                return false;
            }
        }
        true
    }
}

/// Gets a token and opens a connection with it.
async fn attempt(
    options: Arc<Options>,
    address: Arc<Address>,
    lobby: Option<LobbyId>,
) -> Result<(Socket, String), ConnectError> {
    let again = |why: String| ConnectError::Again { after: None, why };
    let connecting = async {
        let token = options.token.get().await.map_err(|error| again(format!("no token: {error}")))?;
        let max = options.message_bytes_max;
        let lobby = lobby.as_ref();
        let opened =
            connect::connect(&options.connector, &address, &token, options.encoding, lobby, max).await;
        if matches!(opened, Err(ConnectError::Unauthorized)) {
            options.token.discard(&token).await;
        }
        Ok((opened?, token))
    };
    timeout(options.connect_timeout, connecting).await.unwrap_or_else(|_| Err(again("timed out".to_owned())))
}

/// Close codes after which the same again would end the same way: the service's own, and those that say we sent
/// something wrong (RFC 6455 section 7.4.1).
fn is_final(code: u16) -> bool {
    matches!(code, 4500..=4999 | 1002 | 1003 | 1007..=1010)
}

/// Writes what waits and, if wanted, reads one message. Cancel safe.
async fn exchange(
    socket: &mut Socket,
    out: &mut VecDeque<Vec<u8>>,
    options: &Options,
    read: bool,
) -> Option<Result<Message, tungstenite::Error>> {
    poll_fn(|context| {
        let mut written = Ok(());
        while written.is_ok() && !out.is_empty() {
            match socket.poll_ready_unpin(context) {
                Poll::Ready(ready) => {
                    written = ready.and_then(|()| {
                        let frame = out.pop_front().expect("looked above");
                        options.tell(Tapped::Sending(&frame));
                        socket.start_send_unpin(message(frame, options.encoding))
                    });
                }
                Poll::Pending => break,
            }
        }
        if written.is_ok()
            && let Poll::Ready(flushed) = socket.poll_flush_unpin(context)
        {
            written = flushed;
        }
        if read && let Poll::Ready(message) = socket.poll_next_unpin(context) {
            // What the server still said before it stopped taking our frames says why.
            return Poll::Ready(message);
        }
        match written {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    })
    .await
}

fn message(frame: Vec<u8>, encoding: Encoding) -> Message {
    match encoding {
        Encoding::Json => Message::text(String::from_utf8(frame).expect("the JSON writer writes UTF-8")),
        Encoding::Msgpack => Message::binary(frame),
    }
}

enum Payload {
    Frame(tungstenite::Bytes),
    Control,
    Close(Option<u16>, String),
    Wrong,
}

impl Payload {
    fn of(message: Message, encoding: Encoding) -> Self {
        match (message, encoding) {
            (Message::Text(text), Encoding::Json) => Payload::Frame(text.into()),
            (Message::Binary(bytes), Encoding::Msgpack) => Payload::Frame(bytes),
            (Message::Text(_) | Message::Binary(_), _) => Payload::Wrong,
            (Message::Close(Some(frame)), _) => {
                Payload::Close(Some(frame.code.into()), frame.reason.to_string())
            }
            (Message::Close(None), _) => Payload::Close(None, String::new()),
            (Message::Ping(_) | Message::Pong(_) | Message::Frame(_), _) => Payload::Control,
        }
    }
}

/// Closes a connection politely, within a bound.
async fn farewell(socket: &mut Socket) {
    let frame = CloseFrame { code: WireCloseCode::Normal, reason: "".into() };
    let closing = async {
        if socket.close(Some(frame)).await.is_ok() {
            while let Some(Ok(_)) = socket.next().await {}
        }
    };
    _ = timeout(FAREWELL, closing).await;
}
