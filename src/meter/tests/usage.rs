//! Each form in which usage is told, with counts of any size: its classes add up to the totals that
//! were told, and what cannot be true is refused.

use super::super::dialect::Random;
use super::*;

/// Where a usage object stands in an answer.
type Place = fn(&str) -> String;

/// A form of usage: where it stands, what it is written as with seven counts, and the totals that it
/// tells, of what was read and what was written, in tokens, or seconds.
struct Form {
    endpoint: Endpoint,
    plain: Option<Place>,
    stream: Option<Place>,
    usage: fn([u64; 7]) -> String,
    totals: fn([u64; 7]) -> [u64; 3],
}

const FIELD: Place = |usage| format!(r#"{{"choices":[{{}}],"output":[],"type":null,"usage":{usage}}}"#);
const CHUNK: Place = |usage| format!("data: {{\"choices\":[],\"usage\":{usage}}}\n\ndata: [DONE]\n\n");
const GROQ: Place =
    |usage| format!("data: {{\"choices\":[],\"x_groq\":{{\"usage\":{usage}}}}}\n\ndata: [DONE]\n\n");
const COMPLETED: Place = |usage| {
    format!("event: x\ndata: {{\"type\":\"response.completed\",\"response\":{{\"usage\":{usage}}}}}\n\n")
};
const MESSAGE: Place = |usage| format!(r#"{{"type":"message","content":[],"usage":{usage}}}"#);
const MESSAGE_EVENTS: Place = |usage| {
    // Of what was told at the beginning, all is told again.
    let begun = r#"{"input_tokens":3,"cache_read_input_tokens":4,"output_tokens":1}"#;
    let begins = format!("data: {{\"type\":\"message_start\",\"message\":{{\"usage\":{begun}}}}}\n\n");
    format!(
        "{begins}data: {{\"type\":\"message_delta\",\"usage\":{usage}}}\n\ndata: {{\"type\":\"message_stop\"}}\n\n"
    )
};
const IMAGES: Place = |usage| format!(r#"{{"data":[{{"b64_json":""}}],"usage":{usage}}}"#);
const IMAGE_EVENT: Place =
    |usage| format!("data: {{\"type\":\"image_edit.completed\",\"usage\":{usage}}}\n\n");
const SPOKEN: Place = |usage| format!("data: {{\"type\":\"speech.audio.done\",\"usage\":{usage}}}\n\n");
const HEARD: Place = |usage| format!(r#"{{"text":"a","usage":{usage}}}"#);
const HEARD_EVENT: Place =
    |usage| format!("data: {{\"type\":\"transcript.text.done\",\"text\":\"a\",\"usage\":{usage}}}\n\n");
/// As vLLM does with `continuous_usage_stats`: each chunk tells all up to itself.
const CONTINUOUS: Place = |usage| {
    let chunk = |tokens| {
        format!(
            "data: {{\"choices\":[{{\"delta\":{{\"content\":\"a\"}}}}],\"usage\":{{\"prompt_tokens\":{tokens},\"completion_tokens\":{tokens}}}}}\n\n"
        )
    };
    [chunk(1), chunk(2), CHUNK(usage)].concat()
};

const FORMS: [Form; 12] = [
    // U1
    Form {
        endpoint: Endpoint::Chat,
        plain: Some(FIELD),
        stream: Some(CHUNK),
        usage: |[read, wrote, a, b, c, d, e]| {
            format!(
                r#"{{"prompt_tokens":{read},"completion_tokens":{wrote},"total_tokens":{},
                "prompt_tokens_details":{{"cached_tokens":{a},"cache_write_tokens":{b},"audio_tokens":{d},"text_tokens":{e},"image_tokens":{c}}},
                "completion_tokens_details":{{"reasoning_tokens":{c},"audio_tokens":{d},"accepted_prediction_tokens":{e},"rejected_prediction_tokens":{a}}}}}"#,
                read + wrote
            )
        },
        totals: |[read, wrote, ..]| [read, wrote, 0],
    },
    Form {
        endpoint: Endpoint::Completions,
        plain: Some(FIELD),
        stream: Some(CHUNK),
        usage: |[read, wrote, ..]| {
            format!(r#"{{"prompt_tokens":{read},"completion_tokens":{wrote},"prompt_tokens_details":null}}"#)
        },
        totals: |[read, wrote, ..]| [read, wrote, 0],
    },
    // DeepSeek
    Form {
        endpoint: Endpoint::Chat,
        plain: Some(FIELD),
        stream: Some(CHUNK),
        usage: |[read, wrote, a, b, c, ..]| {
            format!(
                r#"{{"prompt_tokens":{read},"completion_tokens":{wrote},"prompt_cache_hit_tokens":{a},
                "prompt_cache_miss_tokens":{b},"completion_tokens_details":{{"reasoning_tokens":{c}}}}}"#
            )
        },
        totals: |[read, wrote, ..]| [read, wrote, 0],
    },
    // Groq
    Form {
        endpoint: Endpoint::Chat,
        plain: None,
        stream: Some(GROQ),
        usage: |[read, wrote, ..]| {
            format!(
                r#"{{"queue_time":0.05,"prompt_tokens":{read},"prompt_time":0.002,"completion_tokens":{wrote},"total_time":0.9}}"#
            )
        },
        totals: |[read, wrote, ..]| [read, wrote, 0],
    },
    // vLLM
    Form {
        endpoint: Endpoint::Chat,
        plain: None,
        stream: Some(CONTINUOUS),
        usage: |[read, wrote, ..]| format!(r#"{{"prompt_tokens":{read},"completion_tokens":{wrote}}}"#),
        totals: |[read, wrote, ..]| [read, wrote, 0],
    },
    // U2
    Form {
        endpoint: Endpoint::Responses,
        plain: Some(FIELD),
        stream: Some(COMPLETED),
        usage: |[read, wrote, a, b, c, d, e]| {
            format!(
                r#"{{"input_tokens":{read},"output_tokens":{wrote},"total_tokens":7,
                "input_tokens_details":{{"cached_tokens":{a},"cache_write_tokens":{b},"cache_write_tokens_details":{{"ttl_30m_tokens":{c},"ttl_12h_tokens":{d}}}}},
                "output_tokens_details":{{"reasoning_tokens":{e}}}}}"#
            )
        },
        totals: |[read, wrote, ..]| [read, wrote, 0],
    },
    // Anthropic, whose cache comes beside its input.
    Form {
        endpoint: Endpoint::Messages,
        plain: Some(MESSAGE),
        stream: Some(MESSAGE_EVENTS),
        usage: |[read, wrote, a, b, c, d, _]| {
            format!(
                r#"{{"input_tokens":{read},"output_tokens":{wrote},"cache_read_input_tokens":{a},"cache_creation_input_tokens":{b},
                "cache_creation":{{"ephemeral_5m_input_tokens":{d},"ephemeral_1h_input_tokens":{c}}},"output_tokens_details":{{"thinking_tokens":{d}}}}}"#
            )
        },
        totals: |[read, wrote, a, b, ..]| [read + a + b, wrote, 0],
    },
    // U3
    Form {
        endpoint: Endpoint::ImageGenerations,
        plain: Some(IMAGES),
        stream: Some(IMAGE_EVENT),
        usage: |[read, wrote, a, b, c, d, _]| {
            format!(
                r#"{{"input_tokens":{read},"output_tokens":{wrote},"input_tokens_details":{{"text_tokens":{a},"image_tokens":{b}}},
                "output_tokens_details":{{"image_tokens":{c},"text_tokens":{d}}}}}"#
            )
        },
        totals: |[read, wrote, ..]| [read, wrote, 0],
    },
    Form {
        endpoint: Endpoint::Speech,
        plain: None,
        stream: Some(SPOKEN),
        usage: |[read, wrote, ..]| format!(r#"{{"input_tokens":{read},"output_tokens":{wrote}}}"#),
        totals: |[read, wrote, ..]| [read, wrote, 0],
    },
    // U4, in tokens and in seconds
    Form {
        endpoint: Endpoint::Transcriptions,
        plain: Some(HEARD),
        stream: Some(HEARD_EVENT),
        usage: |[read, wrote, a, b, ..]| {
            format!(
                r#"{{"type":"tokens","input_tokens":{read},"output_tokens":{wrote},"input_token_details":{{"audio_tokens":{a},"text_tokens":{b}}}}}"#
            )
        },
        totals: |[read, wrote, ..]| [read, wrote, 0],
    },
    Form {
        endpoint: Endpoint::Transcriptions,
        plain: Some(HEARD),
        stream: Some(HEARD_EVENT),
        usage: |[length, ..]| format!(r#"{{"type":"duration","seconds":{length}}}"#),
        totals: |[length, ..]| [0, 0, length.max(1)],
    },
    Form {
        endpoint: Endpoint::Embeddings,
        plain: Some(|usage| format!(r#"{{"data":[],"usage":{usage}}}"#)),
        stream: None,
        usage: |[read, ..]| format!(r#"{{"prompt_tokens":{read},"total_tokens":{read}}}"#),
        totals: |[read, ..]| [read, 0, 0],
    },
];

/// What is read of a usage, wherever it may stand.
fn read(form: &Form, usage: &str) -> Vec<Reported> {
    let usage = &usage.replace('\n', " ");
    let plain = form.plain.map(|place| {
        let mut meter = BodyMeter::new(form.endpoint);
        meter.feed(place(usage).as_bytes()).expect("fits");
        meter.end().1
    });
    let stream = form.stream.map(|place| run(form.endpoint, UsageChunk::Show, &[place(usage).into()]).1);
    let read = [plain, stream].into_iter().flatten();
    read.map(|reading| {
        assert_eq!((reading.shape, reading.oddities), (Shape::Complete, Oddities::default()), "{usage}");
        reading.usage.expect("it was told")
    })
    .collect()
}

#[test]
fn classes_add_up_to_the_totals_that_were_told() {
    let mut random = Random::default();
    let mut checked = 0;
    for form in FORMS {
        for _ in 0..2_000 {
            let ([a, b, c, d, e], [f, g, ..]) = (random.counts(), random.counts());
            let counts = [a, b, c, d, e, f, g];
            let usage = (form.usage)(counts);
            for reported in read(&form, &usage) {
                let found = reported.usage.unwrap_or_else(|absurd| panic!("{absurd}: {usage}"));
                let told = [found.input_total(), found.output_total(), found.seconds];
                assert_eq!(told, (form.totals)(counts), "{usage}: {found:?}");
                assert_eq!(found.tokens(), told[0] + told[1], "{usage}: {found:?}");
                checked += 1;
            }
        }
    }
    assert_eq!(checked, 2_000 * 20);
}

/// Any count that is read may be written as what no count is. It is refused, and no zero.
#[test]
fn what_cannot_be_true_is_refused_wherever_it_stands() {
    let mut refused = 0;
    for form in FORMS {
        // Each count is another number, so that it is found again.
        let counts = [1_000_001, 1_000_002, 100_003, 100_004, 100_005, 100_006, 100_007];
        let usage = (form.usage)(counts);
        for count in counts.map(|count| count.to_string()) {
            for absurd in ["-1", "1e3", "true", "[]", "{}", "1000000001", "99999999999999999999"] {
                let usage = usage.replace(&count, absurd);
                for reported in read(&form, &usage) {
                    let Err(Absurd { .. }) = reported.usage else { continue };
                    refused += 1;
                    assert!(!reported.raw.is_empty(), "{usage}");
                }
            }
        }
        // The first count of each is a total, which is always read.
        for absurd in ["-1", "1e3", "true", "1000000001"] {
            for reported in read(&form, &usage.replace("1000001", absurd)) {
                reported.usage.expect_err("a total that cannot be true");
            }
        }
    }
    assert!(refused > 400, "{refused}");
}
