//! Listening: sockets that were bound before anything else was touched, and what a connection must
//! do before Pingora takes it.

use super::Gateway;
use super::address;
use super::respond::Refusal;
use super::tls;
use super::watched::{Then, Watched, turn_away};
use crate::admit::strangers::{Connections, ConnectionsMax, Full};
use crate::config::Edge as Limits;
use crate::live::Current;
use crate::record::metrics::Metrics;
use async_trait::async_trait;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::protocols::{ALPN, Stream};
use pingora::server::configuration::ServerConf;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use pingora::services::listening::Service as ListeningService;
use pingora_proxy::{HttpProxy, http_proxy};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::time::Instant;

/// What Pingora reads of a connection before it decides between HTTP/1.1 and h2c. No request is
/// shorter that has a key.
const H2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

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

/// The gateway's listeners.
pub struct Listening {
    inner: ListeningService<Edge>,
    bound: Vec<Bound>,
    serving: super::Serving,
}

impl Listening {
    /// Serves `gateway` on `sockets`.
    pub fn new(conf: &Arc<ServerConf>, gateway: Gateway, sockets: Sockets) -> Self {
        let serving = gateway.serving.clone();
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        options.h2_idle_timeout = Some(gateway.keepalive);
        let (live, metrics) = (Arc::clone(&gateway.live), Arc::clone(&gateway.metrics));
        let mut proxy = http_proxy(conf, gateway);
        proxy.server_options = Some(options);
        proxy.h2_options = Some(h2_options(&live.load().config.gateway.edge));
        let requests = Arc::new(Requests(Arc::new(proxy)));
        let edge = Edge { requests, live: Arc::clone(&live), connections: Arc::default(), metrics };
        let mut inner = ListeningService::new("gateway".into(), edge);
        let Sockets { plain, tls } = sockets;
        plain.iter().for_each(|bound| inner.add_tcp(&bound.address.to_string()));
        for bound in &tls {
            inner.add_tls_with_settings(&bound.address.to_string(), None, tls::settings(&live));
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
        Service::start_service(&mut self.inner, fds, shutdown, listeners_per_fd).await;
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
}

#[async_trait]
impl ServerApp for Edge {
    async fn process_new(self: &Arc<Self>, mut stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let opened = Instant::now();
        let live = self.live.load_full();
        let limits = &live.config.gateway.edge;
        let stranger = address::stranger(stream.get_socket_digest().as_deref(), &limits.trusted_proxies);
        let max =
            ConnectionsMax { total: limits.connections_max, per_address: limits.connections_per_address_max };
        let _permit = match self.connections.open(stranger, max) {
            Ok(permit) => permit,
            Err(full) => {
                let refusal = match full {
                    Full::Total => Refusal::Crowded,
                    Full::Address => Refusal::AddressCrowded,
                };
                self.metrics.shed(refusal.reason());
                turn_away(&mut stream, &refusal).await;
                return None;
            }
        };
        let _counted = self.metrics.connection();
        let mut first = [0; H2_PREFACE.len()];
        let peeked = tokio::time::timeout(limits.header.timeout, stream.try_peek(&mut first)).await;
        let Ok(peeked) = peeked else {
            self.metrics.shed(Refusal::HeaderTimeout.reason());
            turn_away(&mut stream, &Refusal::HeaderTimeout).await;
            return None;
        };
        peeked.ok()?;
        // HTTP/2 has bounds of its own.
        if first != *H2_PREFACE && !matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
            let metrics = Arc::clone(&self.metrics);
            stream = Box::new(Watched::new(stream, limits.header, opened, metrics));
        }
        drop(live);
        self.requests.process_new(stream, shutdown).await
    }

    async fn cleanup(&self) {
        self.requests.0.http_cleanup().await;
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
