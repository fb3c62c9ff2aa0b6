//! `audit list`: who changed what by the admin API.

use super::Done;
use super::client::Client;
use super::table::{layout, print, print_json};
use crate::admin::{AuditLine, AuditPage};
use crate::clock::Timestamp;
use crate::ledger::Seq;
use clap::{Args, Subcommand};
use serde_json::{Map, Value};

/// What can be done with the audit.
#[derive(Subcommand)]
pub enum AuditCommand {
    /// Every change, in order: when, by whom, what, and what it was before and after
    List(Which),
}

/// Which changes are listed.
#[derive(Args)]
pub struct Which {
    /// Of this customer, key or upstream account only
    #[arg(long)]
    subject: Option<String>,
    /// Not before this time: RFC 3339, or a date
    #[arg(long, value_parser = super::time)]
    from: Option<Timestamp>,
    /// Before this time
    #[arg(long, value_parser = super::time)]
    to: Option<Timestamp>,
}

/// `audit list`
pub fn list(client: &Client, which: &Which) -> Done {
    let bound = |name: &str, value: Option<String>| value.map(|value| format!("&{name}={value}"));
    let bounds = [
        bound("subject", which.subject.as_deref().map(escaped)),
        bound("from", which.from.map(|at| at.to_string())),
        bound("to", which.to.map(|at| at.to_string())),
    ];
    let bounds = bounds.into_iter().flatten().collect::<String>();
    let mut after = Some(Seq::START);
    while let Some(place) = after {
        let page: AuditPage = client.get(&format!("/audit?after={place}{bounds}"))?;
        if client.json {
            page.lines.iter().try_for_each(print_json)?;
        } else if !page.lines.is_empty() || place == Seq::START {
            let rows: Vec<Vec<String>> = page.lines.iter().map(row).collect();
            print(&layout(&["AT", "BY", "ACTION", "SUBJECT", "CHANGED"], &rows, &[]))?;
        }
        after = page.next;
    }
    Ok(())
}

/// For a query: what could end the value is written by its number.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).into() } else { format!("%{byte:02X}") })
        .collect()
}

fn row(line: &AuditLine) -> Vec<String> {
    let action = super::shown_name(&line.action);
    vec![line.at.to_string(), line.by.to_string(), action, line.subject.to_string(), changed(line)]
}

/// What differs, as `status: active -> banned`; of what is new, its name.
fn changed(line: &AuditLine) -> String {
    let empty = Map::new();
    let after = line.after.as_object().unwrap_or(&empty);
    let Some(Value::Object(before)) = &line.before else {
        return after.get("name").map(plain).unwrap_or_default();
    };
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let differs = names.into_iter().filter(|name| before.get(*name) != after.get(*name));
    let told = |of: &Map<String, Value>, name: &str| of.get(name).map_or("none".into(), plain);
    let told: Vec<String> =
        differs.map(|name| format!("{name}: {} -> {}", told(before, name), told(after, name))).collect();
    told.join(", ")
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(before: Value, after: Value, expect: &str) {
        let line = json!({ "at": "2026-11-23T00:00:00Z", "by": "ada", "action": "customer.ban",
            "subject": "cus_1", "before": before, "after": after });
        assert_eq!(changed(&serde_json::from_value(line).unwrap()), expect);
    }

    #[test]
    fn what_differs_is_told() {
        check(Value::Null, json!({ "name": "Ada", "status": "active" }), "Ada");
        let active = json!({ "name": "Ada", "status": "active" });
        check(active.clone(), active.clone(), "");
        let banned = json!({ "name": "Ada", "status": "banned", "limits": { "rpm": 5 } });
        check(active, banned, "limits: none -> {\"rpm\":5}, status: active -> banned");
    }

    #[test]
    fn a_subject_cannot_end_its_query() {
        assert_eq!(escaped("cus_1-a.b"), "cus_1-a.b");
        assert_eq!(escaped("a&b=é"), "a%26b%3D%C3%A9");
    }
}
