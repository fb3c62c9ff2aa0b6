//! Whole configurations: what loads, and what is told about those that do not.

use super::load;
use crate::config::{
    Background, BaseUrl, Check, Config, Dialect, Faults, Hedge, LogFormat, Models, OnHangUp, Origins, Portal,
    Scheme,
};
use crate::money::Amount;
use serde_yaml::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conf");
const BOOK: &str = "\
version: v1
models:
  a: { input: \"1\", output: \"2\", max_output_tokens: 3 }
  b: { input: \"1\", output: \"2\", max_output_tokens: 3 }
";
const MINIMAL: &str = "\
gateway: { listen: [\"127.0.0.1:8080\"] }
admin: { token: \"${TOKEN}\" }
prices: prices.yaml
upstreams:
  - { name: u, base_url: \"https://h\", api_key: \"${KEY}\" }
";

fn environment(name: &str) -> Option<String> {
    let value = match name {
        "TOKEN" | "TOLLGATE_ADMIN_TOKEN" => "0123456789abcdef",
        "KEY" | "OPENAI_API_KEY" => "sk-canary",
        "EMPTY" => "",
        "SHORT" => "sk-canary-short",
        "NUMBER" => "7",
        _ => return None,
    };
    Some(value.to_owned())
}

/// A directory with a price book and files that settings can name.
fn directory(book: &str) -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str, mode: u32| {
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    write("prices.yaml", book, 0o644);
    write("open", "sk-canary\n", 0o644);
    write("secret", "sk-canary-from-a-file\n", 0o600);
    directory
}

fn load_text(directory: &Path, text: &str) -> Result<Config, Faults> {
    let path = directory.join("t.yaml");
    fs::write(&path, text).unwrap();
    load(&path, &environment)
}

fn good(text: &str) -> (tempfile::TempDir, Config) {
    let directory = directory(BOOK);
    let config = load_text(directory.path(), text).unwrap_or_else(|faults| panic!("{text}\n{faults}"));
    (directory, config)
}

/// Each expected line is the start of the one that is told, without the directory.
fn check_with(book: &str, text: &str, expect: &[&str]) {
    let directory = directory(book);
    let faults = load_text(directory.path(), text).expect_err(text);
    let prefix = format!("{}/", directory.path().display());
    let lines: Vec<String> = faults.to_string().lines().map(|line| line.replace(&prefix, "")).collect();
    let agree = lines.len() == expect.len() && lines.iter().zip(expect).all(|(l, e)| l.starts_with(e));
    assert!(agree, "of\n{text}\ngot\n{}\nnot\n{}", lines.join("\n"), expect.join("\n"));
    assert!(!lines.iter().any(|line| line.contains("canary")), "a secret is told: {lines:?}");
}

/// Faults of the minimal configuration with one part replaced.
fn check(from: &str, to: &str, expect: &[&str]) {
    assert!(MINIMAL.contains(from), "{from}");
    check_with(BOOK, &MINIMAL.replacen(from, to, 1), expect);
}

#[test]
fn the_minimal_one_has_every_default() {
    let (directory, config) = good(MINIMAL);
    assert_eq!(config.gateway.listen, ["127.0.0.1:8080".parse().unwrap()]);
    assert_eq!((config.gateway.threads, config.gateway.body_bytes_max), (None, 33_554_432));
    assert_eq!(config.gateway.drain_timeout, Duration::from_secs(600));
    assert_eq!(
        (&config.gateway.cors_origins, config.gateway.account_requests_per_minute),
        (&Origins::Any, 120)
    );
    assert_eq!((config.gateway.portal, config.gateway.files_per_customer_max), (Portal::On, 1_000));
    assert_eq!(config.admin.token.expose(), "0123456789abcdef");
    assert_eq!(config.store_directory, PathBuf::from("/var/lib/tollgate"));
    assert_eq!((config.queue.wait, config.queue.waiting_max), (Duration::from_secs(10), 1_000));
    assert_eq!((config.retry.attempts_max, config.retry.total), (5, Duration::from_secs(30)));
    assert_eq!(config.retry.hedge, Hedge::default());
    assert_eq!(
        (config.log.format, config.log.success_one_in, config.prices.each().next().unwrap().models.len()),
        (LogFormat::Json, 0, 2)
    );
    let upstream = &config.upstreams[0];
    assert_eq!((&*upstream.name, upstream.dialect, upstream.weight), ("u", Dialect::OpenAi, 1));
    assert_eq!((upstream.api_key.expose(), upstream.limits.concurrency), ("sk-canary", 2_000));
    assert_eq!(upstream.on_hang_up, OnHangUp::Auto);
    assert_eq!(upstream.models.provider_name("x"), Some("x"));
    assert!(!format!("{config:?}").contains("canary"), "a secret is printed");
    drop(directory);
}

const EVERY_KEY: &str = "\
gateway:
  listen: [\"127.0.0.1:0\", \"[::1]:0\"]
  threads: ${NUMBER}
  body_bytes_max: 1
  body_bytes_total_max: 2
  body_timeout_ms: 3
  connections_max: 8
  connections_per_address_max: 9
  h2_streams_max: 10
  header_bytes_max: 1024
  header_fields_max: 16
  header_timeout_ms: 4
  failed_keys_per_minute: 11
  trusted_proxies: [\"::1\", \"10.0.0.0/8\"]
  cors_origins: [\"https://app.example\", \"http://[::1]:3000\"]
  account_requests_per_minute: 13
  files_per_customer_max: 14
  portal: false
  keepalive_timeout_ms: 5
  write_timeout_ms: 6
  drain_timeout_ms: 7
admin: { listen: \"[::1]:0\", token_file: secret }
metrics: { listen: \"0.0.0.0:0\" }
store: { directory: store }
prices: ./prices.yaml
upstreams:
  - { name: a-1, base_url: \"https://h\", api_key: \"$${KEY}\", models: [a, \"b\"] }
  - name: b-2
    dialect: openai
    base_url: https://[::1]:8443/v1/
    api_key_file: secret
    models: { a: b }
    weight: 1000
    priority: 2
    check: connect
    limits: { concurrency: 1, requests_per_minute: 2, tokens_per_minute: 3, spend_usd_per_day: \"0.5\" }
    on_hang_up: drain
    drain: { timeout_ms: 8, tokens_max: 0 }
    timeouts: { connect_ms: 1, first_byte_ms: 4, silence_ms: 2, total_ms: 3 }
queue: { wait_ms: 0, waiting_max: 5 }
retry: { attempts_max: 2, total_ms: 10, hedge: { streamed_after_ms: 8, whole_after_ms: 9 } }
background: { runs_max: 0, runs_per_customer_max: 3, run_timeout_ms: 60000 }
meter: { compare_one_in: 9 }
log: { format: text, success_one_in: 7 }
traces: { otlp_url: \"http://127.0.0.1:4318/\", sample_one_in: 3, asked_per_minute: 7, service_name: edge }
";

#[test]
fn every_key_counts() {
    let (directory, config) = good(EVERY_KEY);
    let gateway = &config.gateway;
    let ms = Duration::from_millis;
    assert_eq!((gateway.listen.len(), gateway.threads.map(|n| n.get())), (2, Some(7)));
    assert_eq!((gateway.body_bytes_max, gateway.body_bytes_total_max), (1, 2));
    assert_eq!(
        [gateway.body_timeout, gateway.edge.header.timeout, gateway.keepalive_timeout],
        [3, 4, 5].map(ms)
    );
    let edge = &gateway.edge;
    assert_eq!((edge.connections_max, edge.connections_per_address_max, edge.h2_streams_max), (8, 9, 10));
    let header = edge.header;
    assert_eq!((header.bytes_max, header.fields_max, edge.failed_keys_per_minute), (1024, 16, 11));
    assert_eq!(*edge.trusted_proxies, ["::1/128", "10.0.0.0/8"].map(|network| network.parse().unwrap()));
    assert_eq!((gateway.write_timeout, gateway.drain_timeout), (ms(6), ms(7)));
    let origins = ["https://app.example", "http://[::1]:3000"].map(Into::into);
    assert_eq!(gateway.cors_origins, Origins::Listed(origins.into()));
    assert_eq!((gateway.account_requests_per_minute, gateway.portal), (13, Portal::Off));
    assert_eq!(gateway.files_per_customer_max, 14);
    assert_eq!(config.admin.token.expose(), "sk-canary-from-a-file");
    assert_eq!(config.store_directory, directory.path().join("store"));
    let [first, second] = config.upstreams.as_slice() else { panic!("two upstreams") };
    assert_eq!(first.api_key.expose(), "${KEY}");
    assert_eq!((first.models.provider_name("b"), first.models.provider_name("c")), (Some("b"), None));
    let base_url = BaseUrl { scheme: Scheme::Https, host: "::1".into(), port: 8443, path: "/v1".into() };
    assert_eq!(second.base_url, base_url);
    assert_eq!(second.models, Models::Only([("a".into(), "b".into())].into()));
    assert_eq!((second.weight, second.limits.concurrency, second.on_hang_up), (1000, 1, OnHangUp::Drain));
    assert_eq!((first.priority, second.priority), (0, 2));
    assert_eq!((first.check, second.check), (Check::Models, Check::Connect));
    assert_eq!((second.limits.requests_per_minute, second.limits.tokens_per_minute), (Some(2), Some(3)));
    assert_eq!(second.limits.spend_per_day, Some(Amount::parse("0.5").unwrap()));
    let timeouts = second.timeouts;
    assert_eq!([timeouts.connect, timeouts.silence, timeouts.total], [1, 2, 3].map(ms));
    assert_eq!((first.timeouts.first_byte, timeouts.first_byte), (None, Some(ms(4))));
    let drains = [first, second].map(|upstream| (upstream.drain.time, upstream.drain.tokens_max));
    assert_eq!(drains, [(ms(300_000), 32_768), (ms(8), 0)]);
    assert_eq!((config.queue.wait, config.queue.waiting_max), (Duration::ZERO, 5));
    assert_eq!((config.retry.attempts_max, config.retry.total), (2, ms(10)));
    assert_eq!(config.retry.hedge, Hedge { streamed: Some(ms(8)), whole: Some(ms(9)) });
    let background = Background { runs_max: 0, runs_per_customer_max: 3, run_timeout: ms(60_000) };
    assert_eq!(config.background, background);
    assert_eq!(config.meter.compare_one_in, 9);
    assert_eq!((config.log.format, config.log.success_one_in), (LogFormat::Text, 7));
    let traces = config.traces.unwrap();
    assert_eq!(traces.otlp_url.to_string(), "http://127.0.0.1:4318");
    assert_eq!((traces.sample_one_in, traces.asked_per_minute, &*traces.service_name), (3, 7, "edge"));
}

#[test]
fn faults_of_a_second_attempt_that_could_never_go() {
    let hedge = "hedge: { streamed_after_ms: 30000, whole_after_ms: 0, after_ms: 5 }";
    check_told(
        &format!("retry: {{ {hedge} }}\n{MINIMAL}"),
        &[
            "t.yaml:1:38: retry.hedge.streamed_after_ms: must be less than `retry.total_ms`, after which no attempt begins",
            "t.yaml:1:61: retry.hedge.whole_after_ms: must be a whole number from 1 to 86400000",
            "t.yaml:1:64: retry.hedge.after_ms: unknown key `after_ms`",
        ],
    );
    check_told(
        &format!("retry: {{ attempts_max: 1, hedge: {{ whole_after_ms: 5 }} }}\n{MINIMAL}"),
        &[
            "t.yaml:1:52: retry.hedge.whole_after_ms: needs a second attempt: set `retry.attempts_max` to 2 or more",
        ],
    );
}

#[test]
fn faults_of_runs_in_the_background() {
    check_told(
        &format!(
            "background: {{ runs_max: 10001, runs_per_customer_max: 0, run_timeout: 5, run_timeout_ms: 86400001 }}\n{MINIMAL}"
        ),
        &[
            "background.runs_max: must be a whole number from 0 to 10000",
            "background.runs_per_customer_max: must be a whole number from 1 to 10000",
            "unknown key `run_timeout`; did you mean `run_timeout_ms`?",
            "background.run_timeout_ms: must be a whole number from 1 to 86400000",
        ],
    );
}

#[test]
fn faults_of_traces() {
    let traces = |said: &str| format!("traces: {said}\n{MINIMAL}");
    check_told(&traces("{ sample_one_in: 1 }"), &["traces.otlp_url: is missing: add `otlp_url: "]);
    let wrong =
        traces("{ otlp_url: \"https://h\", sample_one_in: 1000001, service_nam: x, service_name: \"\" }");
    check_told(
        &wrong,
        &[
            "traces.otlp_url: must start with http://",
            "traces.sample_one_in: must be a whole number from 0 to 1000000",
            "unknown key `service_nam`; did you mean `service_name`?",
            "traces.service_name: must be 1 to 100 bytes",
        ],
    );
}

#[test]
fn a_version_is_azures() {
    let with = |settings: &str| {
        format!(
            "gateway: {{ listen: [\"127.0.0.1:0\"] }}\nadmin: {{ token: 0123456789abcdef }}\nprices: prices.yaml\n\
             upstreams: [{{ name: a, base_url: https://h/openai, api_key: k, models: {{ a: my-deployment }}, {settings} }}]\n"
        )
    };
    let (_directory, config) = good(&with("dialect: azure, api_version: \"2024-10-21\""));
    assert_eq!(config.upstreams[0].api_version.as_deref(), Some("2024-10-21"));
    check_told(&with("api_version: \"2024-10-21\""), &["upstreams[0].api_version: is for `dialect: azure`"]);
    check_told(
        &with("dialect: azure, api_version: \"a&b\""),
        &["upstreams[0].api_version: must be a version of Azure's API"],
    );
}

#[test]
fn faults_of_tls() {
    let minimal = |tls: &str| {
        let rest = "admin: { token: 0123456789abcdef }\nprices: prices.yaml\n\
                    upstreams: [{ name: a, base_url: https://h, api_key: k }]\n";
        format!("gateway: {{ tls: {tls} }}\n{rest}")
    };
    let none = minimal("{ listen: [], key: none.pem }");
    let expect =
        ["gateway.tls.certificate: is missing: add `certificate: cert.pem`", "gateway.tls.listen: is empty"];
    check_told(&none, &expect);
    let wrong = minimal("{ listen: [\"127.0.0.1:9180\"], certificate: prices.yaml, key: none.pem }");
    check_told(&wrong, &["gateway.tls.key: ", "admin.listen: is taken by another listener"]);
}

/// Each expected fault is told, wherever, and no other.
fn check_told(text: &str, expect: &[&str]) {
    let faults = load_text(directory(BOOK).path(), text).expect_err(text);
    let told = |part: &&str| faults.as_slice().iter().any(|fault| fault.to_string().contains(part));
    assert!(expect.iter().all(told) && faults.as_slice().len() == expect.len(), "{faults}");
}

#[test]
fn all_faults_are_told_at_once() {
    let text = "\
gateway:
  lisen: [\"127.0.0.1:8080\"]
  threads: many
  body_bytes_max: 268435457
  drain_timeout_ms: 0
admin: { listen: \"0.0.0.0:9180\", token: \"${SHORT}\" }
metrics: { listen: localhost:9190 }
prices: prices.yaml
upstreams:
  - name: Up
    base_url: ftp://h
    api_key: ${MISSING}
    models: [a, c, a, \"x y\"]
    limits: { concurency: 1 }
    on_hang_up: cancle
  - {}
retry: 3
logs: { format: json }
";
    let expect = [
        "t.yaml:2:3: gateway.lisen: unknown key `lisen`; did you mean `listen`?",
        "t.yaml:2:3: gateway.listen: is missing: add `listen: [\"127.0.0.1:8080\"]`, or `tls`",
        "t.yaml:3:12: gateway.threads: must be a whole number from 0 to 1024, not text",
        "t.yaml:4:19: gateway.body_bytes_max: must be a whole number from 1 to 268435456",
        "t.yaml:5:21: gateway.drain_timeout_ms: must be a whole number from 1 to 86400000",
        "t.yaml:6:18: admin.listen: must be on the loopback interface",
        "t.yaml:6:41: admin.token: is shorter than 16 characters",
        "t.yaml:7:20: metrics.listen: must be an address and a port",
        "t.yaml:10:11: upstreams[0].name: must be 1 to 40 of a-z, 0-9 and -",
        "t.yaml:11:15: upstreams[0].base_url: must start with https:// or http://",
        "t.yaml:12:14: upstreams[0].api_key: the environment variable MISSING is not set",
        "t.yaml:13:17: upstreams[0].models[1]: model `c` has no price",
        "t.yaml:13:20: upstreams[0].models[2]: is listed twice",
        "t.yaml:13:23: upstreams[0].models[3]: must be the name of a model",
        "t.yaml:14:15: upstreams[0].limits.concurency: unknown key `concurency`; did you mean `concurrency`?",
        "t.yaml:15:17: upstreams[0].on_hang_up: must be auto or cancel or drain; did you mean `cancel`?",
        "t.yaml:16:5: upstreams[1].api_key: is missing: add `api_key: \"${NAME}\"`, or `api_key_file`",
        "t.yaml:16:5: upstreams[1].base_url: is missing",
        "t.yaml:16:5: upstreams[1].name: is missing",
        "t.yaml:17:8: retry: must be a mapping, not a number",
        "t.yaml:18:1: logs: unknown key `logs`; did you mean `log`?",
    ];
    check_with(BOOK, text, &expect);
}

#[test]
fn faults_of_listeners() {
    let listen = "[\"127.0.0.1:8080\"]";
    check(listen, "[]", &["t.yaml:1:20: gateway.listen: is empty"]);
    check(listen, "127.0.0.1:80", &["t.yaml:1:20: gateway.listen: must be a list, not text"]);
    check(listen, "[8080]", &["t.yaml:1:21: gateway.listen[0]: must be text, not a number: quote it"]);
    check(listen, "[\"1.1.1.1:1\", \"1.1.1.1:1\"]", &["t.yaml:1:34: gateway.listen[1]: is taken by another"]);
    check(
        "}\n",
        ", }\nmetrics: { listen: \"127.0.0.1:8080\" }\n",
        &["t.yaml:2:20: metrics.listen: is taken by another"],
    );
    check(
        "127.0.0.1:8080",
        "0.0.0.0:9180\", \"[::]:9180",
        &["t.yaml:2:8: admin.listen: is taken by another listener, on 0.0.0.0:9180"],
    );
}

#[test]
fn faults_of_sizes_that_do_not_fit_together() {
    let text = "\"], body_bytes_max: 5, body_bytes_total_max: 4";
    check("\"]", text, &["t.yaml:1:81: gateway.body_bytes_total_max: must be at least `body_bytes_max`"]);
    check(
        "\"]",
        "\"], body_timeout_ms: 0",
        &["t.yaml:1:57: gateway.body_timeout_ms: must be a whole number from 1"],
    );
    check(
        "\"]",
        "\"], threads: 1.5",
        &["t.yaml:1:49: gateway.threads: must be a whole number from 0 to 1024"],
    );
    check(
        "\"]",
        "\"], threads: \"${KEY}\"",
        &["t.yaml:1:49: gateway.threads: must be a whole number from 0 to 1024"],
    );
}

#[test]
fn faults_of_origins() {
    let origin = "t.yaml:1:55: gateway.cors_origins[0]: must be \"*\" or an origin as browsers send it";
    for wrong in [
        "app.example",
        "https://App.example",
        "https://app.example/",
        "https://app.example:443",
        "https://*.app.example",
        "https://",
        "null",
        "",
    ] {
        check("\"]", &format!("\"], cors_origins: [\"{wrong}\"]"), &[origin]);
    }
    let both = "t.yaml:1:54: gateway.cors_origins: \"*\" stands for all origins";
    check("\"]", "\"], cors_origins: [\"*\", \"https://app.example\"]", &[both]);
}

#[test]
fn faults_of_secrets() {
    let key = "api_key: \"${KEY}\"";
    check(key, "api_key: \"${EMPTY}\"", &["t.yaml:5:48: upstreams[0].api_key: is empty"]);
    check(key, "api_key: \"sk-canary\\n\"", &["t.yaml:5:48: upstreams[0].api_key: has characters other"]);
    check(key, "api_key: [sk-canary]", &["t.yaml:5:48: upstreams[0].api_key: must be text, not a list"]);
    check(key, "api_key_file: none", &["t.yaml:5:53: upstreams[0].api_key_file: none cannot be read"]);
    check(
        key,
        "api_key_file: open",
        &["t.yaml:5:53: upstreams[0].api_key_file: open can be read by everyone"],
    );
    check(key, "api_key_file: .", &["t.yaml:5:53: upstreams[0].api_key_file: . is not a file"]);
    let both = "api_key: sk-canary, api_key_file: secret";
    check(key, both, &["t.yaml:5:59: upstreams[0].api_key_file: stands beside `api_key`"]);
}

#[test]
fn faults_of_upstreams() {
    let models = "name: u, models: [\"${MISSING}\"],";
    check("name: u,", models, &["t.yaml:5:25: upstreams[0].models[0]: the environment variable MISSING"]);
    check(
        "upstreams:",
        "upstreams: []\nlog:",
        &["t.yaml:4:12: upstreams: is empty: add one", "t.yaml:6:3: log: must be a mapping, not a list"],
    );
    let url = "\"https://h\"";
    check(url, "\"https://u:sk-canary@h\"", &["t.yaml:5:26: upstreams[0].base_url: must not have user info"]);
    check(
        "name: u,",
        "name: u, models: {a: c, d: a, \"*\": a},",
        &[
            "t.yaml:5:31: upstreams[0].models.d: model `d` has no price",
            "t.yaml:5:37: upstreams[0].models.\"*\": must be the name of a model",
        ],
    );
    check("name: u,", "name: u, models: [],", &["t.yaml:5:24: upstreams[0].models: names no model"]);
    check(
        "name: u,",
        "name: u, models: [\"*\", a],",
        &["t.yaml:5:25: upstreams[0].models[0]: serves every model"],
    );
    check(
        "name: u,",
        "name: u, models: a,",
        &["t.yaml:5:24: upstreams[0].models: must be a list or a mapping of names, not text"],
    );
    check(
        "name: u,",
        "name: u, limits: { requests_per_minute: 0, spend_usd_per_day: \"-1\" },",
        &[
            "t.yaml:5:47: upstreams[0].limits.requests_per_minute: must be a whole number from 1",
            "t.yaml:5:69: upstreams[0].limits.spend_usd_per_day: must be US dollars above zero",
        ],
    );
    let twice = "  - { name: u, base_url: \"http://h\", api_key: k }\n  - { name: u";
    check("  - { name: u", twice, &["t.yaml:6:13: upstreams[1].name: is the name of an upstream above"]);
}

#[test]
fn faults_of_the_whole_file() {
    check("gateway:", "a: [", &["t.yaml:"]);
    check(
        "prices: prices.yaml",
        "admin: {}",
        &["t.yaml:1:1: not valid YAML: duplicate entry with key \"admin\""],
    );
    check("prices: prices.yaml", "prices: none.yaml", &["t.yaml:3:9: prices: none.yaml cannot be read"]);
    check("prices: prices.yaml", "1: 2\nprices: prices.yaml", &["t.yaml:1:1: has a key that is a number"]);
    check("${TOKEN}", "${TOKEN", &["t.yaml:2:17: admin.token: has `${` without `}`"]);
    check_with(
        BOOK,
        "",
        &[
            "t.yaml:1:1: admin.token: is missing",
            "t.yaml:1:1: gateway.listen: is missing",
            "t.yaml:1:1: prices: is missing",
            "t.yaml:1:1: upstreams: is missing",
        ],
    );
    let faults = load(Path::new("/nowhere/t.yaml"), &environment).unwrap_err().to_string();
    assert!(faults.starts_with("/nowhere/t.yaml:1:1: /nowhere/t.yaml cannot be read: "), "{faults}");
}

#[test]
fn faults_of_the_price_book_come_after_and_hide_no_others() {
    let text = MINIMAL.replace("name: u,", "name: U, models: [zzz],");
    let book = BOOK.replace("\"2\"", "2");
    let expect = [
        "t.yaml:5:13: upstreams[0].name: must be",
        "prices.yaml:3:28: models.a.output: must be a decimal string",
        "prices.yaml:4:28: models.b.output: must be a decimal string",
    ];
    check_with(&book, &text, &expect);
    check_with("a: b: c", MINIMAL, &["prices.yaml:1:5: not valid YAML: "]);
}

#[test]
fn very_many_faults_are_cut_short() {
    let text = format!("{MINIMAL}{}", (0..300).map(|n| format!("x{n}: 1\n")).collect::<String>());
    let directory = directory(BOOK);
    let faults = load_text(directory.path(), &text).unwrap_err();
    assert_eq!(faults.as_slice().len(), 101);
    assert_eq!(faults.as_slice()[100].message, "200 more faults are not shown: mend these first");
}

#[test]
fn price_books_follow_on_each_other() {
    let directory = directory(BOOK);
    let dated = |name: &str, head: &str| {
        let book = BOOK.replace("version: v1", head).replace("  b:", "  c:");
        fs::write(directory.path().join(name), book).unwrap();
    };
    dated("later.yaml", "version: v2\neffective: 2999-12-01");
    dated("undated.yaml", "version: v3");
    dated("same.yaml", "version: v1\neffective: \"3000-01-01T06:00:00+02:00\"");
    dated("wrong.yaml", "version: v5\neffective: soon");
    let list = |list: &str| {
        let models = "models: [a, b, c], name: u";
        let text = MINIMAL.replace("prices.yaml", list).replace("name: u", models);
        load_text(directory.path(), &text)
    };
    let config = list("[prices.yaml, later.yaml]").unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(config.prices.to_string(), "v1, from 2999-12-01T00:00:00Z v2");
    for (files, says) in [
        ("[]", "t.yaml:3:9: prices: is empty: name a price book"),
        (
            "later.yaml",
            "t.yaml:3:9: prices: takes effect at 2999-12-01T00:00:00Z, and no book holds until then",
        ),
        ("[prices.yaml, undated.yaml]", "t.yaml:3:23: prices[1]: says not when it takes effect"),
        ("[prices.yaml, same.yaml]", "t.yaml:3:23: prices[1]: has the name of the book before it, `v1`"),
        ("[prices.yaml, same.yaml, later.yaml]", "t.yaml:3:34: prices[2]: takes effect no later than"),
        ("[prices.yaml, wrong.yaml]", "wrong.yaml:2:12: effective: must be a date such as 2026-12-01"),
        ("[prices.yaml, 7]", "t.yaml:3:23: prices[1]: must be text, not a number"),
    ] {
        let told = list(files).expect_err(files).to_string();
        assert!(told.contains(says), "{files}: {told}");
    }
}

#[test]
fn faults_are_objects_in_json() {
    let directory = directory(BOOK);
    let faults = load_text(directory.path(), &format!("{MINIMAL}log: 1\n")).unwrap_err();
    let json = serde_json::to_value(&faults).unwrap();
    assert_eq!(
        (&json[0]["line"], &json[0]["column"], &json[0]["path"]),
        (&6.into(), &6.into(), &"log".into())
    );
}

#[test]
fn the_shipped_files_load_and_need_their_environment_only() {
    let path = Path::new(SHIPPED).join("tollgate.yaml");
    let config = load(&path, &environment).unwrap_or_else(|faults| panic!("{faults}"));
    assert!(config.prices.each().all(|book| book.models.contains_key("gpt-4o-mini-2024-07-18")), "an alias");
    let faults = load(&path, &|_| None).unwrap_err();
    let paths: Vec<&str> = faults.as_slice().iter().map(|fault| fault.path.as_str()).collect();
    assert_eq!(paths, ["admin.token", "upstreams[0].api_key"]);
}

/// Without any one of its keys the shipped configuration is the same, or that key is required.
#[test]
fn the_shipped_values_are_the_defaults() {
    let path = Path::new(SHIPPED).join("tollgate.yaml");
    let shipped = load(&path, &environment).unwrap();
    let root: Value = serde_yaml::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    fs::copy(Path::new(SHIPPED).join("prices.yaml"), directory.path().join("prices.yaml")).unwrap();
    let (mut same, mut required) = (0, Vec::new());
    for index in 0.. {
        let mut shorter = root.clone();
        let Some(key) = edit(&mut shorter, &mut { index }, None) else { break };
        match load_text(directory.path(), &serde_yaml::to_string(&shorter).unwrap()) {
            // Where it was read from is another place.
            Ok(config) => {
                let config = Config { files: shipped.files.clone(), ..config };
                assert_eq!(config, shipped, "without {key}");
            }
            Err(faults) => {
                assert!(faults.to_string().contains("is missing"), "without {key}: {faults}");
                required.push(key);
                continue;
            }
        }
        same += 1;
    }
    let expect =
        ["gateway", "listen", "admin", "token", "prices", "upstreams", "name", "base_url", "api_key"];
    assert_eq!(required, expect);
    assert!(same > 28, "{same}");
}

/// Every key with every kind of value loads or is told, with a place in the text.
#[test]
fn no_value_is_a_surprise() {
    let values = "[~, true, 0, -1, 1.5, 18446744073709551615, '', x, '*', '${', \
                  [], [~], [{}], {}, {x: ~}, {1: 2}, !t x]";
    let values: Vec<Value> = serde_yaml::from_str(values).unwrap();
    let directory = directory(BOOK);
    let (mut loaded, mut told) = (0, 0);
    for file in ["tollgate.yaml", "prices.yaml"] {
        let root: Value =
            serde_yaml::from_str(&fs::read_to_string(Path::new(SHIPPED).join(file)).unwrap()).unwrap();
        for index in 0.. {
            if edit(&mut root.clone(), &mut { index }, None).is_none() {
                break;
            }
            for value in &values {
                let mut other = root.clone();
                edit(&mut other, &mut { index }, Some(value)).unwrap();
                let text = serde_yaml::to_string(&other).unwrap();
                let book = if file == "prices.yaml" { text.as_str() } else { BOOK };
                fs::write(directory.path().join("prices.yaml"), book).unwrap();
                let config = if file == "prices.yaml" { MINIMAL } else { text.as_str() };
                match load_text(directory.path(), config) {
                    Ok(_) => loaded += 1,
                    Err(faults) => {
                        let lines = text.lines().count().max(config.lines().count());
                        let placed = |line: usize| (1..=lines).contains(&line);
                        assert!(faults.as_slice().iter().all(|fault| placed(fault.line)), "{faults}");
                        told += 1;
                    }
                }
            }
        }
    }
    assert!(loaded > 50 && told > 1000, "{loaded} loaded, {told} told");
}

/// Removes the key that comes at `index` in the text, or gives it another value. Tells its name.
fn edit(value: &mut Value, index: &mut usize, other: Option<&Value>) -> Option<String> {
    match value {
        Value::Mapping(entries) => {
            let keys: Vec<Value> = entries.keys().cloned().collect();
            for key in keys {
                if *index == 0 {
                    match other {
                        Some(other) => *entries.get_mut(&key)? = other.clone(),
                        None => drop(entries.shift_remove(&key)?),
                    }
                    return key.as_str().map(str::to_owned);
                }
                *index -= 1;
                if let Some(name) = edit(entries.get_mut(&key)?, index, other) {
                    return Some(name);
                }
            }
            None
        }
        Value::Sequence(items) => items.iter_mut().find_map(|item| edit(item, index, other)),
        _ => None,
    }
}
