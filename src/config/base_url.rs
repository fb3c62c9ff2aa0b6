//! The base URL of an upstream account: where requests go, and the path before theirs.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The longest host name that DNS can carry.
const HOST_BYTES_MAX: usize = 253;
/// The longest part of a host name between dots.
const LABEL_BYTES_MAX: usize = 63;

/// Whether the connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// In clear text.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// The name as written in a URL.
    pub const fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    /// The port where none is written.
    pub const fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// A parsed base URL such as `https://api.openai.com/v1`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BaseUrl {
    /// Whether the connection is encrypted.
    pub scheme: Scheme,
    /// A lower-case name or an address; IPv6 without brackets. Also the name to expect in the certificate.
    pub host: String,
    /// The port as written, or that of the scheme.
    pub port: u16,
    /// The prefix of each path: empty, or with a leading and without a trailing slash.
    pub path: String,
}

impl BaseUrl {
    /// Reads scheme, host, optional port and optional path.
    ///
    /// # Errors
    /// What is wrong, without quoting it: a URL can hold a password.
    pub fn parse(text: &str) -> Result<BaseUrl, &'static str> {
        let (scheme, rest) = text.split_once("://").ok_or("must start with https:// or http://")?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "https" => Scheme::Https,
            "http" => Scheme::Http,
            _ => return Err("must start with https:// or http://"),
        };
        if rest.contains(['?', '#']) {
            return Err("must not have a query or a fragment: keep scheme, host, port and path");
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("must not have user info: the credential goes into `api_key`");
        }
        let (host, port) = split_authority(authority)?;
        let port = port.map_or(Ok(scheme.default_port()), parse_port)?;
        let path = path.trim_end_matches('/');
        if !path.is_empty() && http::uri::PathAndQuery::try_from(path).is_err() {
            return Err("has characters in its path that must be percent-encoded");
        }
        Ok(BaseUrl { scheme, host: parse_host(host)?, port, path: path.to_owned() })
    }

    /// Host and port as sent in the Host header: no default port, IPv6 in brackets.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == self.scheme.default_port() { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme.name(), self.authority(), self.path)
    }
}

fn split_authority(authority: &str) -> Result<(&str, Option<&str>), &'static str> {
    let host_end = match authority.rfind(']') {
        Some(bracket) => bracket + 1,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    match authority.split_at(host_end) {
        (host, "") => Ok((host, None)),
        (host, rest) => match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None => Err("must have a host, then nothing, or `:` and a port"),
        },
    }
}

fn parse_port(text: &str) -> Result<u16, &'static str> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 && !text.starts_with('+') => Ok(port),
        _ => Err("must have a port from 1 to 65535 after the host, or none"),
    }
}

fn parse_host(text: &str) -> Result<String, &'static str> {
    if let Some(inner) = text.strip_prefix('[') {
        let address = inner.strip_suffix(']').and_then(|inner| inner.parse::<Ipv6Addr>().ok());
        return address.map(|a| a.to_string()).ok_or("must have an IPv6 address in its brackets");
    }
    let is_label = |label: &str| {
        let letters = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        (1..=LABEL_BYTES_MAX).contains(&label.len()) && letters && !label.starts_with('-')
    };
    if text.len() > HOST_BYTES_MAX || !text.split('.').all(is_label) {
        return Err("must have a host: a DNS name, an IPv4 address, or an IPv6 address in brackets");
    }
    let last_label = text.rsplit('.').next().unwrap_or(text);
    if last_label.bytes().all(|b| b.is_ascii_digit()) && text.parse::<Ipv4Addr>().is_err() {
        return Err("must have a host: four numbers from 0 to 255 make an IPv4 address");
    }
    Ok(text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Result<(&str, u16, &str, &str), &str>) {
        match (BaseUrl::parse(text), expect) {
            (Ok(url), Ok((host, port, path, authority))) => {
                assert_eq!((url.host.as_str(), url.port, url.path.as_str()), (host, port, path), "{text}");
                assert_eq!(url.authority(), authority, "{text}");
            }
            (Err(why), Err(part)) => assert!(why.contains(part), "{text}: {why}"),
            (got, expect) => panic!("{text}: {got:?}, not {expect:?}"),
        }
    }

    #[test]
    fn what_is_kept() {
        check("https://api.openai.com/v1", Ok(("api.openai.com", 443, "/v1", "api.openai.com")));
        check("HTTPS://API.OpenAI.com/v1//", Ok(("api.openai.com", 443, "/v1", "api.openai.com")));
        check("https://h:443/", Ok(("h", 443, "", "h")));
        check("http://h:443", Ok(("h", 443, "", "h:443")));
        check("http://127.0.0.1:8000/a/b", Ok(("127.0.0.1", 8000, "/a/b", "127.0.0.1:8000")));
        check("http://[::1]:8000/v1", Ok(("::1", 8000, "/v1", "[::1]:8000")));
        check("https://[2001:DB8::1]", Ok(("2001:db8::1", 443, "", "[2001:db8::1]")));
        let url = BaseUrl::parse("http://[::1]:8000/v1/").unwrap();
        assert_eq!(url.to_string(), "http://[::1]:8000/v1");
    }

    #[test]
    fn what_is_refused() {
        for text in ["", "api.openai.com/v1", "ftp://h", "https:/h"] {
            check(text, Err("must start with"));
        }
        for text in
            ["https://", "https:///v1", "https://a..b", "https://-a", "https://h h", "https://h\u{e4}"]
        {
            check(text, Err("must have a host"));
        }
        for text in ["https://h:", "https://h:0", "https://h:65536", "https://h:+80", "https://h:1:2"] {
            check(text, Err("must have a port"));
        }
        check("https://1.2.3", Err("IPv4"));
        check("https://[::1", Err("must have a"));
        check("https://[1.2.3.4]", Err("IPv6"));
        check("https://[::1]8", Err("must have a host"));
        check("https://user:sk-1@h/v1", Err("user info"));
        check("https://h/v1?a=b", Err("query"));
        check("https://h?a=b", Err("query"));
        check("https://h/#a", Err("fragment"));
        check("https://h/a b", Err("percent-encoded"));
    }
}
