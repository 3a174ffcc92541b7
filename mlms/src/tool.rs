//! What the commands for operators share: settings, the event store, and lines for people or for machines.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use mlms_process::config::{SharedFlags, Sources};
use mlms_process::{ProcessRole, Settings, logging};
use mlms_protocol::Millis;
use mlms_store::Store;
use secrecy::ExposeSecret;

/// The settings of a command.
pub(crate) fn settings(flags: &SharedFlags) -> anyhow::Result<Settings> {
    let settings = Settings::load(ProcessRole::Tool, &Sources::of_this_process(flags))?;
    logging::init(&settings.log)?;
    Ok(settings)
}

/// Runs a command's work.
pub(crate) fn run<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?.block_on(work)
}

/// Opens the event store of the settings; without one, that of a standalone process in the data folder.
pub(crate) async fn open(settings: &Settings) -> anyhow::Result<Store> {
    let url = match &settings.database_url {
        Some(url) => url.expose_secret().to_owned(),
        None => {
            let file = settings.data_dir.join("mlms.db");
            anyhow::ensure!(
                file.exists(),
                "no event store: set MLMS_DATABASE_URL, or MLMS_DATA_DIR to the folder of mlms.db"
            );
            format!("sqlite://{}", file.display())
        }
    };
    Store::open(&url).await.context("the event store")
}

/// The time this long ago.
pub(crate) fn ago(age: Duration) -> Millis {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(now.saturating_sub(age).as_millis()).unwrap_or(u64::MAX))
}

/// Says something beside the result.
#[expect(clippy::print_stderr, reason = "the progress of a command line tool")]
pub(crate) fn tell(text: &str) {
    eprintln!("{text}");
}
