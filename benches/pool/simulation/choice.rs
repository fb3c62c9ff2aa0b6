//! Three ways to choose an account, and what each does when an attempt fails.

use super::provider::Size;
use super::{ACCOUNTS, SILENT_PER_MINUTE, Tells};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tollgate::config::{
    BaseUrl, Check, Dialect, Drain, Limits, Models, OnHangUp, Queue, Secret, Timeouts, Upstream,
};
use tollgate::endpoint::Endpoint;
use tollgate::id::CustomerId;
use tollgate::money::Amount;
use tollgate::upstream::headroom::Expected;
use tollgate::upstream::health::Fault;
use tollgate::upstream::limits::Most;
use tollgate::upstream::queue::Place;
use tollgate::upstream::{Ask, Comes, Lease, Need, Pool};

/// The longest wait, and for the others the longest that they try again.
pub const WAIT: Duration = Duration::from_secs(10);
/// As shipped.
const QUEUE: Queue = Queue { wait: WAIT, waiting_max: 1_000 };
const ATTEMPTS_MAX: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);
/// Others pause half a second first and eight at last, as OpenAI's clients do.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const DOUBLED_MAX: u32 = 4;
/// No request asks for more output.
const OUTPUT_MAX: u64 = 4_096;
const MODEL: &str = "gpt-4o-mini";
/// What an account is called, before its place.
const NAME: &str = "account-";

/// A way to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    Tollgate,
    RoundRobin,
    Random,
}

/// A customer's request.
pub struct Request {
    pub customer: u64,
    pub size: Size,
    pub arrived: Duration,
    pub attempts: u32,
    /// Until the attempt began that was served.
    pub served: Option<Duration>,
    tried: Vec<Arc<str>>,
}

impl Request {
    pub fn new(customer: u64, size: Size, arrived: Duration) -> Self {
        Request { customer, size, arrived, attempts: 0, served: None, tried: Vec::new() }
    }

    fn need(&self) -> Need {
        let input = u64::from(self.size.input);
        Need {
            expected: Expected { input, output_max: OUTPUT_MAX },
            most: Most { tokens: input + OUTPUT_MAX, spend: Amount::ZERO },
            comes: Comes::Streamed,
            affinity: None,
        }
    }
}

/// An account was chosen; with its lease, where there are any.
pub struct Picked {
    pub request: usize,
    pub account: usize,
    pub lease: Option<Lease>,
}

/// What is done about a request.
pub enum Next {
    Goes(Box<Picked>),
    /// At most for so long.
    Waits(Duration),
    Fails,
}

/// A way to choose, at work.
pub enum Choice<'a> {
    Tollgate { pool: &'a Pool, waiting: Vec<(usize, Place<'a>)> },
    InTurn { next: usize },
    AtRandom,
}

impl<'a> Choice<'a> {
    pub fn new(policy: Policy, pool: &'a Pool) -> Self {
        match policy {
            Policy::Tollgate => Choice::Tollgate { pool, waiting: Vec::new() },
            Policy::RoundRobin => Choice::InTurn { next: 0 },
            Policy::Random => Choice::AtRandom,
        }
    }

    /// For the request of this number.
    pub fn choose(&mut self, number: usize, request: &Request, now: Instant, bits: u64) -> Next {
        let account = match self {
            Choice::Tollgate { pool, waiting } => {
                let need = request.need();
                let customer = CustomerId::from_int(request.customer);
                let (endpoint, model, tried) = (Endpoint::Chat, MODEL, &*request.tried);
                let ask = Ask { customer, endpoint, model, need: &need, only: None, tried };
                if request.attempts == 0 {
                    pool.budget().earn();
                }
                return match pool.choose(&ask, now, bits) {
                    Ok(lease) => Next::Goes(Box::new(Picked::new(number, lease))),
                    Err(none) if none.may_change_by(now + WAIT) => match pool.join(&ask, QUEUE, now) {
                        Ok(place) => {
                            waiting.push((number, place));
                            Next::Waits(WAIT)
                        }
                        Err(_) => Next::Fails,
                    },
                    Err(_) => Next::Fails,
                };
            }
            Choice::InTurn { next } => std::mem::replace(next, (*next + 1) % ACCOUNTS.len()),
            Choice::AtRandom => usize::try_from(bits % 997).expect("small") % ACCOUNTS.len(),
        };
        Next::Goes(Box::new(Picked { request: number, account, lease: None }))
    }

    /// Those who waited and now have a lease, and when to look again.
    pub fn hand_out(&mut self, now: Instant, random: impl FnMut() -> u64) -> (Vec<Picked>, Option<Instant>) {
        let Choice::Tollgate { pool, waiting } = self else { return (Vec::new(), None) };
        if pool.queue().depth() == 0 && waiting.is_empty() {
            return (Vec::new(), None);
        }
        let look = pool.serve(now, random);
        let mut picked = Vec::new();
        if pool.queue().depth() < waiting.len() {
            waiting.retain_mut(|(number, place)| match place.look() {
                None => true,
                Some(outcome) => {
                    picked.extend(outcome.ok().map(|lease| Picked::new(*number, lease)));
                    false
                }
            });
        }
        (picked, look)
    }

    pub fn gives_up(&mut self, number: usize) {
        if let Choice::Tollgate { waiting, .. } = self {
            waiting.retain(|(waits, _)| *waits != number);
        }
    }

    /// How long a request pauses before it is tried again; `None` when it is not.
    pub fn pause(
        &self,
        request: &mut Request,
        (account, fault): (usize, Fault),
        now: Duration,
        random: f64,
    ) -> Option<Duration> {
        match self {
            Choice::Tollgate { pool, .. } => {
                if !matches!(fault, Fault::RateLimited(_)) {
                    request.tried.push(Arc::clone(&pool.accounts()[account].name));
                }
                let again = request.attempts < ATTEMPTS_MAX && pool.budget().spend();
                again.then(|| PAUSE.mul_f64(random))
            }
            Choice::InTurn { .. } | Choice::AtRandom => {
                let doubled = PAUSE_FIRST * (1 << (request.attempts - 1).min(DOUBLED_MAX));
                let pause = doubled.mul_f64(0.75 + random / 4.0);
                (now + pause < request.arrived + WAIT).then_some(pause)
            }
        }
    }
}

impl Picked {
    fn new(request: usize, mut lease: Lease) -> Self {
        lease.sent();
        let place = lease.account().name.strip_prefix(NAME).and_then(|place| place.parse().ok());
        Picked { request, account: place.expect("as it was named"), lease: Some(lease) }
    }
}

/// The account of this place, as its operator configures it.
pub fn upstream(place: usize) -> Upstream {
    let silent = ACCOUNTS[place].tells == Tells::Nothing;
    let requests_per_minute = silent.then_some(SILENT_PER_MINUTE.into());
    let minute = Duration::from_secs(60);
    Upstream {
        name: Arc::from(format!("{NAME}{place}")),
        dialect: Dialect::OpenAi,
        base_url: BaseUrl::parse("http://127.0.0.1:1/v1").expect("a URL"),
        api_version: None,
        api_key: Secret::parse("sk-simulated").expect("a secret"),
        ca: None,
        models: Models::All,
        weight: 1,
        check: Check::Connect,
        priority: 0,
        limits: Limits {
            concurrency: 200,
            requests_per_minute,
            tokens_per_minute: None,
            spend_per_day: None,
        },
        on_hang_up: OnHangUp::Auto,
        drain: Drain { time: minute, tokens_max: 1_000 },
        timeouts: Timeouts { connect: minute, first_byte: None, silence: minute, total: minute },
    }
}
