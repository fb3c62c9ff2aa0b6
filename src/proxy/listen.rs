//! Listening: sockets that were bound before anything else was touched, and what a connection must
//! do before Pingora takes it.

use super::Gateway;
use super::address;
use super::respond::Refusal;
use super::tls;
use super::watched::{H2_PREFACE, Then, Watched, turn_away};
use crate::admit::strangers::{ConnectionPermit, Connections, ConnectionsMax, Full};
use crate::config::Edge as Limits;
use crate::live::Current;
use crate::record::metrics::Metrics;
use async_trait::async_trait;
use futures_util::future::join_all;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora::listeners::tls::Acceptor;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::server::configuration::ServerConf;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use pingora::services::listening::Service as ListeningService;
use pingora_proxy::{HttpProxy, http_proxy};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;

/// Why a connection is cut that does not get as far as TLS, in metrics.
const HANDSHAKE_TIMEOUT: &str = "handshake_timeout";
/// The same, by what the client said.
const HANDSHAKE_FAILED: &str = "handshake_failed";

/// A socket that listens.
pub struct Bound {
    /// Where, with its real port.
    pub address: SocketAddr,
    /// Not blocking.
    pub listener: TcpListener,
}

/// The gateway's sockets.
pub struct Sockets {
    /// For clear text.
    pub plain: Vec<Bound>,
    /// For TLS.
    pub tls: Vec<Bound>,
}

/// Whether another process has taken the place of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It has not.
    No,
    /// It has: this one finishes what it has and takes nothing new.
    Yes,
}

/// The gateway's listeners.
pub struct Listening {
    /// One for clear text, one for TLS: those of them that listen.
    inner: Vec<ListeningService<Edge>>,
    bound: Vec<Bound>,
    serving: super::Serving,
}

impl Listening {
    /// Serves `gateway` on `sockets`.
    pub fn new(
        conf: &Arc<ServerConf>,
        gateway: Gateway,
        sockets: Sockets,
        left: watch::Receiver<Left>,
    ) -> Self {
        let serving = gateway.serving.clone();
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        options.h2_idle_timeout = Some(gateway.keepalive);
        let (live, metrics) = (Arc::clone(&gateway.live), Arc::clone(&gateway.metrics));
        let mut proxy = http_proxy(conf, gateway);
        proxy.server_options = Some(options);
        proxy.h2_options = Some(h2_options(&live.load().config.gateway.edge));
        let requests = Arc::new(Requests(Arc::new(proxy)));
        let connections = Arc::<Connections>::default();
        let service = |name: &str, sockets: &[Bound], tls| {
            let (requests, live) = (Arc::clone(&requests), Arc::clone(&live));
            let (connections, metrics) = (Arc::clone(&connections), Arc::clone(&metrics));
            let edge = Edge { requests, live, connections, metrics, tls, left: left.clone() };
            let mut service = ListeningService::new(name.into(), edge);
            // TLS sockets too: the edge counts and times their handshakes.
            sockets.iter().for_each(|bound| service.add_tcp(&bound.address.to_string()));
            service
        };
        let Sockets { plain, tls } = sockets;
        let mut inner = Vec::new();
        // A service without a socket would end at once, and end the proxy for the other.
        if !plain.is_empty() {
            inner.push(service("gateway", &plain, None));
        }
        if !tls.is_empty() {
            inner.push(service("gateway TLS", &tls, Some(tls::acceptor(&live))));
        }
        let bound = plain.into_iter().chain(tls).collect();
        Listening { inner, bound, serving }
    }
}

fn h2_options(limits: &Limits) -> H2Options {
    let mut options = default_h2_options();
    options.max_concurrent_streams(limits.h2_streams_max);
    options.max_header_list_size(u32::try_from(limits.header.bytes_max).unwrap_or(u32::MAX));
    options
}

#[async_trait]
impl Service for Listening {
    async fn start_service(
        &mut self,
        fds: Option<ListenFds>,
        shutdown: ShutdownWatch,
        listeners_per_fd: usize,
    ) {
        self.serving.send_replace(Some(tokio::runtime::Handle::current()));
        if let Some(fds) = &fds {
            let mut fds = fds.lock();
            for Bound { address, listener } in self.bound.drain(..) {
                fds.add(address.to_string(), listener.into_raw_fd());
            }
        }
        let start =
            |service| Service::start_service(service, fds.clone(), shutdown.clone(), listeners_per_fd);
        join_all(self.inner.iter_mut().map(start)).await;
    }

    fn name(&self) -> &str {
        "gateway"
    }
}

/// Pingora's proxy behind bounds of its own: it would take any number of connections, and wait for
/// ever for their first bytes.
struct Edge {
    requests: Arc<Requests>,
    live: Current,
    connections: Arc<Connections>,
    metrics: Arc<Metrics>,
    /// Unless it is clear text that is spoken.
    tls: Option<Acceptor>,
    left: watch::Receiver<Left>,
}

#[async_trait]
impl ServerApp for Edge {
    async fn process_new(self: &Arc<Self>, mut stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let opened = Instant::now();
        let live = self.live.load_full();
        let limits = &live.config.gateway.edge;
        let _permit = self.count(&mut stream, limits).await?;
        let _counted = self.metrics.connection();
        let is_h2c = match &self.tls {
            Some(acceptor) => {
                stream = self.handshake(acceptor, stream, limits).await?;
                false
            }
            None => self.speaks_h2c(&mut stream, limits).await?,
        };
        // h2c, whose preface has come, has bounds of its own.
        if !is_h2c {
            let metrics = Arc::clone(&self.metrics);
            stream = Box::new(Watched::new(stream, limits.header, opened, metrics));
        }
        drop(live);
        self.requests.process_new(stream, shutdown).await
    }

    async fn cleanup(&self) {
        let left = *self.left.borrow();
        match left {
            Left::No => self.requests.0.http_cleanup().await,
            // A client may be about to send its next request: it is served, and told to close then.
            Left::Yes => {}
        }
    }
}

impl Edge {
    /// Counts a connection, or turns it away. Over TLS it is not told why: that would take a handshake.
    async fn count(&self, stream: &mut Stream, limits: &Limits) -> Option<ConnectionPermit> {
        let stranger = address::stranger(stream.get_socket_digest().as_deref(), &limits.trusted_proxies);
        let max =
            ConnectionsMax { total: limits.connections_max, per_address: limits.connections_per_address_max };
        let full = match self.connections.open(stranger, max) {
            Ok(permit) => return Some(permit),
            Err(full) => full,
        };
        let refusal = match full {
            Full::Total => Refusal::Crowded,
            Full::Address => Refusal::AddressCrowded,
        };
        self.metrics.shed(refusal.reason());
        if self.tls.is_none() {
            turn_away(stream, &refusal).await;
        }
        None
    }

    /// Speaks TLS, within the time that the first header has, too.
    async fn handshake(&self, acceptor: &Acceptor, stream: Stream, limits: &Limits) -> Option<Stream> {
        let spoken = tokio::time::timeout(limits.header.timeout, tls::handshake(acceptor, stream)).await;
        let reason = match spoken {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(_)) => HANDSHAKE_FAILED,
            Err(_) => HANDSHAKE_TIMEOUT,
        };
        self.metrics.shed(reason);
        None
    }

    /// Waits for the first bytes of clear text.
    async fn speaks_h2c(&self, stream: &mut Stream, limits: &Limits) -> Option<bool> {
        let mut first = [0; H2_PREFACE.len()];
        let peeked = tokio::time::timeout(limits.header.timeout, stream.try_peek(&mut first)).await;
        let Ok(peeked) = peeked else {
            self.metrics.shed(Refusal::HeaderTimeout.reason());
            turn_away(stream, &Refusal::HeaderTimeout).await;
            return None;
        };
        peeked.ok()?;
        Some(first == *H2_PREFACE)
    }
}

/// Pingora's proxy, request by request.
struct Requests(Arc<HttpProxy<Gateway>>);

#[async_trait]
impl HttpServerApp for Requests {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if session.stream().and_then(Watched::of).map(Watched::expect_header) == Some(Then::Close) {
            return None;
        }
        self.0.process_new_http(session, shutdown).await
    }

    fn h2_options(&self) -> Option<H2Options> {
        self.0.h2_options()
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.0.server_options()
    }

    async fn http_cleanup(&self) {
        self.0.http_cleanup().await;
    }
}
