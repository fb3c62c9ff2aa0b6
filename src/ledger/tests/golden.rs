//! Journals of older versions open for ever: files as those versions wrote them, and what they say.
//!
//! A change of the format comes with files of its own beside these, which are never written again.

use super::super::codec::{self, CodecError};
use super::super::entry::{Change, Seq};
use super::super::verify::{Fold, Known, verify};
use super::super::{Chain, Expired, Window};
use super::bench::{ADA, Bench, DEPOSIT, KEY, atto, read, recompute};
use super::memory::Memory;
use crate::clock::Timestamp;
use crate::id::RequestId;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Each entry: its number, its kind, and what Ada had after it, free and held.
const ENTRIES: &[(u64, &str, i128, i128)] = &[
    (1, "customer_created", 0, 0),
    (2, "key_created", 0, 0),
    (3, "deposit", 1000000, 0),
    (4, "hold", 999500, 500),
    (5, "capture", 999700, 0),
    (6, "hold", 999000, 700),
    (7, "capture", 999000, 0),
    (8, "hold", 998900, 100),
    (9, "capture", 998900, 0),
    (10, "overage", 998850, 0),
    (11, "hold", 998840, 10),
    (12, "release", 998850, 0),
    (13, "hold", 998840, 10),
    (14, "capture", 998840, 0),
    (15, "overage", 0, 0),
    (16, "write_off", 0, 0),
    (17, "hold", 0, 0),
    (18, "release", 0, 0),
    (19, "key_revoked", 0, 0),
];
const HEAD: &str = "09532c296e29f66f487673f556c6fe20de2f772a17aa5d0c820cbd433e6cbd40";

pub fn golden(folder: &str) -> Memory {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(folder);
    let memory = Memory::default();
    for file in fs::read_dir(folder).expect("it is in the repository") {
        let path = file.expect("readable").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        memory.put(&name, fs::read(path).expect("readable"));
    }
    memory
}

#[test]
fn the_journal_of_0_1_0_says_what_it_said() {
    let memory = golden("journal-1");
    assert_eq!(memory.segments().len(), 2);
    let (entries, torn_bytes) = read(&memory, Seq::START).expect("whole");
    let found: Vec<_> = entries
        .iter()
        .map(|entry| {
            let balance = entry.balance;
            (entry.seq.0, entry.change.name(), balance.available.atto_usd(), balance.held.atto_usd())
        })
        .collect();
    println!("{found:?}");
    assert_eq!((&found[..], torn_bytes), (ENTRIES, 0));
    assert!(entries.iter().all(|entry| entry.customer == ADA && entry.at.micros() == 1));
    let head = Chain::parse(HEAD).expect("a head");
    let known = Known { head: Some(head), ..Known::default() };
    assert_eq!(verify(&memory, known, &recompute).expect("whole").head, head);
    let records = entries.iter().filter_map(|entry| match &entry.change {
        Change::Captured { record, .. } => Some(String::from_utf8_lossy(record)),
        _ => None,
    });
    assert_eq!(records.collect::<Vec<_>>(), ["300", "700", "150", "2000000"]);
}

#[test]
fn a_store_with_the_journal_of_0_1_0_goes_on() {
    let memory = golden("journal-1");
    let bench = Bench::on(&memory).expect("it opens");
    assert_eq!(bench.indexed, 1);
    let all = bench.ledger.entries_of_customer(ADA, Window::default(), 100).expect("readable");
    assert_eq!(all.len(), ENTRIES.len());
    bench.create_ada_again("more").expect("she is there");
    let head = Chain::parse(HEAD).expect("a head");
    let verified = bench.ledger.verify(&recompute, Some(head)).expect("whole");
    assert_eq!(verified.expected, Some(Seq(19)));
}

#[test]
fn who_accepted_which_terms_is_read_for_ever() {
    let memory = golden("journal-terms");
    let entries = read(&memory, Seq::START).expect("whole").0;
    let terms = entries.iter().find_map(|entry| match &entry.change {
        Change::TermsAccepted { version, note } => {
            Some([version, &note.by, &note.reason].map(|text| &**text))
        }
        _ => None,
    });
    assert_eq!(terms, Some(["2026-11", "jane@acme.example", "form 7"]));
    let bench = Bench::on(&memory).expect("it opens");
    let customer = entries[0].customer;
    let covered = bench.ledger.customer(customer, |found| {
        let terms = found.terms.as_ref().expect("it is there");
        [terms.cover("2026-11"), terms.cover("2026-12")]
    });
    assert_eq!(covered, Some([true, false]));
}

/// The bytes of an entry before the tag of its change: time, customer, balance.
const TAG_AT: usize = 8 + 8 + 32;

/// Whether this version knows a kind of change.
fn is_known(tag: u8) -> bool {
    let mut bytes = vec![0; TAG_AT];
    bytes.push(tag);
    codec::decode(&mut &bytes[..], Seq(1)) != Err(CodecError::UnknownTag(tag))
}

/// A kind of change that is added later fails this, until a journal that has it stands beside these.
#[test]
fn each_kind_of_change_that_is_written_stands_in_a_journal_that_is_kept() {
    let mut kept = BTreeSet::new();
    for folder in [
        "journal-1",
        "journal-2",
        "journal-terms",
        "journal-3",
        "journal-violation",
        "journal-object",
        "journal-progress",
        "journal-overdraft",
        "journal-marked",
        "journal-detached",
    ] {
        for entry in read(&golden(folder), Seq::START).expect("whole").0 {
            let mut bytes = Vec::new();
            codec::encode(&entry, &mut bytes);
            kept.insert(bytes[TAG_AT]);
        }
    }
    // 6 to 9 are read and never written again: they stand in the first journal.
    let known: BTreeSet<u8> = (0..=u8::MAX).filter(|tag| is_known(*tag) && !(6..=9).contains(tag)).collect();
    assert_eq!(kept, known);
    assert!(known.len() >= 16, "{known:?}");
}

#[test]
fn what_is_kept_elsewhere_is_found_for_ever() {
    let bench = Bench::on(&golden("journal-object")).expect("it opens");
    let owned = bench.ledger.owned(ADA, "resp_68a1f0c2", Timestamp::default()).expect("readable");
    let owned = owned.expect("it is there");
    assert_eq!((owned.request.int(), &*owned.record), (5, &b"40"[..]));
}

#[test]
fn what_was_detached_stays_open_for_ever() {
    let bench = Bench::on(&golden("journal-detached")).expect("it opens");
    let request = RequestId::from_int(5);
    assert_eq!((bench.expired, bench.ledger.take_detached()), (Expired::default(), vec![(ADA, request)]));
    let detached = bench.ledger.detached(request).expect("readable").expect("it is there");
    assert_eq!((&*detached.object, &*detached.record), ("resp_5", &b"run"[..]));
}

/// From the third journal on a charge says by which key it was, also what went beyond its hold.
#[test]
fn what_a_key_spent_is_in_the_third_journal() {
    let mut fold = Fold::default();
    for entry in read(&golden("journal-3"), Seq::START).expect("whole").0 {
        fold.entry(&entry).expect("it follows");
    }
    let ada = &fold.book.customers[&ADA];
    assert_eq!((ada.keys[&KEY].spent.total, ada.spent.total), (atto(190), atto(190)));
}

/// From here on an extension says how far its request had come.
#[test]
fn how_far_requests_had_come_is_read_for_ever_and_what_was_in_flight_is_charged_that() {
    let memory = golden("journal-progress");
    let entries = read(&memory, Seq::START).expect("whole").0;
    let so_far = entries.iter().filter_map(|entry| match &entry.change {
        Change::Extended { progress: Some(progress), .. } => Some(progress.charge.amount),
        _ => None,
    });
    assert_eq!(so_far.collect::<Vec<_>>(), [30, 70, 12].map(atto));
    let bench = Bench::on(&memory).expect("it opens");
    assert_eq!(bench.expired, Expired { charged: 1, released: 0 });
    let left = bench.ledger.customer(ADA, |found| found.balance.available);
    assert_eq!(left, Some(atto(DEPOSIT - 70 - 12)));
    let head = Chain::parse("2d49af22da644cc38f91ccac39f9e64520866b4b86bd4dabb875f53668dbd13d");
    assert_eq!(bench.ledger.verify(&recompute, head).expect("whole").expected, Some(Seq(11)));
}

#[test]
fn what_a_customer_may_owe_and_what_was_written_off_is_read_for_ever() {
    let memory = golden("journal-overdraft");
    let entries = read(&memory, Seq::START).expect("whole").0;
    let notes: Vec<_> = entries.iter().filter_map(|entry| entry.change.note()).collect();
    assert!(notes.len() == 3 && notes.iter().all(|note| *note.by == *"ada"), "{notes:?}");
    let bench = Bench::on(&memory).expect("it opens");
    let found = bench.ledger.customer(ADA, |found| (found.overdraft, found.balance.available));
    assert_eq!(found, Some((atto(500), atto(-200))));
    let head = Chain::parse("0d8fa97ff7f87d650b6ea30ec8100e5c98c10f58a59ca1e58365e5f6928efaa8");
    let verified = bench.ledger.verify(&recompute, head).expect("whole");
    assert_eq!((verified.expected, verified.written_off), (Some(Seq(6)), atto(100)));
}
