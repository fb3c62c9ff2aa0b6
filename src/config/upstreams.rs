//! The upstream accounts of a configuration.

use super::book::is_model_name;
use super::reader::{Node, Required, Section};
use super::validate::{SecretKeys, secret};
use super::{BaseUrl, Check, Dialect, Drain, Limits, Models, OnHangUp, Scheme, Timeouts, Upstream, tls};
use crate::money::Amount;
use crate::settle::price::books::PriceBooks;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The longest name: it is a label of metrics and a word in each log line.
const NAME_CHARACTERS_MAX: usize = 40;
/// The largest weight.
const WEIGHT_MAX: u64 = 1000;
/// The last group.
const PRIORITY_MAX: u64 = 100;
/// More requests at once than one credential is ever allowed.
const CONCURRENCY_MAX: u64 = 100_000;
/// More requests or tokens in a minute than one credential is ever allowed.
const PER_MINUTE_MAX: u64 = 1_000_000_000;

/// The longest answer that any model writes, in tokens, many times over.
const DRAIN_TOKENS_MAX: u64 = 1_000_000_000;

/// Reads all of them. Without a price book, which then has faults of its own, prices are not checked.
pub(super) fn read(root: &mut Section<'_>, book: Option<&PriceBooks>) -> Option<Vec<Upstream>> {
    let example = "[{ name: openai-1, base_url: https://api.openai.com/v1, api_key: \"${OPENAI_API_KEY}\" }]";
    let list = root.required(Required { key: "upstreams", example })?;
    let items = list.items();
    if list.is_empty() {
        list.fault(format!("is empty: add one, such as `{example}`"));
    }
    let mut names = HashSet::new();
    // Not `collect` into an option: that would stop at the first fault.
    let upstreams: Vec<_> = items.iter().map(|item| upstream(item.section(), book, &mut names)).collect();
    upstreams.into_iter().collect()
}

fn upstream(
    mut section: Section<'_>,
    book: Option<&PriceBooks>,
    names: &mut HashSet<String>,
) -> Option<Upstream> {
    let name = section.required(Required { key: "name", example: "openai-1" });
    let name = name.and_then(|node| name_of(&node, names));
    let dialects =
        [("openai", Dialect::OpenAi), ("anthropic", Dialect::Anthropic), ("azure", Dialect::Azure)];
    let dialect = section.choice("dialect", &dialects);
    let api_version = section.get("api_version");
    if let Some(node) = api_version.clone().filter(|_| dialect != Dialect::Azure) {
        node.into_key().fault("is for `dialect: azure`: write that, or remove it");
    }
    let api_version = api_version.and_then(|node| node.parsed(version));
    let base_url = section.required(Required { key: "base_url", example: "https://api.openai.com/v1" });
    let base_url = base_url.and_then(|node| node.parsed(BaseUrl::parse));
    let api_key = secret(&mut section, SecretKeys { inline: "api_key", file: "api_key_file" });
    let ca_node = section.get("ca_file");
    let ca = ca_node.as_ref().map(tls::authorities);
    let models = section.get("models").map_or(Some(Models::All), |node| models(&node, book));
    let weight = section.number("weight", 1..=WEIGHT_MAX, 1);
    let check = section.choice("check", &[("models", Check::Models), ("connect", Check::Connect)]);
    let priority = section.number("priority", 0..=PRIORITY_MAX, 0);
    let limits = limits(section.section("limits"));
    let hang_ups = [("auto", OnHangUp::Auto), ("cancel", OnHangUp::Cancel), ("drain", OnHangUp::Drain)];
    let on_hang_up = section.choice("on_hang_up", &hang_ups);
    let drain = drain(section.section("drain"));
    let timeouts = timeouts(section.section("timeouts"));
    section.finish();
    let (name, base_url, models, api_key) = (name?, base_url?, models?, api_key?.0);
    if let (Some(node), Scheme::Http) = (ca_node, base_url.scheme) {
        node.into_key().fault("is for TLS: begin `base_url` with https://, or remove it");
    }
    let ca = match ca {
        Some(read) => Some(read?),
        None => None,
    };
    Some(Upstream {
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
    })
}

fn name_of(node: &Node<'_>, names: &mut HashSet<String>) -> Option<Arc<str>> {
    let name = node.text()?;
    let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !letters || !(1..=NAME_CHARACTERS_MAX).contains(&name.len()) {
        node.fault(format!("must be 1 to {NAME_CHARACTERS_MAX} of a-z, 0-9 and -"));
        return None;
    }
    if !names.insert(name.clone()) {
        node.fault(format!("is the name of an upstream above: rename one `{name}`"));
    }
    Some(name.into())
}

/// `["*"]`, a list of names, or a mapping from the name asked for to the provider's.
fn models(node: &Node<'_>, book: Option<&PriceBooks>) -> Option<Models> {
    if node.is_empty() {
        node.fault("names no model: write [\"*\"] for all, or add some");
    }
    if node.is_list() {
        Some(models_list(&node.items(), book))
    } else if node.is_mapping() {
        Some(models_map(node, book))
    } else {
        node.mismatch("a list or a mapping of names");
        None
    }
}

fn models_list(items: &[Node<'_>], book: Option<&PriceBooks>) -> Models {
    let mut names = HashMap::new();
    let mut all = None;
    for item in items {
        match item.text() {
            Some(text) if text == "*" => all = Some(item),
            Some(text) => {
                check_model(item, &text, book);
                if names.insert(text.as_str().into(), text.as_str().into()).is_some() {
                    item.fault(format!("is listed twice: remove one `{text}`"));
                }
            }
            None => {}
        }
    }
    match all {
        Some(star) => {
            if items.len() > 1 {
                star.fault("serves every model already: keep either \"*\" or the names");
            }
            Models::All
        }
        None => Models::Only(names),
    }
}

fn models_map(node: &Node<'_>, book: Option<&PriceBooks>) -> Models {
    let mut names = HashMap::new();
    for (asked, target) in node.entries() {
        check_model(&target.clone().into_key(), asked, book);
        let Some(provider) = target.text() else { continue };
        // The provider's own name is never sold: it needs no price.
        check_model(&target, &provider, None);
        names.insert(asked.into(), provider.into());
    }
    Models::Only(names)
}

fn check_model(node: &Node<'_>, name: &str, book: Option<&PriceBooks>) {
    if !is_model_name(name) {
        node.fault("must be the name of a model: 1 to 128 of A-Z, a-z, 0-9 and . _ : / -");
    } else if book.is_some_and(|books| books.each().all(|book| book.find(name).is_none())) {
        node.fault(format!("model `{name}` has no price: add it to the price book, or remove it here"));
    }
}

/// A version is put into a path as it is.
fn version(text: &str) -> Result<Box<str>, &'static str> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    if plain && (1..=NAME_CHARACTERS_MAX).contains(&text.len()) {
        Ok(text.into())
    } else {
        Err("must be a version of Azure's API, such as \"2024-10-21\"")
    }
}

/// Whether an account serves moderations by this model.
pub(super) fn serves(upstream: &Upstream, model: &str) -> bool {
    upstream.dialect == Dialect::OpenAi && upstream.models.provider_name(model).is_some()
}

fn limits(mut section: Section<'_>) -> Limits {
    let concurrency = section.number("concurrency", 1..=CONCURRENCY_MAX, 2_000);
    let mut rate = |key| section.get(key).and_then(|node| node.number(1..=PER_MINUTE_MAX));
    let (requests_per_minute, tokens_per_minute) = (rate("requests_per_minute"), rate("tokens_per_minute"));
    let spend_per_day = section.get("spend_usd_per_day").and_then(|node| node.parsed(spend));
    section.finish();
    Limits { concurrency, requests_per_minute, tokens_per_minute, spend_per_day }
}

fn spend(text: &str) -> Result<Amount, &'static str> {
    let amount = Amount::parse(text).ok().filter(|amount| *amount > Amount::ZERO);
    amount.ok_or("must be US dollars above zero, such as \"100.00\"")
}

fn drain(mut section: Section<'_>) -> Drain {
    let time = section.millis("timeout_ms", 300_000);
    let tokens_max = section.number("tokens_max", 0..=DRAIN_TOKENS_MAX, 32_768);
    section.finish();
    Drain { time, tokens_max }
}

fn timeouts(mut section: Section<'_>) -> Timeouts {
    let timeouts = Timeouts {
        connect: section.millis("connect_ms", 5_000),
        first_byte: section.optional_millis("first_byte_ms"),
        silence: section.millis("silence_ms", 120_000),
        total: section.millis("total_ms", 3_600_000),
    };
    section.finish();
    timeouts
}
