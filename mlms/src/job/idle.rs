//! `mlms job close-idle-lobbies`. Only a lobby's owner can close it, so the job asks through a broker, as an
//! administrator's client does.

use std::time::Duration;

use anyhow::{Context, bail};
use mlms_client::{Client, Error, Options, TokenSource};
use mlms_process::jwt::Minter;
use mlms_process::{Settings, install_crypto_provider};
use mlms_protocol::{Command, ErrorCode, LobbyCommand, LobbyId, Millis, Role, Seq, UserId};
use mlms_store::{Range, Store};
use serde_json::json;

use super::{Idle, PAGE, print};
use crate::tool;

/// Who the job is, where it makes a token itself.
const USER: &str = "mlms-job";
/// Longer than a run takes.
const TOKEN_TTL: Duration = Duration::from_secs(6 * 3_600);

pub(super) fn run(arguments: &Idle) -> anyhow::Result<()> {
    let shared = &arguments.shared;
    install_crypto_provider();
    let settings = tool::settings(&shared.flags)?;
    let before = tool::ago(arguments.idle_for);
    let (mut closed, mut failed) = (0_u64, 0_u64);
    tool::run(async {
        let store = tool::open(&settings).await?;
        let client = match shared.dry_run {
            true => None,
            false => Some(connect(arguments, &settings)?),
        };
        let mut last = None;
        loop {
            let page = store.idle_lobbies(last.as_ref(), before, PAGE).await?;
            if page.is_empty() {
                break;
            }
            last = page.last().cloned();
            for (lobby, _) in page {
                if !is_idle(&store, &lobby, before).await? {
                    continue;
                }
                let Some((client, _)) = &client else {
                    closed += 1;
                    continue;
                };
                match client.request(Command::Lobby(lobby.clone(), LobbyCommand::Close), None).await {
                    Ok(_) => closed += 1,
                    Err(Error::Refused(refusal))
                        if matches!(refusal.code, ErrorCode::LobbyClosed | ErrorCode::NotFound) => {}
                    Err(Error::Closed(reason)) => bail!(
                        "{}: {reason}. The token is made with MLMS_JWT_HS256_SECRET, or given as MLMS_JOB_TOKEN",
                        arguments.url
                    ),
                    Err(error) => {
                        failed += 1;
                        tool::tell(&format!("{lobby}: {error}"));
                    }
                }
            }
        }
        if let Some((client, _)) = client {
            client.close().await;
        }
        Ok(())
    })?;
    let report = json!({
        "job": "close-idle-lobbies", "dry_run": shared.dry_run, "before": before, "closed": closed, "failed": failed,
    });
    print(shared, &report)?;
    if failed > 0 {
        bail!("{failed} lobbies could not be closed");
    }
    Ok(())
}

fn connect(arguments: &Idle, settings: &Settings) -> anyhow::Result<(Client, mlms_client::Events)> {
    // A variable that is set to nothing is meant as one that is not given.
    let token = match arguments.token.as_deref().filter(|token| !token.is_empty()) {
        Some(token) => token.to_owned(),
        None => {
            let mut settings = settings.clone();
            settings.prepare()?;
            let minter = Minter::new(&settings.jwt)
                .context("no secret to make a token with: give --token with the role admin")?;
            let user = UserId::new(USER).context("the job's user")?;
            minter.mint(&user, None, &[Role::Admin], TOKEN_TTL).token
        }
    };
    Ok(Client::connect(Options::new(&arguments.url, TokenSource::fixed(token)))?)
}

/// The saved state may be older than what a node has done since: the last event tells.
async fn is_idle(store: &Store, lobby: &LobbyId, before: Millis) -> anyhow::Result<bool> {
    let last = store.history(lobby, Range::Latest, Seq(0), 1).await?;
    Ok(last.first().is_none_or(|event| event.at < before))
}
