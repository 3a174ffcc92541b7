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
    /// The application's own values.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
}

/// Every setting that a command may name.
const SETTING_NAMES: &[&str] =
    &["name", "capacity", "visibility", "close_when_empty", "join_in_progress", "reports", "metadata"];

impl Default for Settings {
    fn default() -> Self {
        Settings {
            name: None,
            capacity: None,
            visibility: Visibility::default(),
            close_when_empty: false,
            join_in_progress: true,
            reports: Reporters::default(),
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
    pub fn from_command(value: Value) -> Result<Settings, String> {
        let Value::Object(fields) = &value else { return Err("settings are an object".to_owned()) };
        if let Some(unknown) = fields.keys().find(|key| !SETTING_NAMES.contains(&key.as_str())) {
            let known = SETTING_NAMES.join(", ");
            return Err(format!("unknown setting `{unknown}`; there are {known}"));
        }
        serde_json::from_value(value).map_err(|error| error.to_string())
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
        for (bad, part) in [
            (r#"{"name":""}"#, "settings.name"),
            (r#"{"name":"a\nb"}"#, "settings.name"),
            (r#"{"capacity":0}"#, "settings.capacity"),
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
