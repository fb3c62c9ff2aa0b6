//! Segments end and begin: entries are found across them, and a crash in between loses nothing.

use super::super::Window;
use super::super::entry::{Change, Seq};
use super::super::segment::SEGMENT_BYTES;
use super::bench::{ADA, Bench, Scribe, capture, hold, opening, read, recompute};
use super::memory::Memory;
use crate::id::RequestId;

const HEADER_BYTES: usize = 56;
const CHARGES: u128 = 100;

fn kinds(bench: &Bench, request: u128) -> Vec<&'static str> {
    let entries = bench.ledger.entries_of_request(RequestId::from_int(request)).expect("readable");
    let ours = |change: &Change| change.request() == Some(RequestId::from_int(request));
    assert!(entries.iter().all(|entry| ours(&entry.change)));
    entries.iter().map(|entry| entry.change.name()).collect()
}

/// Every entry of Ada's, page by page.
fn statement(bench: &Bench) -> Vec<Seq> {
    let mut all = Vec::new();
    loop {
        let after = all.last().copied().unwrap_or(Seq::START);
        let page = bench
            .ledger
            .entries_of_customer(ADA, Window { after, ..Window::default() }, 7)
            .expect("readable");
        if page.is_empty() {
            return all;
        }
        all.extend(page.iter().map(|entry| entry.seq));
    }
}

#[test]
fn entries_are_found_across_segments_before_and_after_a_restart() {
    let memory = Memory::default();
    let bench = Bench::on(&memory).expect("a new store");
    bench.create_ada().expect("new");
    for request in 1..=CHARGES {
        bench.charge(request, 3).expect("rich enough");
    }
    // A hold in one segment and its end in a later one.
    let segments = memory.segments().len();
    let (apart, _) = bench.hold(u128::MAX, 50).expect("rich enough");
    for request in (CHARGES + 1)..=(2 * CHARGES) {
        bench.charge(request, 3).expect("rich enough");
    }
    let commit = apart.capture(super::bench::atto(60), super::bench::record(60)).commit;
    commit.wait().expect("the disk is well");
    assert!(segments >= 3 && memory.segments().len() > segments, "{segments} segments");
    let check = |bench: &Bench| {
        (1..=2 * CHARGES).for_each(|request| assert_eq!(kinds(bench, request), ["hold", "capture"]));
        assert_eq!(kinds(bench, u128::MAX), ["hold", "capture", "overage"]);
        let expect: Vec<Seq> =
            (1..=bench.ledger.verify(&recompute, None).unwrap().entries.0).map(Seq).collect();
        assert_eq!(statement(bench), expect);
    };
    check(&bench);
    bench.ledger.close();
    check(&Bench::on(&memory).expect("a good store"));
    for name in memory.segments() {
        let size = u64::try_from(memory.bytes(&name).len()).unwrap();
        assert!(size < SEGMENT_BYTES + 4_096, "{name} has {size} bytes");
    }
}

#[test]
fn a_segment_that_was_only_begun_is_begun_again() {
    let mut scribe = Scribe::new();
    scribe.groups(opening());
    let sealed = scribe.memory.segments();
    scribe.rotate();
    let fresh = scribe.memory.segments().pop().unwrap();
    assert!(!sealed.contains(&fresh));
    let header = scribe.memory.bytes(&fresh);
    assert_eq!(header.len(), HEADER_BYTES);
    for cut in 0..=HEADER_BYTES {
        let memory = scribe.memory.copy();
        memory.put(&fresh, header[..cut].to_vec());
        begun_again(&memory, &fresh, cut);
    }
}

/// The size of the file reached the disk before what is in it did.
#[test]
fn a_segment_whose_header_is_zeros_is_begun_again() {
    let mut scribe = Scribe::new();
    scribe.groups(opening());
    scribe.rotate();
    let fresh = scribe.memory.segments().pop().unwrap();
    for zeros in [1, HEADER_BYTES - 1, HEADER_BYTES] {
        let memory = scribe.memory.copy();
        memory.put(&fresh, vec![0; zeros]);
        begun_again(&memory, &fresh, zeros);
    }
}

fn begun_again(memory: &Memory, fresh: &str, cut: usize) {
    let bench = Bench::on(memory).unwrap_or_else(|why| panic!("{cut} bytes of a header: {why:?}"));
    assert_eq!(bench.entries, Seq(3), "{cut} bytes");
    bench.charge(1, 5).expect("rich enough");
    bench.ledger.close();
    assert!(memory.bytes(fresh).len() > HEADER_BYTES, "the same file goes on");
    let (entries, torn_bytes) = read(memory, Seq(5)).expect("whole");
    assert_eq!((entries.len(), torn_bytes), (5, 0), "{cut} bytes");
    let bench = Bench::on(memory).expect("a good store");
    assert_eq!(kinds(&bench, 1), ["hold", "capture"], "the index counts the same files");
}

#[test]
fn a_lone_empty_segment_is_an_empty_journal() {
    let memory = Memory::default();
    memory.put("journal-00000000000000000001.log", Vec::new());
    let bench = Bench::on(&memory).expect("nothing was lost");
    bench.create_ada().expect("new");
    bench.ledger.close();
    assert_eq!(read(&memory, Seq(3)).expect("whole").0.len(), 3);
}

#[test]
fn a_frame_that_ends_exactly_with_the_segment_is_followed_by_another() {
    let mut scribe = Scribe::new();
    scribe.groups(opening());
    for request in 1..=5 {
        scribe.groups(vec![hold(request, 1), capture(request, 1)]);
        scribe.rotate();
    }
    let (entries, torn_bytes) = read(&scribe.memory, scribe.head.seq).expect("whole");
    assert_eq!((entries.len(), torn_bytes, scribe.memory.segments().len()), (13, 0, 6));
    assert!(Bench::on(&scribe.memory).is_ok());
}
