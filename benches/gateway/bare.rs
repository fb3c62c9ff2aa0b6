//! Pingora that passes through and does nothing else: what Tollgate is held against.

use super::Failed;
use async_trait::async_trait;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server};
use pingora::upstreams::peer::HttpPeer;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};
use std::net::{SocketAddr, TcpListener};

struct Bare(SocketAddr);

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut ()) -> pingora::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.0, false, String::new())))
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
