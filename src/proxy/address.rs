//! Whose address counts: that of the connection, or what a proxy in front says of its client.

use http::HeaderMap;
use ipnet::IpNet;
use pingora::protocols::SocketDigest;
use std::net::IpAddr;

/// Where a request comes from. Of `x-forwarded-for`, the last address counts that is no proxy of
/// ours: what stands before it may be made up. A proxy that says nothing counts itself.
pub fn client(peer: Option<&SocketDigest>, headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    Some(forwarded(peer_address(peer)?, headers, trusted))
}

/// Who is at the other end, unless it is this machine or a proxy in front.
pub fn stranger(peer: Option<&SocketDigest>, trusted: &[IpNet]) -> Option<IpAddr> {
    peer_address(peer).filter(|address| !address.is_loopback() && !is_in(trusted, *address))
}

/// Whether a proxy in front is at the other end, whose word counts.
pub fn is_proxy(peer: Option<&SocketDigest>, trusted: &[IpNet]) -> bool {
    peer_address(peer).is_some_and(|address| is_in(trusted, address))
}

fn peer_address(peer: Option<&SocketDigest>) -> Option<IpAddr> {
    Some(peer?.peer_addr()?.as_inet()?.ip().to_canonical())
}

fn forwarded(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    if trusted.is_empty() || !is_in(trusted, peer) {
        return peer;
    }
    let mut nearest = peer;
    for line in headers.get_all("x-forwarded-for").iter().rev() {
        for hop in line.to_str().unwrap_or("?").rsplit(',') {
            let Some(address) = parse(hop.trim()) else { return nearest };
            nearest = address;
            if !is_in(trusted, address) {
                return nearest;
            }
        }
    }
    nearest
}

/// An address, with a port behind it as some proxies write.
fn parse(hop: &str) -> Option<IpAddr> {
    let with_port = || hop.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    let bare = hop.trim_start_matches('[').trim_end_matches(']');
    bare.parse().ok().or_else(with_port).map(|address: IpAddr| address.to_canonical())
}

fn is_in(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(peer: &str, lines: &[&str], expect: &str) {
        let trusted: Vec<IpNet> =
            ["127.0.0.0/8", "10.0.0.0/8", "fd00::/8"].map(|n| n.parse().unwrap()).into();
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", line.parse().unwrap());
        }
        let found = forwarded(peer.parse().unwrap(), &headers, &trusted);
        assert_eq!(found, expect.parse::<IpAddr>().unwrap(), "{peer} {lines:?}");
    }

    #[test]
    fn only_listed_proxies_are_believed() {
        check("198.51.100.1", &["203.0.113.5"], "198.51.100.1");
        check("10.0.0.1", &[], "10.0.0.1");
        check("10.0.0.1", &["203.0.113.5"], "203.0.113.5");
        check("127.0.0.1", &["203.0.113.5:1234"], "203.0.113.5");
        check("127.0.0.1", &["[2001:db8::1]:1234"], "2001:db8::1");
        check("127.0.0.1", &["::ffff:203.0.113.5"], "203.0.113.5");
    }

    #[test]
    fn what_a_client_wrote_itself_does_not_count() {
        check("10.0.0.1", &["1.2.3.4, 203.0.113.5"], "203.0.113.5");
        check("10.0.0.1", &["1.2.3.4", "203.0.113.5, 10.0.0.2"], "203.0.113.5");
        check("10.0.0.1", &["203.0.113.5, 10.0.0.2, fd00::1"], "203.0.113.5");
        check("10.0.0.1", &["203.0.113.5, unknown"], "10.0.0.1");
        check("10.0.0.1", &["203.0.113.5, unknown, 10.0.0.9"], "10.0.0.9");
        check("10.0.0.1", &["10.0.0.7, 10.0.0.8"], "10.0.0.7");
    }
}
