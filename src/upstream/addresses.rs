//! The addresses of a provider: resolved again and again, and watched by connecting to them or by
//! asking for their models.
//!
//! This is pingora-load-balancing's part of the pool: discovery, health checks and round robin over
//! the addresses of one host name. Its health is about an address; that of an account is in
//! [`super::health`].

use super::account::{ANTHROPIC_VERSION, ANTHROPIC_VERSION_DEFAULT, API_KEY};
use crate::config::{self, BaseUrl, Dialect, Scheme};
use async_trait::async_trait;
use http::{HeaderValue, header};
use pingora_load_balancing::discovery::ServiceDiscovery;
use pingora_load_balancing::health_check::{HealthCheck, HttpHealthCheck, TcpHealthCheck};
use pingora_load_balancing::selection::RoundRobin;
use pingora_load_balancing::{Backend, Backends, LoadBalancer};
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How often names are resolved again: providers move their addresses within minutes.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);
/// How often each address is connected to.
const CONNECT_EVERY: Duration = Duration::from_secs(5);
/// How often each address is asked for its models: free of charge, and soon enough to matter.
const ASK_EVERY: Duration = Duration::from_secs(10);
/// How long a check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
const USER_AGENT: &str = concat!("tollgate/", env!("CARGO_PKG_VERSION"));
/// More addresses than this are not looked at for one request.
const ADDRESSES_MAX: usize = 16;

/// The addresses of one host name.
#[derive(Clone)]
pub struct Addresses(Arc<LoadBalancer<RoundRobin>>);

impl Addresses {
    /// Of the host of `base_url`; none before the first [`Addresses::resolve`].
    pub fn new(base_url: &BaseUrl, check: Check) -> Self {
        let mut backends =
            Backends::new(Box::new(Names { host: base_url.host.clone(), port: base_url.port }));
        let every = match check.how {
            config::Check::Models => ASK_EVERY,
            config::Check::Connect => CONNECT_EVERY,
        };
        backends.set_health_check(check.build(base_url));
        let mut balancer = LoadBalancer::from_backends(backends);
        balancer.update_frequency = Some(RESOLVE_EVERY);
        balancer.health_check_frequency = Some(every);
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

/// How addresses are watched.
pub struct Check {
    pub(super) how: config::Check,
    pub(super) dialect: Dialect,
    pub(super) authorization: HeaderValue,
    pub(super) authority: HeaderValue,
    /// Is told the status of each answer, and tells whether the address is good.
    pub(super) heard: Box<dyn Fn(u16) -> bool + Send + Sync>,
}

impl Check {
    fn build(self, base_url: &BaseUrl) -> Box<dyn HealthCheck + Send + Sync> {
        match self.how {
            config::Check::Connect => TcpHealthCheck::new(),
            config::Check::Models => Box::new(self.models(base_url)),
        }
    }

    /// `GET /models` with the account's credential: no provider charges for it.
    fn models(self, base_url: &BaseUrl) -> HttpHealthCheck {
        let tls = base_url.scheme == Scheme::Https;
        let mut check = HttpHealthCheck::new(&base_url.host, tls);
        let path = format!("{}/models", base_url.path);
        check.req.set_uri(path.parse().expect("a base URL's path stays one with a word behind it"));
        let credential = match self.dialect {
            Dialect::OpenAi => vec![(header::AUTHORIZATION, self.authorization)],
            Dialect::Anthropic => {
                vec![(API_KEY, self.authorization), (ANTHROPIC_VERSION, ANTHROPIC_VERSION_DEFAULT)]
            }
        };
        for (name, value) in credential.into_iter().chain([(header::HOST, self.authority)]) {
            check.req.insert_header(name, value).expect("it is a header already");
        }
        check.req.insert_header(header::USER_AGENT, USER_AGENT).expect("a fixed text");
        check.reuse_connection = true;
        let options = &mut check.peer_template.options;
        options.connection_timeout = Some(CHECK_TIMEOUT);
        options.total_connection_timeout = Some(CHECK_TIMEOUT);
        options.read_timeout = Some(CHECK_TIMEOUT);
        options.write_timeout = Some(CHECK_TIMEOUT);
        check.validator = Some(Box::new(move |answer| match (self.heard)(answer.status.as_u16()) {
            true => Ok(()),
            false => Err(pingora::Error::new(pingora::ErrorType::HTTPStatus(answer.status.as_u16()))),
        }));
        check
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
