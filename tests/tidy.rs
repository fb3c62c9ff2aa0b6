//! The shape of the source, held by a test: who may name what, how long files are, how tests wait.
//!
//! Reads text and knows no syntax: that is enough for rules about lines.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of a file; only tests that stand in a file of their own may have more.
const FILE_LINES_MAX: usize = 500;
/// Lines of a function.
const FUNCTION_LINES_MAX: usize = 70;

/// A source file: its path from the root of the project, with slashes, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// Its text without its tests, which come last.
    fn code(&self) -> &str {
        self.text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default()
    }

    fn is_below(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path == *place || self.path.starts_with(&format!("{place}/")))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below a folder of the project.
fn sources(folder: &str) -> Vec<Source> {
    let mut paths = Vec::new();
    walk(&root().join(folder), &mut paths);
    paths.sort_unstable();
    let read = |path: PathBuf| Source {
        text: fs::read_to_string(&path).unwrap(),
        path: path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned(),
    };
    let sources: Vec<Source> = paths.into_iter().map(read).collect();
    assert!(!sources.is_empty(), "{folder}");
    sources
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Whether a line says something to the compiler that holds this word.
fn says(line: &str, word: &str) -> bool {
    let line = line.trim_start();
    !line.starts_with("//") && line.contains(word)
}

/// Lines of `text` that hold one of `words`, as `path:line: word`.
fn found(source: &Source, text: &str, words: &[&str]) -> Vec<String> {
    let lines = text.lines().enumerate();
    let hits = lines.flat_map(|(number, line)| {
        let words = words.iter().filter(move |word| says(line, word));
        words.map(move |word| (number + 1, *word))
    });
    hits.map(|(line, word)| format!("{}:{line}: {word}", source.path)).collect()
}

/// The words stand in no source file but these.
#[track_caller]
fn only_in(places: &[&str], words: &[&str]) {
    let sources = sources("src");
    assert!(sources.iter().any(|source| source.is_below(places)), "{places:?}");
    let others = sources.iter().filter(|source| !source.is_below(places));
    none(others.flat_map(|source| found(source, source.code(), words)));
}

/// These files and folders are there, and hold none of the words.
#[track_caller]
fn never_in(places: &[&str], words: &[&str]) {
    let sources = sources("src");
    for place in places {
        assert!(sources.iter().any(|source| source.is_below(&[place])), "there is no {place}");
    }
    let those = sources.iter().filter(|source| source.is_below(places));
    none(those.flat_map(|source| found(source, source.code(), words)));
}

#[track_caller]
fn none(faults: impl IntoIterator<Item = String>) {
    let faults: Vec<String> = faults.into_iter().collect();
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn only_the_edge_names_pingoras_sessions() {
    let words =
        ["pingora_proxy::", "pingora_http::", "pingora::protocols", "pingora::upstreams", "HttpSession"];
    only_in(&["src/proxy", "src/app.rs", "src/app"], &words);
    only_in(&["src/proxy", "src/app.rs", "src/app", "src/upstream/addresses.rs"], &["pingora"]);
}

#[test]
fn each_library_of_a_store_or_of_metrics_has_one_place() {
    only_in(&["src/ledger/state.rs"], &["sled::", "use sled"]);
    only_in(&["src/record/metrics.rs"], &["prometheus::", "use prometheus"]);
    only_in(&["src/meter/tokenizer.rs"], &["tiktoken_rs"]);
    only_in(&["src/meter/decode.rs", "src/simulate"], &["brotli::", "flate2::"]);
    let arguments = ["src/cli", "src/config/book.rs", "src/config", "src/main.rs"];
    only_in(&arguments, &["clap::", "serde_yaml::"]);
    let http = ["src/admin", "src/simulate", "src/app.rs", "src/app"];
    only_in(&http, &["axum::"]);
}

#[test]
fn the_pure_core_knows_no_clock_no_task_no_socket_and_no_file() {
    let pure = [
        "src/ledger/book.rs",
        "src/ledger/booking.rs",
        "src/ledger/codec.rs",
        "src/ledger/command.rs",
        "src/ledger/customer.rs",
        "src/ledger/decide.rs",
        "src/ledger/entry.rs",
        "src/ledger/legs.rs",
        "src/ledger/standing.rs",
        "src/settle",
        "src/meter",
        "src/upstream/select.rs",
        "src/upstream/health.rs",
        "src/upstream/fair.rs",
        "src/upstream/headroom.rs",
        "src/upstream/latency.rs",
        "src/upstream/limits.rs",
        "src/upstream/told.rs",
        "src/upstream/window.rs",
        "src/admit/estimate.rs",
        "src/admit/rate.rs",
        "src/admit/gate/elsewhere.rs",
        "src/id.rs",
        "src/money.rs",
        "src/usage.rs",
        "src/endpoint.rs",
    ];
    let words = [
        "tokio",
        "pingora",
        "SystemTime",
        "Instant::now",
        "Timestamp::now",
        "std::fs",
        "std::net",
        "std::thread",
        "std::env",
        "fastrand",
        "ring::rand",
        "tracing::",
    ];
    never_in(&pure, &words);
}

#[test]
fn modules_import_what_the_design_says() {
    // Who may name whom, beside themselves. What is not listed is the edge or the root.
    let may = [
        ("src/id.rs", &[][..]),
        ("src/money.rs", &[]),
        ("src/usage.rs", &[]),
        ("src/endpoint.rs", &[]),
        ("src/clock.rs", &[]),
        ("src/settle", &["money", "usage", "clock"]),
        ("src/meter", &["usage", "endpoint", "settle::price"]),
        ("src/auth", &["id", "clock"]),
        // The ledger knows amounts, never tokens, models or HTTP.
        ("src/ledger", &["id", "money", "clock"]),
        ("src/policy", &["id", "clock"]),
        ("src/admit", &["auth", "id", "ledger", "money", "policy", "usage", "settle::price", "clock"]),
        ("src/upstream", &["config", "clock", "endpoint", "id", "money"]),
        ("src/config", &["policy", "settle::price", "money", "usage", "clock", "id"]),
        ("src/simulate", &["usage", "clock", "endpoint"]),
    ];
    let sources = sources("src");
    let mut faults = Vec::new();
    for (place, names) in may {
        let own = place.trim_start_matches("src/").trim_end_matches(".rs");
        let those: Vec<&Source> = sources.iter().filter(|source| source.is_below(&[place])).collect();
        assert!(!those.is_empty(), "there is no {place}");
        for source in those {
            for (number, line) in source.code().lines().enumerate().filter(|(_, line)| says(line, "crate::"))
            {
                for named in line.split("crate::").skip(1) {
                    let fits = |name: &str| {
                        named
                            .strip_prefix(name)
                            .is_some_and(|rest| rest.starts_with("::") || rest.starts_with([';', ')']))
                    };
                    if !fits(own) && !names.iter().any(|name| fits(name)) {
                        faults.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
                    }
                }
            }
        }
    }
    none(faults);
}

#[test]
fn only_respond_chooses_error_statuses() {
    let sources = sources("src/proxy");
    let elsewhere = sources.iter().filter(|source| !source.is_below(&["src/proxy/respond.rs"]));
    // A judgement of a provider's status is no choice of ours.
    let words = ["json_answer(StatusCode::", "ResponseHeader::build(4", "ResponseHeader::build(5"];
    none(elsewhere.flat_map(|source| found(source, source.code(), &words)));
}

#[test]
fn files_and_functions_are_of_a_readable_length() {
    let mut faults = Vec::new();
    for source in sources("src") {
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX && !source.path.ends_with("/tests.rs") {
            faults.push(format!("{} has {lines} lines", source.path));
        }
        faults.extend(long_functions(&source));
        if !source.text.starts_with("//!") {
            faults.push(format!("{} does not begin by saying what it is", source.path));
        }
    }
    none(faults);
}

/// Functions with too many lines: from `fn` to the brace at the same indent, as rustfmt sets it.
fn long_functions(source: &Source) -> Vec<String> {
    let lines: Vec<&str> = source.text.lines().collect();
    let is_function = |line: &str| {
        let line = line.trim_start();
        line.starts_with("fn ")
            || line.starts_with("pub") && line.contains(" fn ")
            || ["async fn ", "const fn "].iter().any(|start| line.starts_with(start))
    };
    let mut faults = Vec::new();
    for (start, line) in lines.iter().enumerate().filter(|(_, line)| is_function(line)) {
        let indent = &line[..line.len() - line.trim_start().len()];
        let end = format!("{indent}}}");
        let length = lines[start..].iter().position(|line| *line == end).map_or(1, |length| length + 1);
        // One without a body ends at its semicolon, long before the next brace at its indent.
        let signature =
            lines[start..].iter().take(length).find(|line| line.ends_with(';') || line.ends_with('{'));
        if length > FUNCTION_LINES_MAX && signature.is_some_and(|line| line.ends_with('{')) {
            faults.push(format!("{}:{}: a function of {length} lines", source.path, start + 1));
        }
    }
    faults
}

#[test]
fn the_rules_find_what_they_look_for() {
    let body = "        x();\n".repeat(FUNCTION_LINES_MAX);
    let text = format!(
        "//! Doc.\nimpl A {{\n    pub(super) async fn long(\n    ) {{\n{body}    }}\n    fn short() {{\n    }}\n}}\n"
    );
    let source = Source { path: "a.rs".into(), text };
    assert_eq!(long_functions(&source), ["a.rs:3: a function of 73 lines"]);
    assert_eq!(found(&source, &source.text, &["fn short"]), ["a.rs:76: fn short"]);
    let tested = "use a;\n// use b\n\n#[cfg(test)]\nmod tests {\n    use c;\n}\n";
    let source = Source { path: "b.rs".into(), text: tested.into() };
    assert_eq!(found(&source, source.code(), &["use b", "use c", "use a"]), ["b.rs:1: use a"]);
}

#[test]
fn nothing_is_left_to_do_or_switched_off() {
    let words = [
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("db", "g!("),
        concat!("#[ig", "nore"),
        concat!("un", "safe {"),
        concat!("allow(clippy::", "cast"),
    ];
    let all = sources("src").into_iter().chain(sources("tests"));
    none(all.flat_map(|source| found(&source, &source.text, &words)));
}

#[test]
fn no_number_is_cast() {
    let mut faults = Vec::new();
    for source in sources("src").into_iter().chain(sources("tests/it")) {
        for (number, line) in source.text.lines().enumerate().filter(|(_, line)| says(line, " as ")) {
            let types =
                ["u8", "u16", "u32", "u64", "u128", "usize", "i8", "i16", "i32", "i64", "i128", "f32", "f64"];
            let mut targets = line.split(" as ").skip(1);
            let is_type = |rest: &str| {
                let word: String =
                    rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                types.contains(&word.as_str())
            };
            if targets.any(is_type) {
                faults.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    none(faults);
}

#[test]
fn modules_are_named_by_what_they_do() {
    let bad = ["utils", "util", "common", "types", "manager", "handler", "handlers", "helpers", "misc"];
    let all = sources("src").into_iter().chain(sources("tests"));
    let named = all.filter(|source| source.path.split(['/', '.']).any(|part| bad.contains(&part)));
    none(named.map(|source| source.path));
}

/// The invariants of the ledger, and for each a test that fails by its name when it does not hold.
const INVARIANTS: [(&str, &str, &str, &str); 10] = [
    ("I1", "the legs of every entry sum to zero", "tests/model.rs", "the_book_says_what_a_plain_book_says"),
    (
        "I2",
        "a balance is the sum of its entries, and what the state store says",
        "src/ledger/tests/simulator.rs",
        "a_thousand_seeds_of_crashes",
    ),
    (
        "I3",
        "what is available is never below what may be owed",
        "tests/model.rs",
        "the_book_says_what_a_plain_book_says",
    ),
    ("I4", "each hold ends once", "src/ledger/tests/simulator.rs", "a_thousand_seeds_of_crashes"),
    (
        "I5",
        "captured and released are held and extended; overage is an entry of its own; refunds are at most the charge",
        "src/ledger/tests/entries.rs",
        "what_no_book_could_say_is_refused",
    ),
    ("I6", "each complete delivery has a durable capture", "tests/crash/books.rs", "audit"),
    (
        "I7",
        "deposits + written off + refunds + adjustments = balances + revenue + forfeited",
        "src/ledger/tests/simulator.rs",
        "a_thousand_seeds_of_crashes",
    ),
    (
        "I8",
        "no sequence number is missing, and folding the journal gives the state store",
        "src/ledger/tests/simulator.rs",
        "a_thousand_seeds_of_crashes",
    ),
    (
        "I9",
        "each charge follows from its record",
        "src/ledger/tests/entries.rs",
        "a_charge_that_its_record_does_not_amount_to",
    ),
    ("I10", "charges are what the provider says it served", "tests/crash/books.rs", "audit"),
];

#[test]
fn each_invariant_is_held_by_a_test_that_names_it() {
    let mut faults = Vec::new();
    for (number, (name, _, file, function)) in (1..).zip(INVARIANTS) {
        assert_eq!(name, format!("I{number}"));
        let text = fs::read_to_string(root().join(file)).unwrap_or_default();
        let named =
            text.lines().any(|line| says(line, &format!("\"{name}")) || says(line, &format!(": {name}:")));
        if !named || !text.contains(&format!("fn {function}")) {
            faults.push(format!("{file}: {function} does not hold {name}"));
        }
    }
    none(faults);
}

/// What may go wrong with a charge, and the test that says what comes of it then.
const CASES: [(&str, &str, &str); 24] = [
    ("a crash with open holds", "tests/crash.rs", "what_clients_received_is_charged_exactly_through_kills"),
    (
        "a crash with a stream that was extended",
        "tests/it/slices.rs",
        "a_crash_costs_what_the_last_extension_says_was_delivered",
    ),
    ("a crash while a batch is out", "tests/it/batches.rs", "a_batch_is_charged_over_kills_and_upgrades"),
    (
        "the credit of a stream ends",
        "tests/it/slices.rs",
        "a_stream_whose_credit_ends_is_ended_in_its_own_dialect",
    ),
    (
        "a client hangs up",
        "tests/it/hang_up.rs",
        "hanging_up_stops_the_provider_and_costs_what_was_delivered",
    ),
    (
        "a client hangs up, drained",
        "tests/it/hang_up.rs",
        "hanging_up_on_a_drained_stream_costs_what_the_provider",
    ),
    (
        "a drain that runs out",
        "tests/it/hang_up.rs",
        "a_drain_that_runs_out_costs_what_the_provider_was_stopped_at",
    ),
    (
        "an upstream is cut without usage",
        "tests/it/money.rs",
        "a_stream_that_is_cut_costs_what_was_delivered",
    ),
    (
        "the answer is an error",
        "tests/it/answers.rs",
        "a_request_that_the_provider_finds_wrong_is_told_so_and_free",
    ),
    ("retries over accounts", "tests/it/pool.rs", "an_error_of_one_account_is_served_by_another"),
    ("a capture above the hold", "tests/it/money.rs", "a_charge_above_its_hold_takes_the_balance_to_zero"),
    ("prices that change", "tests/it/prices.rs", "a_version_takes_effect_at_its_date_without_a_restart"),
    ("an absurd usage", "tests/it/answers.rs", "a_usage_that_cannot_be_true_is_estimated_and_flagged"),
    ("a usage of zero", "tests/it/answers.rs", "a_zero_that_is_reported_is_a_zero"),
    ("the clock steps", "src/ledger/tests/simulator.rs", "a_thousand_seeds_of_crashes"),
    ("a full disk", "src/ledger/tests/full.rs", "in_flight_is_finished_nothing_is_admitted_and_it_goes_on"),
    ("a failed fsync", "src/ledger/tests/failing.rs", "a_failed_fsync_is_told_to_all_who_wait"),
    ("a torn tail", "src/ledger/tests/damage.rs", "a_journal_cut_at_any_byte_opens_with_the_whole_frames"),
    ("a flipped bit", "src/ledger/tests/damage.rs", "a_flipped_bit_below_a_durable_mark_is_refused"),
    ("no state store", "src/ledger/tests/store.rs", "a_missing_state_is_made_anew"),
    ("a damaged state store", "src/ledger/tests/store.rs", "a_damaged_state_is_made_anew"),
    (
        "a state store that fails",
        "src/ledger/tests/keeper.rs",
        "a_store_whose_write_failed_follows_the_journal_again",
    ),
    ("no archive", "src/ledger/tests/archive.rs", "a_start_needs_nothing_of_the_archive"),
    ("a deposit sent twice", "tests/model/ledger.rs", "one_reference_from_many_threads_is_one_deposit"),
];

#[test]
fn each_case_is_decided_by_a_test() {
    none(CASES.iter().filter_map(|(case, file, function)| {
        let text = fs::read_to_string(root().join(file)).unwrap_or_default();
        (!text.contains(&format!("fn {function}"))).then(|| format!("{case}: {file} has no {function}"))
    }));
}

/// Keys that the source asks a configuration for, as `.number("KEY"`, `key: "KEY"` and their like.
fn asked_keys(code: &str) -> BTreeSet<&str> {
    let asks = [".get(", ".number(", ".millis(", ".choice(", ".section(", "key: ", "inline: ", "file: "];
    let keys = asks.iter().flat_map(|ask| code.split(ask).skip(1));
    let keys = keys.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next());
    let is_key =
        |key: &&str| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    keys.filter(is_key).collect()
}

#[test]
fn each_key_of_the_configuration_is_explained_where_it_is_written() {
    let explained = |file: &str| fs::read_to_string(root().join("conf").join(file)).unwrap();
    let (settings, prices) = (explained("tollgate.yaml"), explained("prices.yaml"));
    let mut faults = Vec::new();
    let mut count = 0;
    for source in sources("src/config").iter().filter(|source| !source.path.ends_with("/tests.rs")) {
        let of_prices =
            source.is_below(&["src/config/book.rs", "src/config/rates.rs", "src/config/import.rs"]);
        for key in asked_keys(source.code()) {
            count += 1;
            let is = if of_prices { prices.contains(key) } else { settings.contains(&format!("{key}:")) };
            if !is {
                faults.push(format!("{}: `{key}` is not explained", source.path));
            }
        }
    }
    assert!(count > 60, "{count}");
    none(faults);
}

#[test]
fn tests_wait_for_a_reason() {
    // A wait is one step of looking for something: it stands in a function `eventually`.
    let sleep = concat!("sle", "ep(");
    let mut faults = Vec::new();
    for source in sources("tests") {
        let mut function = "";
        for (number, line) in source.text.lines().enumerate() {
            if says(line, "fn ") {
                function = line;
            }
            if says(line, sleep) && !function.contains("fn eventually") {
                faults.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    none(faults);
}

#[test]
fn tests_listen_where_the_system_says() {
    let mut faults = Vec::new();
    for source in sources("tests") {
        for (number, line) in source.text.lines().enumerate() {
            for port in line.split("127.0.0.1:").skip(1) {
                let digits = port.chars().take_while(char::is_ascii_digit).count();
                // 0 is any that is free; 1 is one that nobody listens on.
                if digits > 1 {
                    faults.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
                }
            }
        }
    }
    none(faults);
}

#[test]
fn the_code_is_formatted() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let available = Command::new(&cargo).args(["fmt", "--version"]).output();
    if !available.is_ok_and(|output| output.status.success()) {
        eprintln!("cargo fmt is not there: nothing was checked");
        return;
    }
    let output = Command::new(&cargo).args(["fmt", "--check"]).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
