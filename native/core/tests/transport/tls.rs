//! TLS: reload, mutual TLS, both versions.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tickserve_core::transport::{Options, TlsError, server_config};
use tokio_rustls::TlsConnector;

use crate::support::{BOUND, Client, PREDICT, Server, bounded, goaway, options};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Certificate and key, as PEM.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()])
            .unwrap()
            .signed_by(&key, &self.0)
            .unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn connector(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        identity: Option<(String, String)>,
    ) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
                )
                .unwrap(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsConnector::from(Arc::new(config))
    }
}

const BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

fn serve((certificate, key): &(String, String), client_ca: Option<String>) -> Server {
    let client_ca = client_ca.as_ref().map(String::as_bytes);
    let tls = server_config(certificate.as_bytes(), key.as_bytes(), client_ca).unwrap();
    Server::start(Options {
        tls: Some(tls),
        ..options()
    })
}

/// A client, and the certificate that the server showed.
async fn connect(server: &Server, connector: &TlsConnector) -> std::io::Result<(Client, Vec<u8>)> {
    let stream = tokio::net::TcpStream::connect(server.address).await?;
    let name = ServerName::try_from("server").unwrap();
    let stream = bounded(connector.connect(name, stream)).await?;
    let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    Ok((Client::over(stream).await, shown))
}

#[tokio::test]
async fn both_versions_are_served() {
    let authority = Authority::new();
    let server = serve(&authority.issue("server"), None);
    for version in BOTH {
        let (client, _) = connect(&server, &authority.connector(&[version], None))
            .await
            .unwrap();
        assert_eq!(client.call(PREDICT, b"hello").await.unwrap(), "hello");
    }
}

#[tokio::test]
async fn new_connections_get_new_certificates_and_old_ones_go_on() {
    let authority = Authority::new();
    let server = serve(&authority.issue("server"), None);
    let connector = authority.connector(BOTH, None);
    let (before, old) = connect(&server, &connector).await.unwrap();
    assert_eq!(before.call(PREDICT, b"hello").await.unwrap(), "hello");
    let (certificate, key) = authority.issue("server");
    server
        .transport
        .set_tls(server_config(certificate.as_bytes(), key.as_bytes(), None).unwrap());
    let (after, new) = connect(&server, &authority.connector(BOTH, None)).await.unwrap();
    assert_ne!(old, new);
    assert_eq!(after.call(PREDICT, b"hello").await.unwrap(), "hello");
    assert_eq!(before.call(PREDICT, b"hello").await.unwrap(), "hello");
}

#[tokio::test]
async fn clients_show_a_certificate_where_one_is_wanted() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = serve(&authority.issue("server"), Some(authority.0.pem()));
    let (first, _) = connect(
        &server,
        &authority.connector(BOTH, Some(authority.issue("engine"))),
    )
    .await
    .unwrap();
    assert_eq!(first.call(PREDICT, b"hello").await.unwrap(), "hello");
    for identity in [None, Some(stranger.issue("engine"))] {
        let connector = authority.connector(BOTH, identity);
        // With TLS 1.3 the client learns of it only after its own handshake.
        if let Ok((mut client, _)) = connect(&server, &connector).await {
            client.end().await;
        }
    }
    assert_eq!(server.seen.answered.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn plain_bytes_on_a_tls_port_are_closed() {
    let server = serve(&Authority::new().issue("server"), None);
    let mut stream = server.raw();
    std::io::Write::write_all(&mut stream, &crate::support::opening()).unwrap();
    bounded(tokio::task::spawn_blocking(move || goaway(stream)))
        .await
        .unwrap();
    assert!(server.transport.is_alive(BOUND));
}

#[test]
fn what_is_no_identity_is_said_clearly() {
    let authority = Authority::new();
    let ((certificate, key), (_, other_key)) = (authority.issue("server"), authority.issue("server"));
    let made = |certificate: &str, key: &str, client_ca: Option<&str>| {
        server_config(
            certificate.as_bytes(),
            key.as_bytes(),
            client_ca.map(str::as_bytes),
        )
    };
    assert!(made(&certificate, &key, Some(&certificate)).is_ok());
    assert!(matches!(made("", &key, None), Err(TlsError::Certificate(_))));
    assert!(matches!(
        made(&certificate[..100], &key, None),
        Err(TlsError::Certificate(_))
    ));
    assert!(matches!(
        made(&certificate, "nonsense", None),
        Err(TlsError::Key(_))
    ));
    assert!(matches!(
        made(&certificate, &other_key, None),
        Err(TlsError::Identity(_))
    ));
    assert!(matches!(
        made(&certificate, &key, Some("")),
        Err(TlsError::ClientCa(_))
    ));
}
