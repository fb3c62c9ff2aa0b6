//! The addresses of a provider: resolved again and again, and watched by connecting to them or by
//! asking for their models.
//!
//! This is pingora-load-balancing's part of the pool: discovery, health checks and round robin over
//! the addresses of one host name. Its health is about an address; that of an account is in
//! [`super::health`].

use super::spoken::{ANTHROPIC_VERSION, ANTHROPIC_VERSION_DEFAULT, credential_header, models_path};
use crate::config::{self, Authorities, BaseUrl, Dialect, Scheme};
use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use http::{HeaderValue, header};
use pingora::utils::tls::{WrappedX509, parse_x509};
use pingora_load_balancing::discovery::ServiceDiscovery;
use pingora_load_balancing::health_check::{HealthCheck, HttpHealthCheck, TcpHealthCheck};
use pingora_load_balancing::selection::RoundRobin;
use pingora_load_balancing::{Backend, Backends, LoadBalancer};
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
pub struct Addresses {
    balancer: Arc<LoadBalancer<RoundRobin>>,
    /// Not this one before then, if there is another: checks come too late for who is to be served now.
    avoided: Arc<ArcSwapOption<(SocketAddr, Instant)>>,
    trust: Trust,
}

/// Who vouches for the certificate of whoever answers there.
#[derive(Clone, Default)]
pub struct Trust {
    /// Nobody else, if there are any; else those that the system trusts.
    pub authorities: Option<Arc<[WrappedX509]>>,
    /// The same for the same authorities: connections are kept alive for those alone.
    pub group: u64,
}

impl Trust {
    fn of(ca: Option<&Authorities>) -> Self {
        let Some(ca) = ca else { return Trust::default() };
        let read = |authority: &[u8]| WrappedX509::new(authority.to_vec(), parse_x509);
        let group = BuildHasherDefault::<DefaultHasher>::default().hash_one(ca);
        Trust { authorities: Some(ca.each().map(read).collect()), group }
    }
}

impl Addresses {
    /// Of the host of `base_url`; none before the first [`Addresses::resolve`].
    pub fn new(base_url: &BaseUrl, check: Check) -> Self {
        let names = Names { host: base_url.host.clone(), port: base_url.port };
        Self::found_by(Box::new(names), base_url, check)
    }

    fn found_by(
        discovery: Box<dyn ServiceDiscovery + Send + Sync>,
        base_url: &BaseUrl,
        check: Check,
    ) -> Self {
        let mut backends = Backends::new(discovery);
        let every = match check.how {
            config::Check::Models => ASK_EVERY,
            config::Check::Connect => CONNECT_EVERY,
        };
        let trust = Trust::of(check.ca.as_ref());
        backends.set_health_check(check.build(base_url, &trust));
        let mut balancer = LoadBalancer::from_backends(backends);
        balancer.update_frequency = Some(RESOLVE_EVERY);
        balancer.health_check_frequency = Some(every);
        balancer.parallel_health_check = true;
        Addresses { balancer: Arc::new(balancer), avoided: Arc::default(), trust }
    }

    /// Resolves the name now.
    ///
    /// # Errors
    /// What the resolver says.
    pub async fn resolve(&self) -> Result<(), String> {
        self.balancer.update().await.map_err(|why| why.to_string())
    }

    /// The next address in turn that can be connected to; if none can, the next in turn, so that
    /// a check that is wrong or late costs no request that would have been served.
    pub fn pick(&self) -> Option<SocketAddr> {
        let select = |accepts: &dyn Fn(&Backend, bool) -> bool| {
            self.balancer.select_with(b"", ADDRESSES_MAX, accepts)?.addr.as_inet().copied()
        };
        let avoided = self.avoided.load();
        let avoided = avoided.as_deref().filter(|(_, until)| Instant::now() < *until);
        let other = |(address, _): &(SocketAddr, Instant)| {
            select(&|backend, well| well && backend.addr.as_inet() != Some(address))
        };
        avoided.and_then(other).or_else(|| select(&|_, well| well)).or_else(|| select(&|_, _| true))
    }

    /// A request could not connect to this one.
    pub fn unreached(&self, address: SocketAddr) {
        self.avoided.store(Some(Arc::new((address, Instant::now() + CONNECT_EVERY))));
    }

    /// Whether any address can be connected to.
    pub fn reachable(&self) -> bool {
        self.balancer.select(b"", ADDRESSES_MAX).is_some()
    }

    /// Who vouches for a certificate shown there.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Whether these are the same, not only equal.
    pub fn is(&self, other: &Addresses) -> bool {
        Arc::ptr_eq(&self.balancer, &other.balancer)
    }

    /// What resolves and checks them; to be run in the background.
    pub fn task(&self) -> Arc<LoadBalancer<RoundRobin>> {
        Arc::clone(&self.balancer)
    }
}

/// How addresses are watched.
pub struct Check {
    pub(super) how: config::Check,
    pub(super) ca: Option<Authorities>,
    pub(super) dialect: Dialect,
    pub(super) api_version: Option<Box<str>>,
    pub(super) authorization: HeaderValue,
    pub(super) authority: HeaderValue,
    /// Is told the status of each answer, and tells whether the address is good.
    pub(super) heard: Box<dyn Fn(u16) -> bool + Send + Sync>,
}

impl Check {
    fn build(self, base_url: &BaseUrl, trust: &Trust) -> Box<dyn HealthCheck + Send + Sync> {
        match self.how {
            config::Check::Connect => TcpHealthCheck::new(),
            config::Check::Models => Box::new(self.models(base_url, trust)),
        }
    }

    /// `GET /models` with the account's credential: no provider charges for it.
    fn models(self, base_url: &BaseUrl, trust: &Trust) -> HttpHealthCheck {
        let tls = base_url.scheme == Scheme::Https;
        let mut check = HttpHealthCheck::new(&base_url.host, tls);
        let path = models_path(&base_url.path, self.api_version.as_deref());
        check.req.set_uri(path.parse().expect("a base URL's path stays one with a word behind it"));
        let credential = (credential_header(self.dialect), self.authorization);
        let version = match self.dialect {
            Dialect::OpenAi | Dialect::Azure => None,
            Dialect::Anthropic => Some((ANTHROPIC_VERSION, ANTHROPIC_VERSION_DEFAULT)),
        };
        for (name, value) in [credential, (header::HOST, self.authority)].into_iter().chain(version) {
            check.req.insert_header(name, value).expect("it is a header already");
        }
        check.req.insert_header(header::USER_AGENT, USER_AGENT).expect("a fixed text");
        check.reuse_connection = true;
        check.peer_template.group_key = trust.group;
        let options = &mut check.peer_template.options;
        options.ca.clone_from(&trust.authorities);
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

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    /// A name that means what it is told to; nothing while there is nothing.
    #[derive(Clone, Default)]
    struct Told(Arc<Mutex<Vec<&'static str>>>);

    #[async_trait]
    impl ServiceDiscovery for Told {
        async fn discover(&self) -> pingora::Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
            let told = self.0.lock().clone();
            if told.is_empty() {
                return Err(pingora::Error::new(pingora::ErrorType::ConnectNoRoute));
            }
            Ok((told.into_iter().map(Backend::new).collect::<Result<_, _>>()?, HashMap::new()))
        }
    }

    fn check() -> Check {
        let value = HeaderValue::from_static("x");
        Check {
            how: config::Check::Connect,
            ca: None,
            dialect: Dialect::OpenAi,
            api_version: None,
            authorization: value.clone(),
            authority: value,
            heard: Box::new(|_| true),
        }
    }

    /// The addresses that requests are sent to.
    fn picked(addresses: &Addresses) -> Vec<String> {
        let mut picked: Vec<String> =
            (0..8).filter_map(|_| addresses.pick()).map(|address| address.to_string()).collect();
        picked.sort_unstable();
        picked.dedup();
        picked
    }

    #[tokio::test]
    async fn a_name_that_moves_is_followed_and_one_that_is_lost_is_remembered() {
        let (told, base_url) = (Told::default(), BaseUrl::parse("http://provider.example").unwrap());
        let addresses = Addresses::found_by(Box::new(told.clone()), &base_url, check());
        assert!(addresses.resolve().await.is_err() && picked(&addresses).is_empty());
        for (now, expect) in [
            (&["192.0.2.1:80", "[2001:db8::1]:80"][..], &["192.0.2.1:80", "[2001:db8::1]:80"][..]),
            (&["192.0.2.2:80"], &["192.0.2.2:80"]),
        ] {
            *told.0.lock() = now.to_vec();
            addresses.resolve().await.unwrap();
            assert_eq!(picked(&addresses), expect);
        }
        told.0.lock().clear();
        assert!(addresses.resolve().await.is_err());
        assert_eq!(picked(&addresses), ["192.0.2.2:80"]);
    }

    #[tokio::test]
    async fn where_nobody_was_is_not_gone_to_as_long_as_there_is_another() {
        let (told, base_url) = (Told::default(), BaseUrl::parse("http://provider.example").unwrap());
        let addresses = Addresses::found_by(Box::new(told.clone()), &base_url, check());
        for all in [&["192.0.2.1:80", "192.0.2.2:80"][..], &["192.0.2.1:80"]] {
            *told.0.lock() = all.to_vec();
            addresses.resolve().await.unwrap();
            assert_eq!(picked(&addresses), all);
            addresses.unreached("192.0.2.1:80".parse().unwrap());
            assert_eq!(picked(&addresses), all[all.len() - 1..], "the other, or the only one");
            addresses.avoided.store(Some(Arc::new(("192.0.2.1:80".parse().unwrap(), Instant::now()))));
            assert_eq!(picked(&addresses), all, "not for long");
        }
    }

    #[tokio::test]
    async fn names_and_literals_are_resolved() {
        for (url, expect) in [
            ("http://localhost:81", ":81"),
            ("http://127.0.0.1:82", "127.0.0.1:82"),
            ("http://[::1]:83", "[::1]:83"),
        ] {
            let addresses = Addresses::new(&BaseUrl::parse(url).unwrap(), check());
            addresses.resolve().await.unwrap();
            let picked = picked(&addresses);
            assert!(!picked.is_empty() && picked.iter().all(|at| at.ends_with(expect)), "{url}: {picked:?}");
        }
    }
}
