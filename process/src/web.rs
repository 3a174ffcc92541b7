//! The few HTTP requests that a process makes itself: key sets, Consul, traces. One request a connection, bounded in
//! bytes; redirects are not followed. Over https the machine's own root certificates count (`SSL_CERT_FILE` and
//! `SSL_CERT_DIR` are honoured by their loader). Whoever asks bounds the time.

use std::sync::Arc;

use axum::http::request::Builder;
use axum::http::uri::Scheme;
use axum::http::{Request, Response, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// A server, and how it is reached.
pub(crate) struct Server {
    base: Uri,
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
}

impl Server {
    /// The server of an `http://` or `https://` URL.
    ///
    /// # Errors
    /// The URL is none, or no root certificates are there for https.
    pub(crate) fn new(url: &str) -> Result<Server, String> {
        let base: Uri = url.parse().map_err(|error| format!("{url} is no URL: {error}"))?;
        let host = base.host().ok_or_else(|| format!("{url} names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let secure = base.scheme() == Some(&Scheme::HTTPS);
        let port = base.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tls = if secure { Some(connector()?) } else { None };
        Ok(Server { base, host, port, tls })
    }

    /// Path and query of the URL itself.
    pub(crate) fn path(&self) -> &str {
        self.base.path_and_query().map_or("/", |path| path.as_str())
    }

    /// Sends one request on a fresh connection, and reads at most `bytes_max` of the answer. Dropping the future drops
    /// the connection too.
    ///
    /// # Errors
    /// Why there is no whole answer.
    pub(crate) async fn ask(
        &self,
        request: Builder,
        body: Bytes,
        bytes_max: usize,
    ) -> Result<Response<Bytes>, String> {
        let authority = self.base.authority().map_or("", |authority| authority.as_str());
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let request = request
            .header(header::HOST, host)
            .header(header::CONNECTION, "close")
            .body(Full::new(body))
            .map_err(text_of)?;
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(text_of)?;
        match &self.tls {
            None => exchange(stream, request, bytes_max).await,
            Some(connector) => {
                let name = ServerName::try_from(self.host.clone()).map_err(text_of)?;
                let stream = connector.connect(name, stream).await.map_err(text_of)?;
                exchange(stream, request, bytes_max).await
            }
        }
    }
}

fn connector() -> Result<TlsConnector, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        return Err("this machine has no root certificates, so nothing can be asked over https; \
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

async fn exchange<S>(
    stream: S,
    request: Request<Full<Bytes>>,
    bytes_max: usize,
) -> Result<Response<Bytes>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(text_of)?;
    let exchange = async {
        let (head, body) = sender.send_request(request).await.map_err(text_of)?.into_parts();
        let body = Limited::new(body, bytes_max).collect().await.map_err(text_of)?;
        Ok(Response::from_parts(head, body.to_bytes()))
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

fn text_of(error: impl std::fmt::Display) -> String {
    error.to_string()
}
