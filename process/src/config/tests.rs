//! Sources, weights and mistakes, each as one table through one helper.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;

use super::table::TABLE;
use super::*;
use crate::testing::Folder;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    flags: SharedFlags,
}

fn load(
    role: ProcessRole,
    file: &str,
    environment: &[(&str, &str)],
    flags: &[&str],
) -> Result<Settings, ConfigErrors> {
    let command = Command::parse_from(std::iter::once("mlms").chain(flags.iter().copied()));
    let sources = Sources::of(environment.iter().copied(), &command.flags);
    let file = FileSource { path: PathBuf::from("mlms.toml"), text: Ok(file.to_owned()) };
    Settings::load(role, &sources.with_file(file))
}

fn standalone(file: &str, environment: &[(&str, &str)], flags: &[&str]) -> Settings {
    load(ProcessRole::Standalone, file, environment, flags).unwrap_or_else(|errors| panic!("{errors}"))
}

fn mistakes(role: ProcessRole, file: &str, environment: &[(&str, &str)], flags: &[&str]) -> Vec<String> {
    let errors = load(role, file, environment, flags).expect_err("a mistake is expected");
    errors.mistakes.iter().map(ToString::to_string).collect()
}

#[test]
fn later_sources_outweigh_earlier_ones() {
    let file = "listen = '127.0.0.1:1'\nadmin_listen = '127.0.0.1:2'\n[log]\nfilter = 'warn'";
    let settings =
        standalone(file, &[("MLMS_ADMIN_LISTEN", "127.0.0.1:3"), ("MLMS_LOG", "debug")], &["--log", "info"]);
    assert_eq!(settings.listen.port(), 1, "only the file");
    assert_eq!(settings.admin_listen.port(), 3, "the environment over the file");
    assert_eq!(settings.log.filter, "info", "the flag over both");
    assert_eq!(settings.node.listen.port(), 8090, "nobody: the default");
}

#[test]
fn every_setting_has_its_place_in_file_environment_and_flags() {
    let values: &[(&str, &str)] = &[
        ("listen", "0.0.0.0:80"),
        ("admin_listen", "[::1]:9081"),
        ("data_dir", "/var/lib/mlms"),
        ("ephemeral", "true"),
        ("guests", "false"),
        ("token_in_query", "false"),
        ("allowed_origins", "https://play.example.com,http://localhost:3000"),
        ("trusted_proxies", "10.0.0.0/8,fd00::/8"),
        ("connections_max", "5000"),
        ("drain_seconds", "7"),
        ("heartbeat_ms", "1000"),
        ("broker.peers", "brokers.internal:8080,10.0.0.7:8080"),
        ("node.listen", "127.0.0.1:8091"),
        ("node.name", "node-7"),
        ("node.address", "node-7.internal:8091"),
        ("node.public_url", "wss://node-7.example.com"),
        ("node.workers", "3"),
        ("node.backlog_bytes_max", "5000000"),
        ("redis.url", "redis://:hunter2@redis:6379/0"),
        ("redis.prefix", "game1:"),
        ("amqp.url", "amqp://user:hunter2@rabbit:5672/%2f"),
        ("cluster.key", KEY),
        ("jwt.hs256_secret", "a secret of more than thirty-two bytes"),
        ("jwt.jwks_url", "https://id.example.com/jwks.json"),
        ("jwt.algorithms", "HS256,EdDSA"),
        ("jwt.issuer", "https://id.example.com/"),
        ("jwt.audience", "mlms,game"),
        ("lobby.grace_seconds", "5"),
        ("lobby.empty_seconds", "6"),
        ("lobby.create", "admin,server"),
        ("lobby.word_filter", "spam,bad*"),
        ("maintenance.enabled", "true"),
        ("maintenance.message", "back at nine"),
        ("consul.url", "http://consul:8500"),
        ("consul.key", "games/one"),
        ("consul.token", "hunter2"),
        ("consul.wait_seconds", "60"),
        ("log.filter", "info,mlms_broker=debug"),
        ("log.format", "json"),
        ("log.gelf", "tcp://graylog:12201"),
        ("trace.otlp_url", "http://collector:4318"),
        ("trace.encoding", "json"),
        ("trace.headers", "authorization=Bearer hunter2"),
        ("trace.sample_ratio", "0.25"),
        ("trace.messages_per_s_max", "7"),
        ("statsd.address", "statsd:8125"),
        ("statsd.prefix", "game1."),
        ("statsd.period_seconds", "3"),
        ("statsd.tags", "names"),
    ];
    let limits: Vec<_> =
        TABLE.iter().filter(|one| one.key.starts_with("limits.")).map(|one| (one.key, "1234")).collect();
    let elsewhere = ["database.url", "jwt.public_key_file", "achievements.rules"];
    let all: Vec<(&str, &str)> = values.iter().copied().chain(limits).collect();
    for setting in TABLE {
        assert!(
            all.iter().any(|(key, _)| *key == setting.key) || elsewhere.contains(&setting.key),
            "{}",
            setting.key
        );
    }

    let environment: Vec<(String, &str)> = all
        .iter()
        .map(|(key, value)| (TABLE.iter().find(|one| one.key == *key).unwrap().env(), *value))
        .collect();
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let by_environment = standalone("", &environment, &[]);

    let file: String = all
        .iter()
        .map(|(key, value)| {
            let bare = value.parse::<f64>().is_ok() || matches!(*value, "true" | "false");
            if bare { format!("{key} = {value}\n") } else { format!("{key} = '{value}'\n") }
        })
        .collect();
    let by_file = standalone(&file, &[], &[]);

    let open = all.iter().filter(|(key, _)| !TABLE.iter().any(|one| one.key == *key && one.secret));
    let flags: Vec<String> = open.map(|(key, value)| format!("--set={key}={value}")).collect();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let secrets = [
        ("MLMS_CLUSTER_KEY", KEY),
        ("MLMS_JWT_HS256_SECRET", "x"),
        ("MLMS_CONSUL_TOKEN", "x"),
        ("MLMS_TRACE_HEADERS", "a=b"),
    ];
    let by_flags = standalone("", &secrets, &flags);

    assert_eq!(by_environment.effective(), by_file.effective());
    assert_eq!(by_environment.effective(), by_flags.effective());
    assert_ne!(by_environment.effective(), Settings::defaults(ProcessRole::Standalone).effective());

    let settings = by_environment;
    assert_eq!(settings.drain, Duration::from_secs(7));
    assert_eq!(settings.heartbeat, Duration::from_millis(1_000));
    assert_eq!(settings.node.name.as_str(), "node-7");
    assert_eq!(settings.lobby.create, MayCreate::Roles(vec![Role::Admin, Role::Server]));
    assert_eq!(settings.jwt.algorithms, [TokenAlgorithm::Hs256, TokenAlgorithm::EdDsa]);
    assert!(settings.trusted_proxies[0].contains("10.9.8.7".parse().unwrap()));
    assert_eq!(settings.limits.chats_per_s, 1_234);
    assert_eq!(settings.limits.resume_seconds_max, 1_234);

    let shown = format!("{settings:?}\n{}", settings.effective());
    for secret in ["hunter2", KEY, "thirty-two"] {
        assert!(!shown.contains(secret), "{secret} is shown: {shown}");
    }
}

#[test]
fn every_limit_of_the_protocol_can_be_set() {
    let known = toml::Value::try_from(Limits::default()).unwrap();
    for name in known.as_table().unwrap().keys() {
        assert!(TABLE.iter().any(|setting| setting.key == format!("limits.{name}")), "{name}");
    }
}

#[test]
fn the_names_that_outsiders_use_stay() {
    let names: Vec<String> = TABLE.iter().map(|setting| setting.env()).collect();
    for name in [
        "MLMS_LISTEN",
        "MLMS_ADMIN_LISTEN",
        "MLMS_NODE_LISTEN",
        "MLMS_NODE_NAME",
        "MLMS_NODE_ADDRESS",
        "MLMS_NODE_PUBLIC_URL",
        "MLMS_REDIS_URL",
        "MLMS_DATABASE_URL",
        "MLMS_AMQP_URL",
        "MLMS_CLUSTER_KEY",
        "MLMS_JWT_HS256_SECRET",
        "MLMS_JWT_PUBLIC_KEY_FILE",
        "MLMS_JWT_JWKS_URL",
        "MLMS_JWT_ALGORITHMS",
        "MLMS_JWT_ISSUER",
        "MLMS_JWT_AUDIENCE",
        "MLMS_ALLOWED_ORIGINS",
        "MLMS_DRAIN_SECONDS",
        "MLMS_LOG",
        "MLMS_LIMIT_FRAME_BYTES_MAX",
        "MLMS_LIMIT_CREATES_PER_MINUTE",
    ] {
        assert!(names.iter().any(|known| known == name), "{name}");
    }
}

#[test]
fn every_mistake_of_every_source_is_in_one_message() {
    let file = "listen = 80\nlissten = 'x'\n[node]\nnames = 'a'\nname = 'Node 1'\n[limits]\nchats_per_s = -1\n[lobbies]\nx = 1";
    let environment = [
        ("MLMS_ADMIN_LISTEN", "localhost"),
        ("MLMS_CLUSTER_KEY", "c2hvcnQ="),
        ("MLMS_REDIS_URI", "redis://r"),
        ("MLMS_DATABASE_URL", "postgres://root:hunter2@db/x"),
        ("MLMS_LIMIT_CHAT_BYTES_MAX", "lots"),
        ("MLMS_JWT_ALGORITHMS", "HS256,none"),
    ];
    let flags = ["--log", "mlms=loud", "--set", "drain=5", "--set", "jwt.hs256_secret=open"];
    let found = mistakes(ProcessRole::LobbyNode, file, &environment, &flags);
    let expected = [
        "mlms.toml, line 1, key listen: is a number, not a text; put",
        "mlms.toml, line 2, key lissten: is not known; did you mean listen?",
        "mlms.toml, line 4, key node.names: is not known; did you mean node.name?",
        "mlms.toml, line 5, key node.name: `Node 1` is no node name; give",
        "mlms.toml, line 7, key limits.chats_per_s: `-1` is not a number that fits; give a whole number from 0",
        "mlms.toml, line 8, key lobbies: is not known; remove it",
        "environment MLMS_ADMIN_LISTEN: `localhost` is not an address with a port; give IP address and port",
        "environment MLMS_CLUSTER_KEY: key 1 has 5 bytes, not 32; give base64",
        "environment MLMS_DATABASE_URL: the scheme `postgres` is not known here; give a URL such as mysql://",
        "environment MLMS_JWT_ALGORITHMS: `none` is not known; give one of HS256, RS256, ES256, EdDSA",
        "environment MLMS_LIMIT_CHAT_BYTES_MAX: `lots` is not a number that fits",
        "environment MLMS_REDIS_URI: is not known; did you mean MLMS_REDIS_URL?",
        "flag --log: is no log filter",
        "flag --set drain: is not known",
        "flag --set jwt.hs256_secret: would show a secret to every user of the machine; give it as MLMS_JWT_HS256_SECRET",
        "redis.url: is not set, and a lobby-node",
        "jwt: no key is set",
    ];
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "\n   found {found}\nexpected {expected}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    assert!(!found.concat().contains("hunter2"), "a password is quoted");
}

#[test]
fn single_mistakes_are_told_with_their_remedy() {
    let check = |role, environment: &[(&str, &str)], expected: &str| {
        let found = mistakes(role, "", environment, &[]);
        assert!(found.len() == 1 && found[0].contains(expected), "{expected}: {found:#?}");
    };
    use ProcessRole::{Broker, LobbyNode, Standalone};
    let fleet = [("MLMS_REDIS_URL", "redis://r"), ("MLMS_CLUSTER_KEY", KEY), ("MLMS_JWT_HS256_SECRET", "s")];
    let without = |left_out: &str, more: &[(&'static str, &'static str)]| {
        let kept = fleet.iter().copied().filter(|(name, _)| *name != left_out);
        kept.chain(more.iter().copied()).collect::<Vec<_>>()
    };
    check(Broker, &without("MLMS_REDIS_URL", &[]), "set MLMS_REDIS_URL");
    check(Broker, &without("MLMS_CLUSTER_KEY", &[]), "set MLMS_CLUSTER_KEY");
    check(Broker, &without("MLMS_JWT_HS256_SECRET", &[]), "set MLMS_JWT_HS256_SECRET");
    check(LobbyNode, &without("", &[]), "set MLMS_DATABASE_URL");
    let database = ("MLMS_DATABASE_URL", "sqlite://./x.db");
    check(
        LobbyNode,
        &without("", &[database, ("MLMS_NODE_LISTEN", "0.0.0.0:8090")]),
        "set MLMS_NODE_ADDRESS",
    );
    check(Broker, &without("", &[("MLMS_EPHEMERAL", "true")]), "is for standalone");
    check(Standalone, &[("MLMS_EPHEMERAL", "true"), database], "leave one of the two out");
    check(Standalone, &[("MLMS_JWT_ALGORITHMS", "EdDSA")], "EdDSA is accepted, but no key for it");
    check(Standalone, &[("MLMS_JWT_PUBLIC_KEY_FILE", "/nowhere.pem")], "/nowhere.pem: cannot be read");
    check(Standalone, &[("MLMS_JWT_JWKS_URL", "file:///nowhere.json")], "/nowhere.json: cannot be read");
    check(Standalone, &[("MLMS_NODE_ADDRESS", "0.0.0.0:1")], "cannot be reached by others");
    check(Standalone, &[("MLMS_NODE_ADDRESS", "node-1")], "has no port");
    check(Standalone, &[("MLMS_NODE_PUBLIC_URL", "https://x")], "wss://");
    check(
        Standalone,
        &[("MLMS_ALLOWED_ORIGINS", "https://a.example,example.com")],
        "`example.com` is no origin",
    );
    check(Standalone, &[("MLMS_TRUSTED_PROXIES", "10.0.0.0/40")], "is no network");
    check(Standalone, &[("MLMS_LOBBY_CREATE", "everyone")], "give one of anyone, admin");
    check(Standalone, &[("MLMS_LIMIT_COMMANDS_BURST", "0")], "0 allows no command");
    check(Standalone, &[("MLMS_LIMIT_CHAT_BYTES_MAX", "70000")], "larger than a frame");
    check(Standalone, &[("MLMS_LIMIT_MEMBERS_PER_LOBBY_MAX", "100001")], "100001 is out of range");
    check(Standalone, &[("MLMS_REDIS_PREFIX", "{a}")], "no braces");
    check(Standalone, &[("MLMS_DRAIN_SECONDS", "1.5")], "whole number");
    check(Standalone, &[("MLMS_GUESTS", "maybe")], "give true or false");
    check(Standalone, &[("MLMS_CONFIG", "/nowhere.toml"), ("MLMS_X", "1")], "environment MLMS_X");
}

#[test]
fn a_missing_file_and_broken_toml_are_mistakes_too() {
    let flags = SharedFlags { config: Some("/nowhere.toml".into()), ..SharedFlags::default() };
    let errors = Settings::load(ProcessRole::Standalone, &Sources::of([], &flags)).unwrap_err();
    assert!(
        errors
            .to_string()
            .starts_with("1 mistake in the configuration:\n  - file /nowhere.toml: cannot be read")
    );
    let found = mistakes(
        ProcessRole::Standalone,
        "listen = '127.0.0.1:1'\nguests = \n",
        &[("MLMS_LISTEN", "x")],
        &[],
    );
    assert!(found[0].starts_with("mlms.toml, line 2: is no TOML"), "{found:#?}");
    assert_eq!(found.len(), 2, "{found:#?}");
}

#[test]
fn empty_variables_and_kubernetes_links_count_as_not_given() {
    let environment = [
        ("MLMS_REDIS_URL", ""),
        ("MLMS_BROKER_SERVICE_HOST", "10.0.0.1"),
        ("MLMS_BROKER_PORT", "tcp://10.0.0.1:80"),
    ];
    assert!(standalone("", &environment, &[]).redis.url.is_none());
}

#[test]
fn defaults_depend_on_the_role_and_on_each_other() {
    let settings = standalone("", &[], &[]);
    assert!(settings.guests && settings.token_in_query);
    assert_eq!(settings.sqlite_path().as_deref(), Some(Path::new("./data/mlms.db")));
    let settings = standalone("", &[("MLMS_NODE_LISTEN", "127.0.0.1:8099")], &[]);
    assert_eq!(settings.node.address, "127.0.0.1:8099");
    assert!(settings.node.name.as_str().ends_with("-8099"), "two nodes on one machine have two names");
    let settings = standalone("", &[("MLMS_JWT_JWKS_URL", "https://id.example.com/jwks")], &[]);
    assert!(!settings.guests, "nothing could sign guests' tokens");
    assert_eq!(
        standalone("", &[("MLMS_DATABASE_URL", "sqlite://x/y.db?mode=rwc")], &[]).sqlite_path(),
        Some("x/y.db".into())
    );
    assert_eq!(standalone("", &[("MLMS_DATABASE_URL", "mysql://h/y")], &[]).sqlite_path(), None);
    assert_eq!(standalone("", &[], &["--ephemeral"]).sqlite_path(), None);

    let fleet =
        [("MLMS_REDIS_URL", "redis://r"), ("MLMS_CLUSTER_KEY", KEY), ("MLMS_JWT_HS256_SECRET", "short")];
    let broker = load(ProcessRole::Broker, "", &fleet, &[]).unwrap();
    assert!(!broker.guests && !broker.token_in_query);
    assert_eq!(broker.warnings().len(), 1, "a short secret is told");
    assert!(load(ProcessRole::Tool, "", &[], &[]).is_ok(), "a tool needs nothing");
}

#[test]
fn the_default_file_says_what_the_defaults_are() {
    let page = default_config();
    for role in [ProcessRole::Standalone, ProcessRole::Tool] {
        let settings = load(role, &page, &[], &[]).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(settings.effective(), Settings::defaults(role).effective());
    }
    for setting in TABLE {
        assert!(page.contains(&setting.env()), "{}", setting.key);
        assert!(page.lines().all(|line| line.chars().count() <= 120), "{}", setting.doc);
    }
    // The commented examples are right too: with all of them in force only files and empty secrets are amiss.
    let in_force: String = page
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(example) if example.contains(" = ") && !example.contains("Environment") => {
                format!("{example}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let found = mistakes(ProcessRole::LobbyNode, &in_force, &[], &[]);
    assert_eq!(found.len(), 4, "{found:#?}");
    for key in ["cluster.key", "jwt.hs256_secret", "consul.token", "jwt.public_key_file"] {
        assert!(found.iter().any(|one| one.contains(key)), "{key}: {found:#?}");
    }
}

#[test]
fn the_effective_settings_are_a_file_again() {
    let settings = standalone("", &[("MLMS_ALLOWED_ORIGINS", "*"), ("MLMS_DRAIN_SECONDS", "3")], &[]);
    let again = standalone(&settings.effective(), &[], &[]);
    assert_eq!(again.effective(), settings.effective());
    assert_eq!(again.allowed_origins, AllowedOrigins::Any);
}

#[test]
fn origins_are_compared_as_browsers_send_them() {
    let check = |allowed: &AllowedOrigins, origin: Option<&str>, host: &str, expected: bool| {
        assert_eq!(allowed.allows(origin, Some(host)), expected, "{allowed:?} {origin:?} {host}");
    };
    let same = AllowedOrigins::SameHost;
    check(&same, None, "play.example.com", true);
    check(&same, Some("https://play.example.com"), "play.example.com", true);
    check(&same, Some("http://localhost:8080"), "localhost:8080", true);
    check(&same, Some("http://localhost:8081"), "localhost:8080", false);
    check(&same, Some("https://evil.example"), "play.example.com", false);
    check(&same, Some("null"), "play.example.com", false);
    let listed = AllowedOrigins::Listed(vec!["https://play.example.com".to_owned()]);
    check(&listed, Some("https://PLAY.example.com"), "x", true);
    check(&listed, Some("https://play.example.com.evil.example"), "x", false);
    check(&listed, Some("http://play.example.com"), "x", false);
    check(&AllowedOrigins::Any, Some("null"), "x", true);
}

#[test]
fn a_standalone_keeps_its_secret_beside_its_database_and_tools_find_it() {
    let folder = Folder::new();
    let database = format!("sqlite://{}/deep/mlms.db", folder.path().display());
    let environment = [("MLMS_DATABASE_URL", database.as_str())];
    let secret_of = |role| {
        let mut settings = load(role, "", &environment, &[]).unwrap();
        settings.prepare().unwrap();
        assert_eq!(settings.cluster_keys.is_some(), role == ProcessRole::Standalone);
        settings.jwt.hs256_secret.unwrap().expose_secret().to_owned()
    };
    let first = secret_of(ProcessRole::Standalone);
    assert!(first.len() >= 43);
    assert_eq!(secret_of(ProcessRole::Standalone), first, "a restart keeps it");
    assert_eq!(secret_of(ProcessRole::Tool), first, "`mlms token` finds it");
    let entries: Vec<_> = std::fs::read_dir(folder.path().join("deep")).unwrap().collect();
    assert_eq!(entries.len(), 1, "nothing else is left behind");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = entries[0].as_ref().unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "only the owner reads it");
    }
}

#[test]
fn nothing_is_written_when_nothing_is_kept_or_a_key_is_given() {
    let folder = Folder::new();
    let data_dir = folder.path().display().to_string();
    for (name, value) in [("MLMS_EPHEMERAL", "true"), ("MLMS_JWT_HS256_SECRET", "mine")] {
        let mut settings = standalone("", &[("MLMS_DATA_DIR", &data_dir), (name, value)], &[]);
        settings.prepare().unwrap();
        assert!(settings.jwt.hs256_secret.is_some());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{name}");
    }
    let mut tool = load(ProcessRole::Tool, "", &[("MLMS_DATA_DIR", &data_dir)], &["--ephemeral"]).unwrap();
    assert!(tool.prepare().unwrap_err().to_string().contains("set the same MLMS_JWT_HS256_SECRET"));
}

#[test]
fn processes_that_start_together_agree_on_one_secret() {
    let folder = Folder::new();
    let data_dir = folder.path().display().to_string();
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let mut settings = standalone("", &[("MLMS_DATA_DIR", &data_dir)], &[]);
            std::thread::spawn(move || {
                settings.prepare().unwrap();
                settings.jwt.hs256_secret.unwrap().expose_secret().to_owned()
            })
        })
        .collect();
    let mut secrets: Vec<String> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    secrets.dedup();
    assert_eq!(secrets.len(), 1);
}
