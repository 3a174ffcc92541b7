//! `mlms migrate`: brings the event store's schema up to date.

use anyhow::Context;
use mlms_process::config::SharedFlags;
use mlms_store::Store;
use secrecy::ExposeSecret;

use crate::tool;

pub(crate) fn run(flags: &SharedFlags) -> anyhow::Result<()> {
    let settings = tool::settings(flags)?;
    let url = match &settings.database_url {
        Some(url) => url.expose_secret().to_owned(),
        None => format!("sqlite://{}", settings.data_dir.join("mlms.db").display()),
    };
    tool::run(async {
        let store = Store::open(&url).await.context("the event store")?;
        store.migrate().await.context("the event store")
    })?;
    crate::print("the schema is up to date\n")
}
