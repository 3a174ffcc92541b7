//! Where settings come from. The environment is read here and nowhere else.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use mlms_protocol::NodeName;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Settings;
use super::mistake::{Mistake, Wrong, nearest};
use super::table::{Setting, TABLE};
use super::value::Given;

/// Names the configuration file where the flag does not.
const FILE_VARIABLE: &str = "MLMS_CONFIG";
/// The token of `mlms job close-idle-lobbies`, which is a setting of nothing else.
const JOB_TOKEN_VARIABLE: &str = "MLMS_JOB_TOKEN";

/// The largest configuration file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The keys that any source gave.
pub(super) type GivenKeys = HashSet<&'static str>;

/// The flags that every command with settings shares. Flatten it into a command's arguments.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SharedFlags {
    /// TOML file with settings (also MLMS_CONFIG); `mlms default-config` prints one
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address of the public listener
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Address of the operator's listener
    #[arg(long, value_name = "ADDRESS")]
    pub admin_listen: Option<String>,
    /// Address of the lobby node's listener
    #[arg(long, value_name = "ADDRESS")]
    pub node_listen: Option<String>,
    /// Name of the lobby node
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// What is logged, for example info,mlms_broker=debug
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// Keep everything in memory only (standalone)
    #[arg(long)]
    pub ephemeral: bool,
    /// Any other setting by its key in the file, for example --set limits.chats_per_s=20
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl SharedFlags {
    /// The flags as (flag, key, value); a `--set` without `=` has an empty key.
    fn overrides(&self) -> Vec<Override> {
        let named = [
            ("--listen", "listen", &self.listen),
            ("--admin-listen", "admin_listen", &self.admin_listen),
            ("--node-listen", "node.listen", &self.node_listen),
            ("--node-name", "node.name", &self.node_name),
            ("--log", "log.filter", &self.log),
        ];
        let named = named
            .into_iter()
            .filter_map(|(flag, key, value)| value.as_ref().map(|value| Override::new(flag, key, value)));
        let ephemeral = self.ephemeral.then(|| Override::new("--ephemeral", "ephemeral", "true"));
        let set = self.set.iter().map(|text| {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            Override::new("--set", key.trim(), value)
        });
        named.chain(ephemeral).chain(set).collect()
    }
}

#[derive(Debug, Clone)]
struct Override {
    flag: &'static str,
    key: String,
    value: String,
}

impl Override {
    fn new(flag: &'static str, key: &str, value: &str) -> Self {
        Override { flag, key: key.to_owned(), value: value.to_owned() }
    }
}

/// A configuration file, read or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSource {
    pub path: PathBuf,
    /// The text, or why it could not be read.
    pub text: Result<String, String>,
}

impl FileSource {
    /// Reads the file; a failure is kept and reported with the other mistakes.
    pub fn read(path: &Path) -> FileSource {
        let text = match std::fs::metadata(path) {
            Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
                Err(format!("larger than {FILE_BYTES_MAX} bytes"))
            }
            _ => std::fs::read_to_string(path).map_err(|error| error.to_string()),
        };
        FileSource { path: path.to_path_buf(), text }
    }
}

/// All sources of settings, in growing weight.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    file: Option<FileSource>,
    /// What Consul has: a file too, of more weight than the first.
    remote: Option<FileSource>,
    environment: Vec<(String, Result<String, OsString>)>,
    flags: Vec<Override>,
}

impl Sources {
    /// Gathers the sources of this process: its environment, the flags, and the file that either names.
    pub fn of_this_process(flags: &SharedFlags) -> Sources {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string())))
            .filter(|(name, _)| name.starts_with("MLMS_"))
            .collect();
        Sources::gather(environment, flags)
    }

    /// Gathers sources from an environment that a test makes up.
    pub fn of<'a>(environment: impl IntoIterator<Item = (&'a str, &'a str)>, flags: &SharedFlags) -> Sources {
        let environment =
            environment.into_iter().map(|(name, value)| (name.to_owned(), Ok(value.to_owned()))).collect();
        Sources::gather(environment, flags)
    }

    fn gather(mut environment: Vec<(String, Result<String, OsString>)>, flags: &SharedFlags) -> Sources {
        environment.sort_by(|(a, _), (b, _)| a.cmp(b));
        let named = environment.iter().find(|(name, _)| name == FILE_VARIABLE);
        let named = named.and_then(|(_, value)| value.clone().ok()).filter(|path| !path.is_empty());
        let path = flags.config.clone().or(named.map(PathBuf::from));
        let file = path.map(|path| FileSource::read(&path));
        Sources { file, remote: None, environment, flags: flags.overrides() }
    }

    /// What the file says; none: there is no file, or it cannot be read.
    pub(crate) fn file_text(&self) -> Option<String> {
        self.file.as_ref().and_then(|file| file.text.clone().ok())
    }

    /// Takes this text as the file.
    #[must_use]
    pub fn with_file(mut self, file: FileSource) -> Sources {
        self.file = Some(file);
        self
    }

    /// Takes this text as what Consul has.
    #[must_use]
    pub(crate) fn with_remote(mut self, remote: Option<FileSource>) -> Sources {
        self.remote = remote;
        self
    }

    /// Puts everything given into the settings, the weightiest last; tells which keys were given.
    pub(super) fn apply(&self, settings: &mut Settings, mistakes: &mut Vec<Mistake>) -> GivenKeys {
        let mut taker = Taker { settings, mistakes, given: GivenKeys::new() };
        for file in self.file.iter().chain(&self.remote) {
            taker.take_file(file);
        }
        for (name, value) in &self.environment {
            taker.take_variable(name, value.as_deref().map_err(|_| ()));
        }
        for flag in &self.flags {
            taker.take_flag(flag);
        }
        taker.given
    }
}

/// Applies one source after the other and gathers what is wrong.
struct Taker<'a> {
    settings: &'a mut Settings,
    mistakes: &'a mut Vec<Mistake>,
    given: GivenKeys,
}

impl Taker<'_> {
    fn put(&mut self, setting: &Setting, place: String, given: Given<'_>) {
        self.given.insert(setting.key);
        if let Err(Wrong { what, mend }) = (setting.set)(self.settings, given) {
            self.mistakes.push(Mistake { place, what, mend });
        }
    }

    fn report(&mut self, place: String, what: impl Into<String>, mend: impl Into<String>) {
        self.mistakes.push(Mistake { place, what: what.into(), mend: mend.into() });
    }

    fn take_file(&mut self, file: &FileSource) {
        let name = file.path.display();
        let text = match &file.text {
            Ok(text) => text,
            Err(why) => {
                return self.report(
                    format!("file {name}"),
                    format!("cannot be read: {why}"),
                    "give --config or MLMS_CONFIG a readable file, or leave it out",
                );
            }
        };
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let line = line_of(text, error.span().map_or(0, |span| span.start));
            let what = format!("is no TOML: {}", error.message());
            self.report(
                format!("{name}, line {line}"),
                what,
                "mend the line; `mlms default-config` shows the form",
            );
        }
        if errors.is_empty() {
            self.take_section(&name.to_string(), text, "", table.get_ref());
        }
    }

    fn take_section(&mut self, file: &str, text: &str, section: &str, table: &DeTable<'_>) {
        let mut entries: Vec<(&Spanned<_>, &Spanned<DeValue<'_>>)> = table.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in entries {
            let key = format!("{section}{}", name.get_ref());
            let place = format!("{file}, line {}, key {key}", line_of(text, name.span().start));
            if let Some(setting) = TABLE.iter().find(|setting| setting.key == key) {
                self.put(setting, place, Given::Toml(value.get_ref()));
            } else if let DeValue::Table(inner) = value.get_ref()
                && is_section(&key)
            {
                self.take_section(file, text, &format!("{key}."), inner);
            } else {
                self.report(place, "is not known", suggestion(&key));
            }
        }
    }

    fn take_variable(&mut self, name: &str, value: Result<&str, ()>) {
        if name == FILE_VARIABLE || name == JOB_TOKEN_VARIABLE || is_service_link(name) {
            return;
        }
        let place = format!("environment {name}");
        let Some(setting) = TABLE.iter().find(|setting| setting.env() == name) else {
            let names: Vec<String> = TABLE.iter().map(Setting::env).collect();
            let near = nearest(name, names.iter().map(String::as_str));
            let mend =
                near.map_or_else(|| unknown_mend("MLMS_ variables"), |near| format!("did you mean {near}?"));
            return self.report(place, "is not known", mend);
        };
        match value {
            // Compose files and charts set a variable to nothing when they mean that it is not given.
            Ok("") => {}
            Ok(value) => self.put(setting, place, Given::Text(value)),
            Err(()) => self.report(place, "is not UTF-8", "give it in UTF-8"),
        }
    }

    fn take_flag(&mut self, given: &Override) {
        let place = match given.flag {
            "--set" => format!("flag --set {}", given.key),
            flag => format!("flag {flag}"),
        };
        let Some(setting) = TABLE.iter().find(|setting| setting.key == given.key) else {
            return self.report(place, "is not known", suggestion(&given.key));
        };
        if setting.secret {
            let mend = format!("give it as {} or in the file", setting.env());
            return self.report(place, "would show a secret to every user of the machine", mend);
        }
        self.put(setting, place, Given::Text(&given.value));
    }
}

fn suggestion(key: &str) -> String {
    nearest(key, TABLE.iter().map(|setting| setting.key))
        .map_or_else(|| unknown_mend("keys"), |near| format!("did you mean {near}?"))
}

fn unknown_mend(what: &str) -> String {
    format!("remove it; `mlms default-config` lists all {what}")
}

fn is_section(key: &str) -> bool {
    TABLE.iter().any(|setting| setting.key.split_once('.').is_some_and(|(section, _)| section == key))
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count()
}

/// Kubernetes puts `<SERVICE>_SERVICE_HOST`, `<SERVICE>_PORT_8080_TCP_ADDR` and the like into every container; with a
/// service named `mlms…` they look like ours and mean nothing here.
fn is_service_link(name: &str) -> bool {
    if name.ends_with("_SERVICE_HOST") || name.ends_with("_SERVICE_PORT") || name.contains("_SERVICE_PORT_") {
        return true;
    }
    match name.split_once("_PORT") {
        Some((_, "")) => true,
        Some((_, rest)) => {
            let mut parts = rest.trim_start_matches('_').split('_');
            parts.next().is_some_and(|port| port.parse::<u16>().is_ok())
                && parts.next().is_some_and(|protocol| matches!(protocol, "TCP" | "UDP" | "SCTP"))
        }
        None => false,
    }
}

/// The host's name as a node name, or `node`.
pub(super) fn default_node_name() -> NodeName {
    let host = ["/proc/sys/kernel/hostname", "/etc/hostname"]
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok())
        .unwrap_or_default();
    let mut name: String = host
        .trim()
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
        .collect();
    name.truncate(63);
    NodeName::new(&name).unwrap_or_else(|_| NodeName::new("node").expect("`node` is a valid node name"))
}

/// The name with a number behind it, cut to fit.
pub(super) fn numbered_node_name(name: &NodeName, number: u32) -> NodeName {
    let suffix = format!("-{number}");
    let head: String = name.as_str().chars().take(63 - suffix.len()).collect();
    NodeName::new(&format!("{head}{suffix}")).expect("a cut node name and digits are a node name")
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn kubernetes_service_links_are_told_from_our_names() {
        for name in [
            "MLMS_SERVICE_HOST",
            "MLMS_SERVICE_PORT",
            "MLMS_BROKER_SERVICE_PORT_HTTP",
            "MLMS_PORT",
            "MLMS_BROKER_PORT_8080_TCP",
            "MLMS_BROKER_PORT_8080_TCP_ADDR",
        ] {
            assert!(is_service_link(name), "{name}");
        }
        for setting in TABLE {
            assert!(!is_service_link(&setting.env()), "{}", setting.env());
        }
        assert!(!is_service_link("MLMS_PORTS"));
        assert!(!is_service_link("MLMS_PORT_X"));
    }
}
