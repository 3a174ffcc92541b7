//! The records of one run beside what its players were told: the rows in MariaDB, the history by protocol, and the
//! events that a consumer took over AMQP. They agree event by event, whatever happened meanwhile.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use mlms_client::protocol::{Change, LobbyEvent, LobbyId, Seq, UserId};
use mlms_store::amqp::{Subscriber, Subscription};
use mlms_store::{Message, Range, Store};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::crowd::Heard;
use crate::service::{GLANCE, PATIENCE};

/// An event's id and body.
type Taken = (String, Vec<u8>);

/// Somebody who takes every domain event, with a durable queue, and comes back whenever the broker does.
pub(crate) struct Consumer {
    /// As they came.
    taken: Arc<Mutex<Vec<Taken>>>,
    task: JoinHandle<()>,
}

impl Consumer {
    /// Returns when the queue is there: nothing that happens from now on is missed.
    pub(crate) async fn begin(url: String) -> Consumer {
        let wanted = Subscription {
            queue: "test.everything".to_owned(),
            keys: vec!["#".to_owned()],
            prefetch: 1_000,
            alone: false,
            forget_after_ms: None,
        };
        let mut subscriber = Subscriber::open(&url, "test", &wanted).await.unwrap();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&taken);
        let task = tokio::spawn(async move {
            loop {
                if let Ok(batch) = subscriber.next(500).await {
                    let bodies = batch.iter().map(|delivery| (delivery.id.clone(), delivery.body.clone()));
                    into.lock().unwrap().extend(bodies);
                    // Lost with its connection, they come again.
                    let _ = subscriber.acknowledge(&batch[batch.len() - 1]).await;
                    continue;
                }
                loop {
                    tokio::time::sleep(5 * GLANCE).await;
                    if let Ok(again) = Subscriber::open(&url, "test", &wanted).await {
                        subscriber = again;
                        break;
                    }
                }
            }
        });
        Consumer { taken, task }
    }

    /// Waits until an event has come, and gives its body.
    pub(crate) async fn until(&self, id: &str) -> Vec<u8> {
        let began = Instant::now();
        loop {
            let found = self.taken.lock().unwrap().iter().find(|(taken, _)| taken == id).cloned();
            if let Some((_, body)) = found {
                return body;
            }
            assert!(began.elapsed() < PATIENCE, "{id} does not come over AMQP");
            tokio::time::sleep(5 * GLANCE).await;
        }
    }

    /// What has come so far, each once and in the order of its first coming.
    pub(crate) fn taken(&self) -> Vec<Taken> {
        let mut known: HashMap<String, Vec<u8>> = HashMap::new();
        let mut first = Vec::new();
        for (id, body) in self.taken.lock().unwrap().iter() {
            match known.get(id) {
                Some(before) => assert_eq!(before, body, "{id} came again as something else"),
                None => {
                    known.insert(id.clone(), body.clone());
                    first.push((id.clone(), body.clone()));
                }
            }
        }
        first
    }

    /// How many came more than once.
    fn repeated(&self) -> usize {
        let all = self.taken.lock().unwrap().len();
        all - self.taken().len()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Waits until the rows of a lobby reach this event, and gives them all.
pub(crate) async fn rows(store: &Store, lobby: &LobbyId, through: Seq) -> Vec<LobbyEvent> {
    let began = Instant::now();
    loop {
        let rows = store.history(lobby, Range::After(Seq(0)), Seq(0), 1_000_000).await.unwrap();
        if rows.last().is_some_and(|event| event.seq >= through) {
            return rows;
        }
        let last = rows.last().map(|event| event.seq);
        assert!(began.elapsed() < PATIENCE, "the rows of {lobby} end at {last:?}, not at {through}");
        tokio::time::sleep(10 * GLANCE).await;
    }
}

/// Compares everything up to where the histories end.
pub(crate) async fn agree(heard: &Heard, database_url: &str, consumer: &Consumer) {
    let store = Store::open(database_url).await.unwrap();
    let mut events = 0;
    for (lobby, history) in &heard.histories {
        let seqs = history.iter().map(|event| event.seq.0);
        assert!(seqs.eq(1..=history.len() as u64), "{lobby}: the history has gaps");
        let last = history.last().unwrap().seq;
        let rows = rows(&store, lobby, last).await;
        same(lobby, "MariaDB", &rows[..history.len()], history);
        consumer.until(&format!("{lobby}/{last}")).await;
        events += history.len();
    }
    assert_eq!(store.count_aside().await.unwrap(), 0, "events were set aside");
    let mut taken: BTreeMap<String, Vec<(u64, Vec<u8>)>> = BTreeMap::new();
    for (id, body) in consumer.taken() {
        let (lobby, seq) = id.rsplit_once('/').unwrap();
        if let Ok(seq) = seq.parse() {
            taken.entry(lobby.to_owned()).or_default().push((seq, body));
        }
    }
    for (lobby, history) in &heard.histories {
        let taken = taken.remove(lobby.as_str()).unwrap_or_default();
        let seqs: Vec<u64> = taken.iter().map(|(seq, _)| *seq).collect();
        assert!(seqs.iter().copied().eq(1..=seqs.len() as u64), "{lobby} came over AMQP as {seqs:?}");
        for (event, (_, body)) in history.iter().zip(&taken) {
            let expected = Message::of_event(event).body;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            assert_eq!(text(body), text(&expected), "{lobby}/{} over AMQP", event.seq);
        }
    }
    assert_eq!(taken.keys().collect::<Vec<_>>(), [""; 0], "events of lobbies that nobody made");
    for acked in &heard.acked {
        let event = &heard.histories[&acked.lobby][usize::try_from(acked.seq.0).unwrap() - 1];
        let Change::Message { from: Some(from), body, nonce: Some(nonce), .. } = &event.change else {
            panic!("{}/{} is no message: {event:?}", acked.lobby, acked.seq)
        };
        let (said, by) = (body.as_text(), UserId::as_str(from));
        assert!(acked.text.starts_with(by), "{} was said by {by}", acked.text);
        assert_eq!((said.as_deref(), nonce), (Some(acked.text.as_str()), &acked.nonce));
    }
    println!(
        "{events} events in {} lobbies agree, {} of them acknowledged messages; {} came over AMQP again",
        heard.histories.len(),
        heard.acked.len(),
        consumer.repeated()
    );
}

fn same(lobby: &LobbyId, place: &str, found: &[LobbyEvent], history: &[LobbyEvent]) {
    for (found, event) in found.iter().zip(history) {
        assert_eq!(found, event, "{lobby} in {place}");
    }
    assert_eq!(found.len(), history.len(), "{lobby} in {place}");
}
