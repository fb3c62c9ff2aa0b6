//! The settings of acceptable use.

use super::Policy;
use super::raw;
use super::reader::{Node, Section};
use crate::policy::content::{BanRule, CATEGORIES, Category, Content, Mode};
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
/// Requests that wait to be judged.
const WAITING_MAX: u64 = 100_000;
/// More violations are no rule.
const VIOLATIONS_MAX: u64 = 1_000;
/// A year.
const WITHIN_HOURS_MAX: u64 = 8_760;

/// Reads the section `policy`.
pub(super) fn read(mut section: Section<'_>) -> Option<Policy> {
    let terms_version = section.get("terms_version").map(|node| node.parsed(version));
    let countries = section.get("countries").map(|node| countries(node.section()));
    let content = section.get("content").map(|node| content(node.section()));
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

fn content(mut section: Section<'_>) -> Option<Content> {
    let modes = [("off", Mode::Off), ("observe", Mode::Observe), ("enforce", Mode::Enforce)];
    let default = section.choice("mode", &modes);
    let waiting_max = section.number("waiting_max", 1..=WAITING_MAX, 1_000);
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
    let content = Content::new(default, categories, waiting_max);
    content.map_err(|(index, why)| entries[index].1.fault(format!("words: {why}"))).ok()
}

fn category(name: &str, node: &Node<'_>) -> Option<Category> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if !(1..=CATEGORY_BYTES_MAX).contains(&name.len()) || !name.bytes().all(fits) {
        node.fault("is a category whose name is not 1 to 40 of a-z, 0-9 and _");
    }
    let mut section = node.section();
    let words = section.required(super::reader::Required { key: "words", example: "hate.txt" });
    let ban = section.get("ban").map(|node| {
        let mut section = node.section();
        let violations = section.number("violations", 1..=VIOLATIONS_MAX, 3);
        let hours: u64 = section.number("within_hours", 1..=WITHIN_HOURS_MAX, 24);
        section.finish();
        BanRule { violations, within: Duration::from_secs(hours * 3_600) }
    });
    section.finish();
    let words = words?;
    let text = raw::read(&words.file()?).map_err(|why| words.fault(why)).ok()?;
    Some(Category { name: name.into(), words: Some(text.into()), ban })
}

fn header_name(text: &str) -> Result<Box<str>, &'static str> {
    let name = text.parse::<http::HeaderName>();
    name.map(|name| name.as_str().into()).map_err(|_| "must be the name of a header, such as cf-ipcountry")
}
