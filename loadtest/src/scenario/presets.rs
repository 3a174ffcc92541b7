//! The scenarios that come with the program: the files of `loadtest/scenarios/`.

/// A scenario that is known by its name.
pub(crate) struct Preset {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
}

macro_rules! presets {
    ($($name:literal)+) => {
        &[$(Preset { name: $name, text: include_str!(concat!("../../scenarios/", $name, ".toml")) }),+]
    };
}

pub(crate) const PRESETS: &[Preset] =
    presets!("chat" "fanout" "many-small" "game-100" "storm" "idle" "cross-node");
