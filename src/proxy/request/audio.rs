//! `POST /v1/audio/speech`, `/v1/audio/transcriptions` and `/v1/audio/translations`.

use super::fields::bad;
use super::values::{Values, length};
use super::{Asked, BadRequest, Streaming};
use crate::admit::{Demand, Tells, Work};
use crate::endpoint::Endpoint;

impl BadRequest {
    /// Audio alone was asked for, of a model that is sold by tokens.
    pub fn tokens_untold() -> Self {
        let why = "must be sse for this model, which is sold by tokens: audio alone does not tell them";
        bad("stream_format", why)
    }

    /// Events were asked for, of a model that is sold by the minute.
    pub fn minutes_untold() -> Self {
        let why =
            "must be false for this model, which is sold by the minute: a stream tells that at its end alone";
        bad("stream", why)
    }
}

/// Fields that decide about the charge of speech.
const SPOKEN: [&str; 4] = ["model", "input", "response_format", "stream_format"];
/// The same of what is written down.
const HEARD: [&str; 5] = ["model", "file", "prompt", "response_format", "stream"];

/// Reads the fields of a request for speech.
pub(super) fn read_speech(values: &Values<'_>) -> Result<Asked, BadRequest> {
    values.check(&SPOKEN)?;
    let text = values.required("input")?;
    let (usage, stream) = match values.string("stream_format")?.as_deref() {
        None | Some("audio") => (Tells::Nothing, Streaming::Audio),
        Some("sse") => (Tells::Tokens, Streaming::Events(None)),
        Some(_) => return Err(bad("stream_format", "must be audio or sse")),
    };
    let characters = u64::try_from(text.chars().count()).expect("usize fits");
    let demand = Demand {
        model: values.required("model")?.into(),
        input_bytes: values.text_bytes(),
        choices: 1,
        work: Work::Speech { characters, usage },
        ..Demand::default()
    };
    Ok(Asked::of(demand, stream))
}

/// Reads the fields of a request to write down what is said.
pub(super) fn read_heard(endpoint: Endpoint, values: &Values<'_>) -> Result<Asked, BadRequest> {
    if let Values::Json(_) = values {
        return Err(bad("file", "send multipart/form-data with a file"));
    }
    values.check(&HEARD)?;
    let model = values.required("model")?.into();
    let files: Vec<u64> = values.files().map(|part| length(part.value)).collect();
    let [bytes] = files[..] else { return Err(bad("file", "you must provide one file")) };
    if !values.is_given("file") {
        return Err(bad("file", "you must provide file"));
    }
    let format = values.string("response_format")?;
    let told = match (endpoint, format.as_deref()) {
        (_, Some("verbose_json")) => true,
        // A translation as plain JSON tells neither tokens nor how long it was.
        (Endpoint::Translations, _) => false,
        (_, None | Some("json" | "diarized_json")) => true,
        (_, Some(_)) => false,
    };
    if !told {
        let wanted = if endpoint == Endpoint::Translations { "verbose_json" } else { "json or verbose_json" };
        let why = format!("must be {wanted} here: other answers do not tell what they are charged by");
        return Err(bad("response_format", &why));
    }
    let streamed = values.switch("stream")?;
    let stream = if streamed { Streaming::Events(None) } else { Streaming::Plain };
    let (input_bytes, work) = (values.text_bytes(), Work::Audio { bytes, streamed });
    let demand = Demand { model, input_bytes, choices: 1, work, ..Demand::default() };
    Ok(Asked::of(demand, stream))
}
