//! Gathers the page and the JavaScript client into one table, so that the binary carries them: `web/` is served at
//! `/`, `../clients/js/dist/` at `/client/`. A file that is added there is served without a change here.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it")).join("page.rs");
    let mut table = String::from("&[\n");
    add_folder(&mut table, &root.join("web"), "/", &["html", "css", "js", "svg"]);
    add_folder(&mut table, &root.join("../clients/js/dist"), "/client/", &["js"]);
    table.push(']');
    fs::write(out, table).expect("the build folder can be written");
}

fn add_folder(table: &mut String, folder: &Path, prefix: &str, extensions: &[&str]) {
    println!("cargo::rerun-if-changed={}", folder.display());
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    for file in files {
        let name = file.file_name().and_then(|name| name.to_str()).expect("names are plain");
        let extension = name.rsplit('.').next().unwrap_or("");
        if !extensions.contains(&extension) || name.contains(".test.") {
            continue;
        }
        println!("cargo::rerun-if-changed={}", file.display());
        let bytes = fs::read(&file).expect("a listed file can be read");
        let path = if name == "index.html" { prefix.to_owned() } else { format!("{prefix}{name}") };
        let etag = format!("\"{:016x}\"", fingerprint(&bytes));
        let source = fs::canonicalize(&file).expect("a listed file has a path");
        writeln!(
            table,
            "File {{ path: {path:?}, extension: {extension:?}, etag: {etag:?}, bytes: include_bytes!({source:?}) }},"
        )
        .expect("text grows");
    }
}

/// FNV-1a: tells versions of a file apart, no more.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
