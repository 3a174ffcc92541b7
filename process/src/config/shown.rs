//! What may be shown of settings that hold secrets. Used by the table of settings; it never logs anything itself.

use secrecy::{ExposeSecret, SecretString};

use super::table::toml_text;

/// A secret's place.
pub(super) const HIDDEN: &str = "\"(hidden)\"";

/// That there is a secret.
pub(super) fn hidden<T>(secret: &Option<T>) -> Option<String> {
    secret.as_ref().map(|_| HIDDEN.to_owned())
}

/// A URL without its password, and without its query, where some have another.
pub(super) fn url_without_password(url: &Option<SecretString>) -> Option<String> {
    Some(toml_text(&shown_url(url.as_ref()?.expose_secret())))
}

/// A URL as it may be shown. Whatever stands before the last `@` is taken for a user and a password, even where it holds
/// what should have been escaped: rather too little is shown than too much.
pub(super) fn shown_url(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let mut shown = if scheme.is_empty() { String::new() } else { format!("{scheme}://") };
    let place = match rest.rsplit_once('@') {
        Some((who, place)) => {
            let user = who.split_once(':').map(|(user, _)| format!("{user}:"));
            shown.push_str(&user.unwrap_or_default());
            shown.push_str("(hidden)@");
            place
        }
        None => rest,
    };
    match place.split_once('?') {
        Some((place, _)) => shown + place + "?(hidden)",
        None => shown + place,
    }
}

#[cfg(test)]
mod tests {
    use super::shown_url;

    #[test]
    fn a_url_is_shown_without_what_it_keeps_secret() {
        for (url, shown) in [
            ("redis://cache:6379/0", "redis://cache:6379/0"),
            ("redis://:pw@cache:6379/0", "redis://:(hidden)@cache:6379/0"),
            ("mysql://mlms:p/w@x:y@db:3306/mlms?password=pw", "mysql://mlms:(hidden)@db:3306/mlms?(hidden)"),
            ("amqp://pw@mq/%2f", "amqp://(hidden)@mq/%2f"),
            ("https://collector/v1/traces?key=pw", "https://collector/v1/traces?(hidden)"),
            ("/etc/mlms/jwks.json", "/etc/mlms/jwks.json"),
        ] {
            assert_eq!(shown_url(url), shown);
        }
    }
}
