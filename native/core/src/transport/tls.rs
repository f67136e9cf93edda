//! TLS of the data listener: a configuration out of PEM.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// Why no configuration can be made of what was given.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate and its chain.
    #[error("the certificate is not a whole PEM certificate chain: {0}")]
    Certificate(String),
    /// The key.
    #[error("the key is not a whole PEM private key without a passphrase: {0}")]
    Key(String),
    /// Both, where one does not fit the other or cannot be used.
    #[error("the certificate and the key cannot be used together: {0}")]
    Identity(#[source] rustls::Error),
    /// The authorities that vouch for clients.
    #[error("the client CA is not a whole PEM certificate: {0}")]
    ClientCa(String),
    /// What the library does not offer.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// A configuration for TLS 1.2 and 1.3 with HTTP/2, out of PEM. With `client_ca` clients must show a certificate that
/// one of these authorities signed.
pub fn server_config(
    certificate: &[u8],
    key: &[u8],
    client_ca: Option<&[u8]>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates(certificate).map_err(TlsError::Certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| TlsError::Key(error.to_string()))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| TlsError::Setup(error.to_string()))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(pem).map_err(TlsError::ClientCa)? {
                roots
                    .add(authority)
                    .map_err(|error| TlsError::ClientCa(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| TlsError::ClientCa(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(TlsError::Identity)?;
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
