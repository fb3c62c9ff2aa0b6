//! What differs between two configurations, setting by setting, as a reload tells it.

use super::{
    Admin, Config, Edge, Gateway, HeaderLimits, Log, Meter, Metrics, Policy, Reload, Retry, Upstream,
};
use crate::settle::price::books::PriceBooks;
use crate::settle::price::{ModelPrice, PicturePrice, PriceBook};
use crate::usage::{Class, Unit};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;

/// Settings that a reload does not change: sockets and threads are made once.
pub const AFTER_RESTART: [&str; 10] = [
    "gateway.listen",
    "gateway.h2_streams_max",
    "gateway.tls.listen",
    "gateway.threads",
    "gateway.keepalive_timeout_ms",
    "gateway.drain_timeout_ms",
    "admin.listen",
    "metrics.listen",
    "store.directory",
    "log.format",
];

/// The longest value that is told.
const VALUE_CHARACTERS_MAX: usize = 120;

/// When a changed setting begins to apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// With the next request.
    AtReload,
    /// When the process is started again.
    AfterRestart,
}

/// A setting that differs. Secrets are not shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Such as `upstreams.openai-1.weight`.
    pub setting: String,
    /// Its value before; empty if it was not there.
    pub from: String,
    /// Its value now; empty if it is gone.
    pub to: String,
    /// When it applies.
    pub takes: Takes,
}

/// Notes the fields that differ. Naming each makes sure that none is forgotten; those behind `but`
/// are compared elsewhere.
macro_rules! compare {
    ($noted:ident, $place:expr, $old:expr, $new:expr,
        $of:ident { $($field:ident),+ $(,)? } $(ms { $($ms:ident),+ $(,)? })? $(but { $($inner:ident),+ })?) => {{
        let ($of { $($field: _,)+ $($($ms: _,)+)? $($($inner: _),+)? }, old, new) = ($old, $old, $new);
        $($noted.compare(&format!("{}{}", $place, stringify!($field)), &old.$field, &new.$field);)+
        $($(
            let [old_ms, new_ms] = [old, new].map(|of| of.$ms.as_millis());
            $noted.compare(&format!("{}{}_ms", $place, stringify!($ms)), &old_ms, &new_ms);
        )+)?
    }};
}

/// Everything that differs, in the order of the file.
pub fn changes(old: &Config, new: &Config) -> Vec<Change> {
    let mut noted = Noted::default();
    let Config {
        gateway,
        admin,
        metrics,
        store_directory,
        prices,
        upstreams,
        policy,
        queue,
        retry,
        background,
        meter,
        log,
        reload,
        traces,
        files: _,
    } = old;
    compare!(noted, "gateway.", gateway, &new.gateway,
        Gateway {
            listen,
            threads,
            body_bytes_max,
            body_bytes_total_max,
            cors_origins,
            portal,
            account_requests_per_minute,
            files_per_customer_max,
        }
        ms { body_timeout, keepalive_timeout, write_timeout, drain_timeout } but { edge, tls });
    noted.tls(gateway.tls.as_ref(), new.gateway.tls.as_ref());
    let (old_edge, new_edge) = (&gateway.edge, &new.gateway.edge);
    compare!(noted, "gateway.", old_edge, new_edge,
        Edge { connections_max, connections_per_address_max, h2_streams_max, failed_keys_per_minute, trusted_proxies }
        but { header });
    compare!(noted, "gateway.header_", &old_edge.header, &new_edge.header,
        HeaderLimits { bytes_max, fields_max } ms { timeout });
    compare!(
        noted,
        "admin.",
        admin,
        &new.admin,
        Admin { listen, token, requests_per_minute, failed_tokens_per_minute }
    );
    compare!(noted, "metrics.", metrics, &new.metrics, Metrics { listen });
    noted.compare("store.directory", store_directory, &new.store_directory);
    noted.prices(prices, &new.prices);
    noted.upstreams(upstreams, &new.upstreams);
    compare!(noted, "policy.", policy, &new.policy, Policy { terms_version, countries, content });
    noted.queue(queue, &new.queue);
    compare!(noted, "retry.", retry, &new.retry, Retry { attempts_max, hedge } ms { total });
    noted.background(background, &new.background);
    compare!(noted, "meter.", meter, &new.meter, Meter { compare_one_in });
    compare!(noted, "log.", log, &new.log, Log { format, success_one_in });
    compare!(noted, "reload.", reload, &new.reload, Reload { trigger });
    noted.compare("traces", traces, &new.traces);
    noted.0
}

#[derive(Default)]
struct Noted(Vec<Change>);

impl Noted {
    fn compare<T: Debug + PartialEq>(&mut self, setting: &str, old: &T, new: &T) {
        if old != new {
            self.note(setting, shown(old), shown(new));
        }
    }

    fn note(&mut self, setting: &str, from: String, to: String) {
        let after = AFTER_RESTART.contains(&setting);
        let takes = if after { Takes::AfterRestart } else { Takes::AtReload };
        self.0.push(Change { setting: setting.into(), from, to, takes });
    }

    fn queue(&mut self, old: &super::Queue, new: &super::Queue) {
        use super::Queue;
        compare!(self, "queue.", old, new, Queue { waiting_max } ms { wait });
    }

    fn background(&mut self, old: &super::Background, new: &super::Background) {
        use super::Background;
        compare!(self, "background.", old, new,
            Background { runs_max, runs_per_customer_max } ms { run_timeout });
    }

    fn tls(&mut self, old: Option<&super::Tls>, new: Option<&super::Tls>) {
        let listen = |tls: Option<&super::Tls>| tls.map(|tls| tls.listen.clone()).unwrap_or_default();
        self.compare("gateway.tls.listen", &listen(old), &listen(new));
        let [old, new] = [old, new].map(|tls| tls.map(|tls| &tls.certificate));
        if old != new {
            let [old, new] = [old, new].map(|certificate| certificate.map(shown).unwrap_or_default());
            self.note("gateway.tls.certificate", old, new);
        }
    }

    fn prices(&mut self, old: &PriceBooks, new: &PriceBooks) {
        let (before, now) = (old.to_string(), new.to_string());
        self.compare("prices.version", &before, &now);
        for (place, (old, new)) in old.each().zip(new.each()).enumerate() {
            let later = if place == 0 { String::new() } else { format!("{}.", new.version) };
            self.book(&later, old, new);
        }
    }

    /// The models of two books in the same place; those of books that follow are told with their name.
    fn book(&mut self, later: &str, old: &PriceBook, new: &PriceBook) {
        let PriceBook { version: _, effective: _, models } = old;
        let names: BTreeSet<&str> = models.keys().chain(new.models.keys()).map(|name| &**name).collect();
        for name in names {
            let (old, new) = (models.get(name), new.models.get(name));
            if old != new {
                let shown = |price: Option<&Arc<ModelPrice>>| {
                    price.map(|price| unit_prices(price)).unwrap_or_default()
                };
                self.note(&format!("prices.{later}{name}"), shown(old), shown(new));
            }
        }
    }

    fn upstreams(&mut self, old: &[Upstream], new: &[Upstream]) {
        let find = |all: &[Upstream], name: &str| all.iter().position(|upstream| &*upstream.name == name);
        for upstream in old.iter().filter(|upstream| find(new, &upstream.name).is_none()) {
            self.note(&format!("upstreams.{}", upstream.name), upstream.base_url.to_string(), String::new());
        }
        for upstream in new {
            let place = format!("upstreams.{}", upstream.name);
            match find(old, &upstream.name) {
                None => self.note(&place, String::new(), upstream.base_url.to_string()),
                Some(index) => compare!(
                    self,
                    format!("{place}."),
                    &old[index],
                    upstream,
                    Upstream {
                        name,
                        dialect,
                        base_url,
                        api_version,
                        api_key,
                        ca,
                        models,
                        weight,
                        check,
                        priority,
                        limits,
                        on_hang_up,
                        drain,
                        timeouts,
                    }
                ),
            }
        }
    }
}

fn shown<T: Debug>(value: &T) -> String {
    let text = format!("{value:?}");
    match text.char_indices().nth(VALUE_CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// What a model costs, for the eye: without what costs as much as other input or output does.
fn unit_prices(price: &ModelPrice) -> String {
    let unit = &price.price.default.unit;
    let tells = |class: &Class| match class {
        Class::Input | Class::Output => price.sold_by == Unit::Token,
        Class::CachedInput | Class::CacheWrite | Class::CacheWrite1h | Class::CacheWrite12h => {
            unit.of(*class) != unit.input
        }
        Class::AudioInput | Class::ImageInput => unit.of(*class) != unit.input,
        Class::Reasoning | Class::AudioOutput | Class::ImageOutput => unit.of(*class) != unit.output,
        Class::Images | Class::Seconds | Class::Characters | Class::WebSearches => !unit.of(*class).is_zero(),
    };
    let priced = Class::ALL.into_iter().filter(tells);
    let priced = priced.map(|class| format!("{} {}", class.name(), unit.of(class)));
    let pictures = price.price.default.pictures.iter().map(|PicturePrice { picture, each }| {
        let words = [&picture.quality, &picture.size].into_iter().flatten().map(|word| &**word);
        format!("{} {each}", words.collect::<Vec<_>>().join(" "))
    });
    priced.chain(pictures).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_with;

    const CONFIG: &str = "\
gateway: { listen: [\"127.0.0.1:0\"] }
admin: { token: 0123456789abcdef }
prices: prices.yaml
upstreams:
  - { name: a, base_url: https://a.example/v1, api_key: sk-a }
  - { name: b, base_url: https://b.example/v1, api_key: sk-b }
";
    const PRICES: &str = "\
version: one
models:
  m: { input: \"1\", output: \"2\", max_output_tokens: 3 }
";

    fn load(config: &str, prices: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("c.yaml"), config).unwrap();
        std::fs::write(folder.path().join("prices.yaml"), prices).unwrap();
        let mut config = load_with(&folder.path().join("c.yaml"), &|_| None).unwrap();
        config.store_directory = "store".into();
        config
    }

    /// Both files with each `from` replaced by its `to`; what is told is `SETTING: FROM -> TO`.
    fn check(edits: &[(&str, &str)], expect: &[&str]) {
        let edit = |text: &str| edits.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
        let told = changes(&load(CONFIG, PRICES), &load(&edit(CONFIG), &edit(PRICES)));
        let told: Vec<String> = told
            .iter()
            .map(|change| format!("{}: {} -> {}", change.setting, change.from, change.to))
            .collect();
        assert_eq!(told, expect);
    }

    #[test]
    fn each_difference_is_told_and_nothing_else() {
        check(&[], &[]);
        check(
            &[("\"127.0.0.1:0\"]", "\"127.0.0.1:0\"], body_timeout_ms: 5000")],
            &["gateway.body_timeout_ms: 120000 -> 5000"],
        );
        check(&[("prices: ", "retry: { attempts_max: 1 }\nprices: ")], &["retry.attempts_max: 5 -> 1"]);
        check(
            &[("prices: ", "retry: { hedge: { streamed_after_ms: 2000 } }\nprices: ")],
            &[
                "retry.hedge: Hedge { streamed: None, whole: None } -> Hedge { streamed: Some(2s), whole: None }",
            ],
        );
        check(
            &[("prices: ", "background: { runs_max: 7, run_timeout_ms: 9 }\nprices: ")],
            &["background.runs_max: 10000 -> 7", "background.run_timeout_ms: 86400000 -> 9"],
        );
        check(
            &[("name: b", "name: c"), ("sk-a }", "sk-a, weight: 7 }")],
            &[
                "upstreams.b: https://b.example/v1 -> ",
                "upstreams.a.weight: 1 -> 7",
                "upstreams.c:  -> https://b.example/v1",
            ],
        );
        check(
            &[("a.example", "z.example")],
            &["upstreams.a.base_url: https://a.example/v1 -> https://z.example/v1"],
        );
    }

    #[test]
    fn secrets_are_told_without_being_shown() {
        check(&[("sk-b", "sk-x")], &["upstreams.b.api_key: (secret) -> (secret)"]);
        check(&[("0123456789abcdef", "fedcba9876543210")], &["admin.token: (secret) -> (secret)"]);
    }

    #[test]
    fn prices_are_told_by_model() {
        let one = "input 1.00, output 2.00";
        let two = one.replace("2.00", "4.00");
        check(
            &[("version: one", "version: two"), ("\"2\"", "\"4\"")],
            &["prices.version: \"one\" -> \"two\"", &format!("prices.m: {one} -> {two}")],
        );
        let dated = "version: one\neffective: 2026-01-01";
        check(&[("version: one", dated)], &[]);
        check(&[("  m:", "  n:")], &[&format!("prices.m: {one} -> "), &format!("prices.n:  -> {one}")]);
    }

    #[test]
    fn sockets_wait_for_a_restart() {
        let mut config = load(CONFIG, PRICES);
        let started = config.clone();
        config.gateway.listen[0].set_port(1);
        config.gateway.drain_timeout *= 2;
        config.retry.attempts_max = 1;
        let takes: Vec<Takes> = changes(&started, &config).iter().map(|change| change.takes).collect();
        assert_eq!(takes, [Takes::AfterRestart, Takes::AfterRestart, Takes::AtReload]);
    }
}
