//! The README shows what really happens.

use crate::support::gateway::{run, stdout};

/// A text without what differs from run to run: ids, addresses, times, digests.
fn shape(text: &str) -> Vec<String> {
    let word = |word: &str| {
        let named =
            ["http://127.0.0.1:", "cus_", "req_", "tg_live_"].into_iter().find(|name| word.starts_with(name));
        let time = word.ends_with('Z') && word.contains('T');
        let digest = word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        match named {
            Some(name) => name.to_owned(),
            None if time || digest => "…".to_owned(),
            None => word.to_owned(),
        }
    };
    let line = |line: &str| {
        let mut words: Vec<String> = line.split_whitespace().map(word).collect();
        if words.last().is_some_and(|last| last == "ms") {
            let number = words.len() - 2;
            words[number] = "…".into();
        }
        words.join(" ")
    };
    text.trim().lines().map(line).collect()
}

#[test]
fn the_transcript_is_what_the_demonstration_prints() {
    let readme = include_str!("../../README.md");
    let transcript = readme.split("```text\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let demo = run(&["demo", "--once", "--listen", "127.0.0.1:0"], &[], "");
    assert!(demo.status.success());
    let (shown, printed) = (shape(transcript), shape(&stdout(&demo)));
    assert!(shown.len() > 20, "{transcript}");
    assert_eq!(shown, printed);
}

#[test]
fn every_file_that_is_linked_is_there() {
    let readme = include_str!("../../README.md");
    let links: Vec<&str> = readme.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    let files: Vec<&&str> = links.iter().filter(|link| !link.starts_with("http")).collect();
    assert!(files.len() > 15, "{links:?}");
    for file in files {
        assert!(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file).exists(), "{file}");
    }
}
