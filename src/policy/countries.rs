//! Countries that are not served, by the client's address or by what a proxy in front says of it.

use maxminddb::{Reader, geoip2};
use ring::digest;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// A country as ISO 3166-1 has it: two capital letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Country([u8; 2]);

impl Country {
    /// Reads one, in capitals or not.
    pub fn parse(text: &str) -> Option<Self> {
        let code = <[u8; 2]>::try_from(text.as_bytes()).ok()?.map(|letter| letter.to_ascii_uppercase());
        code.iter().all(u8::is_ascii_uppercase).then_some(Country(code))
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|letter| write!(f, "{}", char::from(*letter)))
    }
}

/// A database in MaxMind's format, in memory.
#[derive(Clone)]
pub struct Database {
    reader: Arc<Reader<Vec<u8>>>,
    /// By which two are told apart.
    digest: [u8; 8],
}

impl Database {
    /// Reads one.
    ///
    /// # Errors
    /// When the bytes are none, or hold something else than countries.
    pub fn new(bytes: Vec<u8>) -> Result<Self, String> {
        let hash = digest::digest(&digest::SHA256, &bytes);
        let digest = *hash.as_ref().first_chunk().expect("a hash is longer");
        let reader = Reader::from_source(bytes).map_err(|why| format!("is no MaxMind DB: {why}"))?;
        let kind = &reader.metadata().database_type;
        if !["Country", "City", "Enterprise"].iter().any(|known| kind.contains(known)) {
            return Err(format!(
                "is a database of `{kind}`: take one of countries, such as GeoLite2-Country"
            ));
        }
        Ok(Database { reader: Arc::new(reader), digest })
    }

    /// Where an address is; where nobody knows, who it is registered to.
    fn country(&self, address: IpAddr) -> Option<Country> {
        let found = self.reader.lookup(address.to_canonical()).ok()?;
        let record: geoip2::Country<'_> = found.decode().ok()??;
        let code = record.country.iso_code.or(record.registered_country.iso_code)?;
        Country::parse(code)
    }
}

impl PartialEq for Database {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Database {}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let metadata = self.reader.metadata();
        write!(f, "{} of {}", metadata.database_type, metadata.build_epoch)
    }
}

/// What happens to a client whose country nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// It is served.
    Serve,
    /// It is not.
    Deny,
}

/// Which countries are not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Countries {
    /// These.
    pub deny: BTreeSet<Country>,
    /// Where no country is known.
    pub unknown: Unknown,
    /// By address.
    pub database: Option<Database>,
    /// The header in which a listed proxy in front says it, in lower case.
    pub header: Option<Box<str>>,
}

/// Why a client is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It is in this country.
    Country(Country),
    /// Nobody knows where it is.
    Unknown,
}

impl Countries {
    /// Whether a client may be served that is at `address`, in the country that a listed proxy `told`.
    ///
    /// # Errors
    /// Why not.
    pub fn judge(&self, told: Option<&str>, address: Option<IpAddr>) -> Result<(), Denied> {
        let by_address = || self.database.as_ref()?.country(address?);
        match told.and_then(Country::parse).or_else(by_address) {
            Some(country) if self.deny.contains(&country) => Err(Denied::Country(country)),
            Some(_) => Ok(()),
            None => match self.unknown {
                Unknown::Serve => Ok(()),
                Unknown::Deny => Err(Denied::Unknown),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATABASE: &[u8] = include_bytes!("../../tests/data/countries.mmdb");

    fn countries(unknown: Unknown) -> Countries {
        let deny = ["CU", "KP"].map(|code| Country::parse(code).unwrap()).into();
        let database = Some(Database::new(DATABASE.to_vec()).unwrap());
        Countries { deny, unknown, database, header: None }
    }

    fn check(told: Option<&str>, address: &str, expect: Result<(), Denied>) {
        let judged = countries(Unknown::Serve).judge(told, Some(address.parse().unwrap()));
        assert_eq!(judged, expect, "{told:?} {address}");
    }

    fn denied(code: &str) -> Result<(), Denied> {
        Err(Denied::Country(Country::parse(code).unwrap()))
    }

    #[test]
    fn an_address_is_judged_by_its_country() {
        check(None, "192.0.2.1", Ok(()));
        check(None, "198.51.100.0", denied("KP"));
        check(None, "198.51.100.255", denied("KP"));
        check(None, "198.51.99.255", Ok(()));
        check(None, "::ffff:198.51.100.7", denied("KP"));
        check(None, "203.0.113.9", denied("CU"));
        check(None, "2001:db8:c0::1", denied("CU"));
        check(None, "2001:db8:de::1", Ok(()));
    }

    #[test]
    fn what_a_proxy_told_comes_first() {
        check(Some("DE"), "198.51.100.0", Ok(()));
        check(Some("cu"), "192.0.2.1", denied("CU"));
        check(Some("XX "), "198.51.100.0", denied("KP"));
    }

    #[test]
    fn who_is_nowhere_is_served_unless_that_is_denied() {
        let judge = |unknown, address: Option<&str>| {
            countries(unknown).judge(None, address.map(|address| address.parse().unwrap()))
        };
        for address in [Some("127.0.0.1"), None] {
            assert_eq!(judge(Unknown::Serve, address), Ok(()));
            assert_eq!(judge(Unknown::Deny, address), Err(Denied::Unknown));
        }
        assert_eq!(judge(Unknown::Deny, Some("192.0.2.1")), Ok(()));
    }

    #[test]
    fn a_file_of_something_else_is_told() {
        let why = Database::new(b"version: 1".to_vec()).unwrap_err();
        assert!(why.starts_with("is no MaxMind DB: "), "{why}");
        let shown = format!("{:?}", Database::new(DATABASE.to_vec()).unwrap());
        assert_eq!(shown, "Tollgate-Test-Country of 1763856000");
    }
}
