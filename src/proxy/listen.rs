//! Listening: sockets that were bound before anything else was touched, and what a connection must
//! do before Pingora takes it.

use super::Gateway;
use crate::live::Current;
use async_trait::async_trait;
use pingora::apps::{HttpServerOptions, ServerApp};
use pingora::protocols::Stream;
use pingora::server::configuration::ServerConf;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use pingora::services::listening::Service as ListeningService;
use pingora_proxy::{HttpProxy, http_proxy};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::sync::Arc;

/// What Pingora reads of a connection before it decides between HTTP/1.1 and h2c: the length of the
/// latter's preface. No request is shorter that has a key.
const FIRST_BYTES: usize = 24;

/// A socket that listens.
pub struct Bound {
    /// Where, with its real port.
    pub address: SocketAddr,
    /// Not blocking.
    pub listener: TcpListener,
}

/// The gateway's listeners.
pub struct Listening {
    inner: ListeningService<Edge>,
    bound: Vec<Bound>,
}

impl Listening {
    /// Serves `gateway` on `bound`.
    pub fn new(conf: &Arc<ServerConf>, gateway: Gateway, bound: Vec<Bound>) -> Self {
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        options.h2_idle_timeout = Some(gateway.keepalive);
        let live = Arc::clone(&gateway.live);
        let mut proxy = http_proxy(conf, gateway);
        proxy.server_options = Some(options);
        let edge = Edge { proxy: Arc::new(proxy), live };
        let mut inner = ListeningService::new("gateway".into(), edge);
        bound.iter().for_each(|bound| inner.add_tcp(&bound.address.to_string()));
        Listening { inner, bound }
    }
}

#[async_trait]
impl Service for Listening {
    async fn start_service(
        &mut self,
        fds: Option<ListenFds>,
        shutdown: ShutdownWatch,
        listeners_per_fd: usize,
    ) {
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

/// Pingora's proxy behind a bound of its own: it would wait for ever for the first bytes.
struct Edge {
    proxy: Arc<HttpProxy<Gateway>>,
    live: Current,
}

#[async_trait]
impl ServerApp for Edge {
    async fn process_new(self: &Arc<Self>, mut stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let mut first = [0; FIRST_BYTES];
        let timeout = self.live.load().config.gateway.first_bytes_timeout;
        let came = tokio::time::timeout(timeout, stream.try_peek(&mut first)).await;
        match came {
            Ok(Ok(_)) => self.proxy.process_new(stream, shutdown).await,
            Ok(Err(_)) | Err(_) => None,
        }
    }

    async fn cleanup(&self) {
        self.proxy.cleanup().await;
    }
}
