//! Pingora that passes through and does nothing else: what Tollgate is held against. Built as Tollgate
//! is, with as large a pool, and with the timeouts that no proxy may be without.
//!
//! The durable one has an entry on the disk before it passes an answer on, as whoever charges for it must, and
//! does no more: it is the floor of what Tollgate can cost.

use super::Failed;
use super::append::Appender;
use async_trait::async_trait;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server};
use pingora::upstreams::peer::HttpPeer;
use pingora_http::ResponseHeader;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

/// Never reached; that it is set is what costs.
const TIMEOUT: Duration = Duration::from_secs(60);

struct Bare {
    upstream: SocketAddr,
    appender: Option<Appender>,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn request_filter(&self, session: &mut Session, _ctx: &mut ()) -> pingora::Result<bool> {
        session.downstream_session.set_write_timeout(Some(TIMEOUT));
        Ok(false)
    }

    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut ()) -> pingora::Result<Box<HttpPeer>> {
        let mut peer = HttpPeer::new(self.upstream, false, String::new());
        let options = &mut peer.options;
        options.connection_timeout = Some(TIMEOUT);
        options.read_timeout = Some(TIMEOUT);
        options.write_timeout = Some(TIMEOUT);
        options.idle_timeout = Some(TIMEOUT);
        Ok(Box::new(peer))
    }

    async fn upstream_response_filter(
        &self,
        _session: &mut Session,
        _response: &mut ResponseHeader,
        _ctx: &mut (),
    ) -> pingora::Result<()> {
        if let Some(appender) = &self.appender {
            appender.append().await.expect("the writer lives");
        }
        Ok(())
    }
}

/// What passes an answer on.
pub enum Passes {
    AtOnce,
    /// Once an entry is on the disk.
    Durably,
}

/// Serves on a free port, which it prints.
pub fn run(upstream: Option<SocketAddr>, passes: &Passes) -> Result<(), Failed> {
    let upstream = upstream.ok_or("the role needs --upstream")?;
    // Pingora does not tell which port it got: one that was free a moment ago is asked for.
    let address = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?.local_addr()?;
    let conf = ServerConf { threads: 1, upstream_keepalive_pool_size: 4096, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let appender = match passes {
        Passes::AtOnce => None,
        Passes::Durably => Some(Appender::start(tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR"))?)?),
    };
    let mut service = http_proxy_service(&server.configuration, Bare { upstream, appender });
    service.add_tcp(&address.to_string());
    server.add_service(service);
    println!("{address}");
    server.run(RunArgs::default());
    Ok(())
}
