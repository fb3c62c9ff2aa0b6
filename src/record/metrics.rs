//! Metrics: all that Prometheus can ask, registered here and nowhere else.
//!
//! Labels are closed sets: models of the price book, upstream accounts of the configuration, our
//! own words. Never a customer, a key or what a client sent.

use crate::ledger::Committed;
use crate::money::Amount;
use crate::usage::{Class, Metered, Unit, Usage};
use parking_lot::Mutex;
use prometheus::{
    CounterVec, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder, process_collector::ProcessCollector,
};
use std::time::Duration;

/// Seconds: from a local answer to the longest reasoning.
const REQUEST_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0];
/// Seconds: what we add.
const OVERHEAD_BUCKETS: &[f64] = &[
    0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0,
];

/// Everything that is measured.
pub struct Metrics {
    registry: Registry,
    process: Registry,
    requests: IntCounterVec,
    duration: HistogramVec,
    overhead: Histogram,
    first_token: HistogramVec,
    tokens: IntCounterVec,
    units: IntCounterVec,
    metered: IntCounterVec,
    compared: IntCounterVec,
    charged_usd: CounterVec,
    cost_usd: CounterVec,
    holds_open: IntGauge,
    runs_open: IntGauge,
    in_flight: IntGauge,
    journal_commit: Histogram,
    journal_queue: IntGauge,
    upstreams: Upstreams,
    rejected: IntCounterVec,
    ledger_down: IntGauge,
    ledger_full: IntGauge,
    state_store_failing: IntGauge,
    log_lines_dropped: IntCounter,
    spans_exported: IntCounter,
    spans_dropped: IntCounter,
    reload_success: IntGauge,
    reload_timestamp: Gauge,
    scraping: Mutex<()>,
    connections: IntGauge,
    shed: IntCounterVec,
    policy: OfPolicy,
}

/// What an answer used, twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compared {
    /// By its provider.
    pub reported: Usage,
    /// By us.
    pub estimated: Usage,
}

/// What the content policy found and did.
struct OfPolicy {
    violations: IntCounterVec,
    unjudged: IntCounter,
    bans: IntCounter,
    moderation: HistogramVec,
}

impl OfPolicy {
    fn new(made: &Make<'_>) -> Self {
        let labels = ["category", "mode"];
        OfPolicy {
            violations: made.counters(
                "policy_violations_total",
                "Requests against the content policy",
                &labels,
            ),
            unjudged: made.counter(
                "policy_unjudged_total",
                "Requests and answers not judged: too many wait, or nobody judged them",
            ),
            bans: made.counter("policy_bans_total", "Customers who were banned by rule"),
            moderation: made.histograms(
                "policy_moderation_seconds",
                "What providers took to judge texts",
                &["outcome"],
                &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0],
            ),
        }
    }
}

/// A connection that is counted until this is dropped.
#[must_use]
pub struct CountedConnection(IntGauge);

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The labels of what was counted beside its report.
const OF_COMPARED: &[&str] = &["model", "side", "source"];
/// The labels of what is due upstream.
const OF_COST: &[&str] = &["model", "upstream"];

impl Metrics {
    /// All metrics at zero.
    ///
    /// # Panics
    /// When a name is registered twice: a bug.
    pub fn new() -> Self {
        let registry = Registry::new_custom(Some("tollgate".into()), None).expect("a valid prefix");
        // Memory, CPU and file handles, under the names that every exporter gives them.
        let process = Registry::new();
        process.register(Box::new(ProcessCollector::for_self())).expect("registered once");
        let made = Make(&registry);
        let build = made.gauge_vec("build_info", "The version that runs; always 1", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        let metrics = Metrics {
            log_lines_dropped: made
                .counter("log_lines_dropped_total", "Lines of the access log that nobody took in time"),
            spans_exported: made.counter("spans_exported_total", "Spans that the collector took"),
            spans_dropped: made.counter("spans_dropped_total", "Spans that no collector took"),
            reload_success: made
                .int_gauge("config_reload_success", "Whether the last load of the configuration took"),
            reload_timestamp: made
                .gauge("config_reload_timestamp_seconds", "When the configuration was loaded, since 1970"),
            scraping: Mutex::default(),
            requests: made.counters("requests_total", "Requests answered", &["endpoint", "model", "status"]),
            duration: made.histograms(
                "request_duration_seconds",
                "From the header of a request to the end of its answer",
                &["endpoint"],
                REQUEST_BUCKETS,
            ),
            overhead: made.histogram(
                "overhead_seconds",
                "The time of a request that is the gateway's own",
                OVERHEAD_BUCKETS,
            ),
            first_token: made.histograms(
                "time_to_first_token_seconds",
                "From the header of a request to the first byte of its answer",
                &["model"],
                REQUEST_BUCKETS,
            ),
            tokens: made.counters("tokens_total", "Tokens charged", &["model", "class"]),
            units: made.counters("units_total", "Charged otherwise than by tokens", &["model", "class"]),
            metered: made.counters("metered_total", "Requests by how their usage was found", &["kind"]),
            compared: made.counters("compared_tokens_total", "Tokens of a sample, told twice", OF_COMPARED),
            charged_usd: made.float_counters("charged_usd_total", "US dollars charged", &["model"]),
            cost_usd: made.float_counters("cost_usd_total", "US dollars due upstream", OF_COST),
            holds_open: made.int_gauge("holds_open", "Holds of requests under way"),
            runs_open: made.int_gauge("runs_open", "Responses in the background that are held for"),
            in_flight: made.int_gauge("in_flight", "Requests under way"),
            journal_commit: made.histogram(
                "journal_commit_seconds",
                "From the write of a group of entries to the end of its fsync",
                OVERHEAD_BUCKETS,
            ),
            journal_queue: made.int_gauge("journal_queue_depth", "Commands that wait to become durable"),
            upstreams: Upstreams::new(&made),
            rejected: made.counters("admission_rejected_total", "Requests that we refused", &["reason"]),
            ledger_down: made.int_gauge("ledger_down", "Whether the ledger can no longer be written"),
            ledger_full: made
                .int_gauge("ledger_full", "Whether nothing is admitted because the disk is full"),
            state_store_failing: made
                .int_gauge("state_store_failing", "Whether the state store is behind until it is mended"),
            connections: made.int_gauge("connections_open", "Connections of clients"),
            policy: OfPolicy::new(&made),
            shed: made.counters("connections_shed_total", "Connections cut: too many, too slow", &["reason"]),
            registry,
            process,
        };
        metrics.reload_took();
        metrics
    }

    /// A configuration was loaded and applies.
    pub fn reload_took(&self) {
        self.reload_success.set(1);
        self.reload_timestamp.set(seconds_since_epoch());
    }

    /// A configuration was found faulty: the one before it applies on.
    pub fn reload_failed(&self) {
        self.reload_success.set(0);
    }

    /// A request begins.
    pub fn request_begins(&self) {
        self.in_flight.inc();
    }

    /// A request has ended.
    pub fn request_ends(&self, endpoint: &str, model: &str, status: u16, duration: Duration) {
        self.in_flight.dec();
        self.requests.with_label_values(&[endpoint, model, &status.to_string()]).inc();
        self.duration.with_label_values(&[endpoint]).observe(duration.as_secs_f64());
    }

    /// Requests under way.
    pub fn in_flight(&self) -> i64 {
        self.in_flight.get()
    }

    /// Time of a request that was ours.
    pub fn overhead(&self, ours: Duration) {
        self.overhead.observe(ours.as_secs_f64());
    }

    /// The first byte of an answer came.
    pub fn first_token(&self, model: &str, after: Duration) {
        self.first_token.with_label_values(&[model]).observe(after.as_secs_f64());
    }

    /// A request was charged.
    pub fn charged(&self, model: &str, metered: Metered, usage: &Usage, charge: Amount) {
        self.metered.with_label_values(&[metered.name()]).inc();
        for class in Class::ALL.into_iter().filter(|class| usage.of(*class) > 0) {
            let units = if class.unit() == Unit::Token { &self.tokens } else { &self.units };
            units.with_label_values(&[model, class.name()]).inc_by(usage.of(class));
        }
        self.charged_usd.with_label_values(&[model]).inc_by(for_a_graph(charge));
    }

    /// An answer whose usage was reported was counted, too.
    pub fn compared(&self, model: &str, Compared { reported, estimated }: Compared) {
        for (source, usage) in [("reported", reported), ("estimated", estimated)] {
            for (side, tokens) in [("input", usage.input_total()), ("output", usage.output_total())] {
                self.compared.with_label_values(&[model, side, source]).inc_by(tokens);
            }
        }
    }

    /// What a charged request cost the operator.
    pub fn cost(&self, model: &str, upstream: &str, cost: Amount) {
        self.cost_usd.with_label_values(&[model, upstream]).inc_by(for_a_graph(cost));
    }

    /// An attempt on an upstream account has ended.
    pub fn attempt(&self, upstream: &str, outcome: &str) {
        self.upstreams.attempts.with_label_values(&[upstream, outcome]).inc();
    }

    /// A request was refused.
    pub fn rejected(&self, reason: &str) {
        self.rejected.with_label_values(&[reason]).inc();
    }

    /// A line of the access log was lost.
    pub fn log_line_dropped(&self) {
        self.log_lines_dropped.inc();
    }

    /// The collector took spans.
    pub fn spans_exported(&self, spans: u64) {
        self.spans_exported.inc_by(spans);
    }

    /// Spans were lost.
    pub fn spans_dropped(&self, spans: u64) {
        self.spans_dropped.inc_by(spans);
    }

    /// Connections of clients.
    pub fn connections(&self) -> i64 {
        self.connections.get()
    }

    /// A connection was taken.
    pub fn connection(&self) -> CountedConnection {
        self.connections.inc();
        CountedConnection(self.connections.clone())
    }

    /// A request is against the content policy; categories are those of the configuration.
    pub fn violation(&self, category: &str, mode: &str) {
        self.policy.violations.with_label_values(&[category, mode]).inc();
    }

    /// A request was not judged.
    pub fn unjudged(&self) {
        self.policy.unjudged.inc();
    }

    /// A provider was asked about texts.
    pub fn moderated(&self, outcome: &str, took: Duration) {
        self.policy.moderation.with_label_values(&[outcome]).observe(took.as_secs_f64());
    }

    /// A customer was banned by rule.
    pub fn banned_by_rule(&self) {
        self.policy.bans.inc();
    }

    /// A connection was closed to protect the others.
    pub fn shed(&self, reason: &str) {
        self.shed.with_label_values(&[reason]).inc();
    }

    /// A group of entries became durable.
    pub fn committed(&self, committed: Committed) {
        self.journal_commit.observe(committed.elapsed.as_secs_f64());
    }

    /// How the ledger stands.
    pub fn ledger(&self, queue_depth: usize, (holds_open, runs_open): (usize, usize), down: bool) {
        self.holds_open.set(i64::try_from(holds_open).unwrap_or(i64::MAX));
        self.runs_open.set(i64::try_from(runs_open).unwrap_or(i64::MAX));
        self.journal_queue.set(i64::try_from(queue_depth).unwrap_or(i64::MAX));
        self.ledger_down.set(i64::from(down));
    }

    /// A request no longer waits for an upstream account.
    pub fn queued(&self, outcome: &str, waited: Duration) {
        self.upstreams.queue_wait.with_label_values(&[outcome]).observe(waited.as_secs_f64());
    }

    /// How many requests wait for an upstream account.
    pub fn queue(&self, depth: usize) {
        self.upstreams.queue_depth.set(i64::try_from(depth).unwrap_or(i64::MAX));
    }

    /// Whether the state store failed, and is to be mended.
    pub fn state_store_failing(&self, failing: bool) {
        self.state_store_failing.set(i64::from(failing));
    }

    /// Whether the ledger's disk is full.
    pub fn ledger_full(&self, full: bool) {
        self.ledger_full.set(i64::from(full));
    }

    /// Whether an upstream account is used.
    pub fn upstream(&self, name: &str, up: bool) {
        self.upstreams.up.with_label_values(&[name]).set(i64::from(up));
    }

    /// What of an upstream account is not used, and why.
    pub fn shut(&self, name: &str, model: &str, reason: &str) {
        self.upstreams.shut.with_label_values(&[name, model, reason]).set(1);
    }

    /// A request would have been tried again, if the budget had allowed it.
    pub fn retry_denied(&self) {
        self.upstreams.retries_denied.inc();
    }

    /// How much of a limit of an upstream account is free.
    pub fn headroom(&self, name: &str, limit: &str, free_ppm: u32) {
        let free = f64::from(free_ppm) / 1_000_000.0;
        self.upstreams.headroom.with_label_values(&[name, limit]).set(free);
    }

    /// Everything as Prometheus reads it, once `upstreams` has told how each account stands: what
    /// is not told any more is not shown any more.
    pub fn render(&self, upstreams: impl FnOnce(&Metrics)) -> String {
        let _one_at_a_time = self.scraping.lock();
        self.upstreams.up.reset();
        self.upstreams.headroom.reset();
        self.upstreams.shut.reset();
        upstreams(self);
        let mut text = Vec::new();
        let families = [self.registry.gather(), self.process.gather()].concat();
        let encoded = TextEncoder::new().encode(&families, &mut text);
        encoded.map_or_else(|why| format!("# {why}\n"), |()| String::from_utf8_lossy(&text).into_owned())
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

/// What is measured of the pool.
struct Upstreams {
    up: IntGaugeVec,
    headroom: GaugeVec,
    attempts: IntCounterVec,
    shut: IntGaugeVec,
    retries_denied: IntCounter,
    queue_depth: IntGauge,
    queue_wait: HistogramVec,
}

impl Upstreams {
    fn new(made: &Make<'_>) -> Self {
        Upstreams {
            up: made.int_gauges("upstream_up", "Whether an upstream account is used", &["upstream"]),
            headroom: made.gauge_vec(
                "upstream_headroom_ratio",
                "The share of a limit of an upstream account that is free",
                &["upstream", "limit"],
            ),
            attempts: made.counters(
                "upstream_attempts_total",
                "Attempts on upstream accounts by how they ended",
                &["upstream", "outcome"],
            ),
            shut: made.int_gauges(
                "upstream_shut",
                "What is not used and why: a model of an upstream account, or without a model all of it",
                &["upstream", "model", "reason"],
            ),
            retries_denied: made
                .counter("upstream_retries_denied_total", "Retries and hedges beyond their budget"),
            queue_depth: made.int_gauge("upstream_queue_depth", "Requests that wait for an upstream account"),
            queue_wait: made.histograms(
                "upstream_queue_wait_seconds",
                "How long requests waited for an upstream account, by how that ended",
                &["outcome"],
                REQUEST_BUCKETS,
            ),
        }
    }
}

/// An amount as a graph shows it: the books are exact, this is not.
fn for_a_graph(amount: Amount) -> f64 {
    let pico_usd = u64::try_from(amount.atto_usd() / 1_000_000).unwrap_or(u64::MAX);
    let half = |bits: u64| f64::from(u32::try_from(bits).expect("half of 64 bits"));
    (half(pico_usd >> 32) * 4_294_967_296.0 + half(pico_usd & 0xffff_ffff)) / 1e12
}

fn seconds_since_epoch() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

struct Make<'a>(&'a Registry);

impl Make<'_> {
    fn register<T: prometheus::core::Collector + Clone + 'static>(&self, made: prometheus::Result<T>) -> T {
        let metric = made.expect("a valid name");
        self.0.register(Box::new(metric.clone())).expect("names are registered once");
        metric
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn float_counters(&self, name: &str, help: &str, labels: &[&str]) -> CounterVec {
        self.register(CounterVec::new(Opts::new(name, help), labels))
    }

    fn int_gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::new(name, help))
    }

    fn int_gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(Gauge::new(name, help))
    }

    fn gauge_vec(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.register(GaugeVec::new(Opts::new(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.register(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.register(HistogramVec::new(opts, labels))
    }
}
