//! Settings as TOML: the commented default file, and the effective settings with secrets hidden.

use std::fmt::Write;

use super::table::{Setting, TABLE};
use super::{ProcessRole, Settings};

/// A complete TOML file: every setting with its meaning, unit, default and environment name. Settings without a
/// default, or whose default depends on the role or the host, stand there commented out.
pub fn default_config() -> String {
    let defaults = Settings::defaults(ProcessRole::Broker);
    let mut page = String::from(
        "# The settings of MLMS with their defaults. Weight grows from this file over the environment to flags.\n\
         # Every command takes the file by --config FILE or MLMS_CONFIG; `mlms check-config` checks it.\n",
    );
    write_all(&mut page, |page, setting| {
        page.push('\n');
        for line in setting.doc.lines() {
            page.push_str("# ");
            page.push_str(line);
            page.push('\n');
        }
        let name = short(setting.key);
        line(page, format_args!("# Environment: {}", setting.env()));
        match setting.example {
            Some(example) => line(page, format_args!("# {name} = {example}")),
            None => {
                let value = (setting.show)(&defaults).expect("a setting without an example has a default");
                line(page, format_args!("{name} = {value}"));
            }
        }
    });
    page
}

pub(super) fn effective(settings: &Settings) -> String {
    let mut page = format!("# effective settings of {}\n", settings.role);
    write_all(&mut page, |page, setting| match (setting.show)(settings) {
        Some(value) => line(page, format_args!("{} = {value}", short(setting.key))),
        None => line(page, format_args!("# {} is not set", short(setting.key))),
    });
    page
}

fn write_all(page: &mut String, write_one: impl Fn(&mut String, &Setting)) {
    let mut section = "";
    for setting in TABLE {
        let its_section = setting.key.split_once('.').map_or("", |(section, _)| section);
        if its_section != section {
            section = its_section;
            line(page, format_args!("\n[{section}]"));
        }
        write_one(page, setting);
    }
}

fn short(key: &str) -> &str {
    key.split_once('.').map_or(key, |(_, name)| name)
}

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(page, "{text}").expect("a String takes every write");
}
