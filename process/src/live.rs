//! Settings that change while the process runs: the limits and the log's filter. The file is looked at every two
//! seconds (so that a ConfigMap mounted over it is noticed, however it is swapped), and at a SIGHUP. A bad file is
//! refused with one clear line and the old settings stay; what needs a restart is named and stays, too.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{ConfigErrors, Settings, Sources};
use crate::logging::{LogError, LogHandle};

/// Beginnings of the keys that change without a restart.
const LIVE: [&str; 2] = ["limits.", "log.filter"];

const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The settings in force. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Live {
    current: Arc<watch::Sender<Arc<Settings>>>,
    /// What the sources said at the start, before the process made up a name or a secret for itself.
    given: Arc<Settings>,
    log: Option<LogHandle>,
    read: Arc<dyn Fn() -> Sources + Send + Sync>,
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
    #[error("{0}")]
    Config(#[from] ConfigErrors),
    #[error(transparent)]
    Log(#[from] LogError),
}

impl Live {
    /// `read` reads the file, the environment and the flags again.
    pub fn new(
        settings: Settings,
        log: Option<LogHandle>,
        read: impl Fn() -> Sources + Send + Sync + 'static,
    ) -> Live {
        let given = Settings::load(settings.role, &read()).unwrap_or_else(|_| settings.clone());
        let current = watch::Sender::new(Arc::new(settings));
        Live { current: Arc::new(current), given: Arc::new(given), log, read: Arc::new(read) }
    }

    pub fn settings(&self) -> Arc<Settings> {
        self.current.borrow().clone()
    }

    /// Tells of every change.
    pub fn watch(&self) -> watch::Receiver<Arc<Settings>> {
        self.current.subscribe()
    }

    /// Reads all sources again and puts in force what can change.
    ///
    /// # Errors
    /// What is wrong with the new settings; none of them is in force then.
    pub fn reload(&self) -> Result<Reloaded, ReloadError> {
        self.take(&(self.read)())
    }

    fn take(&self, sources: &Sources) -> Result<Reloaded, ReloadError> {
        let old = self.settings();
        let wanted = Settings::load(old.role, sources)?;
        let mut next = Settings::clone(&old);
        next.limits = wanted.limits.clone();
        // A broker counts addresses against what it was started with.
        next.limits.connections_per_address_max = old.limits.connections_per_address_max;
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

    /// Reloads at every SIGHUP and every change of the file, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut hangups = Hangups::new();
        let mut seen = (self.read)().file_text();
        loop {
            let hung_up = tokio::select! {
                () = stop.cancelled() => return,
                () = hangups.next() => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            let sources = (self.read)();
            let text = sources.file_text();
            if !hung_up && text == seen {
                continue;
            }
            seen = text;
            match self.take(&sources) {
                Ok(Reloaded { changed, waiting }) => {
                    tracing::info!(?changed, "settings were read again");
                    if !waiting.is_empty() {
                        tracing::warn!(?waiting, "these settings change only with a restart");
                    }
                }
                Err(error) => tracing::error!("the new settings are refused, the old ones stay: {error}"),
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
mod tests {
    use std::path::PathBuf;
    use std::sync::Mutex;

    use super::*;
    use crate::config::{FileSource, ProcessRole, SharedFlags};

    /// Settings of a standalone process from a file whose text can be changed.
    fn live(text: &str) -> (Live, Arc<Mutex<String>>) {
        let file = Arc::new(Mutex::new(text.to_owned()));
        let shared = Arc::clone(&file);
        let read = move || {
            let text = Ok(shared.lock().unwrap().clone());
            Sources::of([], &SharedFlags::default())
                .with_file(FileSource { path: PathBuf::from("mlms.toml"), text })
        };
        let settings = Settings::load(ProcessRole::Standalone, &read()).unwrap();
        (Live::new(settings, None, read), file)
    }

    #[test]
    fn limits_and_the_log_change_and_the_rest_waits() {
        let (live, file) = live("[limits]\nchats_per_s = 5\n");
        let mut watch = live.watch();
        assert_eq!(live.reload().unwrap(), Reloaded::default());
        assert!(!watch.has_changed().unwrap());
        *file.lock().unwrap() = "heartbeat_ms = 9000\n[limits]\nchats_per_s = 7\nconnections_per_address_max = 9\n[log]\nfilter = \"debug\"\n".to_owned();
        let reloaded = live.reload().unwrap();
        assert_eq!(reloaded.changed, ["log.filter", "limits.chats_per_s"]);
        assert_eq!(reloaded.waiting, ["heartbeat_ms", "limits.connections_per_address_max"]);
        let settings = watch.borrow_and_update().clone();
        assert_eq!((settings.limits.chats_per_s, settings.log.filter.as_str()), (7, "debug"));
        assert_eq!(settings.heartbeat, Duration::from_millis(25_000));
        assert_eq!(settings.limits.connections_per_address_max, 100);
    }

    #[test]
    fn a_bad_file_is_refused_and_the_old_settings_stay() {
        let (live, file) = live("[limits]\nchats_per_s = 5\n");
        for bad in ["[limits]\nchats_per_s = \"many\"\n", "[limits]\nchat_per_s = 9\n", "[limits\n"] {
            *file.lock().unwrap() = bad.to_owned();
            let error = live.reload().unwrap_err().to_string();
            assert!(error.contains("mlms.toml"), "{error}");
            assert_eq!(live.settings().limits.chats_per_s, 5);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_noticed_and_an_unchanged_one_is_not() {
        let (live, file) = live("");
        let stop = CancellationToken::new();
        let task = tokio::spawn(live.clone().run(stop.clone()));
        let mut watch = live.watch();
        assert!(tokio::time::timeout(Duration::from_secs(60), watch.changed()).await.is_err());
        *file.lock().unwrap() = "[limits]\nmembers_per_lobby_max = 12\n".to_owned();
        tokio::time::timeout(Duration::from_secs(60), watch.changed()).await.unwrap().unwrap();
        assert_eq!(watch.borrow().limits.members_per_lobby_max, 12);
        stop.cancel();
        task.await.unwrap();
    }
}
