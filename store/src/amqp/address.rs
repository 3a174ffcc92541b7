//! Where the broker of messages is, and how a connection to it is protected. An `amqps` url means TLS with a verified
//! name and certificate, always. Here is the way of bytes; what goes over it is the publisher's and the subscriber's.
//!
//! The TLS is ours (rustls, as everywhere else), handed to lapin as a runtime whose streams are encrypted: lapin's own
//! brings a second reader of certificates with it (docs/decisions/0011).

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_compat::{Compat, CompatExt as _};
use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_util::Stream;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::{AmqpError, HEARTBEAT_S};

/// A checked address. Nothing is connected yet.
#[derive(Clone)]
pub(super) struct Address {
    uri: AMQPUri,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// Files that the url names, as RabbitMQ's own clients call them.
#[derive(Default)]
struct Files {
    /// Whom to trust, besides the machine's roots.
    cacertfile: Option<PathBuf>,
    /// What this side shows of itself; both or none.
    certfile: Option<PathBuf>,
    keyfile: Option<PathBuf>,
}

fn wrong(why: impl std::fmt::Display) -> AmqpError {
    AmqpError::Url(why.to_string())
}

impl Address {
    /// Reads an `amqp:` or `amqps:` url, and the certificates that it names.
    ///
    /// # Errors
    /// `Url`.
    pub(super) fn parse(url: &str) -> Result<Address, AmqpError> {
        let mut uri: AMQPUri = url.parse().map_err(|why: String| wrong(format!("is none: {why}")))?;
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        let files = Files::named_by(url)?;
        let tls = match uri.scheme {
            AMQPScheme::AMQPS => Some((files.connector()?, name_of(&uri.authority.host)?)),
            AMQPScheme::AMQP if files.any() => {
                return Err(wrong("names certificates, but asks for no TLS; use amqps://"));
            }
            AMQPScheme::AMQP => None,
        };
        Ok(Address { uri, tls })
    }

    /// Connects as far as the broker's greeting.
    ///
    /// # Errors
    /// As lapin's.
    pub(super) async fn connect(&self, properties: ConnectionProperties) -> lapin::Result<Connection> {
        let Some((connector, name)) = self.tls.clone() else {
            return Connection::connect_uri(self.uri.clone(), properties).await;
        };
        let runtime = Runtime::new(RuntimeParts::new(Tokio::current(), Encrypted(Tokio::current())));
        let secure = async move |uri: AMQPUri, _| {
            let authority = (uri.authority.host.trim_matches(['[', ']']), uri.authority.port);
            let plain = TcpStream::connect(authority).await?;
            plain.set_nodelay(true)?;
            let stream = connector.connect(name.clone(), plain).await?;
            Ok(AsyncTcpStream::Plain(stream.compat()))
        };
        Connection::connector(self.uri.clone(), runtime, secure, properties).await
    }
}

/// The name that the broker's certificate must carry.
fn name_of(host: &str) -> Result<ServerName<'static>, AmqpError> {
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
    name.map_err(|why| wrong(format!("has no name that a certificate could carry: {why}")))
}

impl Files {
    fn named_by(url: &str) -> Result<Files, AmqpError> {
        let url = url::Url::parse(url).map_err(|why| wrong(format!("is none: {why}")))?;
        let mut files = Files::default();
        for (key, value) in url.query_pairs() {
            let path = Some(PathBuf::from(value.as_ref()));
            match key.as_ref() {
                "cacertfile" => files.cacertfile = path,
                "certfile" => files.certfile = path,
                "keyfile" => files.keyfile = path,
                "verify" if value != "verify_peer" => {
                    return Err(wrong(
                        "asks for a broker that is not verified, which this service does not do",
                    ));
                }
                _ => {}
            }
        }
        Ok(files)
    }

    fn any(&self) -> bool {
        self.cacertfile.is_some() || self.certfile.is_some() || self.keyfile.is_some()
    }

    fn connector(&self) -> Result<TlsConnector, AmqpError> {
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(wrong)?
            .with_root_certificates(self.roots()?);
        let config = match (&self.certfile, &self.keyfile) {
            (None, None) => config.with_no_client_auth(),
            (Some(certfile), Some(keyfile)) => {
                let key = PrivateKeyDer::from_pem_file(keyfile)
                    .map_err(|why| wrong(format!("names {}: {why}", keyfile.display())))?;
                config
                    .with_client_auth_cert(certificates(certfile)?, key)
                    .map_err(|why| wrong(format!("names a certificate that cannot be shown: {why}")))?
            }
            _ => return Err(wrong("names one of certfile and keyfile; give both")),
        };
        Ok(TlsConnector::from(Arc::new(config)))
    }

    fn roots(&self) -> Result<RootCertStore, AmqpError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(file) = &self.cacertfile {
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|why| wrong(format!("names {}: {why}", file.display())))?;
            }
        }
        if roots.is_empty() {
            return Err(wrong(
                "asks for TLS, and this machine has no root certificates: install ca-certificates, set \
                 SSL_CERT_FILE, or add ?cacertfile=…",
            ));
        }
        Ok(roots)
    }
}

fn certificates(file: &PathBuf) -> Result<Vec<CertificateDer<'static>>, AmqpError> {
    let named = |why: &dyn std::fmt::Display| wrong(format!("names {}: {why}", file.display()));
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if certificates.is_empty() => Err(named(&"there is no certificate in it")),
        other => other.map_err(|why| named(&why)),
    }
}

/// What lapin sleeps and counts by; its streams are encrypted, and made by [`Address::connect`] alone.
#[derive(Debug, Clone)]
struct Encrypted(Tokio);

type Secured = Compat<TlsStream<TcpStream>>;

impl Reactor for Encrypted {
    type TcpStream = Secured;
    type Sleep = tokio::time::Sleep;

    #[expect(refining_impl_trait, reason = "it says that there is none")]
    fn register<H: io::Read + io::Write + Send + 'static>(&self, _: H) -> io::Result<Secured> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        _: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
}
