//! Totals: what each customer was charged, by day, key and label, segment by segment.
//!
//! The ledger knows amounts; what a charge was for it does not. Whoever uses it says by [`Labels`]
//! how to read, from the record of a charge, a label and some quantities: these are summed. The
//! totals of a full segment stand in a file beside it, made from the segment when it is full or when
//! they are first asked for:
//!
//! ```text
//! head block: magic | format | version and quantities of the labels | head after the segment | sizes
//! rows:       customer u64, day u32, key u64, label u32, requests u64, charged i128, quantities u64…
//! labels:     length and text of each
//! ```

use super::codec::{self, CodecError};
use super::disk::Disk;
use super::entry::{Change, Entry};
use super::frame::Head;
use super::legs::Account;
use super::table::{BLOCK_BYTES, Table};
use crate::clock::Timestamp;
use crate::id::{CustomerId, KeyId, RequestId};
use crate::money::Amount;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

/// The format that this version writes; any other is made again.
const FORMAT: u32 = 1;
const MAGIC: [u8; 8] = *b"TGUSAGE\0";
/// customer | day | key | label | requests | charged; then quantities, of 8 bytes each
const ROW_BYTES: usize = 8 + 4 + 8 + 4 + 8 + 16;
const DAY_SECONDS: i64 = 24 * 60 * 60;
/// Far above what 64 MiB can need: a damaged size does not ask for all memory.
const LABEL_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What a charge was for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Label {
    /// In a word.
    pub name: Box<str>,
    /// How much of what: known to who reads the record. None, or as many as the [`Labels`] say.
    pub quantities: Vec<u64>,
}

/// How the record of a charge is read.
#[derive(Clone, Copy, Debug)]
pub struct Labels {
    /// Of what `read` gives: files of another version are made again.
    pub version: u32,
    /// How many quantities a label has: so are files with another number.
    pub quantities: usize,
    /// The label of a charge, from its record.
    pub read: fn(&[u8]) -> Label,
}

/// A day in UTC, counted from 1970-01-01.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub u32);

impl Day {
    /// The day of a moment.
    pub fn of(at: Timestamp) -> Self {
        Day(u32::try_from(at.seconds().div_euclid(DAY_SECONDS)).unwrap_or_default())
    }

    /// Its first moment.
    pub fn begin(self) -> Timestamp {
        Timestamp::from_micros(i64::from(self.0) * DAY_SECONDS * 1_000_000)
    }

    /// The one after it.
    #[must_use]
    pub fn next(self) -> Self {
        Day(self.0 + 1)
    }

    /// The first day of the month after its own.
    #[must_use]
    pub fn month_end(self) -> Self {
        Day::of(self.begin().next_month())
    }
}

/// What sums are of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// Which day.
    pub day: Day,
    /// By which key.
    pub key: KeyId,
    /// The label.
    pub label: Arc<str>,
}

/// Sums of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Charges.
    pub requests: u64,
    /// What the customer was charged, less what was given back.
    pub charged: Amount,
    /// As the labels say.
    pub quantities: Vec<u64>,
}

impl Sums {
    /// Adds others.
    pub fn add(&mut self, other: &Sums) {
        self.requests += other.requests;
        self.charged += other.charged;
        let quantities = self.quantities.len().max(other.quantities.len());
        self.quantities.resize(quantities, 0);
        for (sum, more) in self.quantities.iter_mut().zip(&other.quantities) {
            *sum += more;
        }
    }
}

/// Sums of one customer.
pub type Usage = BTreeMap<Group, Sums>;

/// Sums of all customers of a segment.
pub type Totals = BTreeMap<(CustomerId, Group), Sums>;

/// Finds all entries of a request, wherever they stand.
pub type LookUp<'a> = &'a dyn Fn(RequestId) -> io::Result<Vec<Entry>>;

/// Sums entries up, frame by frame.
pub struct Counter<'a> {
    labels: Labels,
    look_up: LookUp<'a>,
    /// Of holds that have not ended yet.
    keys: HashMap<RequestId, KeyId>,
    totals: Totals,
}

impl<'a> Counter<'a> {
    /// With nothing yet.
    pub fn new(labels: Labels, look_up: LookUp<'a>) -> Self {
        Counter { labels, look_up, keys: HashMap::new(), totals: Totals::new() }
    }

    /// Counts the entries of one frame.
    ///
    /// # Errors
    /// When an older entry of its request is needed and cannot be read.
    pub fn frame(&mut self, entries: &[Entry]) -> io::Result<()> {
        let Some(first) = entries.first() else { return Ok(()) };
        let Some(request) = first.change.request() else { return Ok(()) };
        if let Change::Held { key, .. } = &first.change {
            self.keys.insert(request, *key);
        }
        let posted = |change: &Change| change.moved(Account::Available) + change.moved(Account::Held);
        // A frame may end with what follows for the customer alone.
        let ours =
            entries.iter().map(|entry| &entry.change).filter(|change| change.request() == Some(request));
        let charged: Amount = ours.map(|change| -posted(change)).sum();
        let label = record(entries).map(self.labels.read);
        if label.is_none() && charged == Amount::ZERO {
            return Ok(());
        }
        let held = self.keys.remove(&request);
        let (key, name) = match (held, &label) {
            (Some(key), Some(label)) => (key, (*label.name).into()),
            (None, _) | (_, None) => self.look_back(request)?,
        };
        let group = Group { day: Day::of(first.at), key, label: name };
        let requests = u64::from(label.is_some());
        let quantities = label.map_or_else(Vec::new, |label| label.quantities);
        let sums = Sums { requests, charged, quantities };
        self.totals.entry((first.customer, group)).or_default().add(&sums);
        Ok(())
    }

    /// All that was counted.
    pub fn totals(self) -> Totals {
        self.totals
    }

    /// The key and the label of a request whose hold or charge stands in another frame.
    fn look_back(&self, request: RequestId) -> io::Result<(KeyId, Arc<str>)> {
        let entries = (self.look_up)(request)?;
        let key = entries
            .iter()
            .find_map(|entry| if let Change::Held { key, .. } = &entry.change { Some(*key) } else { None });
        let key = key.ok_or_else(|| damaged(&format!("the hold of {request} is not found")))?;
        let label = record(&entries).map(self.labels.read).unwrap_or_default();
        Ok((key, (*label.name).into()))
    }
}

/// The record of the charge among entries.
fn record(entries: &[Entry]) -> Option<&[u8]> {
    entries.iter().find_map(|entry| {
        if let Change::Captured { record, .. } = &entry.change { Some(&**record) } else { None }
    })
}

/// Writes the totals of a segment that ends with `after`.
///
/// # Errors
/// As the operating system says.
pub fn write(disk: &dyn Disk, segment: &str, after: Head, labels: Labels, totals: &Totals) -> io::Result<()> {
    let mut names: Vec<&str> = totals.keys().map(|(_, group)| &*group.label).collect();
    names.sort_unstable();
    names.dedup();
    let width = ROW_BYTES + 8 * labels.quantities;
    let mut rows = Vec::with_capacity(totals.len());
    for ((customer, group), sums) in totals {
        let mut row = Vec::with_capacity(width);
        codec::put(&mut row, customer.int().to_be_bytes());
        codec::put(&mut row, group.day.0.to_be_bytes());
        codec::put(&mut row, group.key.int().to_be_bytes());
        let label = names.binary_search(&&*group.label).expect("it is one of them");
        codec::put(&mut row, u32::try_from(label).expect("far fewer labels").to_be_bytes());
        codec::put(&mut row, sums.requests.to_be_bytes());
        codec::put(&mut row, sums.charged.atto_usd().to_be_bytes());
        assert!(sums.quantities.len() <= labels.quantities, "as many as the labels say");
        sums.quantities.iter().for_each(|quantity| codec::put(&mut row, quantity.to_be_bytes()));
        row.resize(width, 0);
        rows.push(row);
    }
    let mut out = vec![0; BLOCK_BYTES];
    let table = Table::append(rows.iter().map(Vec::as_slice), width, &mut out);
    let mut texts = Vec::new();
    names.iter().for_each(|name| codec::put_bytes(&mut texts, name.as_bytes()));
    let mut head = Vec::with_capacity(BLOCK_BYTES);
    codec::put(&mut head, MAGIC);
    codec::put(&mut head, FORMAT.to_le_bytes());
    codec::put(&mut head, labels.version.to_le_bytes());
    codec::put(&mut head, quantities_u32(labels).to_le_bytes());
    codec::put(&mut head, after.seq.0.to_le_bytes());
    codec::put(&mut head, after.chain.0);
    codec::put(&mut head, table.rows.to_le_bytes());
    codec::put(&mut head, u64::try_from(texts.len()).expect("usize fits").to_le_bytes());
    codec::put(&mut head, crc32c::crc32c(&texts).to_le_bytes());
    head.resize(BLOCK_BYTES - 4, 0);
    let crc = crc32c::crc32c(&head);
    codec::put(&mut head, crc.to_le_bytes());
    out[..BLOCK_BYTES].copy_from_slice(&head);
    out.append(&mut texts);
    disk.replace(&name(segment), &out)
}

/// Reads the sums of one customer from the totals of a segment that ends with `after`.
///
/// # Errors
/// When they are missing, damaged, of another format or of other labels.
pub fn read(
    disk: &dyn Disk,
    segment: &str,
    after: Head,
    labels: Labels,
    customer: CustomerId,
) -> io::Result<Usage> {
    let file = disk.open(&name(segment))?;
    let mut head = vec![0; BLOCK_BYTES];
    file.read_at(&mut head, 0)?;
    let (table, bytes, crc) = read_head(&head, after, labels)?;
    let mut texts = vec![0; bytes];
    file.read_at(&mut texts, table.end())?;
    if crc32c::crc32c(&texts) != crc {
        return Err(damaged("its labels are damaged"));
    }
    let short = |_: CodecError| damaged("its labels are damaged");
    let mut rest = &texts[..];
    let mut names = Vec::new();
    while !rest.is_empty() {
        names.push(codec::take_text(&mut rest).map_err(short)?);
    }
    let mut reader = table.reader(&*file);
    let owner = customer.int().to_be_bytes();
    let mut row = reader.lower_bound(&owner)?;
    let mut usage = Usage::new();
    while let Some(rest) = reader.row(row)?.and_then(|row| row.strip_prefix(&owner)) {
        let (group, sums) = read_row(rest, &names).map_err(|_| damaged("a row is damaged"))?;
        usage.insert(group, sums);
        row += 1;
    }
    Ok(usage)
}

/// The name of the totals of a segment.
pub fn name(segment: &str) -> String {
    format!("{}.usage", segment.strip_suffix(".log").unwrap_or(segment))
}

fn read_head(block: &[u8], after: Head, labels: Labels) -> io::Result<(Table, usize, u32)> {
    let (head, crc) = block.split_at(BLOCK_BYTES - 4);
    if crc32c::crc32c(head).to_le_bytes() != crc || head[..8] != MAGIC {
        return Err(damaged("its head is damaged"));
    }
    let mut input = &head[8..];
    let short = |_: CodecError| damaged("its head is too short");
    let mut word = || codec::take::<4>(&mut input).map(u32::from_le_bytes).map_err(short);
    let (format, version, quantities) = (word()?, word()?, word()?);
    if format != FORMAT || version != labels.version || quantities != quantities_u32(labels) {
        return Err(damaged(&format!("its format is {format}.{version}, not {FORMAT}.{}", labels.version)));
    }
    let seq = codec::take::<8>(&mut input).map_err(short)?;
    let chain = codec::take::<32>(&mut input).map_err(short)?;
    if seq != after.seq.0.to_le_bytes() || chain != after.chain.0 {
        return Err(damaged("it is of another segment"));
    }
    let rows = u64::from_le_bytes(codec::take(&mut input).map_err(short)?);
    let bytes = u64::from_le_bytes(codec::take(&mut input).map_err(short)?);
    let crc = u32::from_le_bytes(codec::take(&mut input).map_err(short)?);
    let width = ROW_BYTES + 8 * labels.quantities;
    let table = Table { start: u64::try_from(BLOCK_BYTES).expect("small"), rows, width };
    let bytes = usize::try_from(bytes.min(LABEL_BYTES_MAX)).map_err(|_| damaged("it is too large"))?;
    Ok((table, bytes, crc))
}

fn read_row(mut input: &[u8], names: &[Arc<str>]) -> Result<(Group, Sums), CodecError> {
    let input = &mut input;
    let day = Day(u32::from_be_bytes(codec::take(input)?));
    let key = KeyId::from_int(u64::from_be_bytes(codec::take(input)?));
    let label = usize::try_from(u32::from_be_bytes(codec::take(input)?)).map_err(|_| CodecError::Short)?;
    let label = Arc::clone(names.get(label).ok_or(CodecError::Short)?);
    let requests = u64::from_be_bytes(codec::take(input)?);
    let charged = Amount::from_atto_usd(i128::from_be_bytes(codec::take(input)?));
    let mut quantities = Vec::new();
    while !input.is_empty() {
        quantities.push(u64::from_be_bytes(codec::take(input)?));
    }
    Ok((Group { day, key, label }, Sums { requests, charged, quantities }))
}

fn quantities_u32(labels: Labels) -> u32 {
    u32::try_from(labels.quantities).expect("a label has few")
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
