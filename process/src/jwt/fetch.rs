//! Gets the text of a key set, from a file or over HTTP, bounded in bytes.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use axum::http::{Request, StatusCode, header};
use bytes::Bytes;

use crate::config::JwksSource;
use crate::web::Server;

/// The largest key set or key file that is read.
const BYTES_MAX: usize = 256 * 1024;

/// Where a key set is fetched from, made ready.
pub(super) enum Source {
    File(PathBuf),
    Http(Box<Server>),
}

impl Source {
    pub(super) fn new(source: &JwksSource) -> Result<Source, String> {
        match source {
            JwksSource::File(path) => Ok(Source::File(path.clone())),
            JwksSource::Url(url) => Server::new(url).map(|server| Source::Http(Box::new(server))),
        }
    }

    pub(super) async fn fetch(&self) -> Result<Vec<u8>, String> {
        match self {
            Source::File(path) => {
                let path = path.clone();
                tokio::task::spawn_blocking(move || read_file(&path))
                    .await
                    .map_err(|error| error.to_string())?
            }
            Source::Http(server) => {
                let request = Request::get(server.path())
                    .header(header::ACCEPT, "application/jwk-set+json, application/json");
                let response = server.ask(request, Bytes::new(), BYTES_MAX).await?;
                if response.status() != StatusCode::OK {
                    return Err(format!("answered {}", response.status()));
                }
                Ok(response.into_body().to_vec())
            }
        }
    }
}

pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let file = File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    let mut text = Vec::new();
    let limit = BYTES_MAX as u64 + 1;
    file.take(limit).read_to_end(&mut text).map_err(|error| format!("cannot be read: {error}"))?;
    if text.len() > BYTES_MAX { Err(format!("is larger than {BYTES_MAX} bytes")) } else { Ok(text) }
}
