//! How particular settings are read: keys, origins, word lists, addresses of servers. Each says what is wrong with a value,
//! and how to mend it; those for secrets never quote what they were given.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mlms_protocol::Role;
use mlms_protocol::ticket::ClusterKeys;
use secrecy::SecretString;

use super::mistake::{Wrong, wrong};
use super::value::{self, Given};
use super::{AllowedOrigins, GelfTarget, MayCreate, TokenAlgorithm, Transport};

pub(super) fn seconds(given: Given<'_>, least: u64, most: u64) -> Result<Duration, Wrong> {
    value::number(given, least, most).map(Duration::from_secs)
}

pub(super) fn cluster_keys(given: Given<'_>) -> Result<ClusterKeys, Wrong> {
    let mend = "give base64 of 32 random bytes (openssl rand -base64 32), or two with a comma while changing the key";
    let mut keys = Vec::<[u8; 32]>::new();
    for (index, item) in value::list(given)?.into_iter().enumerate() {
        let Ok(bytes) = STANDARD.decode(item) else {
            return wrong(format!("key {} is not base64", index + 1), mend);
        };
        let Ok(key) = <[u8; 32]>::try_from(bytes.as_slice()) else {
            return wrong(format!("key {} has {} bytes, not 32", index + 1, bytes.len()), mend);
        };
        keys.push(key);
    }
    match keys.len() {
        1 | 2 => Ok(ClusterKeys::new(&keys)),
        count => wrong(format!("{count} keys are given"), mend),
    }
}

pub(super) fn algorithms(given: Given<'_>) -> Result<Vec<TokenAlgorithm>, Wrong> {
    let known = TokenAlgorithm::ALL.map(|algorithm| (algorithm.name(), algorithm));
    value::list(given)?.into_iter().map(|name| value::choice_of(name, &known)).collect()
}

pub(super) fn origins(given: Given<'_>) -> Result<AllowedOrigins, Wrong> {
    let list = value::list(given)?;
    if list.contains(&"*") {
        return Ok(AllowedOrigins::Any);
    }
    let origins: Vec<String> = list.into_iter().map(value::origin).collect::<Result<_, _>>()?;
    Ok(if origins.is_empty() { AllowedOrigins::SameHost } else { AllowedOrigins::Listed(origins) })
}

pub(super) fn may_create(given: Given<'_>) -> Result<MayCreate, Wrong> {
    let known: Vec<(&str, Option<Role>)> = std::iter::once(("anyone", None))
        .chain(Role::ALL.iter().map(|role| (role.as_str(), Some(*role))))
        .collect();
    let who: Vec<Option<Role>> = value::list(given)?
        .into_iter()
        .map(|word| value::choice_of(word, &known))
        .collect::<Result<_, _>>()?;
    if who.contains(&None) {
        return Ok(MayCreate::Anyone);
    }
    Ok(MayCreate::Roles(who.into_iter().flatten().collect()))
}

pub(super) fn redis_prefix(given: Given<'_>) -> Result<String, Wrong> {
    let text = value::text(given)?;
    let fits = text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b":._-".contains(&b));
    if fits {
        Ok(text.to_owned())
    } else {
        // Braces would move every key of a cluster into one slot.
        wrong("the prefix does not fit", "give at most 64 characters of A-Z a-z 0-9 : . _ -, no braces")
    }
}

/// Longest list of words, and longest word of it in characters.
const WORDS_MAX: usize = 10_000;
const WORD_CHARS_MAX: usize = 64;

pub(super) fn words(given: Given<'_>) -> Result<Vec<String>, Wrong> {
    let words = value::list(given)?;
    let mend = "give at most 10000 words of 1 to 64 letters and digits; a last * stands for every ending";
    let fits = |word: &str| {
        let bare = word.strip_suffix('*').unwrap_or(word);
        !bare.is_empty() && bare.chars().count() <= WORD_CHARS_MAX && bare.chars().all(char::is_alphanumeric)
    };
    if words.len() > WORDS_MAX {
        return wrong(format!("{} words are given", words.len()), mend);
    }
    match words.iter().position(|word| !fits(word)) {
        Some(at) => wrong(format!("word {} does not fit", at + 1), mend),
        None => Ok(words.into_iter().map(str::to_owned).collect()),
    }
}

pub(super) fn notice(given: Given<'_>) -> Result<String, Wrong> {
    match value::text(given)? {
        text if text.is_empty() || text.len() > 500 || text.chars().any(char::is_control) => {
            wrong("does not fit", "give one line of 1 to 500 bytes")
        }
        text => Ok(text.to_owned()),
    }
}

/// A path in Consul's store; what would have to be escaped in a URL is refused.
pub(super) fn consul_key(given: Given<'_>) -> Result<String, Wrong> {
    let text = value::text(given)?;
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"/._-".contains(&b);
    if !text.is_empty() && text.len() <= 512 && !text.starts_with('/') && text.bytes().all(fits) {
        Ok(text.to_owned())
    } else {
        wrong(
            "is no key",
            "give a path of A-Z a-z 0-9 . _ - /, not beginning with /, for example mlms/settings",
        )
    }
}

pub(super) fn gelf_target(given: Given<'_>) -> Result<GelfTarget, Wrong> {
    let text = value::text(given)?;
    let (transport, address) = match text.split_once("://") {
        Some(("udp", address)) => (Transport::Udp, address),
        Some(("tcp", address)) => (Transport::Tcp, address),
        _ => return wrong("is no such address", "give udp://host:port or tcp://host:port"),
    };
    value::reachable_address(Given::Text(address)).map(|address| GelfTarget { transport, address })
}

pub(super) fn header_lines(given: Given<'_>) -> Result<Vec<SecretString>, Wrong> {
    let lines = value::list(given)?;
    let fits = |line: &str| {
        let Some((name, value)) = line.split_once('=') else { return false };
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        is_name && value.bytes().all(|b| (b' '..=b'~').contains(&b))
    };
    match lines.iter().position(|line| !fits(line)) {
        Some(at) => wrong(format!("line {} is no header", at + 1), "give name=value, of printable ASCII"),
        None => Ok(lines.into_iter().map(|line| line.to_owned().into()).collect()),
    }
}

pub(super) fn statsd_prefix(given: Given<'_>) -> Result<String, Wrong> {
    let text = value::text(given)?;
    if text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        Ok(text.to_owned())
    } else {
        wrong("does not fit", "give at most 64 characters of A-Z a-z 0-9 . _ -")
    }
}

pub(super) fn log_filter(given: Given<'_>) -> Result<String, Wrong> {
    let text = value::text(given)?;
    match tracing_subscriber::EnvFilter::builder().parse(text) {
        Ok(_) if !text.is_empty() => Ok(text.to_owned()),
        Ok(_) => wrong("is empty", "give a level such as info"),
        Err(error) => {
            wrong(format!("is no log filter ({error})"), "give levels such as info or info,mlms_broker=debug")
        }
    }
}

pub(super) fn non_empty(given: Given<'_>) -> Result<String, Wrong> {
    match value::text(given)? {
        "" => wrong("is empty", "give a value, or leave the setting out"),
        text => Ok(text.to_owned()),
    }
}
