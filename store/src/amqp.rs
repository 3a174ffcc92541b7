//! Domain events over AMQP: the exchange, connections, and what can be wrong with one. Reconnecting is done by the
//! publisher and by whoever subscribes: a connection that failed is dropped whole, so that no state outlives it.

mod address;
mod publisher;
mod subscriber;

use std::time::Duration;

use lapin::options::ExchangeDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};

use address::Address;
pub use publisher::{LinkState, Publisher};
pub use subscriber::{Delivery, QueueLook, Subscriber, Subscription};

/// The durable topic exchange of all domain events.
pub const EXCHANGE: &str = "mlms.events";
/// Seconds between heartbeats where the url does not say: a frozen broker is found out within two.
const HEARTBEAT_S: u16 = 10;
/// A broker that does not finish a handshake in this time is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What is wrong with AMQP.
#[derive(Debug, thiserror::Error)]
pub enum AmqpError {
    /// The address is none: the configuration is wrong.
    #[error("the url of the message broker {0}")]
    Url(String),
    /// Away, refusing, or gone in the middle: connect again.
    #[error("the message broker is unavailable: {0}")]
    Unavailable(String),
}

impl From<lapin::Error> for AmqpError {
    fn from(error: lapin::Error) -> Self {
        AmqpError::Unavailable(error.to_string())
    }
}

/// Connects, and makes sure that the exchange is there.
async fn connect(address: &Address, name: &str) -> Result<(Connection, Channel), AmqpError> {
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let connecting = async {
        let connection = address.connect(properties).await?;
        let channel = connection.create_channel().await?;
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        channel
            .exchange_declare(EXCHANGE.into(), ExchangeKind::Topic, options, FieldTable::default())
            .await?;
        Ok((connection, channel))
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(outcome) => outcome,
        Err(_) => Err(AmqpError::Unavailable(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()))),
    }
}
