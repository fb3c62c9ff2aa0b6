//! Embeddings: as many vectors as there were texts, as numbers or as base64.

use super::{Answer, push};

/// Three numbers, and the same as little-endian floats of 32 bits in base64.
const NUMBERS: &str = "[0.25,-0.5,1.0]";
const BASE64: &str = "\"AACAPgAAAL8AAIA/\"";

/// The whole answer as one JSON object.
pub(super) fn plain(answer: &Answer) -> String {
    let mut out = String::from(r#"{"object":"list","data":["#);
    let vector = if answer.base64 { BASE64 } else { NUMBERS };
    for index in 0..answer.choices {
        let comma = if index == 0 { "" } else { "," };
        push(&mut out, format_args!(r#"{comma}{{"object":"embedding","index":{index},"#));
        push(&mut out, format_args!(r#""embedding":{vector}}}"#));
    }
    push(&mut out, format_args!(r#"],"model":{}"#, answer.model));
    if let Some(usage) = &answer.usage {
        push(&mut out, format_args!(r#","usage":{usage}"#));
    }
    out.push('}');
    out
}
