//! Tokens of the clients: signed with a secret, read from a file, printed by a command of the tester's, or asked from
//! the service's guests endpoint.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail, ensure};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::target::{Stream, Target};

/// Token commands at once.
const COMMANDS_AT_ONCE: u32 = 8;

/// Who a client is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Credential {
    pub(crate) user: String,
    pub(crate) token: String,
}

/// Where tokens come from.
#[derive(Clone, Debug)]
pub(crate) enum TokenSource {
    /// HS256 with this secret.
    Secret(String),
    /// A token a line.
    File(PathBuf),
    /// Run with `sh -c`, `{user}` replaced; prints the token.
    Command(String),
    Guests,
}

impl TokenSource {
    /// Tokens for clients 0 to `count`, each of another user; of users `{run}-{number}` where the source lets us choose.
    ///
    /// # Errors
    /// There are too few, one cannot be read, or two are of the same user: the service closes the oldest of a user's
    /// sessions for a further one, and a message's sender is known by its user.
    pub(crate) fn credentials(
        &self,
        target: &Target,
        tls: &Arc<ClientConfig>,
        run: &str,
        count: u32,
        ttl: Duration,
    ) -> anyhow::Result<Vec<Credential>> {
        let credentials = self.issued(target, tls, run, count, ttl)?;
        differ(&credentials)?;
        Ok(credentials)
    }

    fn issued(
        &self,
        target: &Target,
        tls: &Arc<ClientConfig>,
        run: &str,
        count: u32,
        ttl: Duration,
    ) -> anyhow::Result<Vec<Credential>> {
        let user = |number: u32| format!("{run}-{number}");
        match self {
            TokenSource::Secret(secret) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
                let now = SystemTime::now()
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .context("the clock is before 1970")?;
                let expiry = (now + ttl).as_secs();
                Ok((0..count).map(|number| minted(&key, user(number), number, expiry)).collect())
            }
            TokenSource::File(path) => {
                let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
                let tokens: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
                let (has, wants) = (tokens.len(), count as usize);
                ensure!(has >= wants, "{} has {has} tokens for {wants} clients", path.display());
                tokens[..wants].iter().map(|token| credential(token)).collect()
            }
            TokenSource::Command(command) => run_commands(command, count, &user),
            TokenSource::Guests => guests(target, tls, run, count),
        }
    }
}

fn differ(credentials: &[Credential]) -> anyhow::Result<()> {
    let mut clients = HashMap::new();
    for (client, Credential { user, .. }) in credentials.iter().enumerate() {
        if let Some(other) = clients.insert(&**user, client) {
            bail!("clients {other} and {client} have the same user, {user:?}: give each a token of its own");
        }
    }
    Ok(())
}

fn minted(key: &hmac::Key, user: String, number: u32, expiry: u64) -> Credential {
    let header = URL_SAFE_NO_PAD.encode(br#"{"alg":"HS256","typ":"JWT"}"#);
    let claims = json!({"sub": user, "name": format!("load {number}"), "exp": expiry}).to_string();
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(key, signed.as_bytes()));
    Credential { user, token: format!("{signed}.{signature}") }
}

/// Reads whose token it is; the service verifies it.
fn credential(token: &str) -> anyhow::Result<Credential> {
    let claims = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let claims: Option<Value> = claims.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let user = claims.as_ref().and_then(|claims| claims["sub"].as_str());
    let user = user.with_context(|| format!("a token without `sub`: {:.20}…", token))?;
    Ok(Credential { user: user.to_owned(), token: token.to_owned() })
}

/// Issuers are slow, and there are many clients: some at a time.
fn run_commands(
    command: &str,
    count: u32,
    user: &(impl Fn(u32) -> String + Sync),
) -> anyhow::Result<Vec<Credential>> {
    let next = AtomicU32::new(0);
    let one = || {
        let mut printed = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(printed);
            }
            let outcome = run_command(command, &user(number));
            if outcome.is_err() {
                // Nobody needs the others'.
                next.store(count, Ordering::Relaxed);
            }
            printed.push((number, outcome?));
        }
    };
    let printed = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..COMMANDS_AT_ONCE).map(|_| scope.spawn(one)).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .map(|part| part.unwrap_or_else(|_| bail!("a thread panicked")))
            .collect::<anyhow::Result<Vec<_>>>()
    })?;
    let mut printed = printed.concat();
    printed.sort_by_key(|(number, _)| *number);
    Ok(printed.into_iter().map(|(_, credential)| credential).collect())
}

fn run_command(command: &str, user: &str) -> anyhow::Result<Credential> {
    let shell = command.replace("{user}", user);
    let output =
        Command::new("sh").args(["-c", &shell]).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.context("sh cannot be started")?;
    ensure!(output.status.success(), "the token command {shell:?} ended with {}", output.status);
    credential(String::from_utf8_lossy(&output.stdout).trim())
}

/// One request after the other over one connection; the service counts guests by address.
fn guests(
    target: &Target,
    tls: &Arc<ClientConfig>,
    run: &str,
    count: u32,
) -> anyhow::Result<Vec<Credential>> {
    let mut reader = BufReader::new(target.stream(tls, Duration::from_secs(10))?);
    let mut credentials = Vec::new();
    for number in 0..count {
        let body = json!({"name": format!("{run}-{number}")}).to_string();
        let request = format!(
            "POST /v1/guests HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            target.authority,
            body.len()
        );
        reader.get_mut().write_all(request.as_bytes())?;
        let (status, body) = answer(&mut reader).context("the guests endpoint")?;
        match status {
            200 | 201 => {}
            404 | 405 => {
                bail!(
                    "the service gives no tokens to guests; give --secret-file, --tokens or --token-command"
                )
            }
            // Its limit is a minute's; who gives the secret need not wait.
            429 => bail!(
                "the service gives no more tokens to guests for now ({number} of {count}): sign them with \
                 --secret-file (mlms standalone keeps its secret in DATA_DIR/jwt-secret), or take fewer --clients"
            ),
            other => bail!("the guests endpoint answers {other}: {body}"),
        }
        credentials
            .push(serde_json::from_value(body).context("the guests endpoint answers without a token")?);
    }
    Ok(credentials)
}

fn answer(reader: &mut BufReader<Box<dyn Stream>>) -> anyhow::Result<(u16, Value)> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no HTTP answer")?;
    let mut length = 0usize;
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let text = line.trim();
        if text.is_empty() {
            break;
        }
        if let Some((name, value)) = text.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().context("a bad length")?;
        }
    }
    ensure!(length <= 1 << 20, "an answer of {length} bytes");
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls() -> Arc<ClientConfig> {
        crate::tls::Trust { is_insecure: true, ..Default::default() }.config(&[]).unwrap()
    }

    #[test]
    fn a_minted_token_names_its_user() {
        let target = Target::resolve("ws://127.0.0.1:1").unwrap();
        let source = TokenSource::Secret("a secret of thirty-two characters".to_owned());
        let made = source.credentials(&target, &tls(), "r1", 2, Duration::from_secs(60)).unwrap();
        assert_eq!(made[1].user, "r1-1");
        assert_eq!(credential(&made[1].token).unwrap(), made[1]);
    }

    fn made(source: &TokenSource, count: u32) -> anyhow::Result<Vec<Credential>> {
        let target = Target::resolve("ws://127.0.0.1:1").unwrap();
        source.credentials(&target, &tls(), "r1", count, Duration::from_secs(60))
    }

    #[test]
    fn a_command_prints_a_token() {
        let issue =
            r#"printf '{"sub":"%s"}' {user} | base64 -w 0 | tr -d = | tr +/ -_ | sed 's/.*/x.&.{user}/'"#;
        let printed = |number| {
            let user = format!("r1-{number}");
            let claims = URL_SAFE_NO_PAD.encode(format!(r#"{{"sub":"{user}"}}"#));
            Credential { token: format!("x.{claims}.{user}"), user }
        };
        let each = made(&TokenSource::Command(issue.to_owned()), 20).unwrap();
        assert_eq!(each, (0..20).map(printed).collect::<Vec<_>>(), "each client has its own");
        assert!(made(&TokenSource::Command("exit 3".to_owned()), 1).is_err());
    }

    #[test]
    fn two_clients_of_one_user_are_refused() {
        let token = |user: &str| format!("x.{}.y", URL_SAFE_NO_PAD.encode(json!({"sub": user}).to_string()));
        let same = TokenSource::Command(format!("echo {}", token("ann")));
        assert_eq!(made(&same, 1).unwrap()[0].user, "ann");
        let error = made(&same, 2).unwrap_err().to_string();
        assert!(error.starts_with("clients 0 and 1 have the same user, \"ann\""), "{error}");

        let folder = mlms_test_servers::Folder::new("loadtest-tokens");
        let path = folder.path().join("tokens");
        std::fs::write(&path, ["ann", "bob", "eve", "bob"].map(token).join("\n")).unwrap();
        let file = TokenSource::File(path);
        assert_eq!(made(&file, 3).unwrap().len(), 3, "the fourth is nobody's");
        assert!(made(&file, 4).unwrap_err().to_string().starts_with("clients 1 and 3 have the same user"));
    }
}
