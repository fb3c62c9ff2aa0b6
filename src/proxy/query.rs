//! The query of a request for what is ours: each name known, and given once.

use super::request::BadRequest;
use super::respond::Refusal;
use std::borrow::Cow;

/// What is left of a query to be taken.
pub struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// Of a request's target.
    pub fn of(uri: &'a http::Uri) -> Self {
        let query = uri.query().unwrap_or_default();
        Query(form_urlencoded::parse(query.as_bytes()).collect())
    }

    /// Takes the value of `name`, as `parse` reads it; an empty one is none.
    ///
    /// # Errors
    /// When it is given twice, or is not what is `wanted`.
    pub fn take<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
        wanted: &str,
    ) -> Result<Option<T>, BadRequest> {
        let refused = |why: String| BadRequest { message: format!("`{name}` {why}."), param: Some(name) };
        let Some(at) = self.0.iter().position(|(given, _)| given == name) else { return Ok(None) };
        let (_, value) = self.0.remove(at);
        if self.0.iter().any(|(given, _)| given == name) {
            return Err(refused("is given twice".into()));
        }
        if value.is_empty() {
            return Ok(None);
        }
        parse(&value).map(Some).ok_or_else(|| refused(format!("must be {wanted}")))
    }

    /// Nothing is left.
    ///
    /// # Errors
    /// When there is a name that is not known.
    pub fn finish(self) -> Result<(), BadRequest> {
        let unknown = |(name, _): &(Cow<str>, Cow<str>)| {
            let message = format!("`{name}` is not known in this query: leave it out.");
            Err(BadRequest { message, param: None })
        };
        self.0.first().map_or(Ok(()), unknown)
    }
}

impl From<BadRequest> for Refusal {
    fn from(bad: BadRequest) -> Self {
        Refusal::BadRequest(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(target: &str, expect: Result<Option<u8>, &str>) {
        let uri = target.parse().unwrap();
        let mut query = Query::of(&uri);
        let limit = query.take("limit", |text| text.parse().ok(), "a number");
        let taken = limit.and_then(|limit| query.finish().map(|()| limit));
        assert_eq!(
            taken.as_ref().map_err(|why| &*why.message),
            expect.as_ref().map_err(|why| &**why),
            "{target}"
        );
    }

    #[test]
    fn each_name_is_known_and_given_once() {
        for (target, expect) in [
            ("/a", None),
            ("/a?", None),
            ("/a?limit=", None),
            ("/a?limit=7", Some(7)),
            ("/a?l%69mit=%37", Some(7)),
        ] {
            check(target, Ok(expect));
        }
        check("/a?limit=7&limit=8", Err("`limit` is given twice."));
        check("/a?limit=many", Err("`limit` must be a number."));
        check("/a?limit=7&Limit=8", Err("`Limit` is not known in this query: leave it out."));
    }
}
