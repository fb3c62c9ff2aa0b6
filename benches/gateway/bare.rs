//! Pingora that passes through and does nothing else: what Tollgate is held against. Built as Tollgate
//! is, with as large a pool, and with the timeouts that no proxy may be without.

use super::Failed;
use async_trait::async_trait;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server};
use pingora::upstreams::peer::HttpPeer;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

/// Never reached; that it is set is what costs.
const TIMEOUT: Duration = Duration::from_secs(60);

struct Bare(SocketAddr);

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn request_filter(&self, session: &mut Session, _ctx: &mut ()) -> pingora::Result<bool> {
        session.downstream_session.set_write_timeout(Some(TIMEOUT));
        Ok(false)
    }

    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut ()) -> pingora::Result<Box<HttpPeer>> {
        let mut peer = HttpPeer::new(self.0, false, String::new());
        let options = &mut peer.options;
        options.connection_timeout = Some(TIMEOUT);
        options.read_timeout = Some(TIMEOUT);
        options.write_timeout = Some(TIMEOUT);
        options.idle_timeout = Some(TIMEOUT);
        Ok(Box::new(peer))
    }
}

/// Serves on a free port, which it prints.
pub fn run(upstream: Option<SocketAddr>) -> Result<(), Failed> {
    let upstream = upstream.ok_or("the role needs --upstream")?;
    // Pingora does not tell which port it got: one that was free a moment ago is asked for.
    let address = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?.local_addr()?;
    let conf = ServerConf { threads: 1, upstream_keepalive_pool_size: 4096, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Bare(upstream));
    service.add_tcp(&address.to_string());
    server.add_service(service);
    println!("{address}");
    server.run(RunArgs::default());
    Ok(())
}
