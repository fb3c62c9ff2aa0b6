//! The setting of whose pages in browsers may call.

use super::Origins;
use super::reader::Section;

/// Stands for all origins.
const ANY: &str = "*";

/// Reads it out of the section `gateway`.
pub(super) fn read(section: &mut Section<'_>) -> Option<Origins> {
    let Some(list) = section.get("cors_origins") else { return Some(Origins::Any) };
    let items: Vec<Option<Box<str>>> = list.items().iter().map(|item| item.parsed(origin)).collect();
    let items = items.into_iter().collect::<Option<Vec<_>>>()?;
    match &*items {
        [only] if **only == *ANY => Some(Origins::Any),
        all if all.iter().any(|item| **item == *ANY) => {
            list.fault("\"*\" stands for all origins: leave the others out, or it");
            None
        }
        _ => Some(Origins::Listed(items.into())),
    }
}

/// As a browser sends it: without a path, in small letters, without the port that its scheme has anyway.
fn origin(text: &str) -> Result<Box<str>, &'static str> {
    let why = "must be \"*\" or an origin as browsers send it, such as \"https://app.example\"";
    let (scheme, host) = text.split_once("://").unwrap_or_default();
    let usual = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => "",
    };
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.:[]".contains(c);
    let is_origin =
        !usual.is_empty() && !host.is_empty() && host.chars().all(plain) && !host.ends_with(usual);
    if text == ANY || is_origin { Ok(text.into()) } else { Err(why) }
}
