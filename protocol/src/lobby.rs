//! What a lobby consists of as its members see it: settings, members, the whole state.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::code::MemberRole;
use crate::ids::UserId;

/// Largest name of a lobby, in characters.
pub const NAME_CHARS_MAX: usize = 64;
/// Largest `metadata` or `attributes`, in bytes of JSON.
pub const METADATA_BYTES_MAX: usize = 4_096;

/// Who finds a lobby.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    /// Everybody: it stands in the list of lobbies.
    #[default]
    Public,
    /// Who knows its id.
    Unlisted,
    /// Who was let in: to all others there is no such lobby.
    Private,
}

/// Who becomes host when the present one goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostPolicy {
    /// The member who has been there longest, players first.
    #[default]
    Oldest,
    /// The first of `hosts` who is a member; else nobody.
    Listed,
    /// Nobody, until somebody hands the lobby over.
    Manual,
}

/// Who may report what happened in a game, besides tokens with the role `server` or `admin`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reporters {
    /// Nobody else.
    #[default]
    Server,
    /// The host, about everybody.
    Host,
    /// Everybody who plays about themselves, the host about everybody.
    Members,
}

/// A lobby's settings, given at its creation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// For people to read; the id where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Members at most; the deployment's `members_per_lobby_max` where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u32>,
    pub visibility: Visibility,
    /// Ends the lobby when its last member leaves.
    pub close_when_empty: bool,
    /// Players may join while a game is under way; spectators always may.
    pub join_in_progress: bool,
    pub reports: Reporters,
    /// It has a password. Told by the service; it is set by giving a `password`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub locked: bool,
    /// Nobody comes in without an invite.
    pub invite_only: bool,
    pub spectators_send: bool,
    /// Seconds between two chats of one player; 0: none.
    pub slow_mode_s: u32,
    /// Words that no chat may hold; `bad*` stands for every word that begins so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub word_filter: Vec<String>,
    pub host_policy: HostPolicy,
    /// In the order in which they become host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<UserId>,
    /// The application's own values.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
}

/// Every setting that a command may name.
const SETTING_NAMES: &[&str] = &[
    "name",
    "capacity",
    "visibility",
    "close_when_empty",
    "join_in_progress",
    "reports",
    "invite_only",
    "spectators_send",
    "slow_mode_s",
    "word_filter",
    "host_policy",
    "hosts",
    "metadata",
];
/// Those that are integers.
const INTEGERS: [&str; 2] = ["capacity", "slow_mode_s"];
/// Longest slow mode, in seconds.
pub const SLOW_MODE_S_MAX: u32 = 3_600;
/// Words of a filter, and their length in characters.
pub const FILTER_WORDS_MAX: usize = 100;
pub const FILTER_WORD_CHARS_MAX: usize = 32;
/// Users in `hosts`.
pub const HOSTS_MAX: usize = 32;
/// Longest password, in bytes.
pub const PASSWORD_BYTES_MAX: usize = 128;

impl Default for Settings {
    fn default() -> Self {
        Settings {
            name: None,
            capacity: None,
            visibility: Visibility::default(),
            close_when_empty: false,
            join_in_progress: true,
            reports: Reporters::default(),
            locked: false,
            invite_only: false,
            spectators_send: false,
            slow_mode_s: 0,
            word_filter: Vec::new(),
            host_policy: HostPolicy::default(),
            hosts: Vec::new(),
            metadata: Map::new(),
        }
    }
}

impl Settings {
    /// Reads settings from a command. An unknown one is refused: one that was silently ignored could have been
    /// the lock on the door. (Reading an event is lenient: a newer server may say more.)
    ///
    /// # Errors
    /// Names the setting that is unknown or of the wrong type.
    pub fn from_command(mut value: Value) -> Result<Settings, String> {
        let Value::Object(fields) = &mut value else { return Err("settings are an object".to_owned()) };
        if let Some(unknown) = fields.keys().find(|key| !SETTING_NAMES.contains(&key.as_str())) {
            let known = SETTING_NAMES.join(", ");
            return Err(format!("unknown setting `{unknown}`; there are {known}"));
        }
        // A whole number in the clothes of a fraction, as in all fields of a command.
        for name in INTEGERS {
            let given = fields.get(name).and_then(Value::as_f64).filter(|number| number.fract() == 0.0);
            if let Some(number) = given.filter(|number| (0.0..=f64::from(u32::MAX)).contains(number)) {
                fields.insert(name.to_owned(), Value::from(number as u32));
            }
        }
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    /// These settings with some of them given anew; null gives one its default.
    ///
    /// # Errors
    /// Names the setting that is unknown or of the wrong type.
    pub fn updated(&self, patch: &Map<String, Value>) -> Result<Settings, String> {
        let mut value = serde_json::to_value(self).map_err(|error| error.to_string())?;
        let Value::Object(fields) = &mut value else { return Err("settings are an object".to_owned()) };
        fields.remove("locked");
        for (name, value) in patch {
            if value.is_null() && SETTING_NAMES.contains(&name.as_str()) {
                fields.remove(name);
            } else {
                fields.insert(name.clone(), value.clone());
            }
        }
        Ok(Settings { locked: self.locked, ..Settings::from_command(value)? })
    }

    /// Checks the bounds that a deployment sets.
    ///
    /// # Errors
    /// Names the setting that is out of bounds, and the bound.
    pub fn check(&self, members_per_lobby_max: usize) -> Result<(), String> {
        if let Some(name) = &self.name {
            let chars = name.chars().count();
            if chars == 0 || chars > NAME_CHARS_MAX || name.chars().any(char::is_control) {
                return Err(format!(
                    "settings.name must have 1 to {NAME_CHARS_MAX} characters, none of control"
                ));
            }
        }
        if self.capacity.is_some_and(|capacity| capacity == 0 || capacity as usize > members_per_lobby_max) {
            return Err(format!("settings.capacity must be 1 to {members_per_lobby_max}"));
        }
        if self.slow_mode_s > SLOW_MODE_S_MAX {
            return Err(format!("settings.slow_mode_s must be 0 to {SLOW_MODE_S_MAX}"));
        }
        let word_fits = |word: &String| (1..=FILTER_WORD_CHARS_MAX).contains(&word.chars().count());
        if self.word_filter.len() > FILTER_WORDS_MAX || !self.word_filter.iter().all(word_fits) {
            return Err(format!(
                "settings.word_filter has at most {FILTER_WORDS_MAX} words of 1 to {FILTER_WORD_CHARS_MAX} characters"
            ));
        }
        if self.hosts.len() > HOSTS_MAX {
            return Err(format!("settings.hosts names at most {HOSTS_MAX} users"));
        }
        let bytes = serde_json::to_vec(&self.metadata).map_or(usize::MAX, |json| json.len());
        if !self.metadata.is_empty() && bytes > METADATA_BYTES_MAX {
            return Err(format!("settings.metadata must have at most {METADATA_BYTES_MAX} bytes of JSON"));
        }
        Ok(())
    }
}

/// A member as the others see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    pub user: UserId,
    /// The name in the user's token, or the user id.
    pub name: String,
    pub role: MemberRole,
    /// All of the user's connections are lost, and the grace time still runs.
    pub away: bool,
    pub ready: bool,
    #[serde(default)]
    pub attributes: Map<String, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_bounded_and_unknown_ones_refused() {
        let check = |json: &str| {
            let value = serde_json::from_str(json).unwrap();
            Settings::from_command(value).and_then(|settings| settings.check(1_000))
        };
        assert_eq!(check("{}"), Ok(()));
        assert_eq!(check(r#"{"name":"The Lounge","capacity":4,"metadata":{"map":"ice"}}"#), Ok(()));
        assert_eq!(check(r#"{"capacity":4.0,"slow_mode_s":1e1}"#), Ok(()));
        for (bad, part) in [
            (r#"{"name":""}"#, "settings.name"),
            (r#"{"name":"a\nb"}"#, "settings.name"),
            (r#"{"capacity":0}"#, "settings.capacity"),
            (r#"{"capacity":4.5}"#, "u32"),
            (r#"{"capacity":1001}"#, "settings.capacity"),
            (r#"{"pasword":"x"}"#, "unknown setting `pasword`"),
            (r#"{"visibility":"hidden"}"#, "unknown variant"),
        ] {
            let error = check(bad).expect_err(bad);
            assert!(error.contains(part), "{bad}: {error}");
        }
        let large = format!(r#"{{"metadata":{{"x":"{}"}}}}"#, "y".repeat(4_096));
        assert!(check(&large).expect_err("too large").contains("metadata"));
    }
}
