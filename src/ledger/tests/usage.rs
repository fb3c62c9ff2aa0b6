//! Sums of charges: over segments, through damage, and what comes by one by one.

use super::super::entry::Seq;
use super::super::totals::{Day, Label, Labels, Sums};
use super::super::{Change, Window};
use super::bench::{ADA, Bench, Save, Told, atto, record};
use super::memory::Memory;
use crate::clock::Timestamp;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Charges are labelled by whether they are odd, and counted by their amount.
const LABELS: Labels = Labels { version: 1, quantities: 2, read: label };

fn label(record: &[u8]) -> Label {
    let amount: u64 = std::str::from_utf8(record).expect("a number").parse().expect("a number");
    let name = if amount.is_multiple_of(2) { "even" } else { "odd" };
    Label { name: name.into(), quantities: vec![amount, 1] }
}

fn charge(bench: &Bench, requests: impl Iterator<Item = u128>) {
    for request in requests {
        bench.charge(request, i128::try_from(request % 10).unwrap()).expect("rich enough");
    }
}

/// Sums by label, of entries taken one by one.
fn expected(bench: &Bench) -> BTreeMap<String, (u64, i128, u64)> {
    let mut sums = BTreeMap::<String, (u64, i128, u64)>::new();
    let taken = bench.ledger.export(Seq::START, |entry| {
        if let Change::Captured { amount, record, .. } = &entry.change {
            let label = label(record);
            let sum = sums.entry(label.name.into()).or_default();
            *sum = (sum.0 + 1, sum.1 + amount.atto_usd(), sum.2 + label.quantities[0]);
        }
        ControlFlow::Continue(())
    });
    taken.expect("readable");
    sums
}

fn found(bench: &Bench) -> BTreeMap<String, (u64, i128, u64)> {
    let usage = bench.ledger.usage(ADA, Window::default()).expect("readable");
    let mut sums = BTreeMap::<String, (u64, i128, u64)>::new();
    for (group, Sums { requests, charged, quantities }) in usage {
        let sum = sums.entry(group.label.to_string()).or_default();
        *sum = (sum.0 + requests, sum.1 + charged.atto_usd(), sum.2 + quantities[0]);
    }
    sums
}

fn open(memory: &Memory, state: Option<&Save>) -> Bench {
    let state = state.map(Save::snapshot);
    let bench = Bench::open(Arc::new(memory.clone()), state, &Told::default(), Box::new(|_| {}));
    let bench = bench.expect("a good store");
    bench.ledger.label_by(LABELS);
    bench
}

#[test]
fn sums_over_segments_are_those_of_the_entries() {
    let memory = Memory::default();
    let bench = open(&memory, None);
    bench.create_ada().expect("new");
    // Held in the first segment, charged in the last.
    let (apart, _) = bench.hold(u128::MAX, 7).expect("rich enough");
    charge(&bench, 1..=150);
    apart.capture(atto(7), record(7)).commit.wait().expect("the disk is well");
    let expected = expected(&bench);
    assert_eq!(expected.values().map(|sum| sum.0).sum::<u64>(), 151);
    assert!(memory.segments().len() > 3);
    assert_eq!(found(&bench), expected);
    bench.ledger.close();
    let totals = || memory.names().into_iter().filter(|name| name.ends_with(".usage")).collect::<Vec<_>>();
    assert_eq!(totals().len(), memory.segments().len() - 1, "made behind the journal");

    let good: Vec<_> = totals().iter().map(|name| memory.bytes(name)).collect();
    for at in (0..good[0].len()).step_by(331) {
        let bench = open(&memory, None);
        for (name, good) in totals().iter().zip(&good) {
            let mut bytes = good.clone();
            bytes[at % good.len()] ^= 1;
            memory.put(name, bytes);
        }
        assert_eq!(found(&bench), expected, "byte {at}");
        // Padding is covered, too, or is not read.
        assert_eq!(found(&bench), expected, "byte {at}, again");
        bench.ledger.close();
        totals().iter().zip(&good).for_each(|(name, good)| memory.put(name, good.clone()));
    }
    totals().iter().for_each(|name| drop(memory.lose(name)));
    let bench = open(&memory, None);
    assert_eq!(found(&bench), expected, "made when they are asked for");
    assert_eq!(totals().iter().map(|name| memory.bytes(name)).collect::<Vec<_>>(), good);
    bench.ledger.close();

    let relabelled =
        Labels { version: 2, quantities: 2, read: |record| Label { name: "all".into(), ..label(record) } };
    let bench = Bench::on(&memory).expect("a good store");
    assert!(bench.ledger.usage(ADA, Window::default()).is_err(), "nobody said how");
    bench.ledger.label_by(relabelled);
    assert_eq!(found(&bench).into_keys().collect::<Vec<_>>(), ["all"], "of another version: made again");
}

#[test]
fn an_overage_counts_and_a_release_does_not() {
    let bench = open(&Memory::default(), None);
    bench.create_ada().expect("new");
    let (over, _) = bench.hold(1, 3).expect("rich enough");
    over.capture(atto(8), record(8)).commit.wait().expect("well");
    let (released, _) = bench.hold(2, 3).expect("rich enough");
    released.release(Arc::from(&[][..])).commit.wait().expect("well");
    assert_eq!(found(&bench), BTreeMap::from([("even".to_owned(), (1, 8, 8))]));
    let today = Day::of(Timestamp::now());
    let window = |from: Option<Day>, to: Option<Day>| Window {
        after: Seq::START,
        from: from.map(Day::begin),
        to: to.map(Day::begin),
    };
    let count = |window| bench.ledger.usage(ADA, window).expect("readable").len();
    assert_eq!(count(window(Some(Day(today.0 - 1)), Some(Day(today.0 + 2)))), 1);
    assert_eq!(count(window(None, Some(Day(today.0 - 1)))), 0);
    assert_eq!(count(window(Some(Day(today.0 + 2)), None)), 0);
}

#[test]
fn an_export_begins_where_it_is_told_and_ends_when_it_is_told() {
    let memory = Memory::default();
    let bench = open(&memory, None);
    bench.create_ada().expect("new");
    charge(&bench, 1..=150);
    let last = bench.ledger.verify(&super::bench::recompute, None).expect("whole").entries.0;
    for (after, limit) in
        [(0, u64::MAX), (0, 5), (1, 3), (100, u64::MAX), (last - 1, 9), (last, 9), (last + 1, 9)]
    {
        let mut seqs = Vec::new();
        let taken = bench.ledger.export(Seq(after), |entry| {
            seqs.push(entry.seq.0);
            if u64::try_from(seqs.len()) == Ok(limit) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        taken.expect("readable");
        let expect: Vec<u64> = (after + 1..=last).take(usize::try_from(limit).unwrap()).collect();
        assert_eq!(seqs, expect, "after {after}");
    }
}
