//! Settings that change while the process runs: limits, word filter, maintenance, the log's filter. The file is looked at
//! every two seconds (so that a ConfigMap mounted over it is noticed, however it is swapped), and at a SIGHUP; Consul
//! tells by itself. A bad change is refused with one clear line and the old settings stay; what needs a restart is
//! named and stays, too.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::config::{ConfigErrors, FileSource, Settings, Sources};
use crate::consul::{Answer, Watch};
use crate::health::Component;
use crate::logging::{LogError, LogHandle};
use crate::metrics::register;

/// Beginnings of the keys that change without a restart.
const LIVE: [&str; 5] = ["limits.", "log.filter", "lobby.word_filter", "maintenance.", "trace.sample_ratio"];

const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The settings in force. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Live {
    current: Arc<watch::Sender<Arc<Settings>>>,
    /// What the sources said at the start, before the process made up a name or a secret for itself.
    given: Arc<Settings>,
    log: Option<LogHandle>,
    read: Arc<dyn Fn() -> Sources + Send + Sync>,
    /// The file as it was at the start.
    first: Arc<Option<String>>,
    heard: Arc<Mutex<Heard>>,
}

/// What the sources have said so far.
#[derive(Debug, Default)]
struct Heard {
    /// The newest of Consul.
    remote: Option<FileSource>,
    waiting: Vec<&'static str>,
    /// Why the newest is not in force.
    refused: Option<String>,
}

/// What a reload did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Keys whose new value is in force.
    pub changed: Vec<&'static str>,
    /// Keys whose new value waits for a restart.
    pub waiting: Vec<&'static str>,
}

/// Why the old settings stay.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error("{}", .0.one_line())]
    Config(#[from] ConfigErrors),
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Where reloads are counted and shown.
struct Report {
    component: Component,
    reloads: IntCounterVec,
    refused: IntGauge,
}

impl Live {
    /// `read` reads the file, the environment and the flags again.
    pub fn new(
        settings: Settings,
        log: Option<LogHandle>,
        read: impl Fn() -> Sources + Send + Sync + 'static,
    ) -> Live {
        let sources = read();
        let given = Settings::load(settings.role, &sources).unwrap_or_else(|_| settings.clone());
        let current = watch::Sender::new(Arc::new(settings));
        Live {
            current: Arc::new(current),
            given: Arc::new(given),
            log,
            read: Arc::new(read),
            first: Arc::new(sources.file_text()),
            heard: Arc::default(),
        }
    }

    pub fn settings(&self) -> Arc<Settings> {
        self.current.borrow().clone()
    }

    /// Tells of every change.
    pub fn watch(&self) -> watch::Receiver<Arc<Settings>> {
        self.current.subscribe()
    }

    /// The settings in force as TOML, secrets hidden, with what is not in force above them.
    pub fn page(&self) -> String {
        let mut page = String::new();
        {
            let heard = self.heard();
            if let Some(why) = &heard.refused {
                page.push_str(&format!("# the newest settings are refused: {why}\n"));
            }
            if !heard.waiting.is_empty() {
                page.push_str(&format!(
                    "# changed, and waiting for a restart: {}\n",
                    heard.waiting.join(", ")
                ));
            }
        }
        page.push_str(&format!(
            "# without a restart change: {}\n",
            LIVE.map(|key| key.trim_end_matches('.')).join(", ")
        ));
        page.push_str(&self.settings().effective());
        page
    }

    /// Reads all sources again and puts in force what can change.
    ///
    /// # Errors
    /// What is wrong with the new settings; none of them is in force then.
    pub fn reload(&self) -> Result<Reloaded, ReloadError> {
        let remote = self.heard().remote.clone();
        self.take(&(self.read)().with_remote(remote))
    }

    fn take(&self, sources: &Sources) -> Result<Reloaded, ReloadError> {
        let taken = self.put_in_force(sources);
        let mut heard = self.heard();
        match &taken {
            Ok(reloaded) => {
                heard.refused = None;
                heard.waiting.clone_from(&reloaded.waiting);
            }
            Err(error) => heard.refused = Some(error.to_string()),
        }
        taken
    }

    fn put_in_force(&self, sources: &Sources) -> Result<Reloaded, ReloadError> {
        let old = self.settings();
        let wanted = Settings::load(old.role, sources)?;
        let mut next = Settings::clone(&old);
        next.limits = wanted.limits.clone();
        // A broker counts addresses against what it was started with.
        next.limits.connections_per_address_max = old.limits.connections_per_address_max;
        next.lobby.word_filter.clone_from(&wanted.lobby.word_filter);
        next.maintenance.clone_from(&wanted.maintenance);
        next.trace.sample_ratio = wanted.trace.sample_ratio;
        next.log.filter.clone_from(&wanted.log.filter);
        let changed = old.different_keys(&next);
        if changed.contains(&"log.filter")
            && let Some(log) = &self.log
        {
            log.set_filter(&next.log.filter)?;
        }
        let waiting = self.given.different_keys(&wanted);
        let waiting = waiting.into_iter().filter(|key| !LIVE.iter().any(|live| key.starts_with(live)));
        let waiting = waiting.chain(
            (wanted.limits.connections_per_address_max != old.limits.connections_per_address_max)
                .then_some("limits.connections_per_address_max"),
        );
        let waiting = waiting.collect();
        if !changed.is_empty() {
            self.current.send_replace(Arc::new(next));
        }
        Ok(Reloaded { changed, waiting })
    }

    /// Reloads at every SIGHUP, every change of the file and every change in Consul, until `stop`.
    pub async fn run(self, registry: &Registry, component: Component, stop: CancellationToken) {
        let report = Report::new(registry, component);
        if let Some(log) = &self.log {
            log.count_in(registry);
        }
        let (found, mut from_consul) = mpsc::channel(1);
        let settings = self.settings();
        let consul = match Watch::new(&settings.consul) {
            Ok(watch) => follow(watch, found),
            Err(why) => {
                tracing::error!("Consul is not asked for settings: {why}");
                follow(None, found)
            }
        };
        tokio::pin!(consul);
        let place = PathBuf::from(format!("consul {}", settings.consul.key));
        let mut hangups = Hangups::new();
        let mut seen = Option::clone(&self.first);
        let mut unreachable = false;
        loop {
            let answer = tokio::select! {
                () = stop.cancelled() => return,
                () = &mut consul => return,
                Some(answer) = from_consul.recv() => Some(answer),
                () = hangups.next() => None,
                () = tokio::time::sleep(LOOK_EVERY) => {
                    let text = (self.read)().file_text();
                    if text == seen {
                        continue;
                    }
                    seen = text;
                    None
                }
            };
            let outcome = match answer {
                None => self.reload(),
                Some(Answer::Value(text)) => {
                    if std::mem::take(&mut unreachable) {
                        tracing::info!("Consul is in reach again");
                    }
                    let remote = text.map(|text| FileSource { path: place.clone(), text: Ok(text) });
                    if remote == self.heard().remote {
                        report.in_touch();
                        continue;
                    }
                    self.heard().remote = remote;
                    self.reload()
                }
                Some(Answer::Failed(why)) => {
                    if !std::mem::replace(&mut unreachable, true) {
                        tracing::warn!("Consul cannot be asked for settings, those in force stay: {why}");
                    }
                    report.component.degraded(format!("Consul cannot be asked: {why}"));
                    continue;
                }
            };
            report.tell(&outcome);
        }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Passes on what Consul has, for ever.
async fn follow(watch: Option<Watch>, found: mpsc::Sender<Answer>) {
    let Some(mut watch) = watch else { return std::future::pending().await };
    loop {
        let answer = watch.next().await;
        if found.send(answer).await.is_err() {
            return;
        }
    }
}

impl Report {
    fn new(registry: &Registry, component: Component) -> Report {
        component.ok();
        Report {
            component,
            reloads: register(
                registry,
                IntCounterVec::new(
                    Opts::new("mlms_settings_reloads_total", "Settings that were read again, by outcome."),
                    &["outcome"],
                ),
            ),
            refused: register(
                registry,
                IntGauge::new("mlms_settings_refused", "1 while the newest settings are refused, else 0."),
            ),
        }
    }

    /// Consul answers, and has nothing new.
    fn in_touch(&self) {
        if self.refused.get() == 0 {
            self.component.ok();
        }
    }

    fn tell(&self, outcome: &Result<Reloaded, ReloadError>) {
        match outcome {
            Ok(Reloaded { changed, waiting }) => {
                self.reloads.with_label_values(&["taken"]).inc();
                self.refused.set(0);
                self.component.ok();
                tracing::info!(?changed, "settings were read again");
                if !waiting.is_empty() {
                    tracing::warn!(?waiting, "these settings change only with a restart");
                }
            }
            Err(error) => {
                self.reloads.with_label_values(&["refused"]).inc();
                self.refused.set(1);
                self.component.degraded(format!("the newest settings are refused: {error}"));
                tracing::error!("the new settings are refused, the old ones stay: {error}");
            }
        }
    }
}

/// SIGHUPs, where the system has them.
struct Hangups(#[cfg(unix)] Option<tokio::signal::unix::Signal>);

impl Hangups {
    #[cfg(unix)]
    fn new() -> Hangups {
        use tokio::signal::unix::{SignalKind, signal};
        Hangups(
            signal(SignalKind::hangup())
                .inspect_err(|error| tracing::warn!(%error, "SIGHUP is not heard"))
                .ok(),
        )
    }

    #[cfg(not(unix))]
    fn new() -> Hangups {
        Hangups()
    }

    async fn next(&mut self) {
        #[cfg(unix)]
        if let Some(signal) = &mut self.0
            && signal.recv().await.is_some()
        {
            return;
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests;
