//! TLS towards customers: 1.2 and later, HTTP/2 by ALPN, with the certificate of the configuration
//! that applies when a connection begins.

use crate::live::Current;
use pingora::Result;
use pingora::listeners::tls::{Acceptor, TlsSettings};
use pingora::protocols::Stream;
use pingora::protocols::l4::stream::Stream as Socket;
use pingora::{Error, ErrorType};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::sync::Arc;

/// Takes TLS on all of a listener's connections.
pub(super) fn acceptor(live: &Current) -> Acceptor {
    let started = live.load().config.gateway.tls.as_ref().map(|tls| Arc::clone(tls.certificate.key()));
    // Both paths stay unused: there is a resolver.
    let mut settings = TlsSettings::intermediate("", "").expect("takes anything");
    settings.set_cert_resolver(Arc::new(Shown { live: Arc::clone(live), started }));
    settings.enable_h2();
    settings.build()
}

/// Speaks TLS on a connection that Pingora took as clear text.
///
/// # Errors
/// When the client does not.
pub(super) async fn handshake(acceptor: &Acceptor, stream: Stream) -> Result<Stream> {
    let Ok(socket) = stream.into_any().downcast::<Socket>() else {
        return Err(Error::explain(ErrorType::InternalError, "TLS is not spoken within TLS"));
    };
    Ok(Box::new(acceptor.tls_handshake(*socket).await?))
}

/// Shows the certificate that applies now.
struct Shown {
    live: Current,
    /// Shown on when a reload has taken `tls` away: its sockets stay until a restart.
    started: Option<Arc<CertifiedKey>>,
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let live = self.live.load();
        let now = live.config.gateway.tls.as_ref().map(|tls| Arc::clone(tls.certificate.key()));
        now.or_else(|| self.started.clone())
    }
}
