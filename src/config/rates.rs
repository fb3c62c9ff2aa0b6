//! The prices of one model in the price book file: by class, service tier and length of the input, or by
//! what else than tokens it is sold by.

use super::reader::{Node, Required, Section};
use crate::money::{MoneyError, UnitPrice};
use crate::settle::price::{
    Band, Encoding, ModelPrice, Picture, PicturePrice, Rates, Reasoning, Tariff, UnitPrices,
};
use crate::usage::Unit;
use std::sync::Arc;

/// More tokens than any model reads or writes at once.
const TOKENS_MAX: u64 = 10_000_000;

/// What a model is sold by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SoldBy {
    /// Tokens, those that it writes among them.
    AllTokens,
    /// Tokens; it writes nothing and has no price of it.
    TokensRead,
    /// Something else: the key of its price.
    Other(&'static str),
}

/// Keys of what else than tokens a model is sold by.
const OTHERS: [&str; 3] = ["image", "minute", "characters"];

impl SoldBy {
    fn of(section: &Section<'_>) -> Self {
        // What writes nothing, such as embeddings, has no price of output and no longest answer.
        let written = ["output", "reasoning", "audio_output", "image_output", "max_output_tokens"];
        match OTHERS.into_iter().find(|key| section.has(key)) {
            Some(_) if section.has("input") => SoldBy::AllTokens,
            Some(key) => SoldBy::Other(key),
            None if written.into_iter().any(|key| section.has(key)) => SoldBy::AllTokens,
            None => SoldBy::TokensRead,
        }
    }

    fn unit(self) -> Unit {
        match self {
            SoldBy::AllTokens | SoldBy::TokensRead => Unit::Token,
            SoldBy::Other("image") => Unit::Image,
            SoldBy::Other("minute") => Unit::Second,
            SoldBy::Other(_) => Unit::Character,
        }
    }
}

/// Reads all that the book says of a model.
pub(super) fn model(mut section: Section<'_>) -> Option<Arc<ModelPrice>> {
    let sold_by = SoldBy::of(&section);
    let price = tariff(&mut section, sold_by);
    let searched = sold_by == SoldBy::AllTokens && section.has("web_search");
    let cost = match section.get("cost") {
        Some(node) => {
            let mut cost = node.section();
            let tariff = tariff(&mut cost, sold_by);
            if searched && tariff.as_ref().is_some_and(|tariff| tariff.default.unit.web_searches.is_zero()) {
                cost.required(Required { key: "web_search", example: "\"0.01\"" });
            }
            cost.finish();
            Some(tariff?)
        }
        None => None,
    };
    let max_output_tokens = match sold_by {
        SoldBy::AllTokens => {
            let longest = section.required(Required { key: "max_output_tokens", example: "16384" });
            Some(longest.and_then(|node| node.number(1..=TOKENS_MAX)))
        }
        SoldBy::TokensRead | SoldBy::Other(_) => None,
    };
    let max_input_tokens = section.get("max_input_tokens").and_then(|node| node.number(1..=TOKENS_MAX));
    let encodings = [Encoding::O200kBase, Encoding::Cl100kBase].map(|encoding| (encoding.name(), encoding));
    let encoding = section.choice("encoding", &encodings);
    let hidden = section.get("hidden_reasoning").and_then(|node| node.switch());
    section.finish();
    Some(Arc::new(ModelPrice {
        price: price?,
        sold_by: sold_by.unit(),
        cost,
        max_output_tokens: match max_output_tokens {
            Some(longest) => Some(longest?),
            None => None,
        },
        max_input_tokens,
        encoding,
        hidden_reasoning: if hidden == Some(true) { Reasoning::Hidden } else { Reasoning::None },
    }))
}

/// Rates of the default tier, and those of others below their names.
fn tariff(section: &mut Section<'_>, sold_by: SoldBy) -> Option<Tariff> {
    let default = rates(section, sold_by);
    let searches = match sold_by {
        SoldBy::AllTokens => section.get("web_search").map_or(Some(UnitPrice::ZERO), |node| search(&node)),
        SoldBy::TokensRead | SoldBy::Other(_) => Some(UnitPrice::ZERO),
    };
    let mut tier = |key| {
        section.get(key).map(|node| {
            let mut section = node.section();
            let rates = rates(&mut section, sold_by);
            section.finish();
            rates
        })
    };
    let (flex, priority, batch) = (tier("flex"), tier("priority"), tier("batch"));
    // Not with `?` before all are read: that would hide faults.
    let mut tariff =
        Tariff { default: default?, flex: whole(flex)?, priority: whole(priority)?, batch: whole(batch)? };
    tariff.set_web_searches(searches?);
    Some(tariff)
}

/// The price of a web search, of whatever tier.
fn search(node: &Node<'_>) -> Option<UnitPrice> {
    let each = parsed(node, UnitPrice::parse_each)?;
    if each.is_zero() {
        node.fault("must be above zero: leave it out where web search is not sold");
    }
    Some(each)
}

/// `None` inside is a fault, which was told.
fn whole<T>(read: Option<Option<T>>) -> Option<Option<T>> {
    match read {
        Some(None) => None,
        Some(value) => Some(value),
        None => Some(None),
    }
}

fn rates(section: &mut Section<'_>, sold_by: SoldBy) -> Option<Rates> {
    let unit = unit_prices(section, sold_by);
    let mut bands: Vec<Option<Band>> = Vec::new();
    if let Some(list) = section.get("long_context") {
        let mut last = 0;
        for item in list.items() {
            let mut band = item.section();
            let above = band.required(Required { key: "above", example: "272000" });
            let above = above.and_then(|node| {
                let tokens = node.number(1..=TOKENS_MAX)?;
                if tokens <= last {
                    node.fault("must be more than that of the one before it");
                }
                last = tokens;
                Some(tokens)
            });
            let unit = unit_prices(&mut band, sold_by);
            band.finish();
            bands.push(above.zip(unit).map(|(above, unit)| Band { above, unit }));
        }
    }
    let pictures = match sold_by {
        SoldBy::Other("image") => section.get("images").map_or(Some(Vec::new()), |node| pictures(&node)),
        SoldBy::Other(_) | SoldBy::AllTokens | SoldBy::TokensRead => Some(Vec::new()),
    };
    Some(Rates { unit: unit?, bands: bands.into_iter().collect::<Option<_>>()?, pictures: pictures? })
}

/// Prices of images by size, by quality, or by both.
fn pictures(list: &Node<'_>) -> Option<Vec<PicturePrice>> {
    let mut prices: Vec<Option<PicturePrice>> = Vec::new();
    for item in list.items() {
        let mut entry = item.section();
        let mut word = |key| entry.get(key).and_then(|node| node.text());
        let (size, quality) = (word("size"), word("quality"));
        let picture = Picture::said(size.as_deref(), quality.as_deref());
        let each = other_price(&mut entry, "image");
        entry.finish();
        if picture.is_any() {
            item.fault("says nothing of its images: add `size: 1024x1792`, or `quality: hd`");
        } else if prices.iter().flatten().any(|price| price.picture == picture) {
            item.fault("says the same of its images as one above: remove one");
        }
        prices.push(each.map(|unit| PicturePrice { picture, each: unit.images }));
    }
    prices.into_iter().collect()
}

fn unit_prices(section: &mut Section<'_>, sold_by: SoldBy) -> Option<UnitPrices> {
    match sold_by {
        SoldBy::AllTokens | SoldBy::TokensRead => token_prices(section, sold_by),
        SoldBy::Other(key) => other_price(section, key),
    }
}

/// The price of a model that is sold by something else than tokens.
fn other_price(section: &mut Section<'_>, key: &'static str) -> Option<UnitPrices> {
    let node = section.required(Required { key, example: "\"0.006\"" })?;
    let none = UnitPrices::default();
    Some(match key {
        "image" => UnitPrices { images: parsed(&node, UnitPrice::parse_each)?, ..none },
        "minute" => UnitPrices { seconds: parsed(&node, UnitPrice::parse_per_sixty)?, ..none },
        _ => UnitPrices { characters: price(&node)?, ..none },
    })
}

fn token_prices(section: &mut Section<'_>, sold_by: SoldBy) -> Option<UnitPrices> {
    let input = section.required(Required { key: "input", example: "\"0.15\"" });
    let input = input.and_then(|node| price(&node));
    let output = match sold_by {
        SoldBy::AllTokens => {
            section.required(Required { key: "output", example: "\"0.60\"" }).and_then(|node| price(&node))
        }
        SoldBy::TokensRead | SoldBy::Other(_) => Some(UnitPrice::ZERO),
    };
    let mut price_or = |key, default| section.get(key).map_or(default, |node| price(&node));
    let cached_input = price_or("cached_input", input);
    let cache_write = price_or("cache_write", input);
    let cache_write_1h = price_or("cache_write_1h", cache_write);
    let cache_write_12h = price_or("cache_write_12h", cache_write);
    let (audio_input, image_input) = (price_or("audio_input", input), price_or("image_input", input));
    let reasoning = price_or("reasoning", output);
    let (audio_output, image_output) = (price_or("audio_output", output), price_or("image_output", output));
    Some(UnitPrices {
        input: input?,
        cached_input: cached_input?,
        cache_write: cache_write?,
        cache_write_1h: cache_write_1h?,
        cache_write_12h: cache_write_12h?,
        audio_input: audio_input?,
        image_input: image_input?,
        output: output?,
        reasoning: reasoning?,
        audio_output: audio_output?,
        image_output: image_output?,
        ..UnitPrices::default()
    })
}

fn price(node: &Node<'_>) -> Option<UnitPrice> {
    parsed(node, UnitPrice::parse_per_million)
}

fn parsed(node: &Node<'_>, parse: fn(&str) -> Result<UnitPrice, MoneyError>) -> Option<UnitPrice> {
    if node.is_number() {
        node.fault("must be a decimal string, which is exact: put the number in quotes, such as \"0.15\"");
        return None;
    }
    let text = node.text()?;
    parse(&text).map_err(|error| node.fault(error.to_string())).ok()
}
