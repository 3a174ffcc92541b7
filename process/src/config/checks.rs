//! What must hold between settings, by role. Files that the settings name are opened here, so that a wrong path is
//! reported with everything else.

use secrecy::ExposeSecret;

use super::mistake::Mistake;
use super::sources::GivenKeys;
use super::{JwksSource, ProcessRole, Settings, TokenAlgorithm};
use crate::jwt;

/// RFC 7518, section 3.2: the key of HS256 has at least the size of the hash.
const HS256_SECRET_BYTES_LEAST: usize = 32;

struct Report<'a> {
    mistakes: &'a mut Vec<Mistake>,
}

impl Report<'_> {
    fn unless(&mut self, holds: bool, place: &str, what: &str, mend: &str) {
        if !holds {
            self.mistakes.push(Mistake {
                place: place.to_owned(),
                what: what.to_owned(),
                mend: mend.to_owned(),
            });
        }
    }
}

/// Needed by a role and not given: but a value that was given and is wrong is not also missing.
pub(super) fn check(settings: &Settings, given: &GivenKeys, mistakes: &mut Vec<Mistake>) {
    let mut report = Report { mistakes };
    match settings.role {
        ProcessRole::Standalone => check_standalone(settings, &mut report),
        ProcessRole::Broker | ProcessRole::LobbyNode => check_fleet(settings, given, &mut report),
        ProcessRole::Achievements => check_achievements(settings, given, &mut report),
        ProcessRole::Tool => {}
    }
    check_jwt(settings, given, &mut report);
    let secret_or_made_up = settings.jwt.hs256_secret.is_some()
        || given.contains("jwt.hs256_secret")
        || (settings.role == ProcessRole::Standalone && !settings.jwt.has_key());
    report.unless(
        !settings.guests || secret_or_made_up || settings.role == ProcessRole::Tool,
        "guests",
        "guests' tokens are signed with jwt.hs256_secret, which is not set",
        "set MLMS_JWT_HS256_SECRET, or MLMS_GUESTS to false",
    );
    let limits = &settings.limits;
    report.unless(
        limits.chat_bytes_max <= limits.frame_bytes_max,
        "limits.chat_bytes_max",
        "a chat text may not be larger than a frame",
        "make it at most limits.frame_bytes_max",
    );
    report.unless(
        limits.commands_per_s == 0 || limits.commands_burst > 0,
        "limits.commands_burst",
        "0 allows no command at all",
        "give at least 1, or 0 for limits.commands_per_s to turn the limit off",
    );
    report.unless(
        limits.chats_per_s == 0 || limits.chats_burst > 0,
        "limits.chats_burst",
        "0 allows no chat message at all",
        "give at least 1, or 0 for limits.chats_per_s to turn the limit off",
    );
}

fn check_standalone(settings: &Settings, report: &mut Report<'_>) {
    report.unless(
        !(settings.ephemeral && settings.database_url.is_some()),
        "ephemeral",
        "keeps nothing, but database.url names a database",
        "leave one of the two out",
    );
}

fn check_achievements(settings: &Settings, given: &GivenKeys, report: &mut Report<'_>) {
    report.unless(
        settings.database_url.is_some() || given.contains("database.url"),
        "database.url",
        "is not set, and achievements keeps statistics in a database",
        "set MLMS_DATABASE_URL to that of the lobby nodes",
    );
    report.unless(
        settings.amqp_url.is_some() || given.contains("amqp.url"),
        "amqp.url",
        "is not set, and achievements gets domain events over AMQP",
        "set MLMS_AMQP_URL to that of the lobby nodes, or run `mlms standalone`",
    );
}

fn check_fleet(settings: &Settings, given: &GivenKeys, report: &mut Report<'_>) {
    let role = settings.role;
    report.unless(
        !settings.ephemeral,
        "ephemeral",
        &format!("is for standalone, not for a {role}"),
        "leave --ephemeral and MLMS_EPHEMERAL out",
    );
    report.unless(
        settings.redis.url.is_some() || given.contains("redis.url"),
        "redis.url",
        &format!("is not set, and a {role} meets the other processes through Redis"),
        "set MLMS_REDIS_URL, for example redis://127.0.0.1:6379, or run `mlms standalone`",
    );
    report.unless(
        settings.cluster_keys.is_some() || given.contains("cluster.key"),
        "cluster.key",
        &format!("is not set, and a {role} needs it for the tickets between brokers and nodes"),
        "set MLMS_CLUSTER_KEY to the same base64 of 32 bytes everywhere (openssl rand -base64 32)",
    );
    let key_given =
        ["jwt.hs256_secret", "jwt.public_key_file", "jwt.jwks_url"].iter().any(|key| given.contains(key));
    report.unless(
        settings.jwt.has_key() || key_given,
        "jwt",
        "no key is set by which users' tokens could be verified",
        "set MLMS_JWT_HS256_SECRET, MLMS_JWT_PUBLIC_KEY_FILE or MLMS_JWT_JWKS_URL",
    );
    if role == ProcessRole::LobbyNode {
        report.unless(
            settings.database_url.is_some() || given.contains("database.url"),
            "database.url",
            "is not set, and a lobby-node keeps its events in a database",
            "set MLMS_DATABASE_URL, for example mysql://user:password@127.0.0.1:3306/mlms",
        );
        report.unless(
            given.contains("node.address") || !settings.node.listen.ip().is_unspecified(),
            "node.address",
            &format!("is not set, and node.listen {} is no address others can reach", settings.node.listen),
            "set MLMS_NODE_ADDRESS to host:port as brokers and other nodes reach this node",
        );
    }
}

fn check_jwt(settings: &Settings, given: &GivenKeys, report: &mut Report<'_>) {
    let jwt = &settings.jwt;
    let mut possible = Vec::new();
    let mut all_known = true;
    if jwt.hs256_secret.is_some() || !jwt.has_key() || given.contains("jwt.hs256_secret") {
        possible.push(TokenAlgorithm::Hs256);
    }
    if let Some(path) = &jwt.public_key_file {
        match jwt::read_public_key(path) {
            Ok(algorithm) => possible.push(algorithm),
            Err(why) => {
                all_known = false;
                let what = format!("{}: {why}", path.display());
                report.unless(
                    false,
                    "jwt.public_key_file",
                    &what,
                    "give a readable PEM file with an RSA, P-256 or Ed25519 public key",
                );
            }
        }
    }
    match &jwt.jwks {
        Some(JwksSource::File(path)) => {
            all_known = false;
            if let Err(why) = jwt::read_key_set(path) {
                let what = format!("{}: {why}", path.display());
                report.unless(false, "jwt.jwks_url", &what, "give a readable JSON Web Key Set");
            }
        }
        Some(JwksSource::Url(_)) => all_known = false,
        None => {}
    }
    for algorithm in &jwt.algorithms {
        let usable = possible.contains(algorithm) || (!all_known && *algorithm != TokenAlgorithm::Hs256);
        let what = format!("{} is accepted, but no key for it is given", algorithm.name());
        report.unless(usable, "jwt.algorithms", &what, "give a key of that kind, or take it off the list");
    }
}

pub(super) fn warnings(settings: &Settings) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(secret) = &settings.jwt.hs256_secret
        && secret.expose_secret().len() < HS256_SECRET_BYTES_LEAST
    {
        warnings.push(format!(
            "jwt.hs256_secret has fewer than {HS256_SECRET_BYTES_LEAST} bytes and can be guessed; give a longer one"
        ));
    }
    if let Some(JwksSource::Url(url)) = &settings.jwt.jwks
        && url.starts_with("http://")
    {
        warnings.push("jwt.jwks_url is http: whoever is on the way can put in keys; use https".to_owned());
    }
    if settings.role != ProcessRole::Standalone && settings.guests {
        warnings.push("guests is on: anyone gets a token".to_owned());
    }
    if settings.ephemeral {
        warnings
            .push("ephemeral: messages and lobbies live in memory only and are lost at the end".to_owned());
    }
    warnings
}
