//! Sidecars: the index of a full segment, in a file beside it.
//!
//! ```text
//! head block: magic | format | head before and after | bytes of the segment | first and last time | sizes
//! requests:   request u128, offset u32                       sorted, in checksummed blocks
//! places:     customer u64, seq u64, time i64, offset u32    sorted, in checksummed blocks
//! filter:     which requests and customers may be there
//! ```
//!
//! Only the head and the filter are kept in memory: about 1.3 bytes for each request. Everything is
//! made from the segment: one that is missing, damaged or of another format is made again.

use super::codec;
use super::disk::{Disk, File};
use super::entry::Seq;
use super::filter::{Filter, Hash};
use super::frame::{Chain, Head};
use super::places::{Full, Place, Places, Window};
use super::table::{BLOCK_BYTES, Table};
use crate::clock::Timestamp;
use crate::id::{CustomerId, RequestId};
use std::io;
use std::sync::Arc;

/// The format that this version writes; any other is made again.
const FORMAT: u32 = 1;
const MAGIC: [u8; 8] = *b"TGINDEX\0";
/// request | offset
const REQUEST_BYTES: usize = 16 + 4;
/// customer | seq | time | offset
const PLACE_BYTES: usize = 8 + 8 + 8 + 4;
/// Far above what 64 MiB can need: a damaged size does not ask for all memory.
const FILTER_WORDS_MAX: u64 = 1 << 24;

/// The index of a full segment.
#[derive(Debug)]
pub struct Sidecar {
    /// The segment's name.
    pub segment: Arc<str>,
    /// What it says of the segment.
    pub about: About,
    requests: Table,
    places: Table,
    filter: Filter,
}

/// What a sidecar says of its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// The journal's head before it.
    pub before: Head,
    /// The journal's head after it.
    pub after: Head,
    /// Bytes of it.
    pub bytes: u64,
    /// The earliest time of an entry.
    pub first_at: Timestamp,
    /// The latest time of an entry.
    pub last_at: Timestamp,
}

/// Writes the sidecar of a segment and opens it.
///
/// # Errors
/// As the operating system says.
pub fn write(disk: &dyn Disk, full: &Full) -> io::Result<Sidecar> {
    disk.replace(&name(&full.places.segment), &encode(full))?;
    Sidecar::open(disk, Arc::clone(&full.places.segment))
}

impl Sidecar {
    /// Opens the sidecar of a segment.
    ///
    /// # Errors
    /// When it is missing, damaged, or of another format.
    pub fn open(disk: &dyn Disk, segment: Arc<str>) -> io::Result<Self> {
        let file = disk.open(&name(&segment))?;
        let mut block = vec![0; BLOCK_BYTES];
        file.read_at(&mut block, 0)?;
        let (head, crc) = block.split_at(BLOCK_BYTES - 4);
        if crc32c::crc32c(head).to_le_bytes() != crc || head[..8] != MAGIC {
            return Err(damaged("its head is damaged"));
        }
        let format = u32::from_le_bytes(head[8..12].try_into().expect("four bytes"));
        if format != FORMAT {
            return Err(damaged(&format!("its format is {format}, not {FORMAT}")));
        }
        let head = read_head(&head[12..]).map_err(|_| damaged("its head is too short"))?;
        let Parts { about, requests, places, filter_words, filter_crc } = head;
        let bytes = filter_words.checked_mul(8).filter(|_| filter_words <= FILTER_WORDS_MAX);
        let ends = bytes.map(|bytes| places.end() + bytes);
        if ends != Some(file.size()?) {
            return Err(damaged("its size is not what its head says"));
        }
        let filter = read_filter(&*file, places.end(), filter_words, filter_crc)?;
        Ok(Sidecar { segment, about, requests, places, filter })
    }

    /// Whether the segment may have something of a key.
    pub fn may_hold(&self, hash: Hash) -> bool {
        self.filter.may_hold(hash)
    }

    /// Frames of a request, in order.
    ///
    /// # Errors
    /// When it cannot be read; of kind `InvalidData` when it is damaged.
    pub fn of_request(&self, disk: &dyn Disk, request: RequestId) -> io::Result<Vec<u32>> {
        let file = disk.open(&name(&self.segment))?;
        let mut table = self.requests.reader(&*file);
        let key = request.int().to_be_bytes();
        let mut place = table.lower_bound(&key)?;
        let mut found = Vec::new();
        while let Some(offset) = table.row(place)?.and_then(|row| row.strip_prefix(&key)) {
            found.push(u32::from_be_bytes(offset.try_into().expect("four bytes")));
            place += 1;
        }
        Ok(found)
    }

    /// Up to `limit` frames of a customer, in order.
    ///
    /// # Errors
    /// When it cannot be read; of kind `InvalidData` when it is damaged.
    pub fn of_customer(
        &self,
        disk: &dyn Disk,
        customer: CustomerId,
        window: &Window,
        limit: usize,
    ) -> io::Result<Vec<Place>> {
        let file = disk.open(&name(&self.segment))?;
        let mut table = self.places.reader(&*file);
        let owner = customer.int().to_be_bytes();
        let key = [owner, window.after.next().0.to_be_bytes()].concat();
        let mut row = table.lower_bound(&key)?;
        let mut found = Vec::new();
        while found.len() < limit {
            let Some(rest) = table.row(row)?.and_then(|row| row.strip_prefix(&owner)) else { break };
            let place = read_place(rest);
            found.extend(window.holds(&place).then_some(place));
            row += 1;
        }
        Ok(found)
    }

    /// Up to `limit` frames of a customer in a window before one, the latest first.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged there.
    pub fn latest_of_customer(
        &self,
        disk: &dyn Disk,
        customer: CustomerId,
        (window, before): (&Window, Seq),
        limit: usize,
    ) -> io::Result<Vec<Place>> {
        let file = disk.open(&name(&self.segment))?;
        let mut table = self.places.reader(&*file);
        let owner = customer.int().to_be_bytes();
        let mut row = table.lower_bound(&[owner, before.0.to_be_bytes()].concat())?;
        let mut found = Vec::new();
        while found.len() < limit && row > 0 {
            row -= 1;
            let Some(rest) = table.row(row)?.and_then(|row| row.strip_prefix(&owner)) else { break };
            let place = read_place(rest);
            if place.seq <= window.after {
                break;
            }
            found.extend(window.holds(&place).then_some(place));
        }
        Ok(found)
    }
}

/// The name of a segment's sidecar.
pub fn name(segment: &str) -> String {
    format!("{}.index", segment.strip_suffix(".log").unwrap_or(segment))
}

fn encode(full: &Full) -> Vec<u8> {
    let Places { before, requests, customers, .. } = &full.places;
    let mut request_rows = Vec::with_capacity(2 * requests.len());
    for (request, offsets) in requests {
        let key = request.int().to_be_bytes();
        request_rows
            .extend(offsets.iter().map(|offset| row::<REQUEST_BYTES>(&[&key, &offset.to_be_bytes()])));
    }
    request_rows.sort_unstable();
    let mut place_rows = Vec::with_capacity(request_rows.len());
    for (customer, places) in customers {
        let owner = customer.int().to_be_bytes();
        place_rows.extend(places.iter().map(|Place { seq, at, offset }| {
            let parts = [&owner[..], &seq.0.to_be_bytes(), &at.micros().to_be_bytes(), &offset.to_be_bytes()];
            row::<PLACE_BYTES>(&parts)
        }));
    }
    place_rows.sort_unstable();

    let mut out = vec![0; BLOCK_BYTES];
    let requests_table = Table::append(request_rows.iter().map(|row| &row[..]), REQUEST_BYTES, &mut out);
    let places_table = Table::append(place_rows.iter().map(|row| &row[..]), PLACE_BYTES, &mut out);
    let hashes = requests.keys().map(|request| Hash::of_request(*request));
    let hashes = hashes.chain(customers.keys().map(|customer| Hash::of_customer(*customer)));
    let filter = Filter::of(requests.len() + customers.len(), hashes);
    let filter_bytes: Vec<u8> = filter.words().iter().flat_map(|word| word.to_le_bytes()).collect();
    let times = || customers.values().flatten().map(|place| place.at);
    let head = Parts {
        about: About {
            before: *before,
            after: full.after,
            bytes: full.bytes,
            first_at: times().min().unwrap_or_default(),
            last_at: times().max().unwrap_or_default(),
        },
        requests: requests_table,
        places: places_table,
        filter_words: u64::try_from(filter.words().len()).expect("usize fits"),
        filter_crc: crc32c::crc32c(&filter_bytes),
    };
    write_head(&head, &mut out[..BLOCK_BYTES]);
    out.extend_from_slice(&filter_bytes);
    out
}

/// What stands in the head block.
struct Parts {
    about: About,
    requests: Table,
    places: Table,
    filter_words: u64,
    filter_crc: u32,
}

fn write_head(parts: &Parts, block: &mut [u8]) {
    let Parts { about, requests, places, filter_words, filter_crc } = parts;
    let mut head = Vec::with_capacity(BLOCK_BYTES);
    codec::put(&mut head, MAGIC);
    codec::put(&mut head, FORMAT.to_le_bytes());
    for Head { seq, chain } in [about.before, about.after] {
        codec::put(&mut head, seq.0.to_le_bytes());
        codec::put(&mut head, chain.0);
    }
    codec::put(&mut head, about.bytes.to_le_bytes());
    codec::put(&mut head, about.first_at.micros().to_le_bytes());
    codec::put(&mut head, about.last_at.micros().to_le_bytes());
    for number in [requests.rows, places.rows, *filter_words] {
        codec::put(&mut head, number.to_le_bytes());
    }
    codec::put(&mut head, filter_crc.to_le_bytes());
    head.resize(BLOCK_BYTES - 4, 0);
    let crc = crc32c::crc32c(&head);
    codec::put(&mut head, crc.to_le_bytes());
    block.copy_from_slice(&head);
}

fn read_head(mut input: &[u8]) -> Result<Parts, codec::CodecError> {
    let input = &mut input;
    let mut heads = [Head::START; 2];
    for head in &mut heads {
        *head = Head { seq: Seq(u64::from_le_bytes(codec::take(input)?)), chain: Chain(codec::take(input)?) };
    }
    let [before, after] = heads;
    let bytes = u64::from_le_bytes(codec::take(input)?);
    let first_at = Timestamp::from_micros(i64::from_le_bytes(codec::take(input)?));
    let last_at = Timestamp::from_micros(i64::from_le_bytes(codec::take(input)?));
    let rows = u64::from_le_bytes(codec::take(input)?);
    let start = u64::try_from(BLOCK_BYTES).expect("small");
    let requests = Table { start, rows, width: REQUEST_BYTES };
    let rows = u64::from_le_bytes(codec::take(input)?);
    let places = Table { start: requests.end(), rows, width: PLACE_BYTES };
    let filter_words = u64::from_le_bytes(codec::take(input)?);
    let filter_crc = u32::from_le_bytes(codec::take(input)?);
    let about = About { before, after, bytes, first_at, last_at };
    Ok(Parts { about, requests, places, filter_words, filter_crc })
}

fn read_filter(file: &dyn File, start: u64, words: u64, crc: u32) -> io::Result<Filter> {
    let bytes = usize::try_from(words * 8).map_err(|_| damaged("its filter is too large"))?;
    let mut bytes = vec![0; bytes];
    file.read_at(&mut bytes, start)?;
    if crc32c::crc32c(&bytes) != crc || bytes.is_empty() {
        return Err(damaged("its filter is damaged"));
    }
    let words = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
    Ok(Filter::from_words(words.collect()))
}

fn read_place(rest: &[u8]) -> Place {
    let word = |at: usize| rest[at..at + 8].try_into().expect("eight bytes");
    Place {
        seq: Seq(u64::from_be_bytes(word(0))),
        at: Timestamp::from_micros(i64::from_be_bytes(word(8))),
        offset: u32::from_be_bytes(rest[16..].try_into().expect("four bytes")),
    }
}

fn row<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    parts.concat().try_into().expect("the parts of a row are of one width")
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
