//! Authentication: a presented key becomes a [`Caller`].
//!
//! *Architecture invariant:* a `Caller` is made here only, and only for a key that is active. Keys
//! are known by their digest; unknown and revoked keys take the same way and get the same answer.

pub mod key;

use crate::id::{CustomerId, KeyDigest, KeyId};
use dashmap::DashMap;
use http::{HeaderMap, header};
use key::{Digester, KEY_BYTES_MAX};

/// An authenticated key and its customer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    customer: CustomerId,
    key: KeyId,
}

impl Caller {
    /// One that is known to be good, for tests of what follows on authentication.
    #[cfg(test)]
    pub(crate) fn known(customer: CustomerId, key: KeyId) -> Self {
        Caller { customer, key }
    }

    /// Who pays.
    pub fn customer(&self) -> CustomerId {
        self.customer
    }

    /// The key that was presented.
    pub fn key(&self) -> KeyId {
        self.key
    }
}

/// Why nobody is authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// No key was presented.
    Missing,
    /// The key opens nothing, whether it was revoked or never existed.
    Invalid,
}

/// All active keys. Looking one up takes the same time however many there are.
pub struct Directory {
    digester: Digester,
    callers: DashMap<KeyDigest, Caller>,
}

impl Directory {
    /// An empty directory.
    pub fn new(digester: Digester) -> Self {
        Directory { digester, callers: DashMap::new() }
    }

    /// What makes digests under the store's secret.
    pub fn digester(&self) -> &Digester {
        &self.digester
    }

    /// The digest by which a key is known.
    pub fn digest(&self, key: &str) -> KeyDigest {
        self.digester.digest(key.as_bytes())
    }

    /// From now on, the key opens.
    pub fn insert(&self, digest: KeyDigest, customer: CustomerId, key: KeyId) {
        self.callers.insert(digest, Caller { customer, key });
    }

    /// From now on, the key opens nothing.
    pub fn remove(&self, digest: KeyDigest) {
        self.callers.remove(&digest);
    }

    /// Finds out who is calling, by `Authorization: Bearer KEY`, `api-key` or `x-api-key`.
    ///
    /// # Errors
    /// When no key is presented, or it opens nothing.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, AuthError> {
        let key = presented_key(headers).ok_or(AuthError::Missing)?;
        if key.len() > KEY_BYTES_MAX {
            return Err(AuthError::Invalid);
        }
        let caller = self.callers.get(&self.digester.digest(key)).ok_or(AuthError::Invalid)?;
        Ok(caller.clone())
    }
}

fn presented_key(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
    });
    let named = |name: &str| headers.get(name).map(|value| value.as_bytes().trim_ascii());
    bearer.or_else(|| named("api-key")).or_else(|| named("x-api-key")).filter(|key| !key.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[(&'static str, &str)], expect: Result<u64, AuthError>) {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::new(Digester::open(&folder.path().join("secret"), [7; 32]).unwrap());
        directory.insert(directory.digest("good"), CustomerId::from_int(5), KeyId::from_int(6));
        let revoked = directory.digest("revoked");
        directory.insert(revoked, CustomerId::from_int(7), KeyId::from_int(8));
        directory.remove(revoked);
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let caller = directory.authenticate(&map);
        assert_eq!(caller.map(|caller| caller.customer().int()), expect, "{headers:?}");
    }

    #[test]
    fn a_key_is_found_where_clients_put_it() {
        check(&[("authorization", "Bearer good")], Ok(5));
        check(&[("authorization", "bearer  good ")], Ok(5));
        check(&[("api-key", "good")], Ok(5));
        check(&[("x-api-key", "good")], Ok(5));
        check(&[("authorization", "Bearer bad"), ("api-key", "good")], Err(AuthError::Invalid));
    }

    #[test]
    fn anything_else_opens_nothing() {
        check(&[], Err(AuthError::Missing));
        check(&[("authorization", "Bearer ")], Err(AuthError::Missing));
        check(&[("authorization", "Basic good")], Err(AuthError::Missing));
        check(&[("authorization", "Bearer revoked")], Err(AuthError::Invalid));
        check(&[("api-key", &"x".repeat(257))], Err(AuthError::Invalid));
    }
}
