//! `upstream list`, `drain` and `resume`.

use super::Done;
use super::client::Client;
use super::table::{layout, print, print_json};
use crate::admin::views::UpstreamView;
use serde_json::json;

/// `upstream list`
pub fn list(client: &Client) -> Done {
    show(client, &client.get::<Vec<UpstreamView>>("/upstreams")?)
}

/// `upstream drain`
pub fn drain(client: &Client, name: &str) -> Done {
    show(client, &[client.post(&format!("/upstreams/{name}/drain"), &json!({}))?])
}

/// `upstream resume`
pub fn resume(client: &Client, name: &str) -> Done {
    show(client, &[client.post(&format!("/upstreams/{name}/resume"), &json!({}))?])
}

fn show(client: &Client, upstreams: &[UpstreamView]) -> Done {
    if client.json {
        return upstreams.iter().try_for_each(print_json);
    }
    let rows: Vec<Vec<String>> = upstreams.iter().map(row).collect();
    print(&layout(&["NAME", "STATUS", "IN FLIGHT", "LEAST FREE", "NOT USED"], &rows, &[2]))
}

fn row(upstream: &UpstreamView) -> Vec<String> {
    let [status, least, shut] = said(upstream);
    vec![upstream.name.to_string(), status, upstream.in_flight.to_string(), least, shut]
}

/// Its state, which of its limits has least left, and which models of it are not used.
pub(super) fn said(upstream: &UpstreamView) -> [String; 3] {
    let status = match &upstream.reason {
        Some(reason) => format!("{} ({reason})", upstream.status),
        None => upstream.status.to_string(),
    };
    let least = upstream.headroom.iter().min_by(|(_, a), (_, b)| a.total_cmp(b));
    let least = least.map(|(limit, free)| format!("{:.0} % {limit}", free * 100.0)).unwrap_or_default();
    let shut = upstream.models_shut.iter().map(|shut| format!("{} ({})", shut.model, shut.reason));
    [status, least, shut.collect::<Vec<String>>().join(", ")]
}
