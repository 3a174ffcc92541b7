//! Announces awards that stand in the database, whoever has put them there: published over AMQP, or told to the
//! nodes of the same process. At least once; an award has the same id each time.

use std::sync::Arc;
use std::time::Duration;

use mlms_store::amqp::Publisher;
use mlms_store::{Award, Message, Store, StoreError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// How often the database is asked for awards that others have put there, as a replay does.
const LOOK: Duration = Duration::from_secs(2);
/// Awards announced in one go.
const BATCH: u32 = 100;

/// How awards are announced.
#[derive(Clone)]
pub enum Announce {
    Amqp(Publisher),
    /// To the nodes of the same process.
    Local(Arc<dyn Fn(&Award) + Send + Sync>),
}

impl std::fmt::Debug for Announce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Announce::Amqp(_) => "Announce(AMQP)",
            Announce::Local(_) => "Announce(local)",
        })
    }
}

pub(crate) async fn run(
    store: Store,
    announce: Announce,
    metrics: Metrics,
    mut woken: mpsc::Receiver<()>,
    stop: CancellationToken,
) {
    let mut is_down = false;
    let mut ended = false;
    loop {
        match announce_all(&store, &announce, &metrics, &stop).await {
            Ok(()) => is_down = false,
            Err(error) => {
                metrics.failures.with_label_values(&["announce"]).inc();
                if !std::mem::replace(&mut is_down, true) {
                    tracing::warn!(%error, "awards cannot be announced yet");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
            more = woken.recv(), if !ended => ended = more.is_none(),
        }
    }
}

async fn announce_all(
    store: &Store,
    announce: &Announce,
    metrics: &Metrics,
    stop: &CancellationToken,
) -> Result<(), StoreError> {
    loop {
        let awards = store.unannounced(BATCH).await?;
        if awards.is_empty() {
            return Ok(());
        }
        match announce {
            Announce::Amqp(publisher) => {
                let messages = awards.iter().map(Message::of_award).collect();
                tokio::select! {
                    // Published or not, they are announced again after the next start.
                    () = stop.cancelled() => return Ok(()),
                    sent = publisher.publish(messages) => if !sent {
                        return Err(StoreError::Unavailable("the publisher has ended".to_owned()));
                    },
                }
            }
            Announce::Local(tell) => awards.iter().for_each(|award| tell(award)),
        }
        store.announced(&awards).await?;
        metrics.announced.inc_by(awards.len() as u64);
    }
}
