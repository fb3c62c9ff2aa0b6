//! Pages in browsers: who may call, and what of an answer they may read.
//!
//! A key is presented in a header that a page sets itself. No cookie is read or set here, so a page
//! can do no more than a program that has the key, and credentials in the sense of CORS are never allowed.

use crate::config::Origins;
use http::{HeaderMap, HeaderValue, header};

const ANY: HeaderValue = HeaderValue::from_static("*");
const ORIGIN: HeaderValue = HeaderValue::from_static("origin");
/// Headers of answers that clients act upon. Named one by one, for readers that know no `*`.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "x-request-id, x-tollgate-charge, x-tollgate-output-cap, x-tollgate-next, x-tollgate-first-request, \
     x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, \
     x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens, \
     retry-after, x-should-retry, openai-processing-ms, openai-version",
);
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, DELETE, OPTIONS");
const USUAL_HEADERS: HeaderValue = HeaderValue::from_static("authorization, content-type");
/// How long a browser may keep what a preflight said: a day, of which most take two hours.
const MAX_AGE: HeaderValue = HeaderValue::from_static("86400");

/// What the browser is told that shows the page, if it is one that asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    allowed: Option<HeaderValue>,
    asks: bool,
    varies: bool,
}

impl Page {
    /// Of a request.
    pub fn of(headers: &HeaderMap, origins: &Origins) -> Self {
        let origin = headers.get(header::ORIGIN);
        match origins {
            Origins::Any => Page { allowed: Some(ANY), asks: origin.is_some(), varies: false },
            Origins::Listed(list) => {
                let listed =
                    |origin: &&HeaderValue| list.iter().any(|item| origin.as_bytes() == item.as_bytes());
                let allowed = origin.filter(listed).cloned();
                Page { asks: allowed.is_some(), allowed, varies: !list.is_empty() }
            }
        }
    }

    /// Tells it, on every answer, errors included.
    pub fn tell(&self, headers: &mut HeaderMap) {
        if let Some(allowed) = &self.allowed {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed.clone());
        }
        if self.asks {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
        if self.varies {
            headers.insert(header::VARY, ORIGIN);
        }
    }

    /// Answers a browser that asks first, given what it asks for.
    pub fn tell_preflight(&self, asked: Option<&HeaderValue>, headers: &mut HeaderMap) {
        if self.allowed.is_some() {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            // What is asked for is named again: `*` does not stand for `authorization`.
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.cloned().unwrap_or(USUAL_HEADERS));
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        }
    }
}

/// Whether preflights of this path are answered.
pub fn is_called(path: &str, origins: &Origins) -> bool {
    let none = matches!(origins, Origins::Listed(list) if list.is_empty());
    !none && ["/v1/", "/tollgate/v1/", "/dashboard/"].iter().any(|place| path.starts_with(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of an origin: allowed, and varies.
    fn check(listed: &[&str], origin: Option<&'static str>, expect: (Option<&str>, bool)) {
        let origins = match listed {
            ["*"] => Origins::Any,
            list => Origins::Listed(list.iter().map(|item| (*item).into()).collect()),
        };
        let mut asked = HeaderMap::new();
        origin.map(|origin| asked.insert(header::ORIGIN, HeaderValue::from_static(origin)));
        let page = Page::of(&asked, &origins);
        let mut told = HeaderMap::new();
        page.tell(&mut told);
        page.tell_preflight(None, &mut told);
        let allowed = told.get(header::ACCESS_CONTROL_ALLOW_ORIGIN).map(|value| value.to_str().unwrap());
        assert_eq!((allowed, told.contains_key(header::VARY)), expect, "{listed:?} {origin:?}");
        assert_eq!(told.contains_key(header::ACCESS_CONTROL_ALLOW_METHODS), allowed.is_some());
        let exposed = told.contains_key(header::ACCESS_CONTROL_EXPOSE_HEADERS);
        assert_eq!(exposed, allowed.is_some() && origin.is_some(), "who is no page reads what it wants");
        assert!(!told.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS));
    }

    #[test]
    fn pages_of_listed_origins_may_call_and_no_others() {
        let (app, other) = ("https://app.example", "https://app.example.evil");
        check(&["*"], Some(app), (Some("*"), false));
        check(&["*"], None, (Some("*"), false));
        check(&[app, "http://[::1]:3000"], Some(app), (Some(app), true));
        for origin in [Some(other), Some("https://app"), Some("null"), None] {
            check(&[app], origin, (None, true));
            check(&[], origin, (None, false));
        }
    }
}
