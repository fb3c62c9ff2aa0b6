//! Bytes that are not what was written: torn tails are cut off, all else refuses and says where.

use super::super::command::Command;
use super::super::entry::Seq;
use super::super::open::OpenError;
use super::super::segment::JournalError;
use super::bench::{ADA, Bench, DEPOSIT, Placed, Scribe, atto, capture, hold, opening, read, release};
use super::memory::Memory;

const HEADER_BYTES: usize = 56;

/// What a customer does who is charged below, at and above a hold, and beyond the balance.
fn commands() -> Vec<Command> {
    let mut commands = opening();
    commands.extend([hold(1, 500), capture(1, 300), hold(2, 700), capture(2, 700), hold(3, 100)]);
    commands.extend([capture(3, 150), hold(4, 10), release(4), hold(5, 10), capture(5, 2 * DEPOSIT)]);
    commands
}

/// One segment: groups of one frame, each vouching for those before it, and a last group of some.
fn sample() -> (Scribe, Vec<Placed>) {
    let mut scribe = Scribe::new();
    scribe.groups(commands());
    let last = scribe.frames.len();
    scribe.group(vec![hold(6, 0), hold(7, 0), capture(6, 0)]);
    let frames = scribe.frames[last..].to_vec();
    (scribe, frames)
}

fn damaged(outcome: Result<impl Sized, JournalError>) -> (String, usize, Seq) {
    match outcome {
        Err(JournalError::Damaged { file, offset, seq, .. }) => (file, offset, seq),
        Err(other) => panic!("not damage but {other}"),
        Ok(_) => panic!("it opens silently"),
    }
}

#[test]
fn a_journal_cut_at_any_byte_opens_with_the_whole_frames_before_it() {
    let (scribe, _) = sample();
    let name = scribe.memory.segments().remove(0);
    let bytes = scribe.memory.bytes(&name);
    let mut torn = 0;
    for cut in 0..=bytes.len() {
        let memory = scribe.memory.copy();
        memory.put(&name, bytes[..cut].to_vec());
        let kept = scribe.frames.iter().take_while(|frame| frame.end <= cut).last();
        let (seq, good) = match kept {
            Some(frame) => (frame.last, frame.end),
            None if cut < HEADER_BYTES => (Seq::START, 0),
            None => (Seq::START, HEADER_BYTES),
        };
        let bench = Bench::on(&memory).unwrap_or_else(|why| panic!("cut at {cut}: {why:?}"));
        let expect = (seq, u64::try_from(cut - good).unwrap());
        assert_eq!((bench.entries, bench.torn_bytes), expect, "cut at {cut}");
        torn += usize::from(bench.torn_bytes > 0);
        let expired = u64::try_from(bench.expired.released).unwrap();
        bench.ledger.close();
        // What was cut off is gone, and what was added is there.
        let (entries, torn_bytes) = read(&memory, Seq(seq.0 + expired)).expect("whole");
        assert_eq!((entries.last().map(|entry| entry.seq), torn_bytes), (last(seq.0 + expired), 0));
    }
    assert!(torn > bytes.len() * 9 / 10, "{torn} torn tails");
}

fn last(seq: u64) -> Option<Seq> {
    (seq > 0).then_some(Seq(seq))
}

#[test]
fn a_journal_that_ends_before_what_the_state_store_knows_is_refused() {
    let (scribe, _) = sample();
    let name = scribe.memory.segments().remove(0);
    let bytes = scribe.memory.bytes(&name);
    for cut in 0..bytes.len() {
        let memory = scribe.memory.copy();
        memory.put(&name, bytes[..cut].to_vec());
        damaged(read(&memory, scribe.head.seq));
    }
    scribe.memory.lose(&name);
    damaged(read(&scribe.memory, scribe.head.seq));
}

#[test]
fn a_flipped_bit_below_a_durable_mark_is_refused_with_its_place() {
    let (scribe, marking) = sample();
    let name = scribe.memory.segments().remove(0);
    let bytes = scribe.memory.bytes(&name);
    let mut flips = 0;
    for at in 0..marking[0].offset {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            let memory = Memory::default();
            memory.put(&name, flipped);
            let hit = scribe.frames.iter().find(|frame| (frame.offset..frame.end).contains(&at));
            let place = hit.map_or((0, Seq(1)), |frame| (frame.offset, frame.first));
            let found = damaged(read(&memory, Seq::START));
            assert_eq!(found, (name.clone(), place.0, place.1), "bit {bit} of byte {at}");
            flips += 1;
        }
    }
    assert!(flips > 8_000, "{flips} flips");
}

#[test]
fn a_refusal_names_the_file_the_byte_and_the_entry_and_changes_nothing() {
    let (scribe, _) = sample();
    let name = scribe.memory.segments().remove(0);
    let mut bytes = scribe.memory.bytes(&name);
    let frame = &scribe.frames[4];
    bytes[frame.offset + 70] ^= 4;
    scribe.memory.put(&name, bytes.clone());
    let Err(OpenError::Journal(why)) = Bench::on(&scribe.memory) else { panic!("it opens") };
    let text = why.to_string();
    for part in [&*name, &format!("byte {}", frame.offset), &format!("entry {}", frame.first), "backup"] {
        assert!(text.contains(part), "{part} in: {text}");
    }
    assert_eq!(scribe.memory.bytes(&name), bytes);
}

/// In the last group nothing vouches for an entry but the state store.
#[test]
fn a_flipped_bit_in_the_last_group_is_refused_if_the_state_store_knows_it() {
    let (scribe, group) = sample();
    let name = scribe.memory.segments().remove(0);
    let bytes = scribe.memory.bytes(&name);
    for frame in &group {
        for at in frame.offset..frame.end {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            let memory = Memory::default();
            memory.put(&name, flipped);
            let place = (name.clone(), frame.offset, frame.first);
            assert_eq!(damaged(read(&memory, frame.last)), place, "byte {at}");
            assert_eq!(damaged(read(&memory, scribe.head.seq)), place, "byte {at}");
            // Unknown, it was never durable: dropped with all after it, and said so.
            let (entries, torn_bytes) = read(&memory, Seq(frame.first.0 - 1)).expect("a torn tail");
            assert_eq!(entries.last().map(|entry| entry.seq), last(frame.first.0 - 1), "byte {at}");
            assert_eq!(torn_bytes, u64::try_from(bytes.len() - frame.offset).unwrap(), "byte {at}");
        }
    }
}

/// Three segments of one story.
fn segments() -> (Scribe, Vec<String>) {
    let mut scribe = Scribe::new();
    for part in commands().chunks(5) {
        if !scribe.frames.is_empty() {
            scribe.rotate();
        }
        scribe.groups(part.to_vec());
    }
    let names = scribe.memory.segments();
    assert_eq!(names.len(), 3);
    (scribe, names)
}

#[test]
fn a_missing_segment_is_refused() {
    for missing in 0..2 {
        let (scribe, names) = segments();
        scribe.memory.lose(&names[missing]);
        let first = scribe.frames.iter().find(|frame| frame.file == names[missing]).unwrap().first;
        assert_eq!(damaged(read(&scribe.memory, Seq::START)), (names[missing + 1].clone(), 0, first));
    }
    let (scribe, names) = segments();
    scribe.memory.lose(&names[2]);
    let (_, _, seq) = damaged(read(&scribe.memory, scribe.head.seq));
    let first = scribe.frames.iter().find(|frame| frame.file == names[2]).unwrap().first;
    assert_eq!(seq, first, "the last one is missed by the state store alone");
}

#[test]
fn swapped_and_doubled_segments_are_refused() {
    for (one, other) in [(0, 1), (1, 2), (0, 2)] {
        let (scribe, names) = segments();
        let (first, second) = (scribe.memory.bytes(&names[one]), scribe.memory.bytes(&names[other]));
        scribe.memory.put(&names[one], second);
        scribe.memory.put(&names[other], first);
        assert_eq!(damaged(read(&scribe.memory, Seq::START)).0, names[one], "{one} and {other}");
    }
    let (scribe, names) = segments();
    scribe.memory.put("journal-99999999999999999999.log", scribe.memory.bytes(&names[2]));
    assert_eq!(damaged(read(&scribe.memory, Seq::START)).0, "journal-99999999999999999999.log");
}

#[test]
fn any_damage_to_a_sealed_segment_is_refused() {
    let (scribe, names) = segments();
    let bytes = scribe.memory.bytes(&names[0]);
    for cut in 0..bytes.len() {
        scribe.memory.put(&names[0], bytes[..cut].to_vec());
        assert!(matches!(damaged(read(&scribe.memory, Seq::START)).0, name if names[..2].contains(&name)));
    }
    for tail in [vec![0], vec![0; 600], b"garbage".to_vec()] {
        scribe.memory.put(&names[0], [bytes.clone(), tail].concat());
        assert_eq!(damaged(read(&scribe.memory, Seq::START)).0, names[0]);
    }
}

#[test]
fn a_newer_format_is_refused_in_clear_words() {
    for name in [0, 2] {
        let (scribe, names) = segments();
        let mut bytes = scribe.memory.bytes(&names[name]);
        bytes[12..16].copy_from_slice(&2_u32.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[12..HEADER_BYTES]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        scribe.memory.put(&names[name], bytes);
        let Err(why) = read(&scribe.memory, Seq::START) else { panic!("it opens") };
        assert!(matches!(&why, JournalError::Format { file, found: 2 } if *file == names[name]), "{why:?}");
        let text = why.to_string();
        assert!(text.contains("format 2") && text.contains("newer tollgate"), "{text}");
    }
}

#[test]
fn what_stands_beside_the_segments_is_left_alone() {
    let (scribe, _) = segments();
    for name in ["lost+found", "journal-1.log.bak", "notes.txt"] {
        scribe.memory.put(name, b"mine".to_vec());
    }
    let (entries, torn_bytes) = read(&scribe.memory, scribe.head.seq).expect("whole");
    assert_eq!((entries.last().map(|entry| entry.seq), torn_bytes), (Some(scribe.head.seq), 0));
    assert_eq!(scribe.memory.bytes("notes.txt"), b"mine");
}

/// A frame that says something that no book of ours could have said, with a good checksum.
#[test]
fn a_forged_frame_is_refused() {
    let mut scribe = Scribe::new();
    scribe.groups(opening());
    let forger = scribe.book.clone();
    scribe.book.customers.get_mut(&ADA).unwrap().balance.available = atto(2 * DEPOSIT);
    scribe.group(vec![hold(1, DEPOSIT + 1)]);
    let why = read(&scribe.memory, Seq::START).expect_err("refused").to_string();
    assert!(why.contains("I3") && why.contains("entry 4"), "{why}");
    // And one that is a book's own, but of another chain.
    let mut other = Scribe::new();
    other.groups(opening());
    (other.head.chain.0[0], other.book) = (1, forger);
    other.group(vec![hold(1, 1)]);
    let why = read(&other.memory, Seq::START).expect_err("refused").to_string();
    assert!(why.contains("hash chain"), "{why}");
}
