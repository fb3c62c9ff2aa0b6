//! Limits of keys and customers, as options.

use crate::clock::Timestamp;
use crate::money::Amount;
use clap::Args;
use serde_json::{Map, Value, json};

/// What may be limited. `none` lifts a limit.
#[derive(Args)]
pub struct LimitOptions {
    /// Models that may be asked for, with commas between
    #[arg(long, value_name = "A,B")]
    models: Option<String>,
    /// Endpoints that may be used, with commas between, such as chat.completions
    #[arg(long, value_name = "A,B")]
    endpoints: Option<String>,
    /// Requests a minute
    #[arg(long, value_name = "N", value_parser = number)]
    rpm: Option<Value>,
    /// Tokens a minute, input and output
    #[arg(long, value_name = "N", value_parser = number)]
    tpm: Option<Value>,
    /// Requests at once
    #[arg(long, value_name = "N", value_parser = number)]
    concurrency: Option<Value>,
    /// US dollars that may be spent in all, such as 25.00
    #[arg(long, value_name = "USD", value_parser = amount)]
    budget: Option<Value>,
    /// The same in a day of UTC
    #[arg(long, value_name = "USD", value_parser = amount)]
    budget_per_day: Option<Value>,
    /// The same in a month of UTC
    #[arg(long, value_name = "USD", value_parser = amount)]
    budget_per_month: Option<Value>,
    /// Until when: RFC 3339, or a date
    #[arg(long, value_name = "TIME", value_parser = moment)]
    expires: Option<Value>,
    /// Addresses or networks that requests may come from, with commas between
    #[arg(long, value_name = "CIDR,..")]
    allow_ip: Option<String>,
    /// Countries of which a customer is served although nobody else is, with commas between; * for all
    #[arg(long, value_name = "AA,BB")]
    countries: Option<String>,
    /// How what a customer asks is judged: off, observe or enforce
    #[arg(long, value_name = "MODE")]
    content: Option<String>,
    /// Whether it opens anything
    #[arg(long, value_name = "true|false")]
    enabled: Option<bool>,
}

impl LimitOptions {
    /// What was given, for the admin API.
    pub fn changes(&self) -> Map<String, Value> {
        let list = |text: &Option<String>| {
            text.as_ref().map(|text| match &**text {
                NONE => Value::Null,
                text => text.split(',').map(|item| json!(item.trim())).collect(),
            })
        };
        let fields = [
            ("models", list(&self.models)),
            ("endpoints", list(&self.endpoints)),
            ("rpm", self.rpm.clone()),
            ("tpm", self.tpm.clone()),
            ("concurrency", self.concurrency.clone()),
            ("budget", self.budget.clone()),
            ("budget_per_day", self.budget_per_day.clone()),
            ("budget_per_month", self.budget_per_month.clone()),
            ("expires", self.expires.clone()),
            ("allow_ip", list(&self.allow_ip)),
            ("countries", list(&self.countries)),
            (
                "content",
                self.content.as_deref().map(|mode| if mode == NONE { Value::Null } else { json!(mode) }),
            ),
            ("enabled", self.enabled.map(Value::Bool)),
        ];
        fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

const NONE: &str = "none";

fn number(text: &str) -> Result<Value, String> {
    match text {
        NONE => Ok(Value::Null),
        text => text.parse::<u64>().map(Value::from).map_err(|_| "must be a whole number, or none".into()),
    }
}

fn amount(text: &str) -> Result<Value, String> {
    match text {
        NONE => Ok(Value::Null),
        text => Amount::parse(text).map(|amount| json!(amount)).map_err(|why| why.to_string()),
    }
}

/// What a customer may owe.
pub fn overdraft(text: &str) -> Result<Amount, String> {
    match text {
        NONE => Ok(Amount::ZERO),
        text => Amount::parse(text).map_err(|why| why.to_string()),
    }
}

fn moment(text: &str) -> Result<Value, String> {
    match text {
        NONE => Ok(Value::Null),
        text => {
            let at = Timestamp::parse(text).ok_or("must be a time such as 2027-01-31T12:00:00Z, or none")?;
            Ok(json!(at))
        }
    }
}
