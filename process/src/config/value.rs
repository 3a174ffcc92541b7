//! Turns one given value (text from the environment or a flag, or a TOML value) into a typed setting.
//! Every function says what is wrong and how to mend it; those for secrets never quote what they were given.

use std::net::SocketAddr;
use std::str::FromStr;

use mlms_protocol::NodeName;
use secrecy::SecretString;
use toml::de::DeValue;

use super::mistake::{Wrong, wrong};

/// A value as its source holds it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Given<'a> {
    Text(&'a str),
    Toml(&'a DeValue<'a>),
}

/// Longest value that is quoted back in a mistake, in characters.
const QUOTED_CHARS_MAX: usize = 60;

fn quoted(text: &str) -> String {
    let mut chars = text.chars();
    let head: String = chars.by_ref().take(QUOTED_CHARS_MAX).collect();
    let dots = if chars.next().is_some() { "…" } else { "" };
    format!("`{}{dots}`", head.escape_debug())
}

pub(super) fn text<'a>(given: Given<'a>) -> Result<&'a str, Wrong> {
    match given {
        Given::Text(text) => Ok(text.trim()),
        Given::Toml(DeValue::String(text)) => Ok(text.trim()),
        Given::Toml(other) => {
            wrong(format!("is {}, not a text", article(other)), "put the value in double quotes")
        }
    }
}

pub(super) fn boolean(given: Given<'_>) -> Result<bool, Wrong> {
    match given {
        Given::Toml(DeValue::Boolean(value)) => Ok(*value),
        Given::Text(text) => match text.trim() {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" => Ok(false),
            other => wrong(format!("{} is neither true nor false", quoted(other)), "give true or false"),
        },
        Given::Toml(other) => {
            wrong(format!("is {}, not true or false", article(other)), "give true or false without quotes")
        }
    }
}

/// A whole number within `least..=most`.
pub(super) fn number<T>(given: Given<'_>, least: T, most: T) -> Result<T, Wrong>
where
    T: FromStr + PartialOrd + std::fmt::Display + Copy,
{
    let mend = || format!("give a whole number from {least} to {most}");
    let digits = match given {
        Given::Text(text) => text.trim().replace('_', ""),
        Given::Toml(DeValue::Integer(integer)) if integer.radix() == 10 => integer.as_str().replace('_', ""),
        Given::Toml(other) => return wrong(format!("is {}, not a whole number", article(other)), mend()),
    };
    match digits.parse::<T>() {
        Ok(value) if value >= least && value <= most => Ok(value),
        Ok(value) => wrong(format!("{value} is out of range"), mend()),
        Err(_) => wrong(format!("{} is not a number that fits", quoted(&digits)), mend()),
    }
}

/// A share from 0 to 1.
pub(super) fn ratio(given: Given<'_>) -> Result<f64, Wrong> {
    let mend = "give a number from 0 to 1, for example 0.01";
    let digits = match given {
        Given::Text(text) => text.trim().to_owned(),
        Given::Toml(DeValue::Integer(integer)) if integer.radix() == 10 => integer.as_str().to_owned(),
        Given::Toml(DeValue::Float(float)) => float.as_str().to_owned(),
        Given::Toml(other) => return wrong(format!("is {}, not a number", article(other)), mend),
    };
    match digits.parse::<f64>() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        Ok(_) => wrong(format!("{} is out of range", quoted(&digits)), mend),
        Err(_) => wrong(format!("{} is not a number", quoted(&digits)), mend),
    }
}

/// A list: a TOML array of texts, or one text with commas.
pub(super) fn list(given: Given<'_>) -> Result<Vec<&str>, Wrong> {
    let Given::Toml(DeValue::Array(values)) = given else {
        return Ok(text(given)?.split(',').map(str::trim).filter(|item| !item.is_empty()).collect());
    };
    values.iter().map(|value| text(Given::Toml(value.get_ref()))).collect()
}

pub(super) fn listen_address(given: Given<'_>) -> Result<SocketAddr, Wrong> {
    let text = text(given)?;
    text.parse().or_else(|_| {
        wrong(
            format!("{} is not an address with a port", quoted(text)),
            "give IP address and port, for example 127.0.0.1:8080, 0.0.0.0:8080 or [::]:8080",
        )
    })
}

/// `host:port` as others reach it; the host may be a name.
pub(super) fn reachable_address(given: Given<'_>) -> Result<String, Wrong> {
    let text = text(given)?;
    let mend = "give host and port as brokers and other nodes reach it, for example node-1.internal:8090";
    let Some((host, port)) = text.rsplit_once(':') else {
        return wrong(format!("{} has no port", quoted(text)), mend);
    };
    if !matches!(port.parse::<u16>(), Ok(1..)) {
        return wrong(format!("{} has no valid port", quoted(text)), mend);
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_unspecified() => {
            return wrong(format!("{} cannot be reached by others", quoted(text)), mend);
        }
        Ok(_) => return Ok(text.to_owned()),
        Err(_) => {}
    }
    let host_is_a_name = !host.is_empty()
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if host_is_a_name { Ok(text.to_owned()) } else { wrong(format!("{} is no host", quoted(text)), mend) }
}

/// A name that goes into Redis keys, metrics and tickets.
pub(super) fn node_name(given: Given<'_>) -> Result<NodeName, Wrong> {
    let text = text(given)?;
    NodeName::new(text).or_else(|_| {
        wrong(
            format!("{} is no node name", quoted(text)),
            "give 1 to 63 characters of a-z 0-9 . -, for example node-1",
        )
    })
}

/// A URL that may hold a password: kept secret and never quoted.
pub(super) fn secret_url(given: Given<'_>, schemes: &[&str], example: &str) -> Result<SecretString, Wrong> {
    let text = text(given)?;
    let mend = format!("give a URL such as {example}");
    match text.split_once("://") {
        Some((scheme, rest)) if schemes.contains(&scheme) && !rest.is_empty() => Ok(text.to_owned().into()),
        Some((scheme, _)) if !schemes.contains(&scheme) => {
            wrong(format!("the scheme {} is not known here", quoted(scheme)), mend)
        }
        _ => wrong("this is no URL", mend),
    }
}

pub(super) fn web_url(given: Given<'_>, schemes: &[&str], example: &str) -> Result<String, Wrong> {
    let text = text(given)?;
    let ok = text.split_once("://").is_some_and(|(scheme, rest)| {
        schemes.contains(&scheme)
            && !rest.is_empty()
            && !rest.starts_with('/')
            && !rest.contains(char::is_whitespace)
    });
    if ok {
        Ok(text.trim_end_matches('/').to_owned())
    } else {
        wrong(format!("{} is no such URL", quoted(text)), format!("give a URL such as {example}"))
    }
}

/// A secret: any text that is not empty.
pub(super) fn secret(given: Given<'_>) -> Result<SecretString, Wrong> {
    let text = text(given)?;
    if text.is_empty() {
        return wrong("is empty", "give the secret, or leave the setting out");
    }
    Ok(text.to_owned().into())
}

/// One of a few words.
pub(super) fn choice<T: Copy>(given: Given<'_>, choices: &[(&str, T)]) -> Result<T, Wrong> {
    let text = text(given)?;
    choice_of(text, choices)
}

pub(super) fn choice_of<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, Wrong> {
    choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        Wrong {
            what: format!("{} is not known", quoted(text)),
            mend: format!("give one of {}", names.join(", ")),
        }
    })
}

pub(super) fn network(text: &str) -> Result<super::network::Network, Wrong> {
    text.parse().or_else(|()| {
        wrong(
            format!("{} is no network", quoted(text)),
            "give addresses or networks such as 10.0.0.0/8, 192.168.1.7 or fd00::/8",
        )
    })
}

/// An origin as browsers send it: scheme, host, port unless it is the default; nothing behind.
pub(super) fn origin(text: &str) -> Result<String, Wrong> {
    let ok = text.split_once("://").is_some_and(|(scheme, host)| {
        matches!(scheme, "http" | "https")
            && !host.is_empty()
            && host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']'))
    });
    if ok {
        Ok(text.to_ascii_lowercase())
    } else {
        wrong(
            format!("{} is no origin", quoted(text)),
            "give origins without a path such as https://play.example.com, or * for any",
        )
    }
}

fn article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}
