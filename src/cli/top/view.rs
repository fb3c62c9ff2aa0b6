//! What is shown: how the gateway stands, and what happened between two looks at it.

use super::scrape::{Labels, Scrape, quantile};
use crate::admin::views::UpstreamView;
use crate::clock::Timestamp;
use crate::record::failures::Failure;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Instant;

/// One look at a gateway.
pub struct Look {
    /// When, to tell how long ago.
    pub taken: Instant,
    /// When, for people.
    pub at: Timestamp,
    /// Its metrics.
    pub scrape: Scrape,
    /// Its pool.
    pub upstreams: Vec<UpstreamView>,
    /// What failed last.
    pub failures: Vec<Failure>,
}

impl Look {
    /// Whether it is of the same process, so that counters can be compared.
    pub fn follows(&self, before: &Look) -> bool {
        let started = |look: &Look| look.scrape.value("process_start_time_seconds");
        let served = |look: &Look| look.scrape.by(REQUESTS, "", |_| true).remove("").unwrap_or_default();
        started(self) == started(before) && served(self) >= served(before)
    }
}

const REQUESTS: &str = "tollgate_requests_total";

/// What is shown. Money here is for the eye, as all metrics are: the books are exact.
#[derive(Debug, Serialize)]
pub struct View {
    /// Of the later look.
    pub at: Timestamp,
    /// The version that runs.
    pub version: String,
    /// For how long.
    pub up_seconds: Option<f64>,
    /// What is wrong with the gateway itself.
    pub alarms: Vec<&'static str>,
    /// How long the rates are taken over.
    pub window_seconds: f64,
    /// Requests that ended, in a second.
    pub requests_per_second: Statuses,
    /// Requests under way.
    pub in_flight: Option<f64>,
    /// Requests that wait for an upstream account.
    pub waiting: Option<f64>,
    /// Holds that have not ended.
    pub holds_open: Option<f64>,
    /// Connections of clients.
    pub connections: Option<f64>,
    /// From the header of a request to the end of its answer.
    pub request: Latency,
    /// From there to the first byte of its answer.
    pub first_byte: Latency,
    /// The part that is the gateway's own.
    pub overhead: Latency,
    /// From the write of a group of entries to the end of its fsync.
    pub commit: Latency,
    /// US dollars charged in a minute.
    pub charged_usd_per_minute: f64,
    /// US dollars due to providers in a minute, if the price book has what they take.
    pub cost_usd_per_minute: Option<f64>,
    /// Tokens in a second, by class.
    pub tokens_per_second: BTreeMap<String, f64>,
    /// Refused by the gateway in a second, by reason: those that happened.
    pub refused_per_second: BTreeMap<String, f64>,
    /// By model: those that were asked for.
    pub models: Vec<Model>,
    /// The pool, in the order of the configuration.
    pub upstreams: Vec<Upstream>,
    /// What failed last, the newest first.
    pub failures: Vec<Failure>,
}

/// Requests in a second by what the client got.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Statuses {
    /// Served.
    pub ok: f64,
    /// Refused by fault of the client: 4xx.
    pub client: f64,
    /// Failed: the rest.
    pub server: f64,
}

impl Statuses {
    /// All of them.
    pub fn all(&self) -> f64 {
        self.ok + self.client + self.server
    }
}

/// Quantiles in seconds; none where nothing happened.
#[derive(Debug, Serialize)]
pub struct Latency {
    /// Half are as quick.
    pub p50_seconds: Option<f64>,
    /// All but one in a hundred are.
    pub p99_seconds: Option<f64>,
}

/// A model of the price book.
#[derive(Debug, Serialize)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// Requests that ended, in a second.
    pub requests_per_second: f64,
    /// Tokens of all classes, in a second.
    pub tokens_per_second: f64,
    /// US dollars charged in a minute.
    pub charged_usd_per_minute: f64,
}

/// An upstream account.
#[derive(Debug, Serialize)]
pub struct Upstream {
    /// How it stands.
    #[serde(flatten)]
    pub stands: UpstreamView,
    /// Attempts that were answered, in a second.
    pub ok_per_second: f64,
    /// Attempts that failed, in a second.
    pub failed_per_second: f64,
}

impl View {
    /// What came between two looks at the same process.
    pub fn between(before: &Look, now: &Look) -> View {
        let window = now.taken.saturating_duration_since(before.taken).as_secs_f64().max(0.001);
        let Look { at, scrape, upstreams, failures, .. } = now;
        let rates = Rates { before: &before.scrape, now: scrape, window };
        let latency = |name| rates.latency(name);
        let charged = rates.by("tollgate_charged_usd_total", "model", |_| true);
        let cost = rates.by("tollgate_cost_usd_total", "model", |_| true);
        let started = scrape.value("process_start_time_seconds");
        View {
            at: *at,
            version: scrape.label("tollgate_build_info", "version").unwrap_or("?").to_owned(),
            up_seconds: started.map(|started| (epoch_seconds(*at) - started).max(0.0)),
            alarms: alarms(scrape),
            window_seconds: window,
            requests_per_second: statuses(rates.by(REQUESTS, "status", |_| true)),
            in_flight: scrape.value("tollgate_in_flight"),
            waiting: scrape.value("tollgate_upstream_queue_depth"),
            holds_open: scrape.value("tollgate_holds_open"),
            connections: scrape.value("tollgate_connections_open"),
            request: latency("tollgate_request_duration_seconds"),
            first_byte: latency("tollgate_time_to_first_token_seconds"),
            overhead: latency("tollgate_overhead_seconds"),
            commit: latency("tollgate_journal_commit_seconds"),
            charged_usd_per_minute: 60.0 * charged.values().sum::<f64>(),
            cost_usd_per_minute: (!cost.is_empty()).then(|| 60.0 * cost.values().sum::<f64>()),
            tokens_per_second: happened(rates.by("tollgate_tokens_total", "class", |_| true)),
            refused_per_second: happened(rates.by("tollgate_admission_rejected_total", "reason", |_| true)),
            models: models(&rates, &charged),
            upstreams: upstreams.iter().map(|stands| upstream(&rates, stands.clone())).collect(),
            failures: failures.clone(),
        }
    }
}

/// What two scrapes have between them, for a second of it.
struct Rates<'a> {
    before: &'a Scrape,
    now: &'a Scrape,
    window: f64,
}

impl Rates<'_> {
    fn by(&self, name: &str, label: &str, takes: impl Fn(&Labels<'_>) -> bool) -> BTreeMap<String, f64> {
        let before = self.before.by(name, label, &takes);
        let now = self.now.by(name, label, &takes).into_iter();
        now.map(|(key, count)| {
            let rate = (count - before.get(&key).unwrap_or(&0.0)) / self.window;
            (key, rate.max(0.0))
        })
        .collect()
    }

    fn latency(&self, name: &str) -> Latency {
        let (before, now) = (self.before.buckets(name), self.now.buckets(name));
        Latency { p50_seconds: quantile(&before, &now, 0.50), p99_seconds: quantile(&before, &now, 0.99) }
    }
}

fn happened(mut rates: BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    rates.retain(|_, rate| *rate > 0.0);
    rates
}

fn statuses(by_status: BTreeMap<String, f64>) -> Statuses {
    let mut sums = Statuses::default();
    for (status, rate) in by_status {
        match status.as_bytes() {
            [b'1'..=b'3', ..] => sums.ok += rate,
            [b'4', ..] => sums.client += rate,
            _ => sums.server += rate,
        }
    }
    sums
}

/// The busiest first.
fn models(rates: &Rates<'_>, charged: &BTreeMap<String, f64>) -> Vec<Model> {
    let requests = rates.by(REQUESTS, "model", |labels| !labels.has("model", ""));
    let tokens = rates.by("tollgate_tokens_total", "model", |_| true);
    let of = |rates: &BTreeMap<String, f64>, name: &str| rates.get(name).copied().unwrap_or_default();
    let mut models: Vec<Model> = happened(requests)
        .into_iter()
        .map(|(name, requests_per_second)| Model {
            requests_per_second,
            tokens_per_second: of(&tokens, &name),
            charged_usd_per_minute: 60.0 * of(charged, &name),
            name,
        })
        .collect();
    models.sort_by(|a, b| b.requests_per_second.total_cmp(&a.requests_per_second));
    models
}

fn upstream(rates: &Rates<'_>, stands: UpstreamView) -> Upstream {
    let outcomes = rates
        .by("tollgate_upstream_attempts_total", "outcome", |labels| labels.has("upstream", &stands.name));
    let of = |outcome: &str| outcomes.get(outcome).copied().unwrap_or_default();
    let ok_per_second = of("ok");
    // What was given up because another was quicker did not fail.
    let failed_per_second = (outcomes.values().sum::<f64>() - ok_per_second - of("hedged")).max(0.0);
    Upstream { stands, ok_per_second, failed_per_second }
}

fn alarms(scrape: &Scrape) -> Vec<&'static str> {
    let is = |name: &str, value: f64| scrape.value(name) == Some(value);
    let mut alarms = Vec::new();
    let mut note = |is: bool, alarm| {
        if is {
            alarms.push(alarm);
        }
    };
    note(is("tollgate_ledger_down", 1.0), "the ledger cannot be written: nobody is admitted");
    note(is("tollgate_ledger_full", 1.0), "the ledger's disk is full: nobody is admitted");
    note(is("tollgate_state_store_failing", 1.0), "the state store cannot be written: it is being mended");
    note(is("tollgate_config_reload_success", 0.0), "the last reload was refused: see the log");
    alarms
}

fn epoch_seconds(at: Timestamp) -> f64 {
    // Exact up to the year 2106.
    f64::from(u32::try_from(at.seconds()).unwrap_or(u32::MAX))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::time::Duration;

    /// Two looks ten seconds apart.
    pub fn looks() -> (Look, Look) {
        let at = Timestamp::parse("2026-11-23T12:00:10Z").unwrap();
        let begun = Instant::now();
        let upstreams = || {
            serde_json::from_str(
                r#"[{"name":"openai-1","base_url":"https://a.example/v1","status":"open","reason":null,"in_flight":120,
                     "models_shut":[],"headroom":{"concurrency":0.4,"tokens":0.82}},
                    {"name":"openai-2","base_url":"https://b.example/v1","status":"shut","reason":"credential","in_flight":0,
                     "models_shut":[],"headroom":{"concurrency":1.0}}]"#,
            )
            .unwrap()
        };
        let failure = Failure {
            at,
            request_id: crate::id::RequestId::from_int(7),
            status: 503,
            endpoint: "chat.completions".into(),
            model: "gpt-4o-mini".into(),
            customer: None,
            upstream: Some("openai-2".into()),
            attempts: 2,
            reason: "upstream_unavailable".into(),
            duration_us: 31_400,
        };
        let before = "\
tollgate_build_info{version=\"0.1.0\"} 1
tollgate_requests_total{endpoint=\"chat.completions\",model=\"gpt-4o-mini\",status=\"200\"} 100
tollgate_charged_usd_total{model=\"gpt-4o-mini\"} 1
process_start_time_seconds 1795435200
";
        let now = "\
tollgate_build_info{version=\"0.1.0\"} 1
tollgate_requests_total{endpoint=\"chat.completions\",model=\"gpt-4o-mini\",status=\"200\"} 1100
tollgate_requests_total{endpoint=\"chat.completions\",model=\"gpt-4o-mini\",status=\"503\"} 20
tollgate_requests_total{endpoint=\"chat.completions\",model=\"other\",status=\"404\"} 10
tollgate_requests_total{endpoint=\"other\",model=\"\",status=\"200\"} 10
tollgate_charged_usd_total{model=\"gpt-4o-mini\"} 3
tollgate_cost_usd_total{model=\"gpt-4o-mini\",upstream=\"openai-1\"} 1.5
tollgate_tokens_total{model=\"gpt-4o-mini\",class=\"input\"} 12000
tollgate_in_flight 120
tollgate_upstream_queue_depth 3
tollgate_admission_rejected_total{reason=\"model_not_found\"} 10
tollgate_request_duration_seconds_bucket{endpoint=\"chat.completions\",le=\"0.5\"} 500
tollgate_request_duration_seconds_bucket{endpoint=\"chat.completions\",le=\"1\"} 1000
tollgate_request_duration_seconds_bucket{endpoint=\"chat.completions\",le=\"+Inf\"} 1000
tollgate_upstream_attempts_total{upstream=\"openai-1\",outcome=\"ok\"} 1000
tollgate_upstream_attempts_total{upstream=\"openai-1\",outcome=\"hedged\"} 50
tollgate_upstream_attempts_total{upstream=\"openai-2\",outcome=\"credential\"} 20
tollgate_config_reload_success 0
process_start_time_seconds 1795435200
";
        let look = |text, taken| Look {
            taken,
            at,
            scrape: Scrape::read(text),
            upstreams: upstreams(),
            failures: vec![failure.clone()],
        };
        (look(before, begun), look(now, begun + Duration::from_secs(10)))
    }

    #[test]
    fn rates_are_of_what_came_between() {
        let (before, now) = looks();
        assert!(now.follows(&before) && !before.follows(&now));
        let view = View::between(&before, &now);
        assert_eq!(view.requests_per_second, Statuses { ok: 101.0, client: 1.0, server: 2.0 });
        assert_eq!((view.charged_usd_per_minute, view.cost_usd_per_minute), (12.0, Some(9.0)));
        assert_eq!((view.request.p50_seconds, view.first_byte.p99_seconds), (Some(0.5), None));
        assert_eq!(view.refused_per_second, [("model_not_found".into(), 1.0)].into());
        let models: Vec<_> =
            view.models.iter().map(|model| (&*model.name, model.requests_per_second)).collect();
        assert_eq!(models, [("gpt-4o-mini", 102.0), ("other", 1.0)]);
        let pool: Vec<_> = view.upstreams.iter().map(|of| (of.ok_per_second, of.failed_per_second)).collect();
        assert_eq!(pool, [(100.0, 0.0), (0.0, 2.0)]);
        assert_eq!(view.alarms, ["the last reload was refused: see the log"]);
    }
}
