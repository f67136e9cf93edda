//! TLS to the server, out of PEM.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

/// Whom to trust, and what to show.
#[derive(Clone, Debug)]
pub struct Tls {
    pub(super) config: Arc<ClientConfig>,
    pub(super) server_name: ServerName<'static>,
}

/// Why there can be no TLS with what was given.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The authorities.
    #[error("the CA file is not a whole PEM certificate: {0}")]
    Roots(String),
    /// The own certificate and its key.
    #[error("the certificate and its key cannot be used: {0}")]
    Identity(String),
    /// The host of the address.
    #[error("{0:?} is no name that a certificate can be checked against")]
    ServerName(String),
    /// What the library does not offer.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

impl Tls {
    /// PEM of the authorities, and of certificate and key where the server asks for them; the server's certificate must
    /// be for `host`.
    pub fn new(roots: &[u8], identity: Option<(&[u8], &[u8])>, host: &str) -> Result<Self, TlsError> {
        let mut store = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(roots) {
            let authority = authority.map_err(|error| TlsError::Roots(error.to_string()))?;
            store
                .add(authority)
                .map_err(|error| TlsError::Roots(error.to_string()))?;
        }
        if store.is_empty() {
            return Err(TlsError::Roots("it holds none".to_owned()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| TlsError::Setup(error.to_string()))?
            .with_root_certificates(store);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = CertificateDer::pem_slice_iter(chain)
                    .collect::<Result<_, _>>()
                    .map_err(|error| TlsError::Identity(error.to_string()))?;
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|error| TlsError::Identity(error.to_string()))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| TlsError::Identity(error.to_string()))?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let server_name =
            ServerName::try_from(host.to_owned()).map_err(|_| TlsError::ServerName(host.to_owned()))?;
        Ok(Self {
            config: Arc::new(config),
            server_name,
        })
    }
}
