//! The state: balances, customers, keys and open holds as of some entry, kept in sled.
//!
//! It can be thrown away at any time and made again from the journal. It is written behind the
//! journal by a thread of its own and never waited for by a request. Each value carries a checksum;
//! any doubt at open means a rebuild.

use super::book::{Book, Customer, Key, KeyStatus, OpenHold, Totals};
use super::codec::{self, CodecError};
use super::entry::{Balance, Change, Entry, Seq};
use super::frame::{Chain, Head};
use super::journal::Group;
use crate::id::{CustomerId, KeyDigest, RequestId};
use crate::money::Amount;
use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// The format that this version writes; any other is rebuilt.
const FORMAT: u32 = 1;
/// Of sled's own cache; the state is small.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// How far the state may be behind the journal while it runs.
const WRITE_EVERY: Duration = Duration::from_millis(250);
/// Groups in line before the journal waits for the state.
const GROUPS_MAX: usize = 4096;

const META: u8 = b'm';
const CUSTOMER: u8 = b'c';
const BALANCE: u8 = b'b';
const KEY: u8 = b'k';
const REVOKED: u8 = b'r';
const HOLD: u8 = b'h';
const DEPOSIT: u8 = b'd';

/// Why a state is not used.
#[derive(Debug)]
pub enum StateError {
    /// There is none yet.
    Missing,
    /// sled cannot read or write it.
    Sled(sled::Error),
    /// The operating system refuses.
    Io(io::Error),
    /// Another version wrote it.
    Format(u32),
    /// A checksum does not fit, or records do not fit each other.
    Damaged(&'static str),
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StateError::Missing => f.write_str("there is none yet"),
            StateError::Sled(why) => write!(f, "{why}"),
            StateError::Io(why) => write!(f, "{why}"),
            StateError::Format(found) => write!(f, "its format is {found}, not {FORMAT}"),
            StateError::Damaged(what) => f.write_str(what),
        }
    }
}

impl From<sled::Error> for StateError {
    fn from(why: sled::Error) -> Self {
        StateError::Sled(why)
    }
}

impl From<io::Error> for StateError {
    fn from(why: io::Error) -> Self {
        StateError::Io(why)
    }
}

impl From<CodecError> for StateError {
    fn from(_: CodecError) -> Self {
        StateError::Damaged("a record cannot be read")
    }
}

/// The book as of some entry.
pub struct Snapshot {
    /// Customers, keys, balances, holds.
    pub book: Book,
    /// The entry, and the chain up to it.
    pub head: Head,
}

/// The store of the state.
pub struct State {
    db: sled::Db,
    file: fs::File,
    totals: Totals,
}

/// What is to be written next: the last of what came, once each.
#[derive(Default)]
struct Pending {
    balances: HashMap<CustomerId, Balance>,
    /// Made since the last write, or `None`: ended, but made before it.
    holds: HashMap<(CustomerId, RequestId), Option<OpenHold>>,
    /// Names and values of all else.
    records: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The journal's end of the line to the state.
pub struct Feed {
    groups: mpsc::SyncSender<Group>,
    /// Dropped with the journal: nothing more comes.
    _open: mpsc::Sender<Infallible>,
}

/// The state's end of the line.
pub struct Intake {
    pub(super) groups: mpsc::Receiver<Group>,
    open: mpsc::Receiver<Infallible>,
}

/// A line from the journal to the state.
pub fn line() -> (Feed, Intake) {
    let (groups, receiver) = mpsc::sync_channel(GROUPS_MAX);
    let (opened, open) = mpsc::channel();
    (Feed { groups, _open: opened }, Intake { groups: receiver, open })
}

impl Feed {
    /// Hands a durable group on. Waits only when the state is thousands of groups behind.
    pub fn send(&self, group: Group) {
        // The state's thread ends only after the journal's.
        let _ = self.groups.send(group);
    }
}

impl State {
    /// Opens the store in `directory`, made if need be.
    ///
    /// # Errors
    /// When sled cannot; the caller then removes the directory and rebuilds.
    pub fn open(directory: &Path) -> Result<Self, StateError> {
        remove_unfinished_snapshots(directory)?;
        let db =
            sled::Config::new().path(directory).cache_capacity(CACHE_BYTES).flush_every_ms(None).open()?;
        let file = fs::File::open(directory.join("db"))?;
        Ok(State { db, file, totals: Totals::default() })
    }

    /// Reads all of it.
    ///
    /// # Errors
    /// When there is none, or any doubt about it.
    pub fn load(&mut self) -> Result<Snapshot, StateError> {
        let meta = self.db.get([META])?.ok_or(StateError::Missing)?;
        let (head, totals) = read_meta(unseal(&meta)?)?;
        let mut book = Book { totals, ..Book::default() };
        for prefix in [CUSTOMER, BALANCE, KEY, REVOKED, HOLD, DEPOSIT] {
            for pair in self.db.scan_prefix([prefix]) {
                let (name, value) = pair?;
                read_record(&mut book, prefix, &name[1..], unseal(&value)?)?;
            }
        }
        book.audit().map_err(|_| StateError::Damaged("its balances do not add up"))?;
        self.totals = totals;
        Ok(Snapshot { book, head })
    }

    /// Replaces all of it by `snapshot`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn replace(&mut self, snapshot: &Snapshot) -> Result<(), StateError> {
        self.db.clear()?;
        let mut pending = Pending::default();
        for (id, customer) in &snapshot.book.customers {
            put_customer(&mut pending, *id, customer);
        }
        self.totals = snapshot.book.totals;
        self.write(&mut pending, snapshot.head)
    }

    /// Writes groups as they come, until the journal has ended.
    pub fn run(mut self, intake: &Intake) {
        let mut pending = Pending::default();
        while let Ok(first) = intake.groups.recv() {
            let mut head = self.fold(&mut pending, first);
            // The next ones gather without waking this thread; the journal's end ends the wait.
            let _ = intake.open.recv_timeout(WRITE_EVERY);
            while let Ok(group) = intake.groups.try_recv() {
                head = self.fold(&mut pending, group);
            }
            if let Err(why) = self.write(&mut pending, head) {
                // The journal has it all; the next start rebuilds. Go on draining the line.
                tracing::error!(%why, "the state store cannot be written; it will be rebuilt at the next start");
                while intake.groups.recv().is_ok() {}
                return;
            }
        }
    }

    fn fold(&mut self, pending: &mut Pending, group: Group) -> Head {
        for entry in &group.entries {
            entry.change.legs().into_iter().for_each(|leg| self.totals.follow(leg));
            put_entry(pending, entry);
        }
        group.head
    }

    fn write(&mut self, pending: &mut Pending, head: Head) -> Result<(), StateError> {
        let mut batch = sled::Batch::default();
        for (name, value) in pending.records.drain(..) {
            batch.insert(name, value);
        }
        for (customer, balance) in pending.balances.drain() {
            batch.insert(name(BALANCE, &[&customer.int().to_be_bytes()]), balance_value(balance));
        }
        for ((customer, request), hold) in pending.holds.drain() {
            let name = hold_name(customer, request);
            match hold {
                Some(hold) => batch.insert(name, hold_value(&hold)),
                None => batch.remove(name),
            }
        }
        batch.insert(&[META], meta(head, self.totals));
        self.db.apply_batch(batch)?;
        self.db.flush()?;
        // sled's flush is not an fsync on Linux.
        self.file.sync_data()?;
        Ok(())
    }
}

/// Removes a store that is not to be used.
///
/// # Errors
/// As the operating system says.
pub fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Err(why),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// sled takes an unfinished snapshot for the newest and can then never be opened again.
fn remove_unfinished_snapshots(directory: &Path) -> io::Result<()> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
    let unfinished = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("snap.") && name.ends_with(".generating")
    };
    for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).filter(unfinished) {
        fs::remove_file(path)?;
    }
    Ok(())
}

fn put_entry(pending: &mut Pending, entry: &Entry) {
    let owner = entry.customer.int().to_be_bytes();
    pending.balances.insert(entry.customer, entry.balance);
    match &entry.change {
        Change::CustomerCreated { name: called } => {
            pending.records.push((name(CUSTOMER, &[&owner]), seal(called.as_bytes().to_vec())));
        }
        Change::KeyCreated(created) => {
            let key = Key {
                digest: created.digest,
                prefix: Arc::clone(&created.prefix),
                name: Arc::clone(&created.name),
                status: KeyStatus::Active,
            };
            let place = name(KEY, &[&owner, &created.key.int().to_be_bytes()]);
            pending.records.push((place, key_value(&key)));
        }
        Change::KeyRevoked { key } => {
            let place = name(REVOKED, &[&owner, &key.int().to_be_bytes()]);
            pending.records.push((place, seal(Vec::new())));
        }
        Change::Deposited { amount, reference } => {
            let place = name(DEPOSIT, &[&owner, reference.as_bytes()]);
            pending.records.push((place, amount_value(*amount)));
        }
        Change::Held { request, key, amount, price_version } => {
            let hold = OpenHold { key: *key, amount: *amount, price_version: Arc::clone(price_version) };
            pending.holds.insert((entry.customer, *request), Some(hold));
        }
        Change::Captured { request, .. } | Change::Released { request, .. } => {
            let hold = (entry.customer, *request);
            // Most are made and ended between two writes, and never written at all.
            if !matches!(pending.holds.remove(&hold), Some(Some(_))) {
                pending.holds.insert(hold, None);
            }
        }
        Change::Overage { .. } | Change::WrittenOff { .. } => {}
    }
}

fn put_customer(pending: &mut Pending, id: CustomerId, customer: &Customer) {
    let owner = id.int().to_be_bytes();
    let records = &mut pending.records;
    records.push((name(CUSTOMER, &[&owner]), seal(customer.name.as_bytes().to_vec())));
    for (key_id, key) in &customer.keys {
        let key_id = key_id.int().to_be_bytes();
        records.push((name(KEY, &[&owner, &key_id]), key_value(key)));
        if key.status == KeyStatus::Revoked {
            records.push((name(REVOKED, &[&owner, &key_id]), seal(Vec::new())));
        }
    }
    for (reference, amount) in &customer.deposits {
        records.push((name(DEPOSIT, &[&owner, reference.as_bytes()]), amount_value(*amount)));
    }
    pending.balances.insert(id, customer.balance);
    let holds = customer.holds.iter().map(|(request, hold)| ((id, *request), Some(hold.clone())));
    pending.holds.extend(holds);
}

fn read_record(book: &mut Book, prefix: u8, name: &[u8], value: &[u8]) -> Result<(), StateError> {
    let (mut name, mut value) = (name, value);
    let owner = CustomerId::from_int(u64::from_be_bytes(codec::take(&mut name)?));
    if prefix == CUSTOMER {
        let called = std::str::from_utf8(value).map_err(|_| CodecError::NotText)?;
        book.customers.insert(owner, Customer::new(called.into()));
        return Ok(());
    }
    let customer = book.customers.get_mut(&owner).ok_or(StateError::Damaged("a record has no customer"))?;
    match prefix {
        BALANCE => {
            let available = codec::take_amount(&mut value)?;
            customer.balance = Balance { available, held: codec::take_amount(&mut value)? };
        }
        KEY => {
            let digest = KeyDigest(codec::take(&mut value)?);
            let (prefix, called) = (codec::take_text(&mut value)?, codec::take_text(&mut value)?);
            let key = Key { digest, prefix, name: called, status: KeyStatus::Active };
            customer.keys.insert(key_id(name)?, key);
        }
        REVOKED => {
            let key = customer.keys.get_mut(&key_id(name)?);
            key.ok_or(StateError::Damaged("a revoked key is missing"))?.status = KeyStatus::Revoked;
        }
        HOLD => {
            let request = RequestId::from_int(u128::from_be_bytes(codec::take(&mut name)?));
            let (key, amount) = (codec::take_key(&mut value)?, codec::take_amount(&mut value)?);
            customer
                .holds
                .insert(request, OpenHold { key, amount, price_version: codec::take_text(&mut value)? });
        }
        DEPOSIT => {
            let reference = std::str::from_utf8(name).map_err(|_| CodecError::NotText)?;
            customer.deposits.insert(reference.into(), codec::take_amount(&mut value)?);
        }
        _ => unreachable!("only known prefixes are scanned"),
    }
    if value.is_empty() { Ok(()) } else { Err(CodecError::Trailing.into()) }
}

fn key_id(name: &[u8]) -> Result<crate::id::KeyId, CodecError> {
    let number = <[u8; 8]>::try_from(name).map_err(|_| CodecError::Short)?;
    Ok(crate::id::KeyId::from_int(u64::from_be_bytes(number)))
}

fn name(prefix: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut name = vec![prefix];
    parts.iter().for_each(|part| name.extend_from_slice(part));
    name
}

fn hold_name(customer: CustomerId, request: RequestId) -> Vec<u8> {
    name(HOLD, &[&customer.int().to_be_bytes(), &request.int().to_be_bytes()])
}

fn balance_value(balance: Balance) -> Vec<u8> {
    let mut value = Vec::with_capacity(32);
    codec::put_amount(&mut value, balance.available);
    codec::put_amount(&mut value, balance.held);
    seal(value)
}

fn amount_value(amount: Amount) -> Vec<u8> {
    seal(amount.atto_usd().to_le_bytes().to_vec())
}

fn key_value(key: &Key) -> Vec<u8> {
    let mut value = key.digest.0.to_vec();
    codec::put_bytes(&mut value, key.prefix.as_bytes());
    codec::put_bytes(&mut value, key.name.as_bytes());
    seal(value)
}

fn hold_value(hold: &OpenHold) -> Vec<u8> {
    let mut value = hold.key.int().to_le_bytes().to_vec();
    codec::put_amount(&mut value, hold.amount);
    codec::put_bytes(&mut value, hold.price_version.as_bytes());
    seal(value)
}

fn meta(head: Head, totals: Totals) -> Vec<u8> {
    let mut value = FORMAT.to_le_bytes().to_vec();
    codec::put(&mut value, head.seq.0.to_le_bytes());
    codec::put(&mut value, head.chain.0);
    for amount in [totals.cash, totals.revenue, totals.written_off] {
        codec::put_amount(&mut value, amount);
    }
    seal(value)
}

fn read_meta(mut value: &[u8]) -> Result<(Head, Totals), StateError> {
    let format = u32::from_le_bytes(codec::take(&mut value)?);
    if format != FORMAT {
        return Err(StateError::Format(format));
    }
    let seq = Seq(u64::from_le_bytes(codec::take(&mut value)?));
    let head = Head { seq, chain: Chain(codec::take(&mut value)?) };
    let cash = codec::take_amount(&mut value)?;
    let revenue = codec::take_amount(&mut value)?;
    let written_off = codec::take_amount(&mut value)?;
    Ok((head, Totals { cash, revenue, written_off }))
}

/// Puts a checksum before a value.
fn seal(value: Vec<u8>) -> Vec<u8> {
    let mut sealed = crc32c::crc32c(&value).to_le_bytes().to_vec();
    sealed.extend_from_slice(&value);
    sealed
}

fn unseal(sealed: &[u8]) -> Result<&[u8], StateError> {
    let mut rest = sealed;
    let crc = u32::from_le_bytes(codec::take(&mut rest)?);
    if crc32c::crc32c(rest) == crc { Ok(rest) } else { Err(StateError::Damaged("a checksum does not fit")) }
}
