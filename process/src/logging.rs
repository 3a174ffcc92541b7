//! The process's log: lines for people or JSON for machines, on standard error (standard output belongs to the
//! commands' answers). The filter can be changed while the process runs.

use std::any::Any;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::config::{LogFormat, LogSettings};

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
    filter: reload::Handle<EnvFilter, Registry>,
}

impl LogHandle {
    /// Replaces the filter.
    ///
    /// # Errors
    /// When it cannot be parsed; the old one stays.
    pub fn set_filter(&self, filter: &str) -> Result<(), LogError> {
        self.filter.reload(parse(filter)?).map_err(|_| LogError::Gone)
    }
}

/// Starts the log of this process, and sends panics into it.
///
/// # Errors
/// When the filter cannot be parsed, or logging was started before.
pub fn init(settings: &LogSettings) -> Result<LogHandle, LogError> {
    let (filter, handle) = reload::Layer::new(parse(&settings.filter)?);
    let lines = match settings.format {
        LogFormat::Text => fmt::layer().with_writer(std::io::stderr).boxed(),
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(|_| LogError::Twice)?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place, "panic: {}", panic_message(panic.payload()));
    }));
    Ok(LogHandle { filter: handle })
}

/// What a panic said.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder().parse(filter).map_err(|error| LogError::Filter(filter.to_owned(), error.to_string()))
}
