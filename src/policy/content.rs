//! What may be asked: categories of the acceptable-use policy, by what a text is found to be in one, and
//! how many times a customer may be.

use super::text::each_text;
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

/// What is not to be asked.
#[derive(Clone, PartialEq, Eq)]
pub struct Category {
    /// Its name in metrics, in the ledger and in errors.
    pub name: Arc<str>,
    /// Words that tell it, an entry a line.
    pub words: Option<Arc<str>>,
    /// How often is too often.
    pub ban: Option<BanRule>,
}

/// The policy about what is asked.
#[derive(Clone)]
pub struct Content {
    /// For customers of whom nothing else is said.
    pub default: Mode,
    /// All of them.
    pub categories: Vec<Category>,
    /// Requests at once that wait to be judged beside.
    pub waiting_max: usize,
    /// Of all categories; a list each.
    words: Words,
}

/// For the eye: without the words.
impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.default.name())?;
        self.categories.iter().try_for_each(|Category { name, words, .. }| {
            write!(f, " {name} ({} words)", words.as_deref().unwrap_or_default().lines().count())
        })
    }
}

/// Equal settings are equal policies.
impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        let settings = |of: &Self| (of.default, of.waiting_max);
        settings(self) == settings(other) && self.categories == other.categories
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
        waiting_max: usize,
    ) -> Result<Self, (usize, String)> {
        let lists: Vec<&str> =
            categories.iter().map(|category| category.words.as_deref().unwrap_or_default()).collect();
        let words = Words::new(&lists)?;
        Ok(Content { default, categories, waiting_max, words })
    }

    /// What the words in the body of a request tell.
    pub fn by_words(&self, body: &[u8]) -> Vec<Finding> {
        let (mut found, mut folded) = (BTreeSet::new(), String::new());
        each_text(body, &mut |text| self.words.find(text, &mut folded, &mut found));
        let finding =
            |index: usize| Finding { category: Arc::clone(&self.categories[index].name), score: Score::SURE };
        found.into_iter().map(finding).collect()
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
        Category { name: name.into(), words: words.map(Into::into), ban }
    }

    fn check(body: &str, expect: &[&str]) {
        let categories = vec![
            category("self_harm", None),
            category("hate", Some("slur")),
            category("own", Some("secret recipe")),
        ];
        let content = Content::new(Mode::Enforce, categories, 1).unwrap();
        let found = content.by_words(body.as_bytes());
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
    fn scores_are_shown_exactly() {
        assert_eq!(
            [Score(0), Score(42), Score::SURE].map(|score| score.to_string()),
            ["0.000000", "0.000042", "1.000000"]
        );
    }
}
