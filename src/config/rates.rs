//! The prices of one model in the price book file: by class, service tier and length of the input.

use super::reader::{Node, Required, Section};
use crate::money::UnitPrice;
use crate::settle::price::{Band, Encoding, ModelPrice, Rates, Reasoning, Tariff, UnitPrices};
use std::sync::Arc;

/// More tokens than any model reads or writes at once.
const TOKENS_MAX: u64 = 10_000_000;

/// Whether a model writes text: what does not has no price of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writes {
    Text,
    Nothing,
}

/// Reads all that the book says of a model.
pub(super) fn model(mut section: Section<'_>) -> Option<Arc<ModelPrice>> {
    // What writes nothing, such as embeddings, has no price of output and no longest answer.
    let tells = ["output", "reasoning", "max_output_tokens"].into_iter().any(|key| section.has(key));
    let writes = if tells { Writes::Text } else { Writes::Nothing };
    let price = tariff(&mut section, writes);
    let cost = match section.get("cost") {
        Some(node) => {
            let mut cost = node.section();
            let tariff = tariff(&mut cost, writes);
            cost.finish();
            Some(tariff?)
        }
        None => None,
    };
    let max_output_tokens = match writes {
        Writes::Text => {
            let longest = section.required(Required { key: "max_output_tokens", example: "16384" });
            Some(longest.and_then(|node| node.number(1..=TOKENS_MAX)))
        }
        Writes::Nothing => None,
    };
    let max_input_tokens = section.get("max_input_tokens").and_then(|node| node.number(1..=TOKENS_MAX));
    let encodings = [Encoding::O200kBase, Encoding::Cl100kBase].map(|encoding| (encoding.name(), encoding));
    let encoding = section.choice("encoding", &encodings);
    let hidden = section.get("hidden_reasoning").and_then(|node| node.switch());
    section.finish();
    Some(Arc::new(ModelPrice {
        price: price?,
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
fn tariff(section: &mut Section<'_>, writes: Writes) -> Option<Tariff> {
    let default = rates(section, writes);
    let mut tier = |key| {
        section.get(key).map(|node| {
            let mut section = node.section();
            let rates = rates(&mut section, writes);
            section.finish();
            rates
        })
    };
    let (flex, priority, batch) = (tier("flex"), tier("priority"), tier("batch"));
    // Not with `?` before all are read: that would hide faults.
    Some(Tariff { default: default?, flex: whole(flex)?, priority: whole(priority)?, batch: whole(batch)? })
}

/// `None` inside is a fault, which was told.
fn whole<T>(read: Option<Option<T>>) -> Option<Option<T>> {
    match read {
        Some(None) => None,
        Some(value) => Some(value),
        None => Some(None),
    }
}

fn rates(section: &mut Section<'_>, writes: Writes) -> Option<Rates> {
    let unit = unit_prices(section, writes);
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
            let unit = unit_prices(&mut band, writes);
            band.finish();
            bands.push(above.zip(unit).map(|(above, unit)| Band { above, unit }));
        }
    }
    Some(Rates { unit: unit?, bands: bands.into_iter().collect::<Option<_>>()? })
}

fn unit_prices(section: &mut Section<'_>, writes: Writes) -> Option<UnitPrices> {
    let input = section.required(Required { key: "input", example: "\"0.15\"" });
    let input = input.and_then(|node| price(&node));
    let output = match writes {
        Writes::Text => {
            section.required(Required { key: "output", example: "\"0.60\"" }).and_then(|node| price(&node))
        }
        Writes::Nothing => Some(UnitPrice::ZERO),
    };
    let mut price_or = |key, default| section.get(key).map_or(default, |node| price(&node));
    let cached_input = price_or("cached_input", input);
    let cache_write = price_or("cache_write", input);
    let cache_write_1h = price_or("cache_write_1h", cache_write);
    let cache_write_12h = price_or("cache_write_12h", cache_write);
    let reasoning = price_or("reasoning", output);
    Some(UnitPrices {
        input: input?,
        cached_input: cached_input?,
        cache_write: cache_write?,
        cache_write_1h: cache_write_1h?,
        cache_write_12h: cache_write_12h?,
        output: output?,
        reasoning: reasoning?,
    })
}

fn price(node: &Node<'_>) -> Option<UnitPrice> {
    if node.is_number() {
        node.fault("must be a decimal string, which is exact: put the number in quotes, such as \"0.15\"");
        return None;
    }
    let text = node.text()?;
    UnitPrice::parse_per_million(&text).map_err(|error| node.fault(error.to_string())).ok()
}
