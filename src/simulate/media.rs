//! Images and audio: what a request for them uses, and how it is answered. Pure.
//!
//! Models are sold as the real ones are told apart by: `dall-e…` by the image, `whisper…` by the
//! second, `tts…` by the character, all others by tokens.

use super::answer::figure;
use super::faults::Reported;
use super::refusal::Refusal;
use crate::endpoint::Endpoint;
use crate::usage::Usage;
use bytes::Bytes;
use futures_util::FutureExt;
use multer::Multipart;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::convert::Infallible;

const BYTES_PER_TOKEN: u64 = 4;
/// What a second of audio takes in a file, and what its tokens are.
const BYTES_PER_SECOND: u64 = 16_000;
const TOKENS_PER_SECOND: u64 = 10;
/// Tokens of an image, given and made.
const TOKENS_PER_IMAGE_READ: u64 = 323;
const TOKENS_PER_IMAGE_MADE: u64 = 272;
/// Tokens of what was heard.
const TOKENS_HEARD: u64 = 16;
const AUDIO_PIECES: usize = 8;
const AUDIO_PIECE: [u8; 1_000] = [0xfb; 1_000];
const IMAGE: &str = "iVBORw0KGgo=";

/// A request, as far as it decides about the answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    pub model: Option<String>,
    prompt: Option<String>,
    input: Option<String>,
    n: Option<u64>,
    pub stream: bool,
    stream_format: Option<String>,
    response_format: Option<String>,
    images: Vec<serde::de::IgnoredAny>,
    pub metadata: BTreeMap<String, String>,
    #[serde(skip)]
    files: Vec<u64>,
}

/// An answer in its pieces.
#[derive(Debug)]
pub(super) struct Media {
    endpoint: Endpoint,
    asked: Asked,
    pub usage: Usage,
}

/// What goes out.
pub(super) enum Body {
    Json(String),
    Events(Vec<String>),
    Audio(Vec<Bytes>),
}

/// Reads a request, as JSON or as a form.
pub(super) fn read(content_type: &str, body: &[u8]) -> Result<Asked, Refusal> {
    match multer::parse_boundary(content_type) {
        Ok(boundary) => form(body, boundary),
        Err(_) => serde_json::from_slice(body).map_err(|_| Refusal::not_json()),
    }
}

fn form(body: &[u8], boundary: String) -> Result<Asked, Refusal> {
    let whole = Bytes::copy_from_slice(body);
    let stream = futures_util::stream::once(async move { Ok::<_, Infallible>(whole) });
    let mut parts = Multipart::new(stream, boundary);
    let mut asked = Asked::default();
    // All of it is there: nothing is waited for.
    while let Some(field) =
        parts.next_field().now_or_never().and_then(Result::ok).ok_or_else(Refusal::not_json)?
    {
        let (name, file) = (field.name().unwrap_or_default().to_owned(), field.file_name().is_some());
        let value = field.bytes().now_or_never().and_then(Result::ok).ok_or_else(Refusal::not_json)?;
        let text = || String::from_utf8_lossy(&value).into_owned();
        match &*name {
            _ if file => asked.files.push(count(value.len())),
            "model" => asked.model = Some(text()),
            "prompt" => asked.prompt = Some(text()),
            "n" => asked.n = text().parse().ok(),
            "stream" => asked.stream = text() == "true",
            "response_format" => asked.response_format = Some(text()),
            "metadata" => asked.metadata = serde_json::from_slice(&value).map_err(|_| Refusal::not_json())?,
            _ => {}
        }
    }
    Ok(asked)
}

impl Media {
    /// The answer to a request.
    pub fn to(endpoint: Endpoint, mut asked: Asked) -> Result<Self, Refusal> {
        let model = asked.model.clone().unwrap_or_default();
        let sold_by = |beginning: &str| model.starts_with(beginning);
        let tokens = |text: &Option<String>| {
            count(text.as_deref().unwrap_or_default().len()).div_ceil(BYTES_PER_TOKEN)
        };
        let (input, n) = (tokens(&asked.prompt), asked.n.unwrap_or(1));
        let none = Usage::default();
        let usage = match endpoint {
            Endpoint::ImageGenerations | Endpoint::ImageEdits if sold_by("dall-e") => {
                Usage { images: n, ..none }
            }
            Endpoint::ImageGenerations | Endpoint::ImageEdits => {
                let given = count(asked.images.len() + asked.files.len());
                let image_input = given * TOKENS_PER_IMAGE_READ;
                Usage { input, image_input, image_output: n * TOKENS_PER_IMAGE_MADE, ..none }
            }
            Endpoint::Speech => {
                let text = asked.input.as_deref().ok_or_else(|| Refusal::missing("input"))?;
                let characters = count(text.chars().count());
                asked.stream = asked.stream_format.as_deref() == Some("sse");
                match sold_by("tts") {
                    true => Usage { characters, ..none },
                    false => Usage { input: tokens(&asked.input), audio_output: characters * 2, ..none },
                }
            }
            _ => {
                let bytes: u64 = asked.files.iter().sum();
                let seconds = bytes.div_ceil(BYTES_PER_SECOND).max(1);
                match sold_by("whisper") {
                    true => Usage { seconds, ..none },
                    false => Usage {
                        input,
                        audio_input: seconds * TOKENS_PER_SECOND,
                        output: TOKENS_HEARD,
                        ..none
                    },
                }
            }
        };
        Ok(Media { endpoint, asked, usage })
    }

    /// Whether it comes as events.
    pub fn is_streamed(&self) -> bool {
        self.asked.stream
    }

    /// The `usage` object, if any is to be reported.
    fn told(&self, reported: Reported) -> Option<String> {
        let u = &self.usage;
        let told = |tokens| figure(tokens, reported);
        let (input, output) = (u.input_total(), u.tokens() - u.input_total());
        let totals = format!(
            r#""input_tokens":{},"output_tokens":{},"total_tokens":{}"#,
            told(input),
            told(output),
            told(input + output)
        );
        match self.endpoint {
            _ if reported == Reported::Missing || u.images > 0 || u.characters > 0 => None,
            Endpoint::ImageGenerations | Endpoint::ImageEdits => Some(format!(
                r#"{{{totals},"input_tokens_details":{{"text_tokens":{},"image_tokens":{}}}}}"#,
                told(u.input),
                told(u.image_input)
            )),
            Endpoint::Speech => Some(format!("{{{totals}}}")),
            _ if u.seconds > 0 => Some(format!(r#"{{"type":"duration","seconds":{}}}"#, told(u.seconds))),
            _ => Some(format!(
                r#"{{"type":"tokens",{totals},"input_token_details":{{"text_tokens":{},"audio_tokens":{}}}}}"#,
                told(u.input),
                told(u.audio_input)
            )),
        }
    }

    /// The answer.
    pub fn body(&self, reported: Reported) -> Body {
        let usage = self.told(reported).map(|usage| format!(r#","usage":{usage}"#)).unwrap_or_default();
        match self.endpoint {
            Endpoint::ImageGenerations | Endpoint::ImageEdits => {
                let kind =
                    if self.endpoint == Endpoint::ImageEdits { "image_edit" } else { "image_generation" };
                if self.asked.stream {
                    let part = format!(
                        r#"{{"type":"{kind}.partial_image","b64_json":"{IMAGE}","partial_image_index":0}}"#
                    );
                    let last = format!(r#"{{"type":"{kind}.completed","b64_json":"{IMAGE}"{usage}}}"#);
                    return Body::Events(vec![part, last]);
                }
                let made = vec![
                    format!(r#"{{"b64_json":"{IMAGE}"}}"#);
                    self.asked.n.unwrap_or(1).try_into().unwrap_or(1)
                ];
                Body::Json(format!(r#"{{"created":1764000000,"data":[{}]{usage}}}"#, made.join(",")))
            }
            Endpoint::Speech if self.asked.stream => {
                let delta = r#"{"type":"speech.audio.delta","audio":"+/v7+w=="}"#.to_owned();
                Body::Events(vec![delta.clone(), delta, format!(r#"{{"type":"speech.audio.done"{usage}}}"#)])
            }
            Endpoint::Speech => Body::Audio(vec![Bytes::from_static(&AUDIO_PIECE); AUDIO_PIECES]),
            _ if self.asked.stream => {
                let delta = |text: &str| format!(r#"{{"type":"transcript.text.delta","delta":"{text}"}}"#);
                let done = format!(r#"{{"type":"transcript.text.done","text":"tok0 tok1"{usage}}}"#);
                Body::Events(vec![delta("tok0"), delta(" tok1"), done])
            }
            _ if self.asked.response_format.as_deref() == Some("verbose_json") => {
                // As the older models have it, which tell their length and no usage.
                let length = self.usage.seconds;
                Body::Json(format!(
                    r#"{{"task":"transcribe","duration":{length}.2,"text":"tok0 tok1","segments":[]}}"#
                ))
            }
            _ => Body::Json(format!(r#"{{"text":"tok0 tok1"{usage}}}"#)),
        }
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).expect("64 bits hold a length")
}
