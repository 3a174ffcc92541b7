//! TLS for `wss://` targets: whose certificates are believed. The engine encrypts in memory, `engine/socket.rs` reads
//! and writes; here is no I/O but reading certificates.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use serde::{Deserialize, Serialize};

use crate::target::Target;

/// Whom to believe.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Trust {
    /// Certificates of authorities in PEM, beside those of the machine.
    pub(crate) authorities: Option<String>,
    /// Any certificate will do.
    pub(crate) is_insecure: bool,
}

impl Trust {
    /// For these targets; a ticket may lead to others.
    ///
    /// # Errors
    /// The certificates cannot be read, or a target needs TLS and nobody is believed.
    pub(crate) fn config(&self, targets: &[Target]) -> anyhow::Result<Arc<ClientConfig>> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .context("no version of TLS")?;
        let mut config = if self.is_insecure {
            let anyone = Arc::new(Anyone(provider));
            builder.dangerous().with_custom_certificate_verifier(anyone).with_no_client_auth()
        } else {
            let roots = self.roots()?;
            // A machine, or an image, without authorities is fine for ws://.
            let is_enough = !roots.is_empty() || targets.iter().all(|target| target.name.is_none());
            ensure!(is_enough, "nobody's certificates are believed on this machine: give --ca");
            builder.with_root_certificates(roots).with_no_client_auth()
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    fn roots(&self) -> anyhow::Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        // A machine without authorities of its own still has those that are given.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(text) = &self.authorities {
            for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
                roots.add(certificate.context("--ca")?).context("--ca")?;
            }
        }
        Ok(roots)
    }
}

/// Believes every certificate, and still wants its key to sign.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
