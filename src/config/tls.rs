//! The certificate that customers' connections are shown, and its key; and the authorities that an
//! upstream account's certificate must come from.

use super::reader::{Node, Section};
use super::validate::Listeners;
use super::{raw, secret};
use ring::digest;
use rustls::RootCertStore;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// Where customers may connect by TLS, and what they are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Addresses for HTTP/1.1 and h2 over TLS: at least one.
    pub listen: Vec<SocketAddr>,
    /// Its chain, the leaf first, and its key.
    pub certificate: Certificate,
}

/// A chain of certificates and the private key of the first.
#[derive(Clone)]
pub struct Certificate(Arc<CertifiedKey>);

impl Certificate {
    /// For the handshake.
    pub fn key(&self) -> &Arc<CertifiedKey> {
        &self.0
    }

    fn new(chain: &str, key: PrivateKeyDer<'static>) -> Result<Self, Wrong> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        let chain = chain
            .ok_or(Wrong::Chain("has no certificate in PEM: it begins with -----BEGIN CERTIFICATE-----"))?;
        let certified = CertifiedKey::from_der(chain, key, &default_provider());
        certified.map(|certified| Certificate(Arc::new(certified))).map_err(|error| match error {
            rustls::Error::InvalidCertificate(_) => {
                Wrong::Chain("has a first certificate that cannot be read")
            }
            rustls::Error::InconsistentKeys(_) => Wrong::Key("is not the key of `certificate`"),
            _ => Wrong::Key("holds a key of a kind that is not known: use ECDSA, RSA or Ed25519"),
        })
    }
}

/// Which of the two files is wrong.
#[derive(Debug, PartialEq, Eq)]
enum Wrong {
    Chain(&'static str),
    Key(&'static str),
}

impl PartialEq for Certificate {
    /// The key follows from its certificate.
    fn eq(&self, other: &Self) -> bool {
        self.0.cert == other.0.cert
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fingerprint(self.0.cert.first(), f)
    }
}

/// The beginning of a certificate's SHA-256 fingerprint, as browsers show it.
fn fingerprint(certificate: Option<&CertificateDer<'_>>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let digest = certificate.map(|certificate| digest::digest(&digest::SHA256, certificate));
    let digest = digest.as_ref().map(|digest| &digest.as_ref()[..8]).unwrap_or_default();
    let bytes: Vec<String> = digest.iter().map(|byte| format!("{byte:02X}")).collect();
    write!(f, "SHA-256 {}…", bytes.join(":"))
}

/// Certificates of authorities: whoever shows one that they signed is believed, and nobody else.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Authorities(Arc<[CertificateDer<'static>]>);

impl Authorities {
    /// Each of them, in DER.
    pub fn each(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|authority| &**authority)
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        let read = read.ok().filter(|read| !read.is_empty());
        let read = read.ok_or("has no certificate in PEM: it begins with -----BEGIN CERTIFICATE-----")?;
        let mut roots = RootCertStore::empty();
        if read.iter().any(|authority| roots.add(authority.clone()).is_err()) {
            return Err("has a certificate that cannot be read");
        }
        Ok(Authorities(read.into()))
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fingerprint(self.0.first(), f)?;
        if self.0.len() > 1 { write!(f, " and {} more", self.0.len() - 1) } else { Ok(()) }
    }
}

/// Reads the file that a setting names.
pub(super) fn authorities(node: &Node<'_>) -> Option<Authorities> {
    let text = raw::read(&node.file()?).map_err(|why| node.fault(why)).ok()?;
    Authorities::parse(&text).map_err(|why| node.fault(why)).ok()
}

/// Reads `gateway.tls`.
pub(super) fn read(mut section: Section<'_>, listeners: &mut Listeners) -> Option<Tls> {
    let listen = section.required(super::reader::Required { key: "listen", example: "[\"0.0.0.0:8443\"]" });
    let listen = listen.and_then(|list| listeners.list(&list));
    let certificate = section.required(super::reader::Required { key: "certificate", example: "cert.pem" });
    let key = section.required(super::reader::Required { key: "key", example: "key.pem" });
    section.finish();
    let (certificate, key) = (certificate?, key?);
    let chain = raw::read(&certificate.file()?).map_err(|why| certificate.fault(why));
    let private = secret::read(&key.file()?).map_err(|why| key.fault(why));
    let private = PrivateKeyDer::from_pem_slice(private.ok()?.as_bytes())
        .map_err(|_| key.fault("has no private key in PEM: it begins with -----BEGIN PRIVATE KEY-----"));
    match Certificate::new(&chain.ok()?, private.ok()?) {
        Ok(certificate) => Some(Tls { listen: listen?, certificate }),
        Err(Wrong::Chain(why)) => {
            certificate.fault(why);
            None
        }
        Err(Wrong::Key(why)) => {
            key.fault(why);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: (&str, &str) =
        (include_str!("../../tests/data/tls-one.pem"), include_str!("../../tests/data/tls-one.key"));
    const TWO: (&str, &str) =
        (include_str!("../../tests/data/tls-two.pem"), include_str!("../../tests/data/tls-two.key"));

    fn check(chain: &str, key: &str, expect: Result<(), Wrong>) {
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        assert_eq!(Certificate::new(chain, key).map(|_| ()), expect);
    }

    #[test]
    fn a_certificate_needs_its_own_key() {
        check(ONE.0, ONE.1, Ok(()));
        check(&format!("{}{}", ONE.0, TWO.0), ONE.1, Ok(()));
        check(ONE.0, TWO.1, Err(Wrong::Key("is not the key of `certificate`")));
        let none = "has no certificate in PEM: it begins with -----BEGIN CERTIFICATE-----";
        check("", ONE.1, Err(Wrong::Chain(none)));
        check(ONE.1, ONE.1, Err(Wrong::Chain(none)));
    }

    #[test]
    fn authorities_are_certificates() {
        let of = |text: &str| Authorities::parse(text).map(|found| format!("{found:?}"));
        let (one, two) = (of(ONE.0).unwrap(), of(&format!("{}{}", ONE.0, TWO.0)).unwrap());
        assert_eq!(format!("{one} and 1 more"), two);
        for none in ["", ONE.1, "-----BEGIN CERTIFICATE-----"] {
            assert!(of(none).unwrap_err().starts_with("has no certificate in PEM"), "{none}");
        }
        let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(of(bad), Err("has a certificate that cannot be read"));
    }

    #[test]
    fn certificates_are_told_apart_by_their_fingerprint() {
        let of = |pair: (&str, &str)| {
            Certificate::new(pair.0, PrivateKeyDer::from_pem_slice(pair.1.as_bytes()).unwrap()).unwrap()
        };
        assert_eq!(of(ONE), of(ONE));
        assert_ne!(of(ONE), of(TWO));
        let shown = format!("{:?}", of(ONE));
        assert!(shown.starts_with("SHA-256 ") && shown.len() == 34, "{shown}");
    }
}
