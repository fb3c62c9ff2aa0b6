//! What is read of a chat, what goes on, and what is refused.

use super::*;

const MESSAGES: &str = r#""messages":[{"role":"user","content":"hi"}]"#;

fn read(text: &str) -> Result<Request, BadRequest> {
    read_for(Endpoint::Chat, text)
}

fn read_for(endpoint: Endpoint, text: &str) -> Result<Request, BadRequest> {
    Request::read(endpoint, "application/json", &Bytes::copy_from_slice(text.as_bytes()))
}

/// What goes to a provider who calls the model `name`.
fn check(text: &str, name: &str, expect: &str) {
    assert_eq!(read(text).unwrap().body_for(name), expect, "{text}");
}

#[test]
fn a_body_passes_unchanged_unless_it_must_not() {
    let plain = format!(r#" {{ "model" : "m", {MESSAGES}, "seed":1.50 }} "#);
    check(&plain, "m", &plain);
    check(&plain, "there", &plain.replace(r#""m""#, r#""there""#));
    let asked =
        format!(r#"{{"stream":true,"stream_options":{{"include_usage":true}},"model":"m",{MESSAGES}}}"#);
    check(&asked, "m", &asked);
}

#[test]
fn the_usage_of_a_stream_is_always_asked_for() {
    let with = |options: &str| format!(r#"{{"model":"m","stream":true{options},{MESSAGES}}}"#);
    let absent = format!(r#"{{"model":"m","stream":true,{MESSAGES}}}"#);
    let end = r#","stream_options":{"include_usage":true}}"#;
    check(&absent, "m", &format!("{}{end}", &absent[..absent.len() - 1]));
    check(&absent, "other", &format!("{}{end}", &absent[..absent.len() - 1]).replace(r#""m""#, r#""other""#));
    for off in ["null", "{}", r#"{"include_usage":false}"#, r#"{ "include_usage" : null }"#] {
        let text = with(&format!(r#","stream_options":{off}"#));
        check(&text, "m", &with(r#","stream_options":{"include_usage":true}"#));
    }
    let kept = with(r#","stream_options":{"include_obfuscation":false,"include_usage":false}"#);
    check(&kept, "m", &with(r#","stream_options":{"include_usage":true,"include_obfuscation":false}"#));
    assert_eq!(read(&kept).unwrap().stream, Some(UsageChunk::Hide));
    assert_eq!(read(&format!(r#"{{"model":"m",{MESSAGES}}}"#)).unwrap().stream, None);
}

#[test]
fn the_demand_is_what_decides_about_the_cost() {
    let text = r#"{"model":"m\u0021","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"u"}}]}],"n":3,"max_tokens":9,"max_completion_tokens":7}"#;
    let demand = read(text).unwrap().demand;
    assert_eq!((&*demand.model, demand.images, demand.choices), ("m!", 1, 3));
    assert_eq!((demand.output_tokens_max, demand.tier), (Some(9), Tier::Default));
    let flex = format!(r#"{{"model":"m",{MESSAGES},"service_tier":"flex"}}"#);
    assert_eq!(read(&flex).unwrap().demand.tier, Tier::Flex);
    assert_eq!(demand.input_bytes, u64::try_from(text.len()).unwrap());
}

#[test]
fn images_are_counted_however_they_are_written() {
    let images = |parts: &str| {
        let text = format!(r#"{{"model":"m","messages":[{{"role":"user","content":{parts}}}]}}"#);
        read(&text).unwrap().demand.images
    };
    assert_eq!(images(r#""say \"image_url\" and \"file\"""#), 0);
    assert_eq!(images(r#"[{"type":"text","text":"image_url"}]"#), 0);
    assert_eq!(images(r#"[{"type":"image_url","image_url":{"url":"u"}}]"#), 1);
    assert_eq!(images(r#"[{"type":"image\u005furl","image\u005furl":{"url":"u"}},{"image_url":"v"}]"#), 2);
}

fn check_refused(text: &str, param: Option<&str>, says: &str) {
    let refused = read(text).expect_err(text);
    assert_eq!(refused.param, param, "{text}: {}", refused.message);
    assert!(refused.message.contains(says), "{text}: {}", refused.message);
}

#[test]
fn what_cannot_be_served_is_told() {
    check_refused("", None, "EOF");
    check_refused("[]", None, "a JSON object");
    check_refused("{\"model\":\"m\"", None, "EOF");
    check_refused("{} {}", None, "trailing");
    check_refused("{}", Some("model"), "provide");
    check_refused(r#"{"model":"m"}"#, Some("messages"), "provide");
    check_refused(r#"{"model":"m","messages":{}}"#, Some("messages"), "an array");
    check_refused(&format!(r#"{{"model":"m",{MESSAGES},"model":"n"}}"#), None, "`model` stands twice");
    check_refused(&format!(r#"{{"model":"m",{MESSAGES},"mod\u0065l":"n"}}"#), None, "`model` stands twice");
    for (field, param) in [
        (r#""model":1"#, "model"),
        (r#""stream":"yes""#, "stream"),
        (r#""stream":true,"stream_options":[]"#, "stream_options"),
        (r#""stream":true,"stream_options":{"include_usage":1}"#, "stream_options"),
        (r#""stream":true,"stream_options":{"include_usage":true,"include_usage":false}"#, "stream_options"),
        (r#""max_tokens":1e3"#, "max_tokens"),
        (r#""max_tokens":1.0"#, "max_tokens"),
        (r#""max_tokens":0"#, "max_tokens"),
        (r#""max_completion_tokens":-1"#, "max_completion_tokens"),
        (r#""max_tokens":"9""#, "max_tokens"),
        (r#""n":129"#, "n"),
        (r#""service_tier":"ultrafast""#, "service_tier"),
        (r#""service_tier":"batch""#, "service_tier"),
        (r#""modalities":["text","audio"]"#, "audio"),
        (r#""web_search_options":{}"#, "web_search_options"),
        (r#""tools":[{"type":"function"},{"type":"builtin_function"}]"#, "tools"),
        (r#""tools":[{"type":"web_search"}]"#, "tools"),
    ] {
        let model = if param == "model" { "" } else { r#""model":"m","# };
        check_refused(&format!("{{{model}{MESSAGES},{field}}}"), Some(param), param);
    }
    let odd = r#""tools":[{"Type":"web_search"}]"#;
    for (field, says) in
        [(r#""N":3"#, "write `n`"), (odd, "write `type`"), (r#""models":["dear"]"#, "not sold")]
    {
        check_refused(&format!(r#"{{"model":"m",{MESSAGES},{field}}}"#), None, says);
    }
    for part in [r#"{"type":"file","file":{}}"#, r#"{"type":"input\u005faudio","input_audio":{}}"#] {
        let text = format!(r#"{{"model":"m","messages":[{{"role":"user","content":[{part}]}}]}}"#);
        check_refused(&text, Some("messages"), "not sold");
    }
    let broken = Bytes::from_static(b"{\"model\":\"\xff\"}");
    assert_eq!(Request::read(Endpoint::Chat, "application/json", &broken).unwrap_err().param, None);
}

#[test]
fn every_continuation_of_a_completion_is_covered() {
    let choices = |fields: &str| {
        let text = format!(r#"{{"model":"m","max_tokens":7,{fields}}}"#);
        let demand = read_for(Endpoint::Completions, &text).expect(&text).demand;
        assert_eq!(demand.output_tokens_max, Some(7));
        demand.choices
    };
    assert_eq!(choices(r#""prompt":"a""#), 1);
    assert_eq!(choices(r#""prompt":[1,2,3],"n":2"#), 2);
    assert_eq!(choices(r#""prompt":["a","b"],"n":2,"best_of":5"#), 10);
    assert_eq!(choices(r#""prompt":[[1,2],[3]]"#), 2);
    for (fields, says) in [
        (r#""prompt":7"#, "must be a string"),
        (r#""prompt":["a",1]"#, "must be a string"),
        (r#""prompt":"a","Best_of":2"#, "write `best_of`"),
        (r#""messages":[]"#, "provide prompt"),
        (r#""prompt":"a","service_tier":"scale""#, "must be auto"),
    ] {
        let text = format!(r#"{{"model":"m",{fields}}}"#);
        let refused = read_for(Endpoint::Completions, &text).expect_err(&text);
        assert!(refused.message.contains(says), "{text}: {}", refused.message);
    }
    let streamed = read_for(Endpoint::Completions, r#"{"model":"m","prompt":"a","stream":true}"#);
    assert!(streamed.unwrap().body_for("m").ends_with(b"\"stream_options\":{\"include_usage\":true}}"));
}

#[test]
fn what_writes_nothing_is_held_for_its_input_alone() {
    let text = r#"{"model":"e","input":["a","b"],"encoding_format":"base64"}"#;
    let request = read_for(Endpoint::Embeddings, text).unwrap();
    assert_eq!((request.demand.choices, request.stream), (0, None));
    assert_eq!(request.body_for("e"), text);
    for (text, param) in [(r#"{"input":"a"}"#, "model"), (r#"{"model":"e","input":{}}"#, "input")] {
        assert_eq!(read_for(Endpoint::Embeddings, text).unwrap_err().param, Some(param));
    }
}

#[test]
fn a_moderation_need_not_name_its_model() {
    let request = read_for(Endpoint::Moderations, r#"{"input":"a"}"#).unwrap();
    assert_eq!(&*request.demand.model, moderations::MODEL_DEFAULT);
    assert_eq!(request.body_for(moderations::MODEL_DEFAULT), r#"{"input":"a"}"#);
    assert_eq!(request.body_for("mod"), r#"{"input":"a","model":"mod"}"#);
    let named = read_for(Endpoint::Moderations, r#"{"model":"x","input":[]}"#).unwrap();
    assert_eq!((&*named.demand.model, &named.body_for("y")[..12]), ("x", &br#"{"model":"y""#[..]));
}

/// What shares a prompt cache at a provider, by what requests say or begin with.
#[test]
fn what_begins_alike_is_known_by_that() {
    let affinity = |endpoint, fields: &str| {
        read_for(endpoint, &format!(r#"{{"model":"m","max_tokens":9,{fields}}}"#)).unwrap().affinity
    };
    let long = "x".repeat(CACHED_BYTES_MIN);
    let message = |text: &str| format!(r#""messages":[{{"role":"user","content":"{text}"}}]"#);
    for (endpoint, begins, goes_on) in [
        (Endpoint::Chat, message(&long), message(&format!("{long} and on"))),
        (Endpoint::Completions, format!(r#""prompt":"{long} a""#), format!(r#""prompt":"{long} b""#)),
        (Endpoint::Responses, format!(r#""input":"{long} a""#), format!(r#""input":"{long} b""#)),
        (
            Endpoint::Responses,
            format!(r#""instructions":"{long}","input":"a""#),
            format!(r#""input":"b","instructions":"{long}""#),
        ),
        (
            Endpoint::Messages,
            format!(r#""system":"{long}",{}"#, message("a")),
            format!(r#""system":"{long}",{}"#, message("b")),
        ),
    ] {
        let begun = affinity(endpoint, &begins);
        assert!(begun.is_some() && begun == affinity(endpoint, &goes_on), "{endpoint:?}");
        let named = affinity(endpoint, &format!(r#"{begins},"prompt_cache_key":"k""#));
        assert!(named.is_some() && named != begun, "{endpoint:?}");
    }
    assert_eq!(affinity(Endpoint::Chat, &message("too short to be kept")), None);
}
