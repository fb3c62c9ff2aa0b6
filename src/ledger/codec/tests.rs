//! Every kind of change reads back, and what is cut or unknown does not.

use super::super::violation::{Reaction, Violation};
use super::*;

fn check(change: Change) {
    let balance = Balance { available: Amount::from_atto_usd(-7), held: Amount::from_atto_usd(i128::MAX) };
    let at = Timestamp::from_micros(1_763_915_146_000_001);
    let entry = Entry { seq: Seq(9), at, customer: CustomerId::from_int(5), change, balance };
    let mut bytes = Vec::new();
    encode(&entry, &mut bytes);
    let mut input = &bytes[..];
    assert_eq!(decode(&mut input, Seq(9)), Ok(entry));
    assert!(input.is_empty());
    for cut in 0..bytes.len() {
        assert!(decode(&mut &bytes[..cut], Seq(9)).is_err(), "cut at {cut}");
    }
}

#[test]
fn every_change_reads_back_and_no_cut_does() {
    let (request, key, amount) = (RequestId::from_int(77), KeyId::from_int(3), Amount::from_atto_usd(41));
    let record: Arc<[u8]> = b"{}".as_slice().into();
    let created =
        KeyCreated { key, digest: KeyDigest([8; 32]), prefix: "tg_live_ab".into(), name: "".into() };
    check(Change::CustomerCreated { name: "Zoë".into() });
    check(Change::KeyCreated(created));
    check(Change::KeyRevoked { key });
    check(Change::Limited { key: Some(key), limits: b"{}".as_slice().into() });
    check(Change::Limited { key: None, limits: Arc::default() });
    check(Change::Deposited { amount, reference: "invoice 1".into() });
    for mark in [None, Some(Mark { key: [3; 16], content: [4; 16] })] {
        check(Change::Held { request, key, amount, price_version: "2026-11-23".into(), mark });
    }
    let (price_version, note) = (Arc::<str>::from("2026-11-23"), note());
    let version = || Arc::clone(&price_version);
    let charge = Charge { amount, cost: -amount };
    for progress in [None, Some(Progress { charge, record: Arc::clone(&record) })] {
        let (total, price_version) = (amount, version());
        check(Change::Extended { request, key, amount, total, price_version, progress });
    }
    for key in [None, Some(key)] {
        check(Change::Captured {
            request,
            amount,
            released: amount,
            cost: amount,
            price_version: version(),
            key,
            record: Arc::clone(&record),
            object: None,
        });
        check(Change::Overage { request, amount, price_version: version(), key });
    }
    check(Change::Captured {
        request,
        amount,
        released: amount,
        cost: amount,
        price_version: version(),
        key: Some(key),
        record: Arc::clone(&record),
        object: Some("resp_1".into()),
    });
    let (object, kept) = ("resp_1".into(), Arc::clone(&record));
    check(Change::Detached { request, key, amount, price_version: version(), object, record: kept });
    check(Change::WrittenOff { request, amount, price_version: version() });
    for reason in [Release::Failed, Release::Expired] {
        let record = Arc::clone(&record);
        check(Change::Released { request, amount, reason, price_version: version(), record });
    }
    check(Change::Refunded {
        request,
        amount,
        charged: amount,
        price_version,
        reference: "ticket 7".into(),
        note: note.clone(),
    });
    check(Change::Adjusted { amount: -amount, reference: "ticket 8".into(), note: note.clone() });
    for step in [Step::Suspend, Step::Resume, Step::Ban, Step::Unban] {
        check(Change::StandingChanged { step, note: note.clone() });
    }
    check(Change::OverdraftSet { amount, note: note.clone() });
    check(Change::DebtWrittenOff { amount, reference: "case 9".into(), note: note.clone() });
    check(Change::TermsAccepted { version: "2026-11".into(), note: note.clone() });
    check(Change::Forfeited { amount, total: amount, note: note.clone() });
    check(Change::ForfeitureReversed { amount, note });
}

#[test]
fn every_violation_reads_back_and_no_cut_does() {
    let request = RequestId::from_int(77);
    for outcome in [Reaction::Observed, Reaction::Refused, Reaction::Answered] {
        let (category, digest) = ("hate".into(), [7; 16]);
        check(Change::Violated(Violation { request, category, score_ppm: 1_000_000, outcome, digest }));
    }
}

fn note() -> Note {
    Note { by: "ada".into(), reason: "spam, see case 12".into() }
}

/// Charges as the first journals have them: they are read for ever, without what they lack.
#[test]
fn charges_of_the_first_journals_are_read() {
    let (request, amount) = (RequestId::from_int(77), Amount::from_atto_usd(41));
    let old = |tag: u8, rest: &[&[u8]]| {
        let mut bytes = request.int().to_le_bytes().to_vec();
        bytes.extend_from_slice(&amount.atto_usd().to_le_bytes());
        rest.iter().for_each(|part| bytes.extend_from_slice(part));
        let mut input = &bytes[..];
        let change = decode_change(tag, &mut input).unwrap();
        assert!(input.is_empty());
        change
    };
    let record: &[&[u8]] = &[&2_u32.to_le_bytes(), b"{}"];
    let (price_version, kept) = (|| Arc::<str>::from(""), || Arc::<[u8]>::from(&b"{}"[..]));
    let released = amount.atto_usd().to_le_bytes();
    let expect = Change::Captured {
        request,
        amount,
        released: amount,
        cost: Amount::ZERO,
        price_version: price_version(),
        key: None,
        record: kept(),
        object: None,
    };
    assert_eq!(old(6, &[&released, record[0], record[1]]), expect);
    let expect = Change::Overage { request, amount, price_version: price_version(), key: None };
    assert_eq!(old(7, &[]), expect);
    assert_eq!(old(8, &[]), Change::WrittenOff { request, amount, price_version: price_version() });
    let (reason, price_version, record_kept) = (Release::Expired, price_version(), kept());
    let expect = Change::Released { request, amount, reason, price_version, record: record_kept };
    assert_eq!(old(9, &[&[2], record[0], record[1]]), expect);
}

#[test]
fn an_unknown_tag_is_refused() {
    assert_eq!(decode_change(99, &mut &[0_u8; 64][..]), Err(CodecError::UnknownTag(99)));
    assert_eq!(decode_change(17, &mut &[9_u8; 64][..]), Err(CodecError::UnknownTag(9)));
}
