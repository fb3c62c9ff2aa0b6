//! The settings that keep strangers from harming others.

use super::reader::{Node, Section};
use super::{Edge, HeaderLimits};
use ipnet::IpNet;
use std::net::IpAddr;

/// More than a machine has ports and memory for.
const CONNECTIONS_MAX: u64 = 1_000_000;
/// More requests on one connection than this only serve attacks.
const H2_STREAMS_MAX: u64 = 10_000;
/// Pingora reads no larger header.
const HEADER_BYTES_MAX: u64 = 1_000_000;
/// Pingora reads no more fields.
const HEADER_FIELDS_MAX: u64 = 256;
/// A bound of more is none.
const FAILED_KEYS_MAX: u64 = 1_000_000;

/// Reads them out of the section `gateway`.
pub(super) fn read(section: &mut Section<'_>) -> Option<Edge> {
    let proxies = section.get("trusted_proxies");
    let trusted_proxies = proxies.map_or(Some(Vec::new()), |list| networks(&list));
    Some(Edge {
        connections_max: section.number("connections_max", 1..=CONNECTIONS_MAX, 16_384),
        connections_per_address_max: section.number("connections_per_address_max", 1..=CONNECTIONS_MAX, 100),
        h2_streams_max: section.number("h2_streams_max", 1..=H2_STREAMS_MAX, 100),
        header: HeaderLimits {
            bytes_max: section.number("header_bytes_max", 1_024..=HEADER_BYTES_MAX, 32 * 1024),
            fields_max: section.number("header_fields_max", 16..=HEADER_FIELDS_MAX, 100),
            timeout: section.millis("header_timeout_ms", 10_000),
        },
        failed_keys_per_minute: section.number("failed_keys_per_minute", 1..=FAILED_KEYS_MAX, 10),
        trusted_proxies: trusted_proxies?.into(),
    })
}

/// A list of addresses and networks.
fn networks(list: &Node<'_>) -> Option<Vec<IpNet>> {
    let why = "must be an address or a network, such as \"127.0.0.1\" or \"10.0.0.0/8\"";
    let network = |text: &str| {
        let address = || text.parse::<IpAddr>().map(IpNet::from);
        text.parse().or_else(|_| address()).map_err(|_| why)
    };
    // Not `collect` into an option: that would stop at the first fault.
    let items: Vec<Option<IpNet>> = list.items().iter().map(|item| item.parsed(network)).collect();
    items.into_iter().collect()
}
