//! The settings of acceptable use.

use super::raw;
use super::reader::{Node, Section};
use super::upstreams::serves;
use super::{Policy, Upstream};
use crate::policy::content::{
    BanRule, Bounds, CATEGORIES, Category, Content, Mode, Moderation, OnFailure, Score, Threshold,
};
use crate::policy::countries::{Countries, Country, Database, Unknown};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// The largest database that is read: those of cities have a tenth of it.
const DATABASE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// The longest version of the terms: more is not noted for a customer.
const VERSION_BYTES_MAX: usize = 256;
/// What a customer with a contract of their own has accepted: no version.
const CONTRACT: &str = "*";

/// Categories: each is a label of a metric.
const CATEGORIES_MAX: usize = 32;
/// A name of a category.
const CATEGORY_BYTES_MAX: usize = 40;
/// What OpenAI serves, free of charge.
const MODERATION_MODEL: &str = "omni-moderation-latest";
/// Labels of a provider in one category.
const LABELS_MAX: usize = 32;
/// Each is a question of its own.
const IMAGES_MAX: u64 = 64;
/// Of more answers than this, none might as well be judged.
const ONE_IN_MAX: u64 = 1_000_000;
/// Texts that wait to be judged.
const WAITING_MAX: u64 = 100_000;
/// More violations are no rule.
const VIOLATIONS_MAX: u64 = 1_000;
/// A year.
const WITHIN_HOURS_MAX: u64 = 8_760;

/// Reads the section `policy`.
pub(super) fn read(mut section: Section<'_>, upstreams: Option<&[Upstream]>) -> Option<Policy> {
    let terms_version = section.get("terms_version").map(|node| node.parsed(version));
    let countries = section.get("countries").map(|node| countries(node.section()));
    let content = section.get("content").map(|node| content(node.section(), upstreams));
    section.finish();
    let (terms_version, countries, content) = (sure(terms_version)?, sure(countries)?, sure(content)?);
    Some(Policy { terms_version, countries: countries.map(Arc::new), content: content.map(Arc::new) })
}

/// A setting with faults is not the same as none.
fn sure<T>(read: Option<Option<T>>) -> Option<Option<T>> {
    read.map_or(Some(None), |read| read.map(Some))
}

fn version(text: &str) -> Result<Arc<str>, &'static str> {
    let fits = (1..=VERSION_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
    match fits && text != CONTRACT {
        true => Ok(text.into()),
        false => Err("must be 1 to 256 bytes without control characters, such as 2026-11-01"),
    }
}

fn countries(mut section: Section<'_>) -> Option<Countries> {
    let deny = section.required(super::reader::Required { key: "deny", example: "[KP]" });
    let deny = deny.and_then(|list| codes(&list));
    let unknown = section.choice("unknown", &[("serve", Unknown::Serve), ("deny", Unknown::Deny)]);
    let (file, header) = (section.get("database"), section.get("header"));
    if file.is_none() && header.is_none() {
        section.fault("database", "is missing: add `database: GeoLite2-Country.mmdb`, or `header`");
    }
    section.finish();
    let database = file.map(|node| database(&node));
    let header = header.map(|node| node.parsed(header_name));
    Some(Countries { deny: deny?, unknown, database: sure(database)?, header: sure(header)? })
}

fn codes(list: &Node<'_>) -> Option<BTreeSet<Country>> {
    let why = "must be the two letters of a country, such as KP";
    let code = |item: &Node<'_>| item.parsed(|text| Country::parse(text).ok_or(why));
    // Not `collect` into an option: that would stop at the first fault.
    let codes: Vec<Option<Country>> = list.items().iter().map(code).collect();
    codes.into_iter().collect()
}

fn database(node: &Node<'_>) -> Option<Database> {
    let path = node.file()?;
    let unreadable = |why: std::io::Error| format!("{} cannot be read: {why}", path.display());
    let read = || {
        let length = std::fs::metadata(&path).map_err(unreadable)?.len();
        if length > DATABASE_BYTES_MAX {
            return Err(format!("{} is larger than {DATABASE_BYTES_MAX} bytes", path.display()));
        }
        Database::new(std::fs::read(&path).map_err(unreadable)?)
    };
    read().map_err(|why| node.fault(why)).ok()
}

fn content(mut section: Section<'_>, upstreams: Option<&[Upstream]>) -> Option<Content> {
    let modes = [("off", Mode::Off), ("observe", Mode::Observe), ("enforce", Mode::Enforce)];
    let default = section.choice("mode", &modes);
    let bounds = Bounds {
        output_one_in: section.number("output_one_in", 0..=ONE_IN_MAX, 0),
        waiting_max: section.number("waiting_max", 1..=WAITING_MAX, 1_000),
    };
    let mut asked = section.section("moderation");
    let (moderation, model) = moderation(&mut asked);
    asked.finish();
    let list = section
        .required(super::reader::Required { key: "categories", example: "{ hate: { words: hate.txt } }" });
    section.finish();
    let list = list?;
    let entries = list.entries();
    if entries.is_empty() || entries.len() > CATEGORIES_MAX {
        list.fault(format!("must have 1 to {CATEGORIES_MAX} categories, such as {}", CATEGORIES.join(", ")));
    }
    // Not `collect` into an option: that would stop at the first fault.
    let read: Vec<Option<Category>> = entries.iter().map(|(name, node)| category(name, node)).collect();
    let categories = read.into_iter().collect::<Option<Vec<_>>>()?;
    let asks = categories.iter().any(|category| !category.thresholds.is_empty());
    if asks && upstreams.is_some_and(|all| !all.iter().any(|upstream| serves(upstream, &moderation.model))) {
        let why = format!("no upstream account serves the moderation model `{}`", moderation.model);
        model.as_ref().unwrap_or(&list).fault(why);
    }
    let content = Content::new(default, categories, Some(moderation), bounds);
    content.map_err(|(index, why)| entries[index].1.fault(format!("words: {why}"))).ok()
}

/// How a provider is asked, and where its model stands.
fn moderation<'a>(section: &mut Section<'a>) -> (Moderation, Option<Node<'a>>) {
    let node = section.get("model");
    let named = node.as_ref().and_then(Node::text).filter(|name| !name.is_empty());
    let model = named.unwrap_or_else(|| MODERATION_MODEL.to_owned()).into();
    let timeout = section.millis("timeout_ms", 5_000);
    let outcomes = [("closed", OnFailure::Closed), ("open", OnFailure::Open)];
    let on_failure = section.choice("on_failure", &outcomes);
    let on_unreadable = section.choice("on_unreadable", &outcomes);
    let images_max = section.number("images_max", 0..=IMAGES_MAX, 8);
    (Moderation { model, timeout, on_failure, on_unreadable, images_max }, node)
}

fn category(name: &str, node: &Node<'_>) -> Option<Category> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if !(1..=CATEGORY_BYTES_MAX).contains(&name.len()) || !name.bytes().all(fits) {
        node.fault("is a category whose name is not 1 to 40 of a-z, 0-9 and _");
    }
    let mut section = node.section();
    let (words, thresholds) = (section.get("words"), section.get("moderation"));
    if words.is_none() && thresholds.is_none() {
        section.fault("words", "is missing: add `words: hate.txt`, or `moderation: { hate: \"0.5\" }`");
    }
    let ban = section.get("ban").map(|node| {
        let mut section = node.section();
        let violations = section.number("violations", 1..=VIOLATIONS_MAX, 3);
        let hours: u64 = section.number("within_hours", 1..=WITHIN_HOURS_MAX, 24);
        section.finish();
        BanRule { violations, within: Duration::from_secs(hours * 3_600) }
    });
    section.finish();
    let text = words.map(|words| raw::read(&words.file()?).map_err(|why| words.fault(why)).ok());
    let thresholds = thresholds.map(|node| self::thresholds(&node));
    let (words, thresholds) = (sure(text)?.map(Into::into), sure(thresholds)?.unwrap_or_default());
    Some(Category { name: name.into(), words, thresholds, ban })
}

/// Labels of a provider, each with the score from which on it counts.
fn thresholds(node: &Node<'_>) -> Option<Vec<Threshold>> {
    let why = "must be a decimal string above 0, up to 1, such as \"0.5\"";
    let score = |text: &str| Score::parse(text).filter(|score| *score > Score(0)).ok_or(why);
    let entries = node.entries();
    if entries.is_empty() || entries.len() > LABELS_MAX {
        node.fault(format!("must have 1 to {LABELS_MAX} labels of the provider, such as hate: \"0.5\""));
    }
    let threshold = |(label, node): &(&str, Node<'_>)| {
        Some(Threshold { label: (*label).into(), score: node.parsed(score)? })
    };
    // Not `collect` into an option: that would stop at the first fault.
    let read: Vec<Option<Threshold>> = entries.iter().map(threshold).collect();
    read.into_iter().collect()
}

fn header_name(text: &str) -> Result<Box<str>, &'static str> {
    let name = text.parse::<http::HeaderName>();
    name.map(|name| name.as_str().into()).map_err(|_| "must be the name of a header, such as cf-ipcountry")
}
