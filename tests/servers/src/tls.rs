//! Certificates for servers that speak TLS in tests. They are for `localhost` and `127.0.0.1`, and signed by an
//! authority whose key nobody has any more.

/// Who is to be trusted: a PEM file.
pub const AUTHORITY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tls/authority.pem");
/// What a server shows, or a client: a PEM file.
pub const CERTIFICATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tls/certificate.pem");
/// Its key: a PEM file.
pub const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tls/key.pem");
