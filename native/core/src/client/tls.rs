//! TLS of a client: a configuration out of PEM.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why no configuration can be made of what was given.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The authorities that vouch for the server.
    #[error("the CA file is not a whole PEM certificate: {0}")]
    Authority(String),
    /// The client's own certificate and its chain.
    #[error("the certificate is not a whole PEM certificate chain: {0}")]
    Certificate(String),
    /// Its key.
    #[error("the key is not a whole PEM private key without a passphrase: {0}")]
    Key(String),
    /// Both, where one does not fit the other or cannot be used.
    #[error("the certificate and the key cannot be used together: {0}")]
    Identity(#[source] rustls::Error),
    /// What the library does not offer.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// How a client checks its server and shows itself.
pub type TlsConfig = Arc<ClientConfig>;

/// A configuration for TLS 1.2 and 1.3 with HTTP/2, out of PEM: who may vouch for the server, and the certificate with its
/// chain and key to show where the server asks for one.
pub fn client_config(authorities: &[u8], identity: Option<(&[u8], &[u8])>) -> Result<TlsConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let trusted = certificates(authorities).map_err(TlsError::Authority)?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(trusted.iter().cloned());
    if added == 0 {
        return Err(TlsError::Authority(
            "none of its certificates can be an authority".to_owned(),
        ));
    }
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| TlsError::Authority(error.to_string()))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| TlsError::Setup(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { inner, trusted }));
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate).map_err(TlsError::Certificate)?;
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| TlsError::Key(error.to_string()))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(TlsError::Identity)?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    if found.is_empty() {
        Err("it holds none".to_owned())
    } else {
        Ok(found)
    }
}

/// webpki's rules, and one more that OpenSSL has: a server may show a certificate that is trusted itself, as one does that
/// signed its own. webpki refuses it as an authority's.
#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let refused = match self.inner.verify_server_cert(shown, chain, name, ocsp, now) {
            Ok(verified) => return Ok(verified),
            Err(refused) => refused,
        };
        if !self.trusted.iter().any(|trusted| trusted == shown) {
            return Err(refused);
        }
        let bad = || rustls::Error::InvalidCertificate(CertificateError::BadEncoding);
        let (_, parsed) = X509Certificate::from_der(shown).map_err(|_| bad())?;
        let seconds = i64::try_from(now.as_secs()).map_err(|_| bad())?;
        if seconds < parsed.validity().not_before.timestamp() {
            return Err(CertificateError::NotValidYet.into());
        }
        if seconds > parsed.validity().not_after.timestamp() {
            return Err(CertificateError::Expired.into());
        }
        verify_server_name(&ParsedCertificate::try_from(shown)?, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
