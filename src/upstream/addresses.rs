//! The addresses of a provider: resolved again and again, and watched by connecting to them.
//!
//! This is pingora-load-balancing's part of the pool: discovery, health checks and round robin over
//! the addresses of one host name. Its health is about an address; that of an account is in
//! [`super::health`].

use crate::config::BaseUrl;
use async_trait::async_trait;
use pingora_load_balancing::discovery::ServiceDiscovery;
use pingora_load_balancing::health_check::TcpHealthCheck;
use pingora_load_balancing::selection::RoundRobin;
use pingora_load_balancing::{Backend, Backends, LoadBalancer};
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How often names are resolved again: providers move their addresses within minutes.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);
/// How often each address is connected to: free of charge, and soon enough to matter.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// More addresses than this are not looked at for one request.
const ADDRESSES_MAX: usize = 16;

/// The addresses of one host name.
#[derive(Clone)]
pub struct Addresses(Arc<LoadBalancer<RoundRobin>>);

impl Addresses {
    /// Of the host of `base_url`; none before the first [`Addresses::resolve`].
    pub fn new(base_url: &BaseUrl) -> Self {
        let mut backends =
            Backends::new(Box::new(Names { host: base_url.host.clone(), port: base_url.port }));
        backends.set_health_check(TcpHealthCheck::new());
        let mut balancer = LoadBalancer::from_backends(backends);
        balancer.update_frequency = Some(RESOLVE_EVERY);
        balancer.health_check_frequency = Some(CHECK_EVERY);
        balancer.parallel_health_check = true;
        Addresses(Arc::new(balancer))
    }

    /// Resolves the name now.
    ///
    /// # Errors
    /// What the resolver says.
    pub async fn resolve(&self) -> Result<(), String> {
        self.0.update().await.map_err(|why| why.to_string())
    }

    /// The next address in turn that can be connected to; if none can, the next in turn, so that
    /// a check that is wrong or late costs no request that would have been served.
    pub fn pick(&self) -> Option<SocketAddr> {
        let any = || self.0.select_with(b"", ADDRESSES_MAX, |_, _| true);
        self.0.select(b"", ADDRESSES_MAX).or_else(any)?.addr.as_inet().copied()
    }

    /// Whether any address can be connected to.
    pub fn reachable(&self) -> bool {
        self.0.select(b"", ADDRESSES_MAX).is_some()
    }

    /// Whether these are the same, not only equal.
    pub fn is(&self, other: &Addresses) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// What resolves and checks them; to be run in the background.
    pub fn task(&self) -> Arc<LoadBalancer<RoundRobin>> {
        Arc::clone(&self.0)
    }
}

struct Names {
    host: String,
    port: u16,
}

#[async_trait]
impl ServiceDiscovery for Names {
    async fn discover(&self) -> pingora::Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        let resolved = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let resolved = resolved.map_err(|why| {
            let what = format!("{} does not resolve: {why}", self.host);
            pingora::Error::explain(pingora::ErrorType::ConnectNoRoute, what)
        })?;
        let backends =
            resolved.map(|address| Backend::new(&address.to_string())).collect::<Result<_, _>>()?;
        Ok((backends, HashMap::new()))
    }
}
