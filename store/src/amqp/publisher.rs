//! Sends domain events and waits for the broker's confirms. What is not confirmed is sent again over a new
//! connection, in order, for as long as somebody waits for it. It never drops and never reorders what one caller
//! sends; the queue before it is bounded, so a broker that is away makes callers wait, and nothing else.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};
use mlms_protocol::trace::TRACEPARENT;
use tokio::sync::{mpsc, oneshot, watch};

use super::{Address, AmqpError, EXCHANGE, connect};
use crate::message::Message;

/// Messages sent and not yet confirmed.
const IN_FLIGHT_MAX: usize = 1_024;
/// Calls that may wait in the queue; one more waits before it.
const QUEUE_MAX: usize = 64;
/// Pauses between attempts to connect.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often an idle connection is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Delivery mode of a message that survives a restart of the broker.
const PERSISTENT: u8 = 2;

/// How the publisher's connection is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    Connecting,
    Up,
    /// The cause.
    Down(String),
}

/// A handle to the publisher; clones share its connection. It ends with the last one.
#[derive(Debug, Clone)]
pub struct Publisher {
    queue: mpsc::Sender<Call>,
    state: watch::Receiver<LinkState>,
    _alive: Arc<watch::Sender<()>>,
}

#[derive(Debug)]
struct Call {
    messages: Vec<Message>,
    done: oneshot::Sender<()>,
}

impl Publisher {
    /// Makes a publisher, and the task that does its work, which ends when the last handle is dropped.
    ///
    /// # Errors
    /// `Url`.
    pub fn new(url: &str, name: &str) -> Result<(Publisher, impl Future<Output = ()> + use<>), AmqpError> {
        let address = Address::parse(url)?;
        let (queue, calls) = mpsc::channel(QUEUE_MAX);
        let (tell, state) = watch::channel(LinkState::Connecting);
        let (alive, mut ended) = watch::channel(());
        let name = name.to_owned();
        let task = async move {
            tokio::select! {
                // The last handle is gone: nobody waits for a confirm any more.
                _ = ended.changed() => {}
                () = run(&address, &name, calls, &tell) => {}
            }
        };
        Ok((Publisher { queue, state, _alive: Arc::new(alive) }, task))
    }

    /// Sends messages, and returns when the broker has confirmed all of them; that may take as long as the broker is
    /// away. Dropped early, some may have been sent. `false`: the publisher's task has ended.
    pub async fn publish(&self, messages: Vec<Message>) -> bool {
        let (done, confirmed) = oneshot::channel();
        self.queue.send(Call { messages, done }).await.is_ok() && confirmed.await.is_ok()
    }

    /// Tells how the connection is.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.state.clone()
    }
}

/// Connects again and again.
async fn run(
    address: &Address,
    name: &str,
    mut queue: mpsc::Receiver<Call>,
    tell: &watch::Sender<LinkState>,
) {
    let mut calls = VecDeque::new();
    let mut pause = PAUSE_FIRST;
    loop {
        let error = match connect(address, name).await {
            Ok((connection, channel)) => {
                tell.send_replace(LinkState::Up);
                tracing::info!("publishing domain events");
                let ended = serve(&channel, &mut queue, &mut calls, &mut pause).await;
                drop(connection);
                match ended {
                    Ok(()) => return,
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        if !matches!(*tell.borrow(), LinkState::Down(_)) {
            tracing::warn!(%error, "domain events wait in the journal");
        }
        tell.send_replace(LinkState::Down(error.to_string()));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Sends what is queued until the connection fails. What was not confirmed stays in `calls`.
async fn serve(
    channel: &Channel,
    queue: &mut mpsc::Receiver<Call>,
    calls: &mut VecDeque<Call>,
    pause: &mut Duration,
) -> Result<(), AmqpError> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    loop {
        while calls.is_empty() {
            match tokio::time::timeout(LOOK, queue.recv()).await {
                Ok(Some(call)) => calls.push_back(call),
                Ok(None) => return Ok(()),
                Err(_) if channel.status().connected() => {}
                Err(_) => return Err(AmqpError::Unavailable("the connection is gone".to_owned())),
            }
        }
        while calls.len() < QUEUE_MAX
            && let Ok(call) = queue.try_recv()
        {
            calls.push_back(call);
        }
        send(channel, calls.iter().flat_map(|call| &call.messages)).await?;
        *pause = PAUSE_FIRST;
        for call in calls.drain(..) {
            // Who stopped waiting sends it again, or has ended.
            let _ = call.done.send(());
        }
    }
}

/// Sends messages with many confirms under way, and waits for all of them.
async fn send<'a>(channel: &Channel, messages: impl Iterator<Item = &'a Message>) -> Result<(), AmqpError> {
    let mut under_way = VecDeque::new();
    for message in messages {
        if under_way.len() == IN_FLIGHT_MAX {
            confirmed(under_way.pop_front()).await?;
        }
        let mut properties = BasicProperties::default()
            .with_message_id(message.id.as_str().into())
            .with_content_type("application/json".into())
            .with_delivery_mode(PERSISTENT)
            .with_timestamp(message.at.0 / 1_000)
            .with_type(message.key.as_str().into())
            .with_app_id("mlms".into());
        if let Some(trace) = message.trace {
            let mut headers = FieldTable::default();
            headers.insert(TRACEPARENT.into(), AMQPValue::LongString(trace.to_string().into()));
            properties = properties.with_headers(headers);
        }
        let options = BasicPublishOptions::default();
        let key = message.key.as_str().into();
        under_way.push_back(
            channel.basic_publish(EXCHANGE.into(), key, options, &message.body, properties).await?,
        );
    }
    while !under_way.is_empty() {
        confirmed(under_way.pop_front()).await?;
    }
    Ok(())
}

async fn confirmed(confirm: Option<PublisherConfirm>) -> Result<(), AmqpError> {
    let Some(confirm) = confirm else { return Ok(()) };
    match confirm.await? {
        Confirmation::Ack(_) | Confirmation::NotRequested => Ok(()),
        Confirmation::Nack(_) => Err(AmqpError::Unavailable("it did not take a message".to_owned())),
    }
}
