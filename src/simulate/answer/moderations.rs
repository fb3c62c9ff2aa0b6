//! Moderations: nothing is ever objected to.

use super::{Answer, Stamp, push};

/// The whole answer as one JSON object.
pub(super) fn plain(answer: &Answer) -> String {
    let Stamp { id, .. } = answer.stamp;
    let mut out = format!(r#"{{"id":"modr-{id:016x}","model":{},"results":["#, answer.model);
    for index in 0..answer.choices {
        let comma = if index == 0 { "" } else { "," };
        push(&mut out, format_args!(r#"{comma}{{"flagged":false,"categories":{{"violence":false}},"#));
        push(&mut out, format_args!(r#""category_scores":{{"violence":0.01}}}}"#));
    }
    out.push_str("]}");
    out
}
