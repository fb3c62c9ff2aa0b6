//! The bytes of a [`Detail`], as the ledger keeps them: JSON, written field by field, since every
//! request has one. Serde reads them.

use super::{Attempt, Detail, Line};
use crate::usage::Class;
use serde::Serialize;

/// What most records fit into.
const RECORD_BYTES: usize = 1_024;

impl Detail {
    /// The bytes that the ledger keeps. `reported` is JSON of the provider's, checked when it was read:
    /// it is put in as it is.
    pub fn to_record(&self, reported: Option<&str>) -> Vec<u8> {
        // Each field by name: a new one does not compile before it is written.
        let Detail {
            endpoint,
            model,
            stream,
            status,
            end,
            metered,
            output_cap,
            service_tier,
            above_input_tokens,
            cost,
            image_size,
            image_quality,
            encoding,
            usage,
            lines,
            attempts,
            reported: none,
            first_byte_ms,
            duration_ms,
        } = self;
        assert!(none.is_none(), "given once");
        let mut record = Record(Vec::with_capacity(RECORD_BYTES));
        record.value("{\"endpoint\":", endpoint);
        record.value(",\"model\":", model);
        record.value(",\"stream\":", stream);
        record.value(",\"status\":", status);
        record.value(",\"end\":", end);
        record.word(",\"metered\":\"", metered.name());
        record.optional(",\"output_cap\":", output_cap.as_ref());
        record.optional(",\"service_tier\":", service_tier.as_ref());
        record.optional(",\"above_input_tokens\":", above_input_tokens.as_ref());
        record.optional(",\"cost\":", cost.as_ref());
        record.optional(",\"image_size\":", image_size.as_ref());
        record.optional(",\"image_quality\":", image_quality.as_ref());
        record.optional(",\"encoding\":", encoding.as_ref());
        record.raw(",\"usage\":");
        let mut opening = "{\"";
        for class in Class::ALL.into_iter().filter(|class| is_always_told(*class) || usage.of(*class) > 0) {
            record.raw(opening);
            record.raw(class.name());
            record.value("\":", &usage.of(class));
            opening = ",\"";
        }
        record.raw("}");
        record.list(",\"lines\":[", lines, |record, Line { class, quantity, unit_price, amount }| {
            record.word("{\"class\":\"", class.name());
            record.value(",\"quantity\":", quantity);
            record.value(",\"unit_price\":", unit_price);
            record.value(",\"amount\":", amount);
        });
        record.list(",\"attempts\":[", attempts, |record, Attempt { upstream, outcome, status, ms }| {
            record.value("{\"upstream\":", upstream);
            record.value(",\"outcome\":", outcome);
            record.value(",\"status\":", status);
            record.value(",\"ms\":", ms);
        });
        record.optional(",\"first_byte_ms\":", first_byte_ms.as_ref());
        record.value(",\"duration_ms\":", duration_ms);
        if let Some(reported) = reported {
            record.raw(",\"reported\":");
            record.raw(reported);
        }
        record.raw("}");
        record.0
    }
}

/// What each record tells, also where there is none of it.
const fn is_always_told(class: Class) -> bool {
    matches!(class, Class::Input | Class::CachedInput | Class::CacheWrite | Class::Output | Class::Reasoning)
}

struct Record(Vec<u8>);

impl Record {
    fn raw(&mut self, json: &str) {
        self.0.extend_from_slice(json.as_bytes());
    }

    /// One of our own words, which need no escapes.
    fn word(&mut self, name: &str, word: &str) {
        self.raw(name);
        self.raw(word);
        self.raw("\"");
    }

    fn value(&mut self, name: &str, value: &(impl Serialize + ?Sized)) {
        self.raw(name);
        serde_json::to_writer(&mut self.0, value).expect("plain JSON");
    }

    fn optional(&mut self, name: &str, value: Option<&impl Serialize>) {
        if let Some(value) = value {
            self.value(name, value);
        }
    }

    fn list<T>(&mut self, name: &str, items: &[T], write: impl Fn(&mut Self, &T)) {
        self.raw(name);
        for (place, item) in items.iter().enumerate() {
            if place > 0 {
                self.raw(",");
            }
            write(self, item);
            self.raw("}");
        }
        self.raw("]");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::{Amount, UnitPrice};
    use crate::usage::{Metered, Usage};

    fn check(detail: Detail, reported: Option<&str>) {
        let record = detail.to_record(reported);
        let mut read: Detail = serde_json::from_slice(&record).expect("a record of ours");
        let words = read.reported.take().map(|raw| raw.get().to_owned());
        assert_eq!(words.as_deref(), reported);
        assert_eq!(format!("{read:?}"), format!("{detail:?}"));
    }

    #[test]
    fn every_field_reads_back_as_it_was() {
        let line = |class, quantity| {
            let unit_price = UnitPrice::parse_per_million("0.60").unwrap();
            Line { class, quantity, unit_price, amount: unit_price.times(quantity) }
        };
        let attempt =
            |status| Attempt { upstream: "a \"b\" \\ ü".into(), outcome: "ok".into(), status, ms: 7 };
        let least = || Detail {
            endpoint: "chat.completions".into(),
            model: "m\n\"".into(),
            stream: false,
            status: 0,
            end: "failed".into(),
            metered: Metered::None,
            output_cap: None,
            service_tier: None,
            above_input_tokens: None,
            cost: None,
            image_size: None,
            image_quality: None,
            encoding: None,
            usage: Usage::default(),
            reported: None,
            lines: Vec::new(),
            attempts: Vec::new(),
            first_byte_ms: None,
            duration_ms: u64::MAX,
        };
        check(least(), None);
        let most = Detail {
            stream: true,
            status: 200,
            metered: Metered::Estimated,
            output_cap: Some(16),
            service_tier: Some("priority".into()),
            above_input_tokens: Some(200_000),
            cost: Some(line(Class::Output, 3).amount),
            image_size: Some("1024x1792".into()),
            image_quality: Some("hd".into()),
            encoding: Some("o200k_base".into()),
            usage: Usage {
                input: 1,
                cached_input: 2,
                cache_write: 3,
                cache_write_1h: 6,
                cache_write_12h: 7,
                output: 4,
                reasoning: 5,
                audio_input: 8,
                image_input: 9,
                audio_output: 10,
                image_output: 11,
                images: 12,
                seconds: 13,
                characters: 14,
                web_searches: 15,
            },
            lines: vec![line(Class::Input, 1), line(Class::Reasoning, 5)],
            attempts: vec![attempt(None), attempt(Some(429))],
            first_byte_ms: Some(3),
            ..least()
        };
        assert_ne!(most.lines[0].amount, Amount::ZERO);
        check(most, Some(r#"{"prompt_tokens":6,"x":{"y":"}"}}"#));
    }
}
