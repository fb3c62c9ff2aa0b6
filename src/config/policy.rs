//! The settings of acceptable use.

use super::Policy;
use super::reader::{Node, Section};
use crate::policy::countries::{Countries, Country, Database, Unknown};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The largest database that is read: those of cities have a tenth of it.
const DATABASE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// The longest version of the terms: more is not noted for a customer.
const VERSION_BYTES_MAX: usize = 256;
/// What a customer with a contract of their own has accepted: no version.
const CONTRACT: &str = "*";

/// Reads the section `policy`.
pub(super) fn read(mut section: Section<'_>) -> Option<Policy> {
    let terms_version = section.get("terms_version").map(|node| node.parsed(version));
    let countries = section.get("countries").map(|node| countries(node.section()));
    section.finish();
    Some(Policy { terms_version: sure(terms_version)?, countries: sure(countries)?.map(Arc::new) })
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

fn header_name(text: &str) -> Result<Box<str>, &'static str> {
    let name = text.parse::<http::HeaderName>();
    name.map(|name| name.as_str().into()).map_err(|_| "must be the name of a header, such as cf-ipcountry")
}
