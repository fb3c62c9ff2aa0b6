//! The price book file: what is sold, under which names, for how much.

use super::expand::Environment;
use super::fault::Fault;
use super::nearest::nearest;
use super::rates::model;
use super::raw::Document;
use super::reader::{Node, Reader, Required};
use crate::clock::Timestamp;
use crate::settle::price::{ModelPrice, PriceBook};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// The longest version: it stands on each receipt.
const VERSION_CHARACTERS_MAX: usize = 64;
/// The longest name of a model.
const MODEL_CHARACTERS_MAX: usize = 128;

/// Whether it can be the name of a model.
pub(super) fn is_model_name(text: &str) -> bool {
    let letters = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:/-".contains(&b));
    letters && (1..=MODEL_CHARACTERS_MAX).contains(&text.len())
}

/// Reads a price book.
pub(super) fn parse(
    path: &Path,
    text: String,
    environment: Environment<'_>,
) -> Result<PriceBook, Vec<Fault>> {
    let document = Document::parse(path, text).map_err(|fault| vec![fault])?;
    let reader = Reader::new(&document, environment);
    let book = book(&reader);
    let faults = reader.into_faults();
    if faults.is_empty() { Ok(book.expect("what reads without a fault is complete")) } else { Err(faults) }
}

fn book(reader: &Reader<'_>) -> Option<PriceBook> {
    let mut root = reader.root();
    let version = root.required(Required { key: "version", example: "2026-11-23" });
    let version = version.and_then(|node| version_of(&node));
    let effective = root.get("effective").and_then(|node| node.parsed(effective_of));
    let example = "{ NAME: { input: \"0.15\", output: \"0.60\", max_output_tokens: 16384 } }";
    let models = root.required(Required { key: "models", example }).map(|node| models(&node));
    let aliases = root.get("aliases");
    root.finish();
    let mut models = models?;
    if let Some(aliases) = aliases {
        add_aliases(&aliases, &mut models);
    }
    // Every model is here, also a faulty one, so that aliases are judged by the names alone.
    let models = models.into_iter().map(|(name, price)| Some((name, price?)));
    Some(PriceBook { version: version?.into(), effective, models: models.collect::<Option<_>>()? })
}

fn version_of(node: &Node<'_>) -> Option<String> {
    if node.is_number() {
        node.fault("must be text: quote it");
        return None;
    }
    let version = node.text()?;
    let printable = version.bytes().all(|b| b.is_ascii_graphic() || b == b' ') && version.trim() == version;
    if !printable || !(1..=VERSION_CHARACTERS_MAX).contains(&version.len()) {
        node.fault(format!(
            "must be 1 to {VERSION_CHARACTERS_MAX} printable ASCII characters, such as a date"
        ));
        return None;
    }
    Some(version)
}

fn effective_of(text: &str) -> Result<Timestamp, &'static str> {
    let why =
        "must be a date such as 2026-12-01, which begins in UTC, or a time such as 2026-12-01T06:00:00Z";
    Timestamp::parse(text).ok_or(why)
}

type Models = HashMap<Box<str>, Option<Arc<ModelPrice>>>;

fn models(node: &Node<'_>) -> Models {
    let mut models = Models::new();
    for (name, node) in node.entries() {
        check_name(&node, name);
        models.insert(name.into(), model(node.section()));
    }
    if node.is_empty() {
        node.fault("is empty: nothing could be sold");
    }
    models
}

fn check_name(node: &Node<'_>, name: &str) {
    if !is_model_name(name) {
        let node = node.clone().into_key();
        node.fault("must be the name of a model: 1 to 128 of A-Z, a-z, 0-9 and . _ : / -");
    }
}

fn add_aliases(aliases: &Node<'_>, models: &mut Models) {
    let mut added = Models::new();
    for (alias, node) in aliases.entries() {
        check_name(&node, alias);
        if models.contains_key(alias) {
            node.clone().into_key().fault("is a model already: rename or remove the alias");
        }
        let Some(name) = node.text() else { continue };
        match models.get(name.as_str()) {
            Some(price) => drop(added.insert(alias.into(), price.clone())),
            None => {
                let meant = nearest(&name, models.keys().map(|name| &**name));
                let meant = meant.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
                node.fault(format!("must be one of `models`, which `{name}` is not{meant}"));
            }
        }
    }
    models.extend(added);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::UnitPrice;
    use crate::settle::price::{Encoding, Picture, Rates, Reasoning, Tier};
    use crate::usage::{Class, Unit};

    const GOOD: &str = "\
version: 2026-11-23
models:
  a: { input: \"1\", output: \"2\", max_output_tokens: 3 }
";

    fn read(text: &str) -> Result<PriceBook, Vec<Fault>> {
        parse(Path::new("p.yaml"), text.to_owned(), &|_| None)
    }

    /// Each expected line is the start of the one that is told.
    fn check(text: &str, expect: &[&str]) {
        let faults = read(text).expect_err(text);
        let lines: Vec<String> = faults.iter().map(|fault| fault.to_string()).collect();
        let agree = lines.len() == expect.len() && lines.iter().zip(expect).all(|(l, e)| l.starts_with(e));
        assert!(agree, "of\n{text}\ngot\n{}\nnot\n{}", lines.join("\n"), expect.join("\n"));
    }

    #[test]
    fn defaults_follow_input_and_output() {
        let book = read(GOOD).unwrap();
        assert_eq!(&*book.version, "2026-11-23");
        let model = &book.models["a"];
        let [one, two] = ["1", "2"].map(|text| UnitPrice::parse_per_million(text).unwrap());
        let prices = Class::ALL.map(|class| model.price.default.unit.of(class));
        let none = UnitPrice::ZERO;
        assert_eq!(prices[..7], [one; 7]);
        assert_eq!(prices[7..], [two, two, two, two, none, none, none, none]);
        assert_eq!((model.max_output_tokens, model.max_input_tokens), (Some(3), None));
        assert_eq!((model.encoding, model.hidden_reasoning), (Encoding::O200kBase, Reasoning::None));
    }

    #[test]
    fn every_key_counts() {
        let text = "\
version: \"1.10\"
models:
  a/b:c_d.e-1:
    input: \"1\"
    cached_input: \"0.1\"
    cache_write: \"1.25\"
    cache_write_1h: \"2\"
    cache_write_12h: \"2.5\"
    output: \"2\"
    reasoning: \"3\"
    max_output_tokens: 10000000
    max_input_tokens: 5
    encoding: cl100k_base
    hidden_reasoning: true
aliases: { x: a/b:c_d.e-1 }
";
        let book = read(text).unwrap();
        let model = &book.models["a/b:c_d.e-1"];
        let prices = Class::ALL.map(|class| model.price.default.unit.of(class).to_string());
        assert_eq!(prices[..7], ["1.00", "0.10", "1.25", "2.00", "2.50", "1.00", "1.00"]);
        assert_eq!(prices[7..], ["2.00", "3.00", "2.00", "2.00", "0.00", "0.00", "0.00", "0.00"]);
        assert_eq!((model.max_output_tokens, model.max_input_tokens), (Some(10_000_000), Some(5)));
        assert_eq!((model.encoding, model.hidden_reasoning), (Encoding::Cl100kBase, Reasoning::Hidden));
        assert_eq!(&book.models["x"], model);
        assert_eq!((&*book.version, book.models.len()), ("1.10", 2));
    }

    #[test]
    fn tiers_long_inputs_and_costs_have_rates_of_their_own() {
        let text = "\
version: v
models:
  m:
    input: \"1\"
    output: \"2\"
    long_context:
      - { above: 100, input: \"2\", output: \"3\" }
      - { above: 200, input: \"4\", output: \"5\" }
    flex: { input: \"0.5\", output: \"1\", long_context: [{ above: 100, input: \"0.7\", output: \"1\" }] }
    max_output_tokens: 9
    cost: { input: \"0.9\", output: \"1.8\", flex: { input: \"0.4\", output: \"0.9\" } }
  e: { input: \"1\", flex: { input: \"0.5\" }, cost: { input: \"0.1\" } }
";
        let book = read(text).unwrap();
        let model = &book.models["m"];
        let input = |rates: &crate::settle::price::Rates, length| rates.at(length).0.input.to_string();
        let [default, flex] = [Tier::Default, Tier::Flex].map(|tier| model.price.of(tier).unwrap());
        assert_eq!([100, 200, 201].map(|length| input(default, length)), ["1.00", "2.00", "4.00"]);
        assert_eq!([100, 200].map(|length| input(flex, length)), ["0.50", "0.70"]);
        assert_eq!(model.price.of(Tier::Priority), None);
        let cost = model.cost.as_ref().unwrap();
        assert_eq!(
            [&cost.default, cost.flex.as_ref().unwrap()].map(|rates| input(rates, 1)),
            ["0.90", "0.40"]
        );
        assert!(book.models["e"].cost.is_some() && book.models["e"].max_output_tokens.is_none());
    }

    #[test]
    fn faults_of_tiers_and_lengths() {
        let text = "\
version: v
models:
  m:
    input: \"1\"
    output: \"2\"
    long_context:
      - { above: 100, input: \"2\" }
      - { above: 100, input: \"2\", output: \"3\", x: 1 }
      - { input: \"2\", output: \"3\" }
    flex: 1
    priority: { output: \"1\" }
    max_output_tokens: 9
    cost: { input: \"0.9\" }
";
        check(
            text,
            &[
                "p.yaml:7:9: models.m.long_context[0].output: is missing: add `output: \"0.60\"`",
                "p.yaml:8:18: models.m.long_context[1].above: must be more than that of the one before it",
                "p.yaml:8:48: models.m.long_context[1].x: unknown key `x`",
                "p.yaml:9:9: models.m.long_context[2].above: is missing: add `above: 272000`",
                "p.yaml:10:11: models.m.flex: must be a mapping, not a number",
                "p.yaml:11:15: models.m.priority.input: is missing: add `input: \"0.15\"`",
                "p.yaml:13:11: models.m.cost.output: is missing: add `output: \"0.60\"`",
            ],
        );
    }

    #[test]
    fn what_else_than_tokens_a_model_is_sold_by() {
        let text = "\
version: v
models:
  i: { image: \"0.04\", images: [{ quality: hd, image: \"0.08\" }], cost: { image: \"0.03\" }, batch: { image: \"0.02\" } }
  m: { minute: \"0.006\" }
  c: { characters: \"15\" }
  t: { input: \"5\", image_input: \"8\", output: \"6\", image_output: \"30\", max_output_tokens: 9 }
";
        let book = read(text).unwrap();
        let told = |name: &str, class| {
            let model = &book.models[name];
            (model.sold_by, model.price.default.unit.of(class).to_string())
        };
        assert_eq!(told("i", Class::Images), (Unit::Image, "40000.00".into()));
        let hd = Picture::said(None, Some("hd"));
        let of = |rates: &Rates| rates.of_picture(&hd).map(|price| price.each.times(1).to_string());
        let image = &book.models["i"].price;
        assert_eq!((of(&image.default), of(image.batch.as_ref().unwrap())), (Some("0.08".into()), None));
        check(
            "version: v\nmodels:\n  i: { image: \"1\", images: [{ image: \"2\" }, { size: a, image: \"2\" }, { size: a, image: 3, x: 1 }] }\n  m: { minute: \"6\", images: [] }\n",
            &[
                "p.yaml:3:29: models.i.images[0]: says nothing of its images",
                "p.yaml:3:70: models.i.images[2]: says the same of its images as one above",
                "p.yaml:3:88: models.i.images[2].image: must be a decimal string",
                "p.yaml:3:91: models.i.images[2].x: unknown key `x`; known here: size, quality, image",
                "p.yaml:4:21: models.m.images: unknown key `images`",
            ],
        );
        assert_eq!(told("m", Class::Seconds), (Unit::Second, "100.00".into()));
        assert_eq!(told("c", Class::Characters), (Unit::Character, "15.00".into()));
        assert_eq!(told("t", Class::ImageOutput), (Unit::Token, "30.00".into()));
        assert_eq!(told("t", Class::AudioOutput), (Unit::Token, "6.00".into()));
        check(
            "version: v\nmodels:\n  i: { image: \"0.04\", max_output_tokens: 9 }\n  m: { minute: \"0.05\" }\n  c: { characters: 15 }\n  t: { input: \"1\", minute: \"1\" }\n",
            &[
                "p.yaml:3:23: models.i.max_output_tokens: unknown key `max_output_tokens`",
                "p.yaml:4:16: models.m.minute: has no exact price of a second",
                "p.yaml:5:20: models.c.characters: must be a decimal string",
                "p.yaml:6:6: models.t.max_output_tokens: is missing",
                "p.yaml:6:6: models.t.output: is missing",
                "p.yaml:6:20: models.t.minute: unknown key `minute`",
            ],
        );
    }

    #[test]
    fn a_web_search_has_one_price_at_all_rates() {
        let model = |more: &str| {
            let rates = "input: \"1\", output: \"2\"";
            format!(
                "version: v\nmodels:\n  m: {{ {rates}, max_output_tokens: 9, long_context: [{{ above: 5, {rates} }}], flex: {{ {rates} }}{more} }}\n"
            )
        };
        let cost = "cost: { input: \"1\", output: \"2\"";
        let sold = format!(", web_search: \"0.01\", {cost}, web_search: \"0.008\" }}");
        let book = read(&model(&sold)).unwrap();
        let (price, cost_of) = (&book.models["m"].price, book.models["m"].cost.as_ref().unwrap());
        let each = |rates: &Rates, length| rates.at(length).0.web_searches.times(1).to_string();
        let flex = price.flex.as_ref().unwrap();
        let told =
            [each(&price.default, 1), each(&price.default, 6), each(flex, 1), each(&cost_of.default, 6)];
        assert_eq!(told, ["0.01", "0.01", "0.01", "0.008"]);
        let book = read(&model("")).unwrap();
        assert_eq!(each(&book.models["m"].price.default, 1), "0.00");
        for (more, expect) in [
            (", web_search: \"0\"", "web_search: must be above zero"),
            (", web_search: 0.01", "web_search: must be a decimal string"),
            (
                &format!(", web_search: \"0.01\", {cost} }}"),
                "cost.web_search: is missing: add `web_search: \"0.01\"`",
            ),
        ] {
            let faults = read(&model(more)).expect_err(more);
            let line = faults[0].to_string();
            assert!(faults.len() == 1 && line.contains(expect), "{faults:?}");
        }
        let embeds = "version: v\nmodels:\n  e: { input: \"1\", web_search: \"1\" }\n";
        check(embeds, &["p.yaml:3:20: models.e.web_search: unknown key `web_search`"]);
    }

    #[test]
    fn faults_of_prices() {
        let text = "\
version: 2026
models:
  a: { input: 0.15, output: \"-2\", max_output_tokens: 0 }
  b:
    inputt: \"1\"
    output: \"1e3\"
    reasoning: \"0.0000000001\"
    encoding: o200k
    hidden_reasoning: yes
  \"c d\": 5
  1: {}
";
        check(
            text,
            &[
                "p.yaml:1:10: version: must be text: quote it",
                "p.yaml:3:3: models: has a key that is a number: quote it",
                "p.yaml:3:15: models.a.input: must be a decimal string, which is exact",
                "p.yaml:3:29: models.a.output: must not be negative",
                "p.yaml:3:54: models.a.max_output_tokens: must be a whole number from 1 to 10000000",
                "p.yaml:5:5: models.b.input: is missing: add `input: \"0.15\"`",
                "p.yaml:5:5: models.b.inputt: unknown key `inputt`; did you mean `input`?",
                "p.yaml:5:5: models.b.max_output_tokens: is missing: add `max_output_tokens: 16384`",
                "p.yaml:6:13: models.b.output: must be a plain decimal number such as \"12.50\"",
                "p.yaml:7:16: models.b.reasoning: has more decimal places than can be kept exactly",
                "p.yaml:8:15: models.b.encoding: must be o200k_base or cl100k_base",
                "p.yaml:9:23: models.b.hidden_reasoning: must be true or false, not text",
                "p.yaml:10:3: models.\"c d\": must be the name of a model",
                "p.yaml:10:10: models.\"c d\": must be a mapping, not a number",
            ],
        );
    }

    #[test]
    fn faults_of_aliases_and_of_the_whole() {
        let model = "  modell: { input: \"1\", output: \"2\", max_output_tokens: 3 }";
        let aliases = format!("{GOOD}{model}\naliases:\n  a: a\n  b: aa\n  c: model\n  \"\": a\n");
        check(
            &aliases,
            &[
                "p.yaml:6:3: aliases.a: is a model already: rename or remove the alias",
                "p.yaml:7:6: aliases.b: must be one of `models`, which `aa` is not",
                "p.yaml:8:6: aliases.c: must be one of `models`, which `model` is not; did you mean `mo",
                "p.yaml:9:3: aliases.\"\": must be the name of a model",
            ],
        );
        check(
            "version: \" x\"\nmodels: {}\ncost: {}\n",
            &[
                "p.yaml:1:10: version: must be 1 to 64 printable ASCII characters, such as a date",
                "p.yaml:2:9: models: is empty: nothing could be sold",
                "p.yaml:3:1: cost: unknown key `cost`; known here: version, effective, models, aliases",
            ],
        );
        check("- a\n", &["p.yaml:1:1: must be a mapping, not a list"]);
    }
}
