//! The process's log: lines for people or JSON for machines, on standard error (standard output belongs to the
//! commands' answers), and GELF to a server besides. The filter can be changed while the process runs.

mod gelf;
mod line;

use std::any::Any;
use std::io::IsTerminal;
use std::time::Duration;

use prometheus::Registry;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry as Spans, fmt};

use crate::config::{LogFormat, LogSettings};
use gelf::Gelf;
use line::Lines;

/// How long the end of a process waits for lines on their way to a server.
const FLUSH: Duration = Duration::from_secs(2);

/// Why logging could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("`{0}` is no log filter: {1}")]
    Filter(String, String),
    #[error("the process has a log already")]
    Twice,
    #[error("the log is gone")]
    Gone,
}

/// Changes the log of a running process.
#[derive(Debug, Clone)]
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Spans>,
    gelf: Option<Gelf>,
}

impl LogHandle {
    /// Replaces the filter.
    ///
    /// # Errors
    /// When it cannot be parsed; the old one stays.
    pub fn set_filter(&self, filter: &str) -> Result<(), LogError> {
        self.filter.reload(parse(filter)?).map_err(|_| LogError::Gone)
    }

    /// Puts the log's own counters on the metrics page.
    pub(crate) fn count_in(&self, registry: &Registry) {
        if let Some(gelf) = &self.gelf {
            gelf.count_in(registry);
        }
    }

    /// Waits, for a bounded time, until what was logged has been sent.
    pub fn flush(&self) {
        if let Some(gelf) = &self.gelf {
            gelf.flush(FLUSH);
        }
    }
}

/// Starts the log of this process, and sends panics into it.
///
/// # Errors
/// When the filter cannot be parsed, or logging was started before.
pub fn init(settings: &LogSettings) -> Result<LogHandle, LogError> {
    let (filter, handle) = reload::Layer::new(parse(&settings.filter)?);
    let gelf = settings.gelf.as_ref().map(Gelf::start);
    let text = (settings.format == LogFormat::Text).then(|| {
        let layer = fmt::layer().with_writer(std::io::stderr);
        // Colours are for people: none in a file, a journal or a container's log.
        if std::io::stderr().is_terminal() { layer.boxed() } else { layer.with_ansi(false).boxed() }
    });
    let lines = Lines { json: settings.format == LogFormat::Json, gelf: gelf.clone() };
    let lines = (lines.json || lines.gelf.is_some()).then_some(lines);
    let subscriber = tracing_subscriber::registry().with(filter).with(text).with(lines);
    subscriber.try_init().map_err(|_| LogError::Twice)?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place, "panic: {}", panic_message(panic.payload()));
    }));
    Ok(LogHandle { filter: handle, gelf })
}

/// What a panic said.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// lapin tells as errors what our publisher handles and tells as one warning; it speaks where a filter names it.
fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    let quiet = if filter.contains("lapin") { "" } else { ",lapin=off" };
    let parsed = EnvFilter::builder().parse(format!("{filter}{quiet}"));
    parsed.map_err(|error| LogError::Filter(filter.to_owned(), error.to_string()))
}

#[cfg(test)]
mod tests;
