//! Takes domain events from a durable queue, in batches, with acknowledgements by hand. One connection; when it
//! fails the caller subscribes again, and gets again what it did not acknowledge.

use futures_util::{FutureExt as _, StreamExt as _};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, Consumer};

use mlms_protocol::TraceParent;
use mlms_protocol::trace::TRACEPARENT;

use super::{Address, AmqpError, CONNECT_TIMEOUT, EXCHANGE, connect};

/// Which events to take, and how.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// The durable queue; it gathers events while nobody takes them.
    pub queue: String,
    /// Routing keys, as a topic exchange matches them.
    pub keys: Vec<String>,
    /// Events handed out and not yet acknowledged.
    pub prefetch: u16,
    /// Whether only one process takes events at a time, so that they stay in order.
    pub alone: bool,
    /// Events older than this are forgotten; none: never.
    pub forget_after_ms: Option<u32>,
}

/// One event.
#[derive(Debug)]
pub struct Delivery {
    pub id: String,
    pub body: Vec<u8>,
    /// Of what is being traced.
    pub trace: Option<TraceParent>,
    tag: u64,
}

/// A queue as it was just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLook {
    /// Who takes events off it.
    pub consumers: u32,
    /// Events that nobody was handed yet.
    pub waiting: u32,
}

/// A subscription that runs.
pub struct Subscriber {
    channel: Channel,
    consumer: Consumer,
    connection: Connection,
}

impl std::fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Subscriber({})", self.consumer.queue())
    }
}

impl Subscriber {
    /// Connects, makes sure that the queue is there and bound, and begins to take events.
    ///
    /// # Errors
    /// `Url` or `Unavailable`.
    pub async fn open(url: &str, name: &str, wanted: &Subscription) -> Result<Subscriber, AmqpError> {
        let (connection, channel) = connect(&Address::parse(url)?, name).await?;
        let subscribing = Self::subscribe(connection, channel, wanted);
        match tokio::time::timeout(CONNECT_TIMEOUT, subscribing).await {
            Ok(outcome) => outcome,
            Err(_) => {
                Err(AmqpError::Unavailable(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())))
            }
        }
    }

    async fn subscribe(
        connection: Connection,
        channel: Channel,
        wanted: &Subscription,
    ) -> Result<Subscriber, AmqpError> {
        let mut arguments = FieldTable::default();
        if wanted.alone {
            arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
        }
        if let Some(ms) = wanted.forget_after_ms {
            arguments.insert("x-message-ttl".into(), AMQPValue::LongUInt(ms));
        }
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(wanted.queue.as_str().into(), durable, arguments).await?;
        for key in &wanted.keys {
            let (queue, key) = (wanted.queue.as_str().into(), key.as_str().into());
            let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
            channel.queue_bind(queue, EXCHANGE.into(), key, options, arguments).await?;
        }
        channel.basic_qos(wanted.prefetch, BasicQosOptions::default()).await?;
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let queue = wanted.queue.as_str().into();
        let consumer = channel.basic_consume(queue, "".into(), options, arguments).await?;
        Ok(Subscriber { channel, consumer, connection })
    }

    /// Waits for events, and gives those that are there, in order. May be dropped while it waits.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn next(&mut self, max: usize) -> Result<Vec<Delivery>, AmqpError> {
        let mut batch = Vec::new();
        let mut next = self.consumer.next().await;
        loop {
            let Some(delivery) = next else {
                return Err(AmqpError::Unavailable("the subscription has ended".to_owned()));
            };
            let delivery = delivery?;
            let id = delivery.properties.message_id().as_ref().map(ToString::to_string);
            let headers = delivery.properties.headers().as_ref();
            let trace = match headers.and_then(|headers| headers.inner().get(TRACEPARENT)) {
                Some(AMQPValue::LongString(text)) => std::str::from_utf8(text.as_bytes()).ok(),
                _ => None,
            };
            let trace = trace.and_then(|text| text.parse().ok());
            batch.push(Delivery {
                trace,
                id: id.unwrap_or_default(),
                tag: delivery.delivery_tag,
                body: delivery.data,
            });
            if batch.len() >= max {
                return Ok(batch);
            }
            match self.consumer.next().now_or_never() {
                Some(found) => next = found,
                None => return Ok(batch),
            }
        }
    }

    /// Looks at a queue, whose it may be; none: there is no such queue.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn look_at(&self, queue: &str) -> Result<Option<QueueLook>, AmqpError> {
        // A channel of its own: that of a question about a queue that is not there is closed.
        let channel = self.connection.create_channel().await?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let looked = channel.queue_declare(queue.into(), passive, FieldTable::default()).await;
        match looked {
            Ok(queue) => {
                let look = QueueLook { consumers: queue.consumer_count(), waiting: queue.message_count() };
                channel.close(200, "looked".into()).await?;
                Ok(Some(look))
            }
            Err(_) if self.connection.status().connected() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Acknowledges a delivery and all before it.
    ///
    /// # Errors
    /// `Unavailable`: they come again.
    pub async fn acknowledge(&self, through: &Delivery) -> Result<(), AmqpError> {
        Ok(self.channel.basic_ack(through.tag, BasicAckOptions { multiple: true }).await?)
    }
}
