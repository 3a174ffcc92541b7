//! Gets the text of a key set, from a file or over HTTP, bounded in bytes. Redirects are not followed. Over https the
//! machine's own root certificates count (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured by their loader).

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::http::uri::Scheme;
use axum::http::{Request, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::config::JwksSource;

/// The largest key set or key file that is read.
const BYTES_MAX: usize = 256 * 1024;

/// Where a key set is fetched from, made ready.
pub(super) enum Source {
    File(PathBuf),
    Http { uri: Uri, host: String, port: u16, tls: Option<TlsConnector> },
}

impl Source {
    pub(super) fn new(source: &JwksSource) -> Result<Source, String> {
        let url = match source {
            JwksSource::File(path) => return Ok(Source::File(path.clone())),
            JwksSource::Url(url) => url,
        };
        let uri: Uri = url.parse().map_err(|error| format!("{url} is no URL: {error}"))?;
        let host = uri.host().ok_or_else(|| format!("{url} names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let secure = uri.scheme() == Some(&Scheme::HTTPS);
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tls = if secure { Some(connector()?) } else { None };
        Ok(Source::Http { uri, host, port, tls })
    }

    pub(super) async fn fetch(&self) -> Result<Vec<u8>, String> {
        match self {
            Source::File(path) => {
                let path = path.clone();
                tokio::task::spawn_blocking(move || read_file(&path))
                    .await
                    .map_err(|error| error.to_string())?
            }
            Source::Http { uri, host, port, tls } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(text_of)?;
                match tls {
                    None => get(stream, uri).await,
                    Some(connector) => {
                        let name = ServerName::try_from(host.clone()).map_err(text_of)?;
                        get(connector.connect(name, stream).await.map_err(text_of)?, uri).await
                    }
                }
            }
        }
    }
}

fn connector() -> Result<TlsConnector, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        return Err("this machine has no root certificates, so no https key set can be fetched; \
                    install ca-certificates or set SSL_CERT_FILE"
            .to_owned());
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(text_of)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// One GET on a fresh connection. Dropping the future drops the connection too.
async fn get<S>(stream: S, uri: &Uri) -> Result<Vec<u8>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(text_of)?;
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let request = Request::get(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/jwk-set+json, application/json")
        .body(Empty::<Bytes>::new())
        .map_err(text_of)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(text_of)?;
        if response.status() != StatusCode::OK {
            return Err(format!("answered {}", response.status()));
        }
        let body = Limited::new(response.into_body(), BYTES_MAX).collect().await;
        body.map(|body| body.to_bytes().to_vec()).map_err(text_of)
    };
    tokio::pin!(connection, exchange);
    tokio::select! {
        // The connection ends by itself when the answer is complete; its data may still be unread then.
        outcome = &mut exchange => outcome,
        ended = &mut connection => {
            ended.map_err(text_of)?;
            exchange.await
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

fn text_of(error: impl std::fmt::Display) -> String {
    error.to_string()
}
