//! One member of the pool: a credential at a provider, and all that is known of how it fares.

mod passing;

use super::addresses::{Addresses, Check};
use super::headroom::{Expected, Headroom, Mark};
use super::health::{Breaker, Fault, Health, Reach};
use super::latency::Latency;
use super::limits::{Limits, Most, Share, Use};
use super::queue::Queue;
use super::spoken;
use super::told::{Kind, Report};
use crate::clock::Timestamp;
use crate::config::{self, Authorities, BaseUrl, Dialect, Drain, Models, OnHangUp, Timeouts, Upstream};
use crate::endpoint::Endpoint;
use crate::money::Amount;
use http::HeaderValue;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One member of the pool.
pub struct Account {
    /// Its name in the configuration, unique.
    pub name: Arc<str>,
    /// Where it is.
    pub base_url: BaseUrl,
    /// Which API it speaks.
    pub dialect: Dialect,
    api_version: Option<Box<str>>,
    /// Its credential as its dialect presents it; marked sensitive, so that it is not printed.
    pub authorization: HeaderValue,
    /// The host as requests name it.
    pub authority: HeaderValue,
    /// What it serves.
    pub models: Models,
    /// What a client that hangs up means for it.
    pub on_hang_up: OnHangUp,
    /// How far an answer is read on for it.
    pub drain: Drain,
    /// How long its answers may take.
    pub timeouts: Timeouts,
    pub(super) weight: u32,
    pub(super) priority: u32,
    ca: Option<Authorities>,
    check: config::Check,
    /// What its operator lets it have.
    most: config::Limits,
    /// Its part in [`select::mix`]: the same as long as its name is.
    pub(super) seed: u64,
    state: Arc<Shared>,
    addresses: Addresses,
}

/// What is kept over a reload, and looked at by checks in the background.
struct Shared {
    name: Arc<str>,
    /// Who may wait for it.
    queue: Arc<Queue>,
    /// Counted by the name, whatever its credential. Always locked before `state`.
    limits: Arc<Mutex<Limits>>,
    state: Mutex<State>,
}

/// What changes with every request, looked at and changed in one step.
struct State {
    standing: Standing,
    breaker: Breaker,
    /// Few, and looked up several times for each request: a walk is quicker than a hash.
    models: BTreeMap<Box<str>, Model>,
}

/// What the operator wants of an account, by hand; until the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It takes requests.
    Taking,
    /// It finishes what it has and takes no more.
    Draining,
}

/// What is known of one model at one account.
#[derive(Default)]
struct Model {
    breaker: Breaker,
    headroom: Headroom,
    /// Until an answer begins: those that come whole begin when they are complete.
    plain: Latency,
    events: Latency,
}

/// How an answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comes {
    /// All at once.
    Whole,
    /// Piece by piece.
    Streamed,
}

/// What a request needs of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The tokens that it is expected to need: held against what the provider tells.
    pub expected: Expected,
    /// The most that it can need: held against what the operator set.
    pub most: Most,
    /// How its answer comes.
    pub comes: Comes,
    /// Requests of the same affinity are best served by the same account, which has their beginning
    /// in its cache.
    pub affinity: Option<u64>,
}

/// Whether an account can take a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// It can.
    Free {
        /// Requests that it has now.
        in_flight: u32,
        /// How long it takes to answer, if that is known.
        latency: Option<Duration>,
    },
    /// It does not have the model, whatever the configuration says.
    Absent,
    /// The operator drains it.
    Draining,
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
    pub(super) fn new(
        upstream: &Upstream,
        before: Option<&Account>,
        queue: &Arc<Queue>,
    ) -> Result<Self, String> {
        let authorization = spoken::presented(upstream.dialect, &upstream.api_key)
            .ok_or_else(|| format!("{}: the api_key cannot be sent in a header", upstream.name))?;
        // What an operator decided about a name outlives its credential, and so do its counts.
        let standing = before.map(|before| before.state.state.lock().standing);
        let limits = before.map_or_else(
            || Arc::new(Mutex::new(Limits::new(upstream.limits, Instant::now(), Timestamp::now()))),
            |before| Arc::clone(&before.state.limits),
        );
        let before = before.filter(|before| before.base_url == upstream.base_url);
        // Health and headroom are a credential's, and addresses are watched with it.
        let same = before.filter(|before| before.authorization == authorization);
        let state = same
            .map_or_else(|| Arc::new(Shared::new(upstream, queue, limits)), |same| Arc::clone(&same.state));
        if let Some(standing) = standing {
            state.state.lock().standing = standing;
        }
        let authority = HeaderValue::from_str(&upstream.base_url.authority())
            .map_err(|_| format!("{}: the base_url cannot be sent in a header", upstream.name))?;
        let check = Check {
            how: upstream.check,
            ca: upstream.ca.clone(),
            dialect: upstream.dialect,
            api_version: upstream.api_version.clone(),
            authorization: authorization.clone(),
            authority: authority.clone(),
            heard: {
                let state = Arc::clone(&state);
                Box::new(move |status| state.heard(status))
            },
        };
        let same = same.filter(|same| {
            let watched = (same.check, &same.ca, &same.api_version);
            watched == (upstream.check, &upstream.ca, &upstream.api_version)
        });
        let addresses =
            same.map_or_else(|| Addresses::new(&upstream.base_url, check), |same| same.addresses.clone());
        Ok(Account {
            name: Arc::clone(&upstream.name),
            base_url: upstream.base_url.clone(),
            authority,
            authorization,
            dialect: upstream.dialect,
            api_version: upstream.api_version.clone(),
            models: upstream.models.clone(),
            on_hang_up: upstream.on_hang_up,
            drain: upstream.drain,
            timeouts: upstream.timeouts,
            weight: upstream.weight,
            priority: upstream.priority,
            ca: upstream.ca.clone(),
            check: upstream.check,
            most: upstream.limits,
            seed: BuildHasherDefault::<DefaultHasher>::default().hash_one(&upstream.name),
            state,
            addresses,
        })
    }

    /// What its name has taken counts against its own limits from now on.
    pub(super) fn goes_live(&self) {
        self.state.limits.lock().set(self.most);
    }

    /// What it spent of the day under way.
    pub fn spent(&self, now: Instant) -> Amount {
        self.state.limits.lock().spent(now)
    }

    /// What it had spent of the day under way before this process began.
    pub fn spent_before(&self, amount: Amount) {
        self.state.limits.lock().spent_before(amount);
    }

    /// A request of this age, of which nobody knew at its end what it used, took so much and used so much.
    pub fn known_late(&self, (taken, used): (Amount, Amount), age: Duration, now: Instant) {
        self.state.limits.lock().known_late((taken, used), age, now);
        self.state.queue.wake();
    }

    /// What it calls the model that is asked for at an endpoint; `None` where it does not serve it.
    pub fn serves<'a>(&'a self, endpoint: Endpoint, model: &'a str) -> Option<&'a str> {
        self.models.provider_name(model).filter(|_| spoken::serves(self.dialect, endpoint))
    }

    /// Where it serves this, of a model as it calls it.
    pub fn path_of(&self, endpoint: Endpoint, model: &str) -> String {
        spoken::path(&self.base_url.path, self.api_version.as_deref(), endpoint, model)
    }

    /// Where it has what it keeps of responses, `below` them, asked for with this query.
    pub fn path_of_kept(&self, below: &str, query: Option<&str>) -> String {
        spoken::kept_path(&self.base_url.path, self.api_version.as_deref(), below, query)
    }

    /// Whether its API knows files and batches.
    pub fn keeps_files(&self) -> bool {
        self.dialect == Dialect::OpenAi
    }

    /// An address to connect to; `None` when its name does not resolve.
    pub fn address(&self) -> Option<SocketAddr> {
        self.addresses.pick()
    }

    /// What finds and watches its addresses.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// What the operator wants of it from now on. One that takes requests again is taken to be
    /// mended: the next request may try.
    pub fn set_standing(&self, standing: Standing, now: Instant) {
        let mut state = self.state.state.lock();
        state.standing = standing;
        if standing == Standing::Taking {
            state.breaker.mended(now);
            state.models.values_mut().for_each(|model| model.breaker.mended(now));
        }
        drop(state);
        self.state.queue.wake();
    }

    /// How it stands, in a word: `draining`, `shut`, `probation` or `open`; and requests under way.
    pub fn standing(&self) -> (&'static str, u32) {
        let in_flight = self.state.limits.lock().in_flight();
        let state = self.state.state.lock();
        let word = match (state.standing, state.breaker.health()) {
            (Standing::Draining, _) => "draining",
            (Standing::Taking, Health::Open) => "open",
            (Standing::Taking, Health::Shut { .. }) => "shut",
            (Standing::Taking, Health::Probation { .. }) => "probation",
        };
        (word, in_flight)
    }

    /// Whether it is used for anything.
    pub fn is_up(&self) -> bool {
        let state = self.state.state.lock();
        if state.standing == Standing::Draining {
            return false;
        }
        let shut = |breaker: &Breaker| breaker.health() != Health::Open;
        let all_shut = !state.models.is_empty() && state.models.values().all(|model| shut(&model.breaker));
        !shut(&state.breaker) && !all_shut && self.addresses.reachable()
    }

    /// What is shut and why: by model, as the provider calls it; without one, the account.
    pub fn shut(&self) -> Vec<(Option<Box<str>>, Fault)> {
        let state = self.state.state.lock();
        let account = state.breaker.cause().map(|cause| (None, cause));
        let models = state
            .models
            .iter()
            .filter_map(|(name, model)| Some((Some(name.clone()), model.breaker.cause()?)));
        account.into_iter().chain(models).collect()
    }

    /// Whether it can take a request for `model`, as the provider calls it.
    pub fn room(&self, model: &str, need: &Need, now: Instant) -> Room {
        let mut limits = self.state.limits.lock();
        self.state.state.lock().room(&mut limits, model, need, now)
    }

    /// Takes room for a request, if it is still there.
    pub(super) fn take(&self, model: &str, need: &Need, now: Instant) -> Option<Taken> {
        let mut limits = self.state.limits.lock();
        let mut state = self.state.state.lock();
        let Room::Free { .. } = state.room(&mut limits, model, need, now) else { return None };
        state.breaker.begin(now);
        let share = limits.take(need.most, now);
        let model = state.model(model);
        model.breaker.begin(now);
        let mark = model.headroom.take(need.expected, now);
        Some(Taken { share, mark })
    }

    /// A request has ended.
    pub(super) fn release(&self, model: &str, taken: &Taken, used: Use, now: Instant) {
        self.state.limits.lock().release(&taken.share, used, now);
        let mut state = self.state.state.lock();
        // Without effect unless this was the one on probation and said nothing.
        state.breaker.abandoned(now);
        state.model(model).breaker.abandoned(now);
        drop(state);
        self.state.queue.wake();
    }

    pub(super) fn told(&self, model: &str, report: &Report, taken: &Taken, now: Instant) {
        self.state.state.lock().model(model).headroom.told(report, &taken.mark, now);
        self.state.queue.wake();
    }

    pub(super) fn answered(&self, model: &str, comes: Comes, took: Duration, now: Instant) {
        let mut state = self.state.state.lock();
        state.breaker.answered();
        let model = state.model(model);
        model.breaker.answered();
        model.latency(comes).observe(took, now);
    }

    pub(super) fn given_up(&self, model: &str, comes: Comes, after: Duration, now: Instant) {
        self.state.state.lock().model(model).latency(comes).exceeds(after, now);
    }

    pub(super) fn succeeded(&self, model: &str, output_tokens: u64, now: Instant) {
        let mut state = self.state.state.lock();
        state.breaker.success(now);
        let model = state.model(model);
        model.breaker.success(now);
        model.headroom.served(output_tokens);
    }

    pub(super) fn failed(&self, model: &str, fault: Fault, now: Instant, random: u32) {
        let mut state = self.state.state.lock();
        let shut = match fault.reach() {
            Reach::Account => state.breaker.failure(fault, now, random),
            Reach::Model => {
                // Whoever says so is there.
                if matches!(fault, Fault::Model | Fault::Server) {
                    state.breaker.answered();
                }
                state.model(model).breaker.failure(fault, now, random)
            }
            Reach::None => {
                state.breaker.answered();
                let model = state.model(model);
                model.breaker.answered();
                if let Fault::RateLimited(wait) = fault {
                    model.headroom.refused(wait, now, random);
                }
                false
            }
        };
        drop(state);
        if shut {
            self.state.tell(fault, model);
        }
    }

    /// The share of each limit that is free, in millionths, by the words of metrics: the operator's,
    /// and the provider's for the model of which the least is left.
    pub fn ratios_ppm(&self, now: Instant) -> Vec<(&'static str, u32)> {
        let own = self.state.limits.lock().ratios_ppm(now);
        let mut state = self.state.state.lock();
        let mut ratios: Vec<_> =
            own.into_iter().filter_map(|(limited, ppm)| Some((limited.name(), ppm?))).collect();
        let told: Vec<_> = state.models.values_mut().map(|model| model.headroom.ratios_ppm(now)).collect();
        for kind in Kind::ALL {
            let least = told.iter().filter_map(|ratios| ratios[kind.index()]).min();
            ratios.extend(least.map(|ppm| (kind.name(), ppm)));
        }
        ratios
    }
}

impl Shared {
    fn new(upstream: &Upstream, queue: &Arc<Queue>, limits: Arc<Mutex<Limits>>) -> Self {
        let (name, queue) = (Arc::clone(&upstream.name), Arc::clone(queue));
        Shared { name, queue, limits, state: Mutex::new(State::new()) }
    }

    /// A check in the background, which is free, was answered with this status. Tells whether the
    /// address that answered is good.
    fn heard(&self, status: u16) -> bool {
        let (now, random) = (Instant::now(), fastrand::u32(..));
        let mut state = self.state.lock();
        let refused = matches!(status, 401 | 402);
        let shut = if refused {
            // Said again, it only keeps it shut.
            state.breaker.admits(now).is_ok() && state.breaker.failure(Fault::Credential, now, random)
        } else {
            if (200..300).contains(&status) && state.breaker.cause() == Some(Fault::Credential) {
                state.breaker.mended(now);
            }
            false
        };
        drop(state);
        if shut {
            self.tell(Fault::Credential, "");
        }
        self.queue.wake();
        status < 500
    }

    fn tell(&self, fault: Fault, model: &str) {
        let (upstream, fault_name) = (&*self.name, fault.name());
        if fault.passes() {
            tracing::warn!(upstream, model, fault = fault_name, "an upstream account is shut for a while");
        } else {
            tracing::error!(
                upstream,
                model,
                fault = fault_name,
                "an upstream account is out of use: look at its credential, its credit and its models"
            );
        }
    }
}

impl State {
    fn new() -> Self {
        State { standing: Standing::Taking, breaker: Breaker::default(), models: BTreeMap::new() }
    }

    fn room(&mut self, limits: &mut Limits, name: &str, need: &Need, now: Instant) -> Room {
        if self.standing == Standing::Draining {
            return Room::Draining;
        }
        if let Err(until) = self.breaker.admits(now) {
            return Room::Shut(until);
        }
        let own = limits.fits(need.most, now);
        let in_flight = limits.in_flight();
        let model = self.model(name);
        match model.breaker.admits(now) {
            Err(_) if model.breaker.cause() == Some(Fault::Model) => return Room::Absent,
            Err(until) => return Room::Shut(until),
            Ok(()) => {}
        }
        match (own, model.headroom.fits(need.expected, now)) {
            (Ok(()), Ok(())) => Room::Free { in_flight, latency: model.latency(need.comes).expected(now) },
            (Ok(()), Err(until)) => Room::Full(Some(until)),
            (Err(until), Ok(())) => Room::Full(until),
            (Err(own), Err(told)) => Room::Full(Some(own.map_or(told, |own| own.max(told)))),
        }
    }

    /// Models are names of the price book: as many as the operator sells.
    fn model(&mut self, name: &str) -> &mut Model {
        if !self.models.contains_key(name) {
            self.models.insert(name.into(), Model::default());
        }
        self.models.get_mut(name).expect("it was just put there")
    }
}

impl Model {
    fn latency(&mut self, comes: Comes) -> &mut Latency {
        match comes {
            Comes::Whole => &mut self.plain,
            Comes::Streamed => &mut self.events,
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
