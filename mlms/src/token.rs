//! `mlms token`: a token for trying things out, signed with the secret that the service verifies with.

use std::time::Duration;

use anyhow::{Context, bail};
use mlms_process::config::{SharedFlags, Sources};
use mlms_process::jwt::Minter;
use mlms_process::{ProcessRole, Settings};
use mlms_protocol::{Role, UserId};

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("who").required(true).args(["user", "guest"])))]
pub(crate) struct Arguments {
    /// The user's id (the token's `sub`)
    #[arg(long)]
    user: Option<UserId>,
    /// A made-up user with this name
    #[arg(long, value_name = "NAME")]
    guest: Option<String>,
    /// The name that other members see
    #[arg(long)]
    name: Option<String>,
    /// What the bearer may do everywhere: admin, moderator, server; may be repeated
    #[arg(long = "role", value_name = "ROLE", value_parser = parse_role)]
    roles: Vec<Role>,
    /// How long the token is valid, for example 30s, 15m, 1h, 7d
    #[arg(long, default_value = "1h", value_parser = parse_ttl)]
    ttl: Duration,
    #[command(flatten)]
    flags: SharedFlags,
}

fn parse_role(text: &str) -> Result<Role, String> {
    Role::parse(text).ok_or_else(|| "there are the roles admin, moderator and server".to_owned())
}

pub(crate) fn parse_ttl(text: &str) -> Result<Duration, String> {
    let wrong = || "write a number with s, m, h or d behind it, for example 1h".to_owned();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    number.checked_mul(seconds).filter(|seconds| *seconds > 0).map(Duration::from_secs).ok_or_else(wrong)
}

pub(crate) fn print(arguments: &Arguments) -> anyhow::Result<()> {
    let mut settings = Settings::load(ProcessRole::Tool, &Sources::of_this_process(&arguments.flags))?;
    let own_secret = settings.own_secret_path().filter(|path| !path.exists());
    settings.prepare()?;
    if let Some(path) = own_secret {
        // Not on the standard output: there the token stands alone.
        super::tool::tell(&format!(
            "made a new secret in {}: a service takes this token when it is started in the same folder, and not with --ephemeral",
            path.display()
        ));
    }
    let minter = Minter::new(&settings.jwt).context(
        "only a service with an HS256 secret can mint: set MLMS_JWT_HS256_SECRET, or leave every JWT key out",
    )?;
    let minted = match (&arguments.user, &arguments.guest) {
        (Some(user), _) => minter.mint(user, arguments.name.as_deref(), &arguments.roles, arguments.ttl),
        (None, Some(_)) if !arguments.roles.is_empty() => bail!("a guest has no roles; give --user"),
        (None, Some(guest)) => minter.mint_guest(arguments.name.as_deref().unwrap_or(guest), arguments.ttl),
        (None, None) => bail!("give --user or --guest"),
    };
    super::print(&format!("{}\n", minted.token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_has_a_unit() {
        for (text, seconds) in [("90", 90), ("30s", 30), ("15m", 900), ("1h", 3_600), ("7d", 604_800)] {
            assert_eq!(parse_ttl(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "h", "1w", "-1h", "0s", "99999999999999999999d"] {
            assert!(parse_ttl(bad).is_err(), "{bad}");
        }
    }
}
