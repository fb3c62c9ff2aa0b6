//! Moderations: a text is objected to as it says itself, by `score(hate)=0.91`; else a little.

use super::{Answer, Stamp, push};

/// From here on a text is flagged.
const FLAGGED_FROM: f64 = 0.5;
/// What every text is found to be.
const VIOLENCE: &str = "0.01";

/// The whole answer as one JSON object.
pub(super) fn plain(answer: &Answer) -> String {
    let Stamp { id, .. } = answer.stamp;
    let mut out = format!(r#"{{"id":"modr-{id:016x}","model":{},"results":["#, answer.model);
    let mut scores = answer.scores.clone();
    scores.entry("violence".to_owned()).or_insert_with(|| VIOLENCE.to_owned());
    let flagged = |score: &String| score.parse::<f64>().is_ok_and(|score| score >= FLAGGED_FROM);
    let list = |of: &dyn Fn(&String) -> String| {
        let each = scores.iter().map(|(label, score)| {
            format!("{}:{}", serde_json::to_string(label).expect("a string is JSON"), of(score))
        });
        each.collect::<Vec<_>>().join(",")
    };
    let (any, categories) = (scores.values().any(&flagged), list(&|score| flagged(score).to_string()));
    let category_scores = list(&String::clone);
    for index in 0..answer.choices {
        let comma = if index == 0 { "" } else { "," };
        push(&mut out, format_args!(r#"{comma}{{"flagged":{any},"categories":{{{categories}}},"#));
        push(&mut out, format_args!(r#""category_scores":{{{category_scores}}}}}"#));
    }
    out.push_str("]}");
    out
}
