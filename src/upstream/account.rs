//! One member of the pool: a credential at a provider, and all that is known of how it fares.

use super::addresses::Addresses;
use super::headroom::{Expected, Headroom, Mark};
use super::health::{Breaker, Fault, Health};
use super::limits::{Limits, Most, Share, Use};
use super::told::{Kind, Report};
use crate::clock::Timestamp;
use crate::config::{self, BaseUrl, Dialect, Models, OnHangUp, Secret, Timeouts, Upstream};
use crate::endpoint::Endpoint;
use http::HeaderValue;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// One member of the pool.
pub struct Account {
    /// Its name in the configuration, unique.
    pub name: Arc<str>,
    /// Where it is.
    pub base_url: BaseUrl,
    /// Which API it speaks.
    pub dialect: Dialect,
    /// Its credential as its dialect presents it; marked sensitive, so that it is not printed.
    pub authorization: HeaderValue,
    /// The host as requests name it.
    pub authority: HeaderValue,
    /// What it serves.
    pub models: Models,
    /// What a client that hangs up means for it.
    pub on_hang_up: OnHangUp,
    /// How long its answers may take.
    pub timeouts: Timeouts,
    pub(super) weight: u32,
    state: Arc<Mutex<State>>,
    addresses: Addresses,
}

/// What changes with every request, looked at and changed in one step; kept over a reload.
struct State {
    breaker: Breaker,
    limits: Limits,
    /// What the provider tells, which it does by model.
    headroom: HashMap<Box<str>, Headroom>,
}

/// What a request needs of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The tokens that it is expected to need: held against what the provider tells.
    pub expected: Expected,
    /// The most that it can need: held against what the operator set.
    pub most: Most,
}

/// Whether an account can take a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// It can.
    Free {
        /// Requests that it has now.
        in_flight: u32,
    },
    /// It has as much as it may; not before then, if that is known.
    Full(Option<Instant>),
    /// Its breaker is shut; not before then.
    Shut(Instant),
}

/// What a request that went out took of its account.
#[derive(Debug)]
#[must_use]
pub(super) struct Taken {
    share: Share,
    mark: Mark,
}

impl Account {
    pub(super) fn new(upstream: &Upstream, before: Option<&Account>) -> Result<Self, String> {
        let authorization = presented(upstream.dialect, &upstream.api_key)
            .ok_or_else(|| format!("{}: the api_key cannot be sent in a header", upstream.name))?;
        let before = before.filter(|before| before.base_url == upstream.base_url);
        // Health and load are a credential's; addresses are a host's.
        let same = before.filter(|before| before.authorization == authorization);
        Ok(Account {
            name: Arc::clone(&upstream.name),
            base_url: upstream.base_url.clone(),
            authority: HeaderValue::from_str(&upstream.base_url.authority())
                .map_err(|_| format!("{}: the base_url cannot be sent in a header", upstream.name))?,
            authorization,
            dialect: upstream.dialect,
            models: upstream.models.clone(),
            on_hang_up: upstream.on_hang_up,
            timeouts: upstream.timeouts,
            weight: upstream.weight,
            state: same.map_or_else(|| Arc::new(Mutex::new(State::new())), |same| Arc::clone(&same.state)),
            addresses: before
                .map_or_else(|| Addresses::new(&upstream.base_url), |before| before.addresses.clone()),
        })
    }

    /// Lets it have this much from now on.
    pub(super) fn limit(&self, limits: &config::Limits) {
        self.state.lock().limits.set(limits);
    }

    /// What it calls the model that is asked for at an endpoint; `None` where it does not serve it.
    pub fn serves<'a>(&'a self, endpoint: Endpoint, model: &'a str) -> Option<&'a str> {
        let speaks = match endpoint {
            Endpoint::Messages => Dialect::Anthropic,
            Endpoint::Chat
            | Endpoint::Responses
            | Endpoint::Completions
            | Endpoint::Embeddings
            | Endpoint::Moderations => Dialect::OpenAi,
        };
        self.models.provider_name(model).filter(|_| self.dialect == speaks)
    }

    /// Where it serves this.
    pub fn path_of(&self, endpoint: Endpoint) -> String {
        [&self.base_url.path, endpoint.path()].concat()
    }

    /// An address to connect to; `None` when its name does not resolve.
    pub fn address(&self) -> Option<SocketAddr> {
        self.addresses.pick()
    }

    /// What finds and watches its addresses; to be run in the background.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Whether it is used.
    pub fn health(&self) -> Health {
        self.state.lock().breaker.health()
    }

    /// Whether it can take a request for `model`, as the provider calls it.
    pub fn room(&self, model: &str, need: &Need, now: Instant) -> Room {
        self.state.lock().room(model, need, now)
    }

    /// Takes room for a request, if it is still there.
    pub(super) fn take(&self, model: &str, need: &Need, now: Instant) -> Option<Taken> {
        let mut state = self.state.lock();
        let Room::Free { .. } = state.room(model, need, now) else { return None };
        state.breaker.begin(now);
        let share = state.limits.take(need.most, now);
        let mark = state.headroom(model).take(need.expected, now);
        Some(Taken { share, mark })
    }

    /// A request has ended.
    pub(super) fn release(&self, taken: &Taken, used: Use, now: Instant) {
        let mut state = self.state.lock();
        state.limits.release(&taken.share, used, now);
        // Without effect unless this was the one on probation and said nothing.
        state.breaker.abandoned(now);
    }

    pub(super) fn told(&self, model: &str, report: &Report, taken: &Taken, now: Instant) {
        self.state.lock().headroom(model).told(report, &taken.mark, now);
    }

    pub(super) fn answered(&self) {
        self.state.lock().breaker.answered();
    }

    pub(super) fn succeeded(&self, model: &str, output_tokens: u64) {
        let mut state = self.state.lock();
        state.breaker.success();
        state.headroom(model).served(output_tokens);
    }

    pub(super) fn failed(&self, model: &str, fault: Fault, now: Instant, random: u32) {
        let mut state = self.state.lock();
        state.breaker.failure(fault, now);
        if let Fault::RateLimited(wait) = fault {
            state.headroom(model).refused(wait, now, random);
        }
    }

    /// The share of each limit that is free, in millionths, by the words of metrics: the operator's,
    /// and the provider's for the model of which the least is left.
    pub fn ratios_ppm(&self, now: Instant) -> Vec<(&'static str, u32)> {
        let mut state = self.state.lock();
        let own = state.limits.ratios_ppm(now);
        let mut ratios: Vec<_> =
            own.into_iter().filter_map(|(limited, ppm)| Some((limited.name(), ppm?))).collect();
        let told: Vec<_> = state.headroom.values_mut().map(|headroom| headroom.ratios_ppm(now)).collect();
        for kind in Kind::ALL {
            let least = told.iter().filter_map(|ratios| ratios[kind.index()]).min();
            ratios.extend(least.map(|ppm| (kind.name(), ppm)));
        }
        ratios
    }
}

impl State {
    fn new() -> Self {
        let limits = Limits::new(Instant::now(), Timestamp::now());
        State { breaker: Breaker::default(), limits, headroom: HashMap::new() }
    }

    fn room(&mut self, model: &str, need: &Need, now: Instant) -> Room {
        if let Err(until) = self.breaker.admits(now) {
            return Room::Shut(until);
        }
        let own = self.limits.fits(need.most, now);
        let told = self.headroom.get_mut(model).map_or(Ok(()), |headroom| headroom.fits(need.expected, now));
        match (own, told) {
            (Ok(()), Ok(())) => Room::Free { in_flight: self.limits.in_flight() },
            (Ok(()), Err(until)) => Room::Full(Some(until)),
            (Err(until), Ok(())) => Room::Full(until),
            (Err(own), Err(told)) => Room::Full(own.map(|own| own.max(told))),
        }
    }

    /// Models are names of the price book: as many as the operator sells.
    fn headroom(&mut self, model: &str) -> &mut Headroom {
        if !self.headroom.contains_key(model) {
            self.headroom.insert(model.into(), Headroom::default());
        }
        self.headroom.get_mut(model).expect("it was just put there")
    }
}

fn presented(dialect: Dialect, key: &Secret) -> Option<HeaderValue> {
    let mut value = match dialect {
        Dialect::OpenAi => HeaderValue::from_str(&format!("Bearer {}", key.expose())).ok()?,
        Dialect::Anthropic => HeaderValue::from_str(key.expose()).ok()?,
    };
    value.set_sensitive(true);
    Some(value)
}
