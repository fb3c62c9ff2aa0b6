//! What a key or a customer may do at all: values only, as the operator sets them and as the ledger
//! keeps them.
//!
//! Written as JSON, in which what is absent is not limited. A field that this version does not know
//! is a fault: a limit that is not kept would be none.

use super::rate::PER_MINUTE_MAX;
use crate::clock::Timestamp;
use crate::ledger::Budget;
use crate::money::Amount;
use crate::policy::content::Mode;
use crate::policy::countries::{Country, Denied};
use ipnet::IpNet;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::net::IpAddr;

/// Items of a list: far more than any key needs.
const ITEMS_MAX: usize = 256;
/// Characters of an item.
const ITEM_CHARACTERS_MAX: usize = 128;
/// In place of a country: all of them, and none.
const ANYWHERE: &str = "*";

/// Limits of a key or of a customer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Whether it opens anything; it does unless this is false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Requests a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpm: Option<u64>,
    /// Tokens a minute, input and output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<u64>,
    /// Requests at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// What may be spent in all, in USD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Amount>,
    /// What may be spent in a day of UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_per_day: Option<Amount>,
    /// What may be spent in a month of UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_per_month: Option<Amount>,
    /// Models that may be asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<Box<[Box<str>]>>,
    /// Endpoints that may be used, by their names on receipts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Box<[Box<str>]>>,
    /// Where requests may come from.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "networks")]
    pub allow_ip: Option<Box<[IpNet]>>,
    /// Until when it opens anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Countries of which it is served although nobody else is; `*` for all. Of customers alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub countries: Option<Box<[Box<str>]>>,
    /// How what is asked is judged, instead of what the configuration says. Of customers alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Mode>,
}

impl Limits {
    /// As the ledger keeps them.
    ///
    /// # Errors
    /// When these are not limits of this version.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(json).map_err(|why| format!("these are no limits: {why}"))
    }

    /// For the ledger: empty if nothing is limited.
    pub fn to_json(&self) -> Vec<u8> {
        match *self == Limits::default() {
            true => Vec::new(),
            false => serde_json::to_vec(self).expect("limits are plain values"),
        }
    }

    /// These with other values for the fields of `changes`; `null` lifts a limit.
    ///
    /// # Errors
    /// What is wrong, and what to write.
    pub fn with(&self, changes: Map<String, Value>) -> Result<Self, String> {
        let Ok(Value::Object(mut fields)) = serde_json::to_value(self) else {
            unreachable!("limits are an object")
        };
        fields.extend(changes.into_iter().map(|(name, value)| (name, whole(value))));
        let limits: Limits = serde_json::from_value(Value::Object(fields)).map_err(|why| why.to_string())?;
        limits.check().map(|()| limits)
    }

    fn check(&self) -> Result<(), String> {
        for (name, rate) in [("rpm", self.rpm), ("tpm", self.tpm)] {
            if rate.is_some_and(|rate| !(1..=PER_MINUTE_MAX).contains(&rate)) {
                return Err(format!("`{name}` must be from 1 to {PER_MINUTE_MAX}"));
            }
        }
        if self.concurrency == Some(0) {
            return Err("`concurrency` must be at least 1: disable it instead".into());
        }
        let budgets = [
            ("budget", self.budget),
            ("budget_per_day", self.budget_per_day),
            ("budget_per_month", self.budget_per_month),
        ];
        for (name, budget) in budgets {
            if budget.is_some_and(|budget| budget <= Amount::ZERO || budget > Amount::OUTSIDE_MAX) {
                return Err(format!("`{name}` must be above 0 USD: disable it instead"));
            }
        }
        for (name, list) in [("models", &self.models), ("endpoints", &self.endpoints)] {
            let items = list.iter().flatten();
            let fits = |item: &str| (1..=ITEM_CHARACTERS_MAX).contains(&item.chars().count());
            if list.as_ref().is_some_and(|list| is_odd(list.len()))
                || !items.into_iter().all(|item| fits(item))
            {
                return Err(format!(
                    "`{name}` must be 1 to {ITEMS_MAX} names of up to {ITEM_CHARACTERS_MAX} characters"
                ));
            }
        }
        let code = |text: &str| text == ANYWHERE || Country::parse(text).is_some();
        if self
            .countries
            .as_ref()
            .is_some_and(|list| is_odd(list.len()) || !list.iter().all(|text| code(text)))
        {
            return Err(format!(
                "`countries` must be 1 to {ITEMS_MAX} countries of two letters, or `*` for all"
            ));
        }
        if self.allow_ip.as_ref().is_some_and(|list| is_odd(list.len())) {
            return Err(format!("`allow_ip` must be 1 to {ITEMS_MAX} networks, such as 192.0.2.0/24"));
        }
        Ok(())
    }

    /// What may be spent.
    pub fn budget(&self) -> Budget {
        Budget { day: self.budget_per_day, month: self.budget_per_month, total: self.budget }
    }

    /// Why it does not open anything now, from there.
    ///
    /// # Errors
    /// The first thing that forbids it.
    pub fn open(&self, from: Option<IpAddr>, now: Timestamp) -> Result<(), Restriction> {
        if self.enabled == Some(false) {
            return Err(Restriction::Disabled);
        }
        if self.expires.is_some_and(|expires| now >= expires) {
            return Err(Restriction::Expired);
        }
        let allowed = |networks: &[IpNet]| {
            from.is_some_and(|from| networks.iter().any(|network| network.contains(&from.to_canonical())))
        };
        match self.allow_ip.as_deref().is_none_or(allowed) {
            true => Ok(()),
            false => Err(Restriction::Address),
        }
    }

    /// Whether an endpoint may be used.
    ///
    /// # Errors
    /// When it may not.
    pub fn allow_endpoint(&self, name: &str) -> Result<(), Restriction> {
        match self.endpoints.as_deref().is_none_or(|names| names.iter().any(|known| **known == *name)) {
            true => Ok(()),
            false => Err(Restriction::Endpoint),
        }
    }

    /// Whether who is denied elsewhere is served.
    pub fn excepts(&self, denied: Denied) -> bool {
        let excepted = |text: &str| match denied {
            Denied::Country(country) => text == ANYWHERE || Country::parse(text) == Some(country),
            Denied::Unknown => text == ANYWHERE,
        };
        self.countries.iter().flatten().any(|text| excepted(text))
    }

    /// Whether a model may be asked for.
    pub fn allows_model(&self, name: &str) -> bool {
        self.models.as_deref().is_none_or(|names| names.iter().any(|known| **known == *name))
    }
}

/// JSON tells integers from others by their value alone: `2.0` is one as well as `2`.
fn whole(value: Value) -> Value {
    let number = if let Value::Number(number) = &value { number.to_string() } else { return value };
    let whole = number.strip_suffix(".0").and_then(|digits| digits.parse::<u64>().ok());
    whole.map_or(value, Value::from)
}

/// Networks, or addresses alone.
fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<[IpNet]>>, D::Error> {
    let Some(texts) = Option::<Vec<String>>::deserialize(deserializer)? else { return Ok(None) };
    let network = |text: &String| {
        let address = || text.parse::<IpAddr>().map(IpNet::from);
        let wrong = |_| D::Error::custom(format_args!("`{text}` is no address and no network"));
        text.parse().or_else(|_| address()).map_err(wrong)
    };
    texts.iter().map(network).collect::<Result<Box<[IpNet]>, _>>().map(Some)
}

fn is_odd(items: usize) -> bool {
    !(1..=ITEMS_MAX).contains(&items)
}

/// What a key or a customer may not do, whenever it is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restriction {
    /// It was switched off.
    Disabled,
    /// Its time is over.
    Expired,
    /// Not from there.
    Address,
    /// Not this endpoint.
    Endpoint,
    /// Not this model.
    Model,
}

impl Restriction {
    /// The word used in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Restriction::Disabled => "key_disabled",
            Restriction::Expired => "key_expired",
            Restriction::Address => "key_address",
            Restriction::Endpoint => "key_endpoint",
            Restriction::Model => "key_model",
        }
    }

    /// What is told to the caller.
    pub const fn message(self) -> &'static str {
        match self {
            Restriction::Disabled => "is switched off. Ask whoever gave you the key",
            Restriction::Expired => "has expired. Ask for a new one",
            Restriction::Address => "may not be used from this address",
            Restriction::Endpoint => "may not be used for this endpoint",
            Restriction::Model => "may not be used for this model. See GET /v1/models",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn limits(json: Value) -> Result<Limits, String> {
        let Value::Object(changes) = json else { panic!("an object") };
        Limits::default().with(changes)
    }

    fn from(address: &str) -> Option<IpAddr> {
        Some(address.parse().unwrap())
    }

    #[test]
    fn limits_read_back_and_change_one_by_one() {
        let all = json!({
            "enabled": true, "rpm": 60, "tpm": 90_000, "concurrency": 5, "models": ["a", "b"],
            "endpoints": ["embeddings"], "allow_ip": ["192.0.2.0/24", "2001:db8::/32"],
            "expires": "2027-01-01T00:00:00Z", "countries": ["KP"], "content": "observe"
        });
        let limits = limits(all.clone()).unwrap();
        assert_eq!(serde_json::to_value(&limits).unwrap(), all);
        assert_eq!(Limits::parse(&limits.to_json()), Ok(limits.clone()));
        assert_eq!(Limits::default().to_json(), b"");
        let Value::Object(changes) = json!({ "rpm": null, "tpm": 7 }) else { panic!() };
        let changed = limits.with(changes).unwrap();
        assert_eq!((changed.rpm, changed.tpm, changed.concurrency), (None, Some(7), Some(5)));
        assert_eq!(self::limits(json!({ "rpm": 60.0 })).unwrap().rpm, Some(60));
    }

    #[test]
    fn what_is_no_limit_is_told() {
        for wrong in [
            json!({ "rpm": 0 }),
            json!({ "rpm": -1 }),
            json!({ "rpm": 1.5 }),
            json!({ "tpm": 10_000_000_001_u64 }),
            json!({ "concurrency": 0 }),
            json!({ "models": [] }),
            json!({ "models": [""] }),
            json!({ "allow_ip": ["192.0.2.0/33"] }),
            json!({ "expires": "tomorrow" }),
            json!({ "countries": [] }),
            json!({ "content": "on" }),
            json!({ "countries": ["Cuba"] }),
            json!({ "requests": 5 }),
        ] {
            assert!(limits(wrong.clone()).is_err(), "{wrong}");
        }
        assert!(Limits::parse(br#"{"rpm":1,"of_a_later_version":2}"#).is_err());
    }

    #[test]
    fn a_key_opens_until_it_expires_and_from_where_it_may() {
        let expires = Timestamp::parse("2027-01-01").unwrap();
        let before = Timestamp::from_micros(expires.micros() - 1);
        let limited =
            limits(json!({ "expires": "2027-01-01T00:00:00Z", "allow_ip": ["192.0.2.0/24", "::1"] }))
                .unwrap();
        assert_eq!(limited.open(from("192.0.2.255"), before), Ok(()));
        assert_eq!(limited.open(from("::ffff:192.0.2.1"), before), Ok(()));
        assert_eq!(limited.open(from("::1"), expires), Err(Restriction::Expired));
        assert_eq!(limited.open(from("192.0.3.0"), before), Err(Restriction::Address));
        assert_eq!(limited.open(None, before), Err(Restriction::Address));
        let off = limits(json!({ "enabled": false })).unwrap();
        assert_eq!(off.open(from("::1"), before), Err(Restriction::Disabled));
        assert_eq!(Limits::default().open(None, expires), Ok(()));
    }

    #[test]
    fn countries_are_excepted_one_by_one_or_all() {
        let (cuba, korea) = (Country::parse("CU").unwrap(), Country::parse("KP").unwrap());
        let denied = [Denied::Country(cuba), Denied::Country(korea), Denied::Unknown];
        let excepted = |list: Value| denied.map(|denied| limits(list.clone()).unwrap().excepts(denied));
        assert_eq!(excepted(json!({})), [false; 3]);
        assert_eq!(excepted(json!({ "countries": ["DE", "cu"] })), [true, false, false]);
        assert_eq!(excepted(json!({ "countries": ["*"] })), [true; 3]);
    }

    #[test]
    fn lists_name_what_is_allowed() {
        let limited = limits(json!({ "models": ["a"], "endpoints": ["embeddings"] })).unwrap();
        assert!(limited.allows_model("a") && !limited.allows_model("A") && !limited.allows_model("b"));
        assert_eq!(limited.allow_endpoint("embeddings"), Ok(()));
        assert_eq!(limited.allow_endpoint("chat.completions"), Err(Restriction::Endpoint));
        assert!(Limits::default().allows_model("b"));
    }
}
