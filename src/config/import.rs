//! A price book from the public map of LiteLLM: one JSON object of models, each with costs per token.
//!
//! Costs there are JSON numbers such as `7.5e-05`. They are read from their source text, moved by six
//! places and never become floats, so that the book says exactly what the map says. What a book cannot
//! hold is left out and told.

use crate::money::UnitPrice;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// What is made of a map.
#[derive(Debug)]
pub struct Imported {
    /// The price book, as YAML.
    pub book: String,
    /// How many models it has, aliases not counted.
    pub models: usize,
    /// Models of the providers asked for that are not in it, and why.
    pub left_out: Vec<String>,
}

/// Makes a book named `version` of the models of these providers, as the map names them.
///
/// # Errors
/// When the text is not such a map, or has no model of theirs.
pub fn import(map: &str, providers: &[String], version: &str) -> Result<Imported, String> {
    let map: BTreeMap<String, &RawValue> =
        serde_json::from_str(map).map_err(|why| format!("is not a map of models: {why}"))?;
    let (mut models, mut left_out, mut images) = (BTreeMap::new(), Vec::new(), Images::default());
    for (name, entry) in &map {
        let entry =
            Entry(serde_json::from_str(entry.get()).map_err(|why| format!("has a faulty {name}: {why}"))?);
        if !entry.read::<String>("litellm_provider").is_some_and(|provider| providers.contains(&provider)) {
            continue;
        }
        let read = match entry.is_of_images() {
            true => entry.image().map(|price| images.add(name, price)),
            false => entry.model(name).map(|model| drop(models.insert(name.as_str(), model))),
        };
        left_out.extend(read.err().map(|why| format!("{name}: {why}")));
    }
    models.extend(images.into_models());
    if models.is_empty() {
        return Err(format!("has no model of {} that a price book can hold", providers.join(", ")));
    }
    let aliases = aliases(&mut models);
    let mut book = format!("version: {}\n\nmodels:\n", quoted(version));
    for (name, model) in &models {
        push(&mut book, format_args!("  {}: {{ {model} }}\n", quoted(name)));
    }
    if !aliases.is_empty() {
        book.push_str("\naliases:\n");
    }
    for (alias, name) in aliases {
        push(&mut book, format_args!("  {}: {}\n", quoted(alias), quoted(name)));
    }
    Ok(Imported { book, models: models.len(), left_out })
}

/// An entry of the map: its fields as written.
struct Entry<'a>(BTreeMap<String, &'a RawValue>);

/// Names of costs in the map and of prices in a book.
const CLASSES: [(&str, &str); 7] = [
    ("input_cost_per_token", "input"),
    ("cache_read_input_token_cost", "cached_input"),
    ("cache_creation_input_token_cost", "cache_write"),
    ("cache_creation_input_token_cost_above_1hr", "cache_write_1h"),
    ("cache_creation_input_token_cost_above_12hr", "cache_write_12h"),
    ("output_cost_per_token", "output"),
    ("output_cost_per_reasoning_token", "reasoning"),
];
/// Kinds of models whose usage is tokens of text. The map says of others in too many ways what they cost.
const MODES: [&str; 5] = ["chat", "responses", "completion", "embedding", "moderation"];

impl Entry<'_> {
    fn is_of_images(&self) -> bool {
        self.read("mode").is_some_and(|mode: String| mode == "image_generation")
    }

    /// The price of an image.
    fn image(&self) -> Result<UnitPrice, String> {
        let free = |raw: &&RawValue| matches!(raw.get(), "0" | "0.0");
        let costs = ["input_cost_per_image", "output_cost_per_image"];
        let costs: Vec<_> =
            costs.iter().filter_map(|name| self.0.get(*name)).filter(|raw| !free(raw)).collect();
        let by_token = ["input_cost_per_token", "output_cost_per_image_token", "output_cost_per_token"];
        let by_token = by_token.into_iter().any(|name| self.0.get(name).is_some_and(|raw| !free(raw)));
        match costs[..] {
            _ if by_token => Err("images by the token are not imported: write their price by hand".into()),
            [cost] => {
                let exact = plain(cost.get(), 0).and_then(|text| UnitPrice::parse_each(&text).ok());
                exact.ok_or_else(|| format!("a price of {cost} for an image is not exact"))
            }
            [] => Err("it has no price of an image; by the pixel, it would not be exact".into()),
            [_, _, ..] => Err("it has two prices of an image".into()),
        }
    }

    /// A field that is there and of this type.
    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_str(self.0.get(name)?.get()).ok()
    }

    /// The fields of the model in a book.
    fn model(&self, name: &str) -> Result<String, String> {
        let mode = self.read("mode").unwrap_or_else(|| "no known kind".to_owned());
        if !MODES.contains(&&*mode) {
            return Err(format!("{mode} is not imported: write its price by hand"));
        }
        // These search the web for every request, and each search has a price.
        if ["search-preview", "search-api", "deep-research"].into_iter().any(|kind| name.contains(kind)) {
            return Err("web search is not metered".into());
        }
        let spoken =
            ["input_cost_per_audio_token", "output_cost_per_audio_token", "output_cost_per_image_token"];
        if let Some(other) = spoken.into_iter().find(|key| self.0.contains_key(*key)) {
            return Err(format!("{other} is not metered"));
        }
        let writes = !matches!(&*mode, "embedding" | "moderation");
        let mut fields = vec![self.rates("", writes)?.ok_or("it has no price of input")?];
        if writes {
            let longest = self.read("max_output_tokens").filter(|tokens: &u64| *tokens > 0);
            fields.push(format!("max_output_tokens: {}", longest.ok_or("it has no longest answer")?));
        }
        if let Some(longest) = self.read("max_input_tokens").filter(|tokens: &u64| *tokens > 0) {
            fields.push(format!("max_input_tokens: {longest}"));
            // Of others, the map has the price of the preview of web search, which finds for free.
            if writes && self.read("supports_reasoning") == Some(true) {
                fields.extend(self.search()?.map(|each| format!("web_search: \"{each}\"")));
            }
        }
        if writes && self.read("supports_reasoning") == Some(true) {
            fields.push("hidden_reasoning: true".into());
        }
        let base = name.strip_prefix("ft:").unwrap_or(name);
        let old = ["gpt-3.5", "gpt-4-", "text-embedding", "babbage", "davinci"];
        if base == "gpt-4" || old.into_iter().any(|old| base.starts_with(old)) {
            fields.push("encoding: cl100k_base".into());
        }
        for (tier, ending) in [("flex", "_flex"), ("priority", "_priority"), ("batch", "_batches")] {
            if let Some(rates) = self.rates(ending, writes)? {
                fields.push(format!("{tier}: {{ {rates} }}"));
            }
        }
        Ok(fields.join(", "))
    }

    /// The price of a web search, where it is one for all.
    fn search(&self) -> Result<Option<String>, String> {
        let by_size: Option<BTreeMap<String, Box<RawValue>>> = self.read("search_context_cost_per_query");
        let costs: BTreeSet<String> =
            by_size.iter().flatten().map(|(_, cost)| cost.get().to_owned()).collect();
        let mut costs = costs.into_iter();
        let (Some(cost), None) = (costs.next(), costs.next()) else { return Ok(None) };
        let exact =
            plain(&cost, 0).filter(|text| UnitPrice::parse_each(text).is_ok_and(|each| !each.is_zero()));
        exact.map(Some).ok_or_else(|| format!("a price of {cost} for a web search is not exact"))
    }

    /// The prices of a tier by length of the input; `None` if it is not sold.
    fn rates(&self, tier: &str, writes: bool) -> Result<Option<String>, String> {
        let Some(unit) = self.unit("", tier, writes)? else { return Ok(None) };
        let start = "input_cost_per_token_above_";
        let lengths: BTreeSet<u64> = self
            .0
            .keys()
            .filter_map(|key| {
                key.strip_prefix(start)?.strip_suffix(tier)?.strip_suffix("k_tokens")?.parse().ok()
            })
            .collect();
        let mut bands = Vec::new();
        for thousands in lengths {
            if let Some(unit) = self.unit(&format!("_above_{thousands}k_tokens"), tier, writes)? {
                bands.push(format!("{{ above: {thousands}000, {unit} }}"));
            }
        }
        if bands.is_empty() {
            return Ok(Some(unit));
        }
        Ok(Some(format!("{unit}, long_context: [{}]", bands.join(", "))))
    }

    fn unit(&self, length: &str, tier: &str, writes: bool) -> Result<Option<String>, String> {
        let mut fields = Vec::new();
        for (cost, price) in CLASSES {
            if !writes && matches!(price, "output" | "reasoning") {
                continue;
            }
            let Some(value) = self.0.get(&format!("{cost}{length}{tier}")) else {
                match price {
                    "input" => return Ok(None),
                    "output" => return Err(format!("{cost}{length}{tier} is missing")),
                    _ => continue,
                }
            };
            let exact = per_million(value.get()).ok_or_else(|| format!("{cost} of {value} is not exact"))?;
            fields.push(format!("{price}: \"{exact}\""));
        }
        Ok(Some(fields.join(", ")))
    }
}

/// Prices of images by their model: the map has a model for each size and quality, named `hd/1024-x-1792/MODEL`.
#[derive(Default)]
struct Images<'a>(BTreeMap<&'a str, BTreeMap<Vec<&'a str>, UnitPrice>>);

impl<'a> Images<'a> {
    fn add(&mut self, name: &'a str, price: UnitPrice) {
        let mut words: Vec<&str> = name.split('/').collect();
        let model = words.pop().expect("a name has a last part");
        self.0.entry(model).or_default().insert(words, price);
    }

    fn into_models(self) -> impl Iterator<Item = (&'a str, String)> {
        self.0.into_iter().map(|(model, prices)| {
            // Where the map says none of any image, the dearest: no image is sold below its price.
            let any = prices.get(&Vec::new()).or_else(|| prices.values().max()).expect("it has one");
            let each = |price: &UnitPrice| price.times(1).to_string();
            let sized = prices.iter().filter(|(words, _)| !words.is_empty()).map(|(words, price)| {
                let said = words.iter().map(|word| match word.split_once("-x-") {
                    Some((width, height)) => format!("size: {}", quoted(&format!("{width}x{height}"))),
                    None => format!("quality: {}", quoted(word)),
                });
                format!("{{ {}, image: \"{}\" }}", said.collect::<Vec<_>>().join(", "), each(price))
            });
            let sized: Vec<String> = sized.collect();
            let any = format!("image: \"{}\"", each(any));
            (model, if sized.is_empty() { any } else { format!("{any}, images: [{}]", sized.join(", ")) })
        })
    }
}

/// US dollars for a million tokens, from a JSON number of dollars for one. `None` for what is no number, or not
/// exact in a book.
fn per_million(number: &str) -> Option<String> {
    Some(UnitPrice::parse_per_million(&plain(number, 6)?).ok()?.to_string())
}

/// A JSON number without an exponent: its digits, with the point moved by so many places and by its exponent.
fn plain(number: &str, moved: i32) -> Option<String> {
    let (mantissa, exponent) = match number.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.trim_start_matches('+').parse::<i32>().ok()?),
        None => (number, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: String = [whole, fraction].concat();
    let places = i32::try_from(fraction.len()).ok()? - exponent - moved;
    if !(-30..=60).contains(&places) {
        return None;
    }
    let text = if places <= 0 {
        format!("{digits}{}", "0".repeat(usize::try_from(-places).ok()?))
    } else {
        let places = usize::try_from(places).ok()?;
        let padded = format!("{}{digits}", "0".repeat((places + 1).saturating_sub(digits.len())));
        let (whole, fraction) = padded.split_at(padded.len() - places);
        format!("{whole}.{fraction}")
    };
    let trimmed = text.trim_start_matches('0');
    Some(if trimmed.is_empty() || trimmed.starts_with('.') { format!("0{trimmed}") } else { trimmed.into() })
}

/// Takes dated snapshots out that say the same as the model they are of.
fn aliases<'a>(models: &mut BTreeMap<&'a str, String>) -> Vec<(&'a str, &'a str)> {
    let names: Vec<&str> = models.keys().copied().collect();
    let snapshot = |name: &'a str| {
        let base = names.iter().copied().find(|base| {
            let date = name.strip_prefix(base).and_then(|rest| rest.strip_prefix('-'));
            date.is_some_and(|date| date.len() >= 8 && date.bytes().all(|b| b.is_ascii_digit() || b == b'-'))
        });
        base.filter(|base| models[base] == models[name]).map(|base| (name, base))
    };
    let found: Vec<(&str, &str)> = names.iter().copied().filter_map(snapshot).collect();
    for (name, _) in &found {
        models.remove(name);
    }
    found
}

/// As YAML takes it, whatever it looks like.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("text is JSON, which YAML reads")
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a string can always grow");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settle::price::{Picture, Tier};

    fn check(number: &str, expect: Option<&str>) {
        assert_eq!(per_million(number).as_deref(), expect, "{number}");
    }

    #[test]
    fn costs_are_read_from_their_source_text() {
        check("7.5e-05", Some("75.00"));
        check("1.25e-06", Some("1.25"));
        check("0.0", Some("0.00"));
        check("0", Some("0.00"));
        check("2e-8", Some("0.02"));
        check("0.00015", Some("150.00"));
        check("1E+0", Some("1000000.00"));
        check("1.23456789e-06", Some("1.23456789"));
        check("4.0000000000000003e-07", None);
        for other in ["\"1\"", "-1e-6", "{}", "null", "1e-999999", "1e999"] {
            check(other, None);
        }
    }

    const MAP: &str = include_str!("../../tests/data/litellm-map.json");

    #[test]
    fn a_map_becomes_a_book_that_loads() {
        let providers = ["openai", "anthropic"].map(str::to_owned);
        let imported = import(MAP, &providers, "2026-11-23").unwrap();
        let book = super::super::load_prices_text(&imported.book)
            .unwrap_or_else(|f| panic!("{f}\n{}", imported.book));
        assert_eq!((&*book.version, imported.models), ("2026-11-23", 6));
        let unit = |model: &str, tier, input| {
            let (_, price) = book.find(model).unwrap();
            let (unit, _) = price.price.of(tier).unwrap().at(input);
            [unit.input, unit.cached_input, unit.cache_write_12h, unit.output].map(|price| price.to_string())
        };
        assert_eq!(unit("sim-long", Tier::Default, 272_000), ["5.00", "0.50", "12.50", "30.00"]);
        assert_eq!(unit("sim-long", Tier::Default, 272_001), ["10.00", "1.00", "10.00", "45.00"]);
        assert_eq!(unit("sim-long", Tier::Flex, 272_001), ["5.00", "0.50", "5.00", "22.50"]);
        assert_eq!(unit("sim-long", Tier::Priority, 300_000), ["12.50", "1.25", "12.50", "75.00"]);
        assert_eq!(unit("sim-long", Tier::Batch, 300_000), ["2.50", "2.50", "2.50", "15.00"]);
        assert!(book.find("sim-long-2026-04-23").unwrap().1 == book.find("sim-long").unwrap().1);
        assert_eq!(unit("ft:sim-small:acme", Tier::Default, 1)[0], "0.30");
        assert!(book.find("sim-embed").unwrap().1.max_output_tokens.is_none());
        let search = |model| book.find(model).unwrap().1.price.default.unit.web_searches.times(1).to_string();
        assert_eq!(["sim-long", "sim-claude", "sim-small"].map(search), ["0.01", "0.01", "0.00"]);
        let hour = book.find("sim-claude").unwrap().1.price.default.unit.cache_write_1h;
        assert_eq!(hour.to_string(), "10.00");
        let painter = &book.find("sim-painter").unwrap().1.price.default;
        let image = |size, quality| {
            let special = painter.of_picture(&Picture::said(Some(size), Some(quality)));
            special.map_or(painter.unit.images, |price| price.each).times(1).to_string()
        };
        assert_eq!([image("1024x1024", "standard"), image("1024x1792", "hd")], ["0.04", "0.12"]);
        let why: Vec<&str> = imported.left_out.iter().map(String::as_str).collect();
        assert_eq!(
            why,
            [
                "256-x-256/sim-pixels: it has no price of an image; by the pixel, it would not be exact",
                "sim-endless: it has no longest answer",
                "sim-finder-search-preview: web search is not metered",
                "sim-inexact: input_cost_per_token of 4.0000000000000003e-07 is not exact",
                "sim-speaker: output_cost_per_audio_token is not metered",
            ]
        );
    }

    #[test]
    fn what_is_no_map_is_told() {
        let import = |map| import(map, &["openai".to_owned()], "v").unwrap_err();
        assert!(import("[]").starts_with("is not a map of models"));
        assert!(import("{}").starts_with("has no model of openai"));
    }
}
