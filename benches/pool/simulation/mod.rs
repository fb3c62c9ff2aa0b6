//! A pool in virtual time, by a seed: accounts with limits, latencies and outages; customers whose
//! requests come at random; and one of three ways to choose.
//!
//! The first way is Tollgate's own pool: its selection, headroom, breakers, retry budget and waiting
//! line, as the proxy uses them, told the time instead of reading a clock. The others know nothing of
//! what is left: they take accounts in turn or at random and, refused, come back after a pause that
//! doubles, on another account, as the clients of providers do.

mod choice;
mod provider;

pub use choice::Policy;

use choice::{Choice, Next, Picked, Request};
use fastrand::Rng;
use provider::{Limit, Provider, Refill, Size, Tells};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};
use tollgate::upstream::health::Fault;
use tollgate::upstream::limits::Most;
use tollgate::upstream::told::{Kind, Report};
use tollgate::upstream::{Lease, Pool};

/// To a provider, one way.
const WAY: Duration = Duration::from_millis(20);
/// A token of output takes this long.
const TOKEN: Duration = Duration::from_millis(10);
/// Until then nothing is measured: full buckets are emptied first.
pub const WARM_UP: Duration = Duration::from_secs(180);
/// What requests take on average; they are spread evenly from half to one and a half of it.
const MEAN: Size = Size { input: 800, output: 200 };

/// One run.
#[derive(Clone, Copy)]
pub struct Plan {
    pub policy: Policy,
    pub seed: u64,
    /// Of what the accounts can serve when all are well.
    pub load_percent: u32,
    /// Measured for this long.
    pub measured: Duration,
}

/// What came of it.
pub struct Figures {
    pub asked: u32,
    pub served: u32,
    /// Without a wait or a second attempt.
    pub at_once: u32,
    /// Requests that a provider refused as one too many.
    pub refused_429: u32,
    /// Until the attempt began that was served, the shortest first.
    pub waits: Vec<Duration>,
    /// The share of what the accounts could have served that they did.
    pub used: f64,
}

/// Runs a plan.
pub fn run(plan: &Plan) -> Figures {
    let upstreams: Vec<_> = (0..ACCOUNTS.len()).map(choice::upstream).collect();
    let pool = Pool::new(&upstreams).expect("plain accounts");
    let mut world = World::new(plan, &pool);
    world.schedule(Duration::ZERO, Event::Arrives);
    while let Some(Reverse((at, _, event))) = world.events.pop() {
        world.now = at;
        world.happens(event);
        world.hand_out();
    }
    world.figures()
}

/// Limits of the accounts, as real ones have them: by requests or by tokens; in buckets or in windows;
/// told, or only found out.
const ACCOUNTS: [Limit; 8] = [
    limit(Kind::Requests, 300, Refill::Steady),
    limit(Kind::Requests, 600, Refill::Steady),
    limit(Kind::Requests, 1_200, Refill::Steady),
    limit(Kind::Tokens, 400_000, Refill::Steady),
    limit(Kind::Tokens, 800_000, Refill::Steady),
    limit(Kind::Requests, 600, Refill::Fixed),
    limit(Kind::Requests, 300, Refill::Fixed),
    Limit {
        kind: Kind::Requests,
        per_minute: SILENT_PER_MINUTE,
        refill: Refill::Fixed,
        tells: Tells::Nothing,
    },
];
/// The last account tells nothing: its operator has written down what it may have.
const SILENT_PER_MINUTE: u32 = 600;

const fn limit(kind: Kind, per_minute: u32, refill: Refill) -> Limit {
    Limit { kind, per_minute, refill, tells: Tells::Everything }
}

/// One request at one account.
struct Attempt {
    request: usize,
    account: usize,
    begun: Duration,
    lease: Option<Lease>,
    report: Report,
    fault: Option<Fault>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The next request comes.
    Arrives,
    /// An attempt is at its provider.
    Reaches(usize),
    /// Its answer begins, or says that there is none.
    Answers(usize),
    /// Its answer is complete.
    Ends(usize),
    /// A request is tried again.
    Retries(usize),
    /// A request that waits gives up.
    GivesUp(usize),
    /// It is time to look at the line.
    Looks,
}

struct World<'a> {
    start: Instant,
    now: Duration,
    until: Duration,
    /// Requests a second.
    rate: f64,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    scheduled: u64,
    rng: Rng,
    providers: Vec<Provider>,
    choice: Choice<'a>,
    looks_at: Option<Instant>,
    requests: Vec<Request>,
    attempts: Vec<Attempt>,
    refused_429: u32,
}

impl<'a> World<'a> {
    fn new(plan: &Plan, pool: &'a Pool) -> Self {
        let mut rng = Rng::with_seed(plan.seed);
        let until = WARM_UP + plan.measured;
        let mut provider = |limit: &Limit| {
            let mut provider = Provider::new(limit.clone(), Duration::from_millis(rng.u64(200..600)));
            provider.counts_from = WARM_UP;
            provider
        };
        let mut providers: Vec<Provider> = ACCOUNTS.iter().map(&mut provider).collect();
        // While it is measured one dies for half a minute, and another becomes slow.
        let third = plan.measured / 3;
        providers[1].down.push(WARM_UP + third..WARM_UP + third + Duration::from_secs(30));
        providers[3].slow.push(WARM_UP + third * 2..WARM_UP + third * 2 + Duration::from_secs(30));
        let capacity: f64 = providers.iter().map(|provider| provider.capacity(MEAN)).sum();
        World {
            start: Instant::now(),
            now: Duration::ZERO,
            until,
            rate: capacity * f64::from(plan.load_percent) / 100.0,
            events: BinaryHeap::new(),
            scheduled: 0,
            rng,
            providers,
            choice: Choice::new(plan.policy, pool),
            looks_at: None,
            requests: Vec::new(),
            attempts: Vec::new(),
            refused_429: 0,
        }
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse((self.now + after, self.scheduled, event)));
    }

    fn instant(&self) -> Instant {
        self.start + self.now
    }

    fn is_measured(&self, at: Duration) -> bool {
        (WARM_UP..self.until).contains(&at)
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Arrives => self.arrives(),
            Event::Reaches(attempt) => self.reaches(attempt),
            Event::Answers(attempt) => self.answers(attempt),
            Event::Ends(attempt) => self.ends(attempt),
            Event::Retries(request) => self.tries(request),
            Event::GivesUp(request) => self.choice.gives_up(request),
            // One that was scheduled before an earlier one changes nothing.
            Event::Looks => self.looks_at = self.looks_at.filter(|at| *at > self.start + self.now),
        }
    }

    /// Requests come one by one, at random moments, on behalf of a few large and many small customers.
    fn arrives(&mut self) {
        if self.now < self.until {
            let between = -(1.0 - self.rng.f64()).ln() / self.rate;
            self.schedule(Duration::from_secs_f64(between), Event::Arrives);
            let customer = self.rng.u64(..20).min(self.rng.u64(..20));
            let mut around = |mean: u32| self.rng.u32(mean / 2..=mean + mean / 2);
            let size = Size { input: around(MEAN.input), output: around(MEAN.output) };
            self.requests.push(Request::new(customer, size, self.now));
            self.tries(self.requests.len() - 1);
        }
    }

    fn tries(&mut self, number: usize) {
        let (now, bits) = (self.instant(), self.rng.u64(..));
        match self.choice.choose(number, &self.requests[number], now, bits) {
            Next::Goes(picked) => self.goes(*picked),
            Next::Waits(wait) => self.schedule(wait, Event::GivesUp(number)),
            Next::Fails => {}
        }
    }

    fn goes(&mut self, picked: Picked) {
        let Picked { request, account, lease } = picked;
        self.requests[request].attempts += 1;
        let report = Report::default();
        self.attempts.push(Attempt { request, account, begun: self.now, lease, report, fault: None });
        self.schedule(WAY, Event::Reaches(self.attempts.len() - 1));
    }

    fn reaches(&mut self, number: usize) {
        let attempt = &mut self.attempts[number];
        let provider = &mut self.providers[attempt.account];
        let mut after = WAY;
        if provider.is_down(self.now) {
            attempt.fault = Some(Fault::Server);
        } else {
            let (passes, report) = provider.take(self.requests[attempt.request].size, self.now);
            attempt.report = report;
            if passes {
                after += provider.latency(self.now).mul_f64(0.5 + self.rng.f64());
            } else {
                attempt.fault = Some(Fault::RateLimited(report.wait));
                self.refused_429 += u32::from((WARM_UP..self.until).contains(&self.now));
            }
        }
        self.schedule(after, Event::Answers(number));
    }

    fn answers(&mut self, number: usize) {
        let (now, random) = (self.instant(), self.rng.u32(..));
        let attempt = &mut self.attempts[number];
        let (account, request) = (attempt.account, &mut self.requests[attempt.request]);
        if self.providers[account].is_down(self.now) {
            attempt.fault = Some(Fault::Server);
        }
        if let Some(lease) = &attempt.lease {
            lease.told(&attempt.report, now);
        }
        let Some(fault) = attempt.fault else {
            if let Some(lease) = &attempt.lease {
                lease.answered(now);
            }
            let output = TOKEN * request.size.output;
            return self.schedule(output, Event::Ends(number));
        };
        if let Some(mut lease) = attempt.lease.take() {
            lease.failed(fault, now, random);
            lease.end(now);
        }
        let spread = f64::from(random) / f64::from(u32::MAX);
        if let Some(pause) = self.choice.pause(request, (account, fault), self.now, spread) {
            let number = attempt.request;
            self.schedule(pause, Event::Retries(number));
        }
    }

    fn ends(&mut self, number: usize) {
        let now = self.instant();
        let attempt = &mut self.attempts[number];
        let request = &mut self.requests[attempt.request];
        request.served = Some(attempt.begun - request.arrived);
        if let Some(mut lease) = attempt.lease.take() {
            let Size { input, output } = request.size;
            lease.used(Most { tokens: u64::from(input + output), ..Most::NOTHING });
            lease.succeeded(output.into(), now);
            lease.end(now);
        }
    }

    /// What the gateway's own task does whenever it is woken.
    fn hand_out(&mut self) {
        let now = self.instant();
        let rng = &mut self.rng;
        let (picked, look) = self.choice.hand_out(now, || rng.u64(..));
        picked.into_iter().for_each(|picked| self.goes(picked));
        if let Some(look) = look
            && self.looks_at.is_none_or(|looks_at| look < looks_at)
        {
            self.looks_at = Some(look);
            self.schedule(look.saturating_duration_since(now), Event::Looks);
        }
    }

    fn figures(mut self) -> Figures {
        let measured: Vec<&Request> =
            self.requests.iter().filter(|request| self.is_measured(request.arrived)).collect();
        let count = |of: &dyn Fn(&Request) -> bool| {
            u32::try_from(measured.iter().filter(|request| of(request)).count()).expect("a run is short")
        };
        let (asked, served) = (count(&|_| true), count(&|request| request.served.is_some()));
        let at_once = count(&|request| request.served == Some(Duration::ZERO) && request.attempts == 1);
        let mut waits: Vec<Duration> = measured.iter().filter_map(|request| request.served).collect();
        waits.sort_unstable();
        let (mut used, mut capacity) = (0.0, 0.0);
        for provider in &mut self.providers {
            used += provider.capacity(MEAN) * provider.utilization(self.until);
            capacity += provider.capacity(MEAN);
        }
        Figures { asked, served, at_once, refused_429: self.refused_429, waits, used: used / capacity }
    }
}
