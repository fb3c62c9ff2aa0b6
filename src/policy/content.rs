//! What may be asked: categories of the acceptable-use policy, by what a text is found to be in one, and
//! how many times a customer may be.

use super::text::{Text, each_text};
use super::words::Words;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use utoipa::ToSchema;

/// The categories that every operator has; they may add others.
pub const CATEGORIES: [&str; 7] = [
    "sexual_minors",
    "non_consensual_intimate",
    "self_harm",
    "violence_terrorism",
    "hate",
    "deception",
    "illegal_activity",
];

/// A share, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score(pub u32);

impl Score {
    /// No doubt.
    pub const SURE: Score = Score(1_000_000);
}

impl Score {
    /// From a decimal number between 0 and 1, of at most six places.
    pub fn parse(text: &str) -> Option<Self> {
        let (whole, places) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || whole.len() > 1 || !digits(places) || places.len() > 6 {
            return None;
        }
        let ppm = format!("{whole}{places:0<6}").parse().ok()?;
        Some(Score(ppm)).filter(|score| *score <= Score::SURE)
    }

    /// From a share as a provider writes it.
    pub fn of_share(share: f64) -> Option<Self> {
        (0.0..=1.0).contains(&share).then(|| Self::parse(&format!("{share:.6}")))?
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// What a judgement does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Nothing: there is none.
    #[default]
    Off,
    /// It is noted, beside the request.
    Observe,
    /// The request waits for it, and may be refused.
    Enforce,
}

impl Mode {
    /// The word used in metrics and in the ledger.
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Off => "off",
            Mode::Observe => "observe",
            Mode::Enforce => "enforce",
        }
    }
}

/// When a customer is banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BanRule {
    /// With so many violations of a category, each in a request of its own,
    pub violations: u32,
    /// in this time.
    pub within: Duration,
}

/// A label of a provider's moderation, and from where on it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Threshold {
    /// As the provider calls it.
    pub label: Box<str>,
    /// At least.
    pub score: Score,
}

/// How a provider is asked what texts are objected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moderation {
    /// Its model, by the name that accounts of the pool know.
    pub model: Box<str>,
    /// For the answer, all attempts and the wait for room included.
    pub timeout: Duration,
    /// What becomes of a request for which there is none.
    pub on_failure: OnFailure,
    /// What becomes of one that has something in it that cannot be asked about.
    pub on_unreadable: OnFailure,
    /// The most images of a request that are asked about, each by itself.
    pub images_max: usize,
}

/// What becomes of a request that cannot be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// It is served.
    Open,
    /// It is not.
    Closed,
}

/// What is not to be asked.
#[derive(Clone, PartialEq, Eq)]
pub struct Category {
    /// Its name in metrics, in the ledger and in errors.
    pub name: Arc<str>,
    /// Words that tell it, an entry a line.
    pub words: Option<Arc<str>>,
    /// What a provider has to find: any of these.
    pub thresholds: Vec<Threshold>,
    /// How often is too often.
    pub ban: Option<BanRule>,
}

/// How much is judged beside.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Of how many answers one.
    pub output_one_in: u32,
    /// Texts at once that wait.
    pub waiting_max: usize,
}

/// The policy about what is asked.
#[derive(Clone)]
pub struct Content {
    /// For customers of whom nothing else is said.
    pub default: Mode,
    /// All of them.
    pub categories: Vec<Category>,
    /// How a provider is asked, where a category has thresholds.
    pub moderation: Option<Moderation>,
    /// Of how many answers one is judged, too; 0: none.
    pub output_one_in: u32,
    /// Texts at once that wait to be judged beside.
    pub waiting_max: usize,
    /// Of all categories; a list each.
    words: Words,
}

/// For the eye: without the words.
impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.default.name())?;
        self.categories.iter().try_for_each(|Category { name, words, thresholds, .. }| {
            write!(f, " {name} ({} words", words.as_deref().unwrap_or_default().lines().count())?;
            thresholds.iter().try_for_each(|Threshold { label, score }| write!(f, ", {label} {score}"))?;
            write!(f, ")")
        })?;
        write!(f, ", {:?}, answers 1 in {}", self.moderation, self.output_one_in)
    }
}

/// Equal settings are equal policies.
impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        let settings = |of: &Self| (of.default, of.waiting_max, of.output_one_in);
        settings(self) == settings(other)
            && self.moderation == other.moderation
            && self.categories == other.categories
    }
}

impl Eq for Content {}

/// A text is in a category.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub category: Arc<str>,
    /// How surely.
    pub score: Score,
}

impl Content {
    /// A policy.
    ///
    /// # Errors
    /// Which category has words that cannot be read, and why.
    pub fn new(
        default: Mode,
        categories: Vec<Category>,
        moderation: Option<Moderation>,
        bounds: Bounds,
    ) -> Result<Self, (usize, String)> {
        let lists: Vec<&str> =
            categories.iter().map(|category| category.words.as_deref().unwrap_or_default()).collect();
        let words = Words::new(&lists)?;
        let Bounds { output_one_in, waiting_max } = bounds;
        let moderation = moderation.filter(|_| categories.iter().any(|known| !known.thresholds.is_empty()));
        Ok(Content { default, categories, moderation, output_one_in, waiting_max, words })
    }

    /// What the words in a text tell.
    pub fn by_words(&self, text: Text<'_>) -> Vec<Finding> {
        let (mut found, mut folded) = (BTreeSet::new(), String::new());
        each_text(text, &mut |text| self.words.find(text, &mut folded, &mut found));
        let finding =
            |index: usize| Finding { category: Arc::clone(&self.categories[index].name), score: Score::SURE };
        found.into_iter().map(finding).collect()
    }

    /// What the scores of a provider tell; of several for a label, the highest counts.
    pub fn by_scores(&self, scores: &[(Box<str>, Score)]) -> Vec<Finding> {
        let reached = |threshold: &Threshold| {
            let of_label = scores.iter().filter(|(label, _)| *label == threshold.label);
            of_label.map(|(_, score)| *score).max().filter(|score| *score >= threshold.score)
        };
        let finding = |category: &Category| {
            let score = category.thresholds.iter().filter_map(reached).max()?;
            Some(Finding { category: Arc::clone(&category.name), score })
        };
        self.categories.iter().filter_map(finding).collect()
    }

    /// How often is too often, if a category of this name is there and says so.
    pub fn ban_rule(&self, category: &str) -> Option<BanRule> {
        self.categories.iter().find(|known| *known.name == *category)?.ban
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn category(name: &str, words: Option<&str>) -> Category {
        let ban = Some(BanRule { violations: 3, within: Duration::from_secs(60) });
        Category { name: name.into(), words: words.map(Into::into), thresholds: Vec::new(), ban }
    }

    fn content(categories: Vec<Category>) -> Content {
        let bounds = Bounds { output_one_in: 0, waiting_max: 1 };
        let (model, timeout) = ("m".into(), Duration::from_secs(1));
        let (on_failure, on_unreadable) = (OnFailure::Open, OnFailure::Open);
        let moderation = Moderation { model, timeout, on_failure, on_unreadable, images_max: 1 };
        Content::new(Mode::Enforce, categories, Some(moderation), bounds).unwrap()
    }

    fn check(body: &str, expect: &[&str]) {
        let categories = vec![
            category("self_harm", None),
            category("hate", Some("slur")),
            category("own", Some("secret recipe")),
        ];
        let content = content(categories);
        assert!(content.moderation.is_none(), "nobody is asked what no category wants to know");
        let found = content.by_words(Text::Json(body.as_bytes()));
        let names: Vec<&str> = found.iter().map(|finding| &*finding.category).collect();
        assert_eq!(names, expect, "{body}");
        assert!(found.iter().all(|finding| finding.score == Score::SURE));
    }

    #[test]
    fn a_request_is_in_each_category_of_which_it_has_a_word() {
        check(r#"{"model":"m","messages":[{"role":"user","content":"hello"}]}"#, &[]);
        check(r#"{"messages":[{"content":"a SL\u0055R"}]}"#, &["hate"]);
        check(r#"{"input":["slur","the secret\n recipe"]}"#, &["hate", "own"]);
    }

    #[test]
    fn a_category_is_reached_at_its_threshold_and_not_below() {
        let threshold = |label: &str, ppm| Threshold { label: label.into(), score: Score(ppm) };
        let hate = Category {
            thresholds: vec![threshold("hate", 500_000), threshold("hate/threatening", 200_000)],
            ..category("hate", None)
        };
        let content = content(vec![hate, category("own", Some("x"))]);
        let check = |scores: &[(&str, u32)], expect: Option<u32>| {
            let scores: Vec<_> = scores.iter().map(|(label, ppm)| ((*label).into(), Score(*ppm))).collect();
            let found = content.by_scores(&scores);
            assert_eq!(found.first().map(|found| found.score.0), expect, "{scores:?}");
            assert!(found.iter().all(|found| &*found.category == "hate"));
        };
        check(&[("hate", 499_999), ("hate/threatening", 199_999), ("violence", 1_000_000)], None);
        check(&[("hate", 500_000)], Some(500_000));
        check(&[("hate", 600_000), ("hate/threatening", 700_000)], Some(700_000));
        check(&[("hate", 900_000), ("hate/threatening", 100_000)], Some(900_000));
        check(&[("hate", 100_000), ("hate", 800_000), ("hate", 300_000)], Some(800_000));
        check(&[], None);
    }

    #[test]
    fn scores_are_read_exactly() {
        let read = |text| Score::parse(text).map(|score| score.0);
        assert_eq!(
            ["0.5", "1", "0", "0.000001", "1.0"].map(read),
            [500_000, 1_000_000, 0, 1, 1_000_000].map(Some)
        );
        for wrong in ["", ".5", "1.1", "1.000001", "0.0000001", "-0.1", "0,5", "1e-3", "2", "01"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(Score::of_share(0.123_456_4).map(|score| score.0), Some(123_456));
        assert_eq!([f64::NAN, -0.1, 1.000_000_1].map(Score::of_share), [None; 3]);
    }

    #[test]
    fn scores_are_shown_exactly() {
        assert_eq!(
            [Score(0), Score(42), Score::SURE].map(|score| score.to_string()),
            ["0.000000", "0.000042", "1.000000"]
        );
    }
}
