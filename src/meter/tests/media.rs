//! Transcripts of images and audio under every split.

use super::*;

/// What a transcript must read as.
struct Told {
    usage: Usage,
    text: &'static str,
    events: u64,
    images: u64,
}

#[track_caller]
fn expect(told: &Told, found: &Reading, bytes: &[u8], body: &str) {
    assert_eq!(String::from_utf8_lossy(bytes), body);
    let usage = found.usage.as_ref().map(|reported| reported.usage);
    assert_eq!((found.shape, usage), (Shape::Complete, Some(Ok(told.usage))), "{body}");
    let Delivered { text, events, images, .. } = &found.delivered;
    assert_eq!((text.as_str(), *events, *images), (told.text, told.events, told.images), "{body}");
    assert_eq!(found.oddities, Oddities::default());
}

/// As events: byte by byte and under every split in two.
fn check_stream(endpoint: Endpoint, transcript: &str, told: &Told) {
    let whole = Bytes::copy_from_slice(transcript.as_bytes());
    let same = |pieces: &[Bytes]| {
        let (out, found) = run(endpoint, UsageChunk::Show, pieces);
        expect(told, &found, &out, transcript);
    };
    same(&(0..whole.len()).map(|at| whole.slice(at..=at)).collect::<Vec<_>>());
    for at in 0..=whole.len() {
        same(&[whole.slice(..at), whole.slice(at..)]);
    }
}

fn check_plain(endpoint: Endpoint, body: &str, told: &Told) {
    for at in 0..=body.len() {
        let (head, tail) = body.as_bytes().split_at(at);
        let mut meter = BodyMeter::new(endpoint);
        meter.feed(head).expect("fits");
        meter.feed(tail).expect("fits");
        let (bytes, found) = meter.end();
        expect(told, &found, &bytes, body);
    }
}

#[test]
fn images() {
    let none = Usage::default();
    let usage = Usage { input: 27, image_input: 323, image_output: 544, ..none };
    let told = Told { usage, text: "", events: 1, images: 2 };
    for endpoint in [Endpoint::ImageGenerations, Endpoint::ImageEdits] {
        check_plain(endpoint, data!("images-plain.json"), &told);
    }
    let usage = Usage { input: 50, image_output: 272, ..none };
    let told = Told { usage, text: "", events: 2, images: 1 };
    check_stream(Endpoint::ImageGenerations, data!("images-stream.sse"), &told);
}

#[test]
fn speech() {
    let usage = Usage { input: 14, audio_output: 101, ..Usage::default() };
    let told = Told { usage, text: "", events: 2, images: 0 };
    check_stream(Endpoint::Speech, data!("speech-stream.sse"), &told);
}

#[test]
fn what_is_heard() {
    let none = Usage::default();
    let usage = Usage { input: 4, audio_input: 10, output: 45, ..none };
    let told = Told { usage, text: "Grüezi mitenand", events: 2, images: 0 };
    check_stream(Endpoint::Transcriptions, data!("transcription-stream.sse"), &told);
    // Text is gathered only where it may have to be counted.
    let told = Told { usage: Usage { seconds: 9, ..none }, text: "", events: 0, images: 0 };
    check_plain(Endpoint::Transcriptions, data!("transcription-plain.json"), &told);
    let text = "The beach was a popular spot";
    let told = Told { usage: Usage { seconds: 8, ..none }, text, events: 1, images: 0 };
    for endpoint in [Endpoint::Transcriptions, Endpoint::Translations] {
        check_plain(endpoint, data!("transcription-verbose.json"), &told);
    }
}
