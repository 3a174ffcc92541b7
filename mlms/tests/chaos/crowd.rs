//! Players who talk without a pause, come back by themselves, and repeat what was not answered.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mlms_checker::What;
use mlms_client::protocol::command::{History, Join};
use mlms_client::protocol::{Body, ErrorCode, Kind, LobbyEvent, LobbyId, Nonce, Seq};
use mlms_client::{Client, Error, Events, Message, Options};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::fleet::Fleet;
use crate::recorder::Recorder;
use crate::service::{GLANCE, PATIENCE};

pub(crate) const MEMBERS: usize = 48;
pub(crate) const LOBBIES: usize = 24;
/// Each member talks in two lobbies, once in this time in each: about 290 messages a second in sum.
const PACE: Duration = Duration::from_millis(330);
/// Of so many messages one is ordered; the others are durable.
const ORDERED: usize = 5;

/// A durable message that got its ok.
#[derive(Debug, Clone)]
pub(crate) struct Acked {
    pub(crate) lobby: LobbyId,
    /// When it was first sent.
    pub(crate) sent: Instant,
    pub(crate) at: Instant,
    pub(crate) seq: Seq,
    pub(crate) nonce: Nonce,
    pub(crate) text: String,
}

/// What a crowd has been told when everything is over.
pub(crate) struct Heard {
    /// Every durable message that got its ok.
    pub(crate) acked: Vec<Acked>,
    /// Every lobby's whole history, read afterwards.
    pub(crate) histories: BTreeMap<LobbyId, Vec<LobbyEvent>>,
}

/// What all talkers share.
struct Shared {
    acked: Mutex<Vec<Acked>>,
    news: broadcast::Sender<Acked>,
    /// How often everybody was asked to speak at once.
    choruses: watch::Sender<usize>,
    stop: CancellationToken,
    said: AtomicU64,
    began: Instant,
}

pub(crate) struct Crowd {
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) lobbies: Vec<LobbyId>,
    clients: Vec<(String, Client)>,
    talking: Vec<JoinHandle<()>>,
    listening: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
}

fn options(fleet: &Fleet, recorder: &Arc<Recorder>, name: &str, first: usize) -> Options {
    Options {
        backoff_first: Duration::from_millis(100),
        backoff_max: Duration::from_millis(1_000),
        command_timeout: PATIENCE,
        connect_timeout: Duration::from_secs(5),
        connector: fleet.door(first),
        tap: Some(recorder.tap(name, name, name == "reader")),
        ..Options::new("ws://fleet", fleet.token(name))
    }
}

impl Crowd {
    /// Lets everybody come in and talk.
    pub(crate) async fn gather(fleet: &Fleet, name: &str) -> Crowd {
        let recorder = Recorder::new();
        let lobbies: Vec<LobbyId> =
            (0..LOBBIES).map(|number| LobbyId::new(&format!("{name}-{number}")).unwrap()).collect();
        let shared = Arc::new(Shared {
            acked: Mutex::default(),
            news: broadcast::Sender::new(8_192),
            choruses: watch::Sender::new(0),
            stop: CancellationToken::new(),
            said: AtomicU64::new(0),
            began: Instant::now(),
        });
        let mut crowd = Crowd {
            recorder,
            lobbies,
            clients: Vec::new(),
            talking: Vec::new(),
            listening: Vec::new(),
            shared,
        };
        for number in 0..MEMBERS {
            let name = format!("member-{number}");
            let (client, events) = Client::connect(options(fleet, &crowd.recorder, &name, number)).unwrap();
            crowd.listening.push(tokio::spawn(listen(events)));
            for step in [0, 7] {
                let lobby = crowd.lobbies[(number + step) % LOBBIES].clone();
                let join = || Join { create: Some(Default::default()), ..Join::default() };
                retry(|| async { client.join(&lobby, join()).await.map(drop) }).await;
                let talker = Talker {
                    name: format!("{name}-{step}"),
                    client: client.clone(),
                    lobby,
                    shared: Arc::clone(&crowd.shared),
                };
                crowd.talking.push(tokio::spawn(talker.talk(PACE * (number as u32 * 2 + step as u32) / 97)));
            }
            crowd.clients.push((name, client));
        }
        crowd
    }

    /// Messages that were answered, a second, since the crowd came.
    pub(crate) fn rate(&self) -> f64 {
        self.shared.said.load(Ordering::Relaxed) as f64 / self.shared.began.elapsed().as_secs_f64()
    }

    /// The oks from now on.
    pub(crate) fn news(&self) -> broadcast::Receiver<Acked> {
        self.shared.news.subscribe()
    }

    /// Lets everybody say the next thing at once, so that much is under way whatever the machine's speed.
    pub(crate) fn speak_at_once(&self) {
        self.shared.choruses.send_modify(|count| *count += 1);
    }

    /// Waits until in each of these lobbies a message that was sent after `since` got its ok; gives the longest time
    /// from then to the first such ok.
    pub(crate) async fn recovered(&self, lobbies: &[LobbyId], since: Instant) -> Duration {
        let began = Instant::now();
        loop {
            let mut first: HashMap<LobbyId, Instant> = HashMap::new();
            for acked in self.shared.acked.lock().unwrap().iter().filter(|acked| acked.sent > since) {
                first.entry(acked.lobby.clone()).or_insert(acked.at);
            }
            let missing: Vec<_> = lobbies.iter().filter(|lobby| !first.contains_key(*lobby)).collect();
            if missing.is_empty() {
                let times = lobbies.iter().map(|lobby| first[lobby] - since);
                return times.max().unwrap_or_default();
            }
            assert!(began.elapsed() < 2 * PATIENCE, "nothing is accepted any more in {missing:?}");
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// How long the oks took of the messages that were sent and accepted within these moments.
    pub(crate) fn latencies(&self, from: Instant, to: Instant) -> Vec<Duration> {
        let acked = self.shared.acked.lock().unwrap();
        let within = acked.iter().filter(|acked| acked.sent >= from && acked.at <= to);
        within.map(|acked| acked.at - acked.sent).collect()
    }

    /// The longest time within these moments in which a lobby accepted nothing.
    pub(crate) fn longest_silence(&self, from: Instant, to: Instant) -> Duration {
        let mut last: HashMap<LobbyId, Instant> = HashMap::new();
        let mut longest = Duration::ZERO;
        for acked in
            self.shared.acked.lock().unwrap().iter().filter(|acked| acked.at >= from && acked.at <= to)
        {
            let before = last.insert(acked.lobby.clone(), acked.at).unwrap_or(from);
            longest = longest.max(acked.at - before);
        }
        longest
    }

    /// Lets everybody end their sentence and hear everything, reads all lobbies to their end, and leaves.
    pub(crate) async fn settle(mut self, fleet: &Fleet) -> (Arc<Recorder>, Heard) {
        self.shared.stop.cancel();
        for talking in self.talking.drain(..) {
            tokio::time::timeout(2 * PATIENCE, talking).await.expect("every message is answered").unwrap();
        }
        let began = Instant::now();
        while !self.recorder.behind().is_empty() && began.elapsed() < PATIENCE {
            tokio::time::sleep(5 * GLANCE).await;
        }
        // Unsequenced messages have no position that tells: they are behind nothing that is still under way.
        tokio::time::sleep(Duration::from_millis(500)).await;
        for (name, _) in &self.clients {
            self.recorder.note(name, What::Settled {});
        }
        let histories = self.read_all(fleet).await;
        for (_, client) in self.clients.drain(..) {
            client.close().await;
        }
        for listening in self.listening.drain(..) {
            listening.await.unwrap();
        }
        let acked = std::mem::take(&mut *self.shared.acked.lock().unwrap());
        (self.recorder, Heard { acked, histories })
    }

    async fn read_all(&self, fleet: &Fleet) -> BTreeMap<LobbyId, Vec<LobbyEvent>> {
        let mut histories = BTreeMap::new();
        let (reader, events) = Client::connect(options(fleet, &self.recorder, "reader", 0)).unwrap();
        let listening = tokio::spawn(listen(events));
        for lobby in &self.lobbies {
            retry(|| async { reader.join(lobby, Join::default()).await.map(drop) }).await;
            let (after, read) = (Mutex::new(Some(0)), Mutex::new(Vec::new()));
            while let Some(from) = { *after.lock().unwrap() } {
                retry(|| async {
                    let page = History { before: None, after: Some(Seq(from)), limit: 200 };
                    let (events, more) = reader.history(lobby, page).await?;
                    let last = events.last().map(|event| event.seq.0);
                    *after.lock().unwrap() = last.filter(|_| more);
                    read.lock().unwrap().extend(events);
                    Ok(())
                })
                .await;
            }
            histories.insert(lobby.clone(), read.into_inner().unwrap());
        }
        reader.close().await;
        listening.await.unwrap();
        histories
    }
}

/// Asks until the answer is not one that says to ask again.
pub(crate) async fn retry<F: Future<Output = Result<(), Error>>>(mut ask: impl FnMut() -> F) {
    let began = Instant::now();
    loop {
        match ask().await {
            Ok(()) => return,
            Err(error) => {
                let again = matches!(&error, Error::Refused(refusal) if refusal.retry_ms.is_some());
                assert!(again && began.elapsed() < PATIENCE, "{error}");
            }
        }
        tokio::time::sleep(5 * GLANCE).await;
    }
}

async fn listen(mut events: Events) {
    while events.recv().await.is_some() {}
}

/// One member's talk in one lobby.
struct Talker {
    name: String,
    client: Client,
    lobby: LobbyId,
    shared: Arc<Shared>,
}

impl Talker {
    async fn talk(self, delay: Duration) {
        let mut ticker = tokio::time::interval_at(Instant::now() + delay, PACE);
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut choruses = self.shared.choruses.subscribe();
        for number in 1.. {
            tokio::select! {
                () = self.shared.stop.cancelled() => return,
                _ = ticker.tick() => {}
                Ok(()) = choruses.changed() => {}
            }
            if number % ORDERED == 0 {
                self.move_on(number).await;
            } else {
                self.say(number).await;
            }
            self.shared.said.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A durable message, repeated with its nonce until it is answered.
    async fn say(&self, number: usize) {
        let nonce = Nonce::new(&format!("{}-{number}", self.name)).unwrap();
        let text = format!("{} says {number}", self.name);
        let message = Message::chat(&text).nonce(nonce.clone());
        let sent = Instant::now();
        let place = loop {
            let pause = match self.client.send(&self.lobby, message.clone()).await {
                Ok(Some(place)) => break place,
                Ok(None) => panic!("{} {number}: an ok without a seq", self.name),
                Err(Error::Refused(refusal)) if refusal.retry_ms.is_some() => {
                    refusal.retry_ms.unwrap_or_default().min(500)
                }
                Err(Error::Refused(refusal)) if refusal.code == ErrorCode::Internal => 100,
                Err(Error::TimedOut) => 0,
                Err(error) => panic!("{} {number} in {}: {error}", self.name, self.lobby),
            };
            assert!(
                sent.elapsed() < 2 * PATIENCE,
                "{} {number} in {} is never accepted",
                self.name,
                self.lobby
            );
            tokio::time::sleep(Duration::from_millis(pause)).await;
        };
        let (lobby, at) = (self.lobby.clone(), Instant::now());
        let acked = Acked { lobby, sent, at, seq: place.seq, nonce, text };
        self.shared.acked.lock().unwrap().push(acked.clone());
        // Nobody may be waiting for news.
        let _ = self.shared.news.send(acked);
    }

    /// An ordered message: it is said once, whatever becomes of it.
    async fn move_on(&self, number: usize) {
        let body = Body::text(&format!("{} moves {number}", self.name));
        let message = Message::new(Kind::new("game").unwrap(), body);
        match self.client.send(&self.lobby, message).await {
            Ok(_) | Err(Error::NotConnected | Error::Lost | Error::TimedOut) => {}
            Err(Error::Refused(refusal)) if refusal.retry_ms.is_some() => {}
            Err(error) => panic!("{} {number} in {}: {error}", self.name, self.lobby),
        }
    }
}
