//! What a standalone process makes up for itself: the cluster key (for its life) and the secret of users' tokens
//! (kept beside the database, so that tokens survive a restart and `mlms token` finds it).

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mlms_protocol::ticket::ClusterKeys;
use secrecy::SecretString;

use super::{ConfigErrors, Mistake, ProcessRole, Settings};

const SECRET_FILE: &str = "jwt-secret";
const SECRET_BYTES: usize = 32;

pub(super) fn prepare(settings: &mut Settings) -> Result<(), ConfigErrors> {
    if !matches!(settings.role, ProcessRole::Standalone | ProcessRole::Tool) {
        return Ok(());
    }
    if settings.role == ProcessRole::Standalone && settings.cluster_keys.is_none() {
        settings.cluster_keys = Some(ClusterKeys::random());
    }
    let folder = folder(settings);
    if settings.role == ProcessRole::Standalone && !settings.ephemeral {
        fs::create_dir_all(&folder).map_err(|error| failure(&folder, "cannot be created", &error))?;
    }
    if settings.jwt.has_key() {
        return Ok(());
    }
    if settings.ephemeral && settings.role == ProcessRole::Tool {
        let mistake = Mistake {
            place: "ephemeral".to_owned(),
            what: "an ephemeral server keeps its secret to itself".to_owned(),
            mend: "set the same MLMS_JWT_HS256_SECRET for the server and for this command".to_owned(),
        };
        return Err(ConfigErrors { mistakes: vec![mistake] });
    }
    if settings.ephemeral {
        settings.jwt.hs256_secret = Some(random_secret().into());
        return Ok(());
    }
    let path = secret_path(settings);
    fs::create_dir_all(&folder).map_err(|error| failure(&folder, "cannot be created", &error))?;
    let secret =
        read_or_create(&path).map_err(|error| failure(&path, "cannot be read or written", &error))?;
    settings.jwt.hs256_secret = Some(secret);
    Ok(())
}

pub(super) fn secret_path(settings: &Settings) -> PathBuf {
    folder(settings).join(SECRET_FILE)
}

/// The database's folder when it is a file, else the data folder.
fn folder(settings: &Settings) -> PathBuf {
    let beside_database = settings.sqlite_path().and_then(|path| path.parent().map(Path::to_path_buf));
    match beside_database {
        Some(folder) if folder.as_os_str().is_empty() => PathBuf::from("."),
        Some(folder) => folder,
        None => settings.data_dir.clone(),
    }
}

fn failure(path: &Path, what: &str, error: &std::io::Error) -> ConfigErrors {
    let mistake = Mistake {
        place: path.display().to_string(),
        what: format!("{what}: {error}"),
        mend: "make it writable, set data_dir (MLMS_DATA_DIR), or set MLMS_JWT_HS256_SECRET".to_owned(),
    };
    ConfigErrors { mistakes: vec![mistake] }
}

fn random_secret() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; SECRET_BYTES]>())
}

/// Server and tool may start at the same moment: the whole file is written aside and linked into place, which
/// succeeds for exactly one, and the other reads what that one wrote.
fn read_or_create(path: &Path) -> std::io::Result<SecretString> {
    match read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        outcome => return outcome,
    }
    let aside = path.with_extension(format!("{:016x}", rand::random::<u64>()));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&aside)?;
    file.write_all(format!("{}\n", random_secret()).as_bytes())?;
    file.sync_all()?;
    let linked = fs::hard_link(&aside, path);
    fs::remove_file(&aside)?;
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => read(path),
    }
}

fn read(path: &Path) -> std::io::Result<SecretString> {
    let text = fs::read_to_string(path)?;
    match text.trim() {
        "" => Err(std::io::Error::new(ErrorKind::InvalidData, "the file is empty")),
        secret => Ok(secret.to_owned().into()),
    }
}
