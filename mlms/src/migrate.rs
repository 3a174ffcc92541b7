//! `mlms migrate`: brings the event store's schema up to date.

use anyhow::Context;
use mlms_process::config::SharedFlags;
use mlms_store::{Store, StoreError};
use secrecy::ExposeSecret;

use crate::patience::{PATIENCE, patiently};
use crate::tool;

pub(crate) fn run(flags: &SharedFlags) -> anyhow::Result<()> {
    let settings = tool::settings(flags)?;
    let url = match &settings.database_url {
        Some(url) => url.expose_secret().to_owned(),
        None => format!("sqlite://{}", settings.data_dir.join("mlms.db").display()),
    };
    tool::run(async {
        // A database that is started beside it may be late.
        let passes = |error: &StoreError| matches!(error, StoreError::Unavailable(_));
        let migrate = async || Store::open(&url).await?.migrate().await;
        let outcome = patiently("the database", Some(PATIENCE), passes, |_| (), migrate).await;
        outcome.context("the event store")
    })?;
    crate::print("the schema is up to date\n")
}
