//! TLS in front of a simulated provider, with a certificate by an authority made for the test. It
//! keeps what each handshake agreed on.

use super::Simulated;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

/// Signs certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority of a test");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Authority { issuer, folder: tempfile::tempdir().unwrap() };
        std::fs::write(authority.file(), authority.issuer.as_ref().pem()).unwrap();
        authority
    }

    /// The file that says who vouches.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn config(&self, name: &str, alpn: &[&str]) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_no_client_auth();
        let mut config = config.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config
    }
}

/// What a handshake agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The name that was asked for.
    pub name: Option<String>,
    pub protocol: Option<String>,
}

/// A front. Its thread ends with the process.
pub struct Front {
    pub address: SocketAddr,
    agreed: Arc<Mutex<Vec<Agreed>>>,
    drops: Arc<AtomicUsize>,
}

impl Front {
    /// Listens on `host`, shows a certificate for `name`, and offers these protocols.
    pub fn start(behind: &Simulated, authority: &Authority, host: &str, name: &str, alpn: &[&str]) -> Self {
        let listener = TcpListener::bind((host, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(authority.config(name, alpn)));
        let (agreed, drops) = (Arc::new(Mutex::new(Vec::new())), Arc::<AtomicUsize>::default());
        let (kept, dropped, behind) = (Arc::clone(&agreed), Arc::clone(&drops), behind.address);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let (acceptor, kept, dropped) =
                        (acceptor.clone(), Arc::clone(&kept), Arc::clone(&dropped));
                    tokio::spawn(async move {
                        // Who only looks whether somebody listens says nothing.
                        let silent = stream.peek(&mut [0]).await.is_ok_and(|read| read == 0);
                        let less = |left: usize| left.checked_sub(1);
                        if silent || dropped.fetch_update(Relaxed, Relaxed, less).is_ok() {
                            return;
                        }
                        // Who believes nothing of this goes away.
                        let Ok(mut stream) = acceptor.accept(stream).await else { return };
                        let session = stream.get_ref().1;
                        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                        let (name, protocol) =
                            (session.server_name().map(str::to_owned), session.alpn_protocol().map(text));
                        kept.lock().unwrap().push(Agreed { name, protocol });
                        let mut behind = tokio::net::TcpStream::connect(behind).await.unwrap();
                        let _ = tokio::io::copy_bidirectional(&mut stream, &mut behind).await;
                    });
                }
            });
        });
        Front { address, agreed, drops }
    }

    /// Hangs up on the next who begin a handshake.
    pub fn drop_next(&self, count: usize) {
        self.drops.store(count, Relaxed);
    }

    /// Of each handshake that was completed.
    pub fn agreed(&self) -> Vec<Agreed> {
        self.agreed.lock().unwrap().clone()
    }
}
