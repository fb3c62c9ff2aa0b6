//! The index: where the entries of a request and of a customer stand in the journal.
//!
//! Of the segment that is being written it is kept in memory; of each full one it stands in a
//! [sidecar](super::sidecar), of which about 1.3 bytes a request are kept in memory. A thread of its
//! own writes sidecars, so that the journal does not wait. Entries themselves are read from the
//! journal. What turns out to be damaged is made again from its segment.

use super::booking::Booking;
use super::disk::{Disk, File};
use super::entry::{Entry, Seq};
use super::filter::Hash;
use super::frame::{self, FRAME_BYTES_MAX, HEAD_BYTES, Head};
use super::places::{self, Full, Place, Places, Window};
use super::segment::{self, Position, Segment};
use super::sidecar::{self, About, Sidecar};
use super::totals::Labels;
use crate::id::{CustomerId, RequestId};
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::{self, JoinHandle};

mod latest;
mod marks;
mod usage;

/// What is read of a frame at first: most frames whole.
const READ_BYTES: u64 = 2048;

/// The entry of each booking, by its reference.
pub type Bookings = HashMap<(CustomerId, Arc<str>), Seq>;

/// Finds entries.
pub struct Index {
    shared: Arc<Shared>,
    sealer: Mutex<Option<Sealer>>,
}

/// The thread that writes sidecars, and how it is told of a full segment.
struct Sealer {
    full: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

struct Shared {
    disk: Arc<dyn Disk>,
    labels: OnceLock<Labels>,
    inner: RwLock<Inner>,
}

/// What an index begins with.
#[derive(Default)]
pub struct Inner {
    /// Full segments, in order.
    pub full: Vec<Part>,
    /// The segment that is being written; none before the first.
    pub live: Option<Places>,
    /// Bookings by reference.
    pub bookings: Bookings,
    /// The newest entry that is durable.
    pub durable: Seq,
}

/// The index of one full segment.
#[derive(Clone)]
pub enum Part {
    /// It was written.
    Sidecar(Arc<Sidecar>),
    /// It is to be written.
    Memory(Arc<Full>),
}

impl Index {
    /// Begins with what was found on `disk`.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub fn start(disk: Arc<dyn Disk>, inner: Inner) -> io::Result<Arc<Self>> {
        let shared = Arc::new(Shared { disk, labels: OnceLock::new(), inner: RwLock::new(inner) });
        let (full, receiver) = mpsc::channel();
        let sealing = Arc::clone(&shared);
        let run = move || receiver.iter().for_each(|()| sealing.seal());
        let thread = thread::Builder::new().name("index".into()).spawn(run)?;
        Ok(Arc::new(Index { shared, sealer: Mutex::new(Some(Sealer { full, thread })) }))
    }

    /// The same without a thread: sidecars are written by [`Index::seal`].
    #[cfg(test)]
    pub fn inline(disk: Arc<dyn Disk>, inner: Inner) -> Arc<Self> {
        let shared = Arc::new(Shared { disk, labels: OnceLock::new(), inner: RwLock::new(inner) });
        Arc::new(Index { shared, sealer: Mutex::new(None) })
    }

    /// Writes the sidecars of full segments now.
    #[cfg(test)]
    pub fn seal(&self) {
        self.shared.seal();
    }

    /// A segment was begun after `head`; the one before it, if any, has `bytes`.
    pub fn begin(&self, head: Head, bytes: u64) {
        let live = Places::new(segment::segment_name(head.seq.next()).into(), head);
        let mut inner = self.shared.inner.write();
        if let Some(places) = inner.live.replace(live) {
            inner.full.push(Part::Memory(Arc::new(Full { places, after: head, bytes })));
        }
        drop(inner);
        if let Some(sealer) = &*self.sealer.lock() {
            // It ends only by `close`.
            let _ = sealer.full.send(());
        }
    }

    /// Entries became durable; each with the offset of its frame in the newest segment.
    pub fn add<'a>(&self, entries: impl Iterator<Item = (&'a Entry, u64)>) {
        let mut inner = self.shared.inner.write();
        let Inner { live, bookings, durable, .. } = &mut *inner;
        let live = live.as_mut().expect("a segment before its entries");
        for (entry, offset) in entries {
            live.note(entry, u32::try_from(offset).expect("segments are far smaller than 4 GiB"));
            note_booking(bookings, entry);
            *durable = entry.seq;
        }
    }

    /// The newest entry that is durable.
    pub fn durable(&self) -> Seq {
        self.shared.inner.read().durable
    }

    /// Segments with entries after `after`, each with the journal's head before it, and the newest
    /// entry that is durable.
    pub fn segments_after(&self, after: Seq) -> (Vec<(Arc<str>, Head)>, Seq) {
        let inner = self.shared.inner.read();
        let full = inner.full.iter().filter(|part| part.after().seq > after);
        let mut segments: Vec<_> = full.map(|part| (part.segment().into(), part.before())).collect();
        segments.extend(inner.live.as_ref().map(|live| (Arc::clone(&live.segment), live.before)));
        (segments, inner.durable)
    }

    /// Full segments, in order, up to the first whose sidecar is yet to be written.
    pub fn sealed(&self) -> Vec<(Arc<str>, About)> {
        let inner = self.shared.inner.read();
        let sidecars = inner.full.iter().map_while(|part| match part {
            Part::Sidecar(sidecar) => Some((Arc::clone(&sidecar.segment), sidecar.about)),
            Part::Memory(_) => None,
        });
        sidecars.collect()
    }

    /// The entry of a booking.
    pub fn booking(&self, customer: CustomerId, reference: Arc<str>) -> Option<Seq> {
        self.shared.inner.read().bookings.get(&(customer, reference)).copied()
    }

    /// All entries of a request, in order; none if it is not known.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn of_request(&self, request: RequestId) -> io::Result<Vec<Entry>> {
        self.shared.entries_of_request(request)
    }

    /// Entries that say what is kept under this name, of those in a window, in order.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn of_object(&self, object: &str, window: &Window) -> io::Result<Vec<Entry>> {
        let mut entries = self.shared.found_by(places::of_object(object), window)?;
        entries.retain(|entry| entry.change.objects().any(|found| found == object));
        Ok(entries)
    }

    /// Entries that say what is kept for a customer on this shelf, of those in a window, in order.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn of_shelf(&self, customer: CustomerId, shelf: &str, window: &Window) -> io::Result<Vec<Entry>> {
        let mut entries = self.shared.found_by(places::of_shelf(customer, shelf), window)?;
        let stands = |object: &str| object.split_once(places::SHELF_END).is_some_and(|(on, _)| on == shelf);
        entries.retain(|entry| entry.customer == customer && entry.change.objects().any(stands));
        Ok(entries)
    }

    /// Entries of a customer in a window, in order: all of up to `limit` frames.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn of_customer(&self, customer: CustomerId, window: &Window, limit: usize) -> io::Result<Vec<Entry>> {
        let (parts, live) = {
            let inner = self.shared.inner.read();
            let parts = inner.candidates(Hash::of_customer(customer), window);
            let live = inner.live.as_ref();
            let live =
                live.map(|live| (Arc::clone(&live.segment), live.of_customer(customer, window, limit)));
            (parts, live)
        };
        let mut entries = Vec::new();
        let mut left = limit;
        let mut take = |segment: &str, places: Vec<Place>| {
            let offsets: Vec<u32> = places.iter().take(left).map(|place| place.offset).collect();
            left -= offsets.len();
            self.shared.frames(segment, offsets, &mut entries).map(|()| left)
        };
        for part in &parts {
            let places = self.shared.of_customer(part, customer, window, limit)?;
            if take(part.segment(), places)? == 0 {
                return Ok(entries);
            }
        }
        if let Some((segment, places)) = live {
            take(&segment, places)?;
        }
        Ok(entries)
    }

    /// Ends the writing of sidecars, once all of them are written.
    pub fn close(&self) {
        let sealer = self.sealer.lock().take();
        if let Some(Sealer { full, thread }) = sealer {
            drop(full);
            if thread.join().is_err() {
                tracing::error!("the thread of the index panicked");
            }
        }
    }
}

/// Notes the entry of a booking.
pub fn note_booking(bookings: &mut Bookings, entry: &Entry) {
    if let Some((reference, _)) = Booking::of(&entry.change) {
        bookings.insert((entry.customer, Arc::clone(reference)), entry.seq);
    }
}

impl Inner {
    /// Full segments that may have something of this key in the window.
    fn candidates(&self, hash: Hash, window: &Window) -> Vec<Part> {
        let may_hold = |part: &&Part| match part {
            Part::Sidecar(sidecar) => {
                let about = sidecar.about;
                about.after.seq > window.after
                    && window.meets(about.first_at, about.last_at)
                    && sidecar.may_hold(hash)
            }
            Part::Memory(full) => full.after.seq > window.after,
        };
        self.full.iter().filter(may_hold).cloned().collect()
    }
}

impl Part {
    fn before(&self) -> Head {
        match self {
            Part::Sidecar(sidecar) => sidecar.about.before,
            Part::Memory(full) => full.places.before,
        }
    }

    fn after(&self) -> Head {
        match self {
            Part::Sidecar(sidecar) => sidecar.about.after,
            Part::Memory(full) => full.after,
        }
    }

    fn segment(&self) -> &str {
        match self {
            Part::Sidecar(sidecar) => &sidecar.segment,
            Part::Memory(full) => &full.places.segment,
        }
    }
}

impl Shared {
    /// Writes the sidecars of all full segments that have none.
    fn seal(&self) {
        let waiting: Vec<Arc<Full>> = {
            let inner = self.inner.read();
            let memory = inner.full.iter().rev().map_while(|part| match part {
                Part::Memory(full) => Some(Arc::clone(full)),
                Part::Sidecar(_) => None,
            });
            memory.collect()
        };
        for full in waiting.iter().rev() {
            match sidecar::write(&*self.disk, full) {
                Ok(sidecar) => {
                    self.put(sidecar);
                    self.count_ahead(full);
                }
                Err(why) => {
                    let segment = &*full.places.segment;
                    tracing::warn!(segment, %why, "the index of a segment cannot be written: it stays in memory, and is tried again with the next one");
                    return;
                }
            }
        }
    }

    fn put(&self, sidecar: Sidecar) {
        let mut inner = self.inner.write();
        if let Some(part) = inner.full.iter_mut().find(|part| *part.segment() == *sidecar.segment) {
            *part = Part::Sidecar(Arc::new(sidecar));
        }
    }

    fn entries_of_request(&self, request: RequestId) -> io::Result<Vec<Entry>> {
        let mut entries = self.found_by(request, &Window::default())?;
        // A frame may end with what follows for the customer alone.
        entries.retain(|entry| entry.change.request() == Some(request));
        Ok(entries)
    }

    /// All entries of the frames that are found by a number.
    fn found_by(&self, request: RequestId, window: &Window) -> io::Result<Vec<Entry>> {
        let (parts, live) = {
            let inner = self.inner.read();
            let parts = inner.candidates(Hash::of_request(request), window);
            let live = inner
                .live
                .as_ref()
                .map(|live| (Arc::clone(&live.segment), live.of_request(request).to_vec()));
            (parts, live)
        };
        let mut entries = Vec::new();
        for part in &parts {
            let offsets = self.of_request(part, request)?;
            self.frames(part.segment(), offsets, &mut entries)?;
        }
        if let Some((segment, offsets)) = live {
            self.frames(&segment, offsets, &mut entries)?;
        }
        Ok(entries)
    }

    fn of_request(&self, part: &Part, request: RequestId) -> io::Result<Vec<u32>> {
        match part {
            Part::Memory(full) => Ok(full.places.of_request(request).to_vec()),
            Part::Sidecar(sidecar) => sidecar
                .of_request(&*self.disk, request)
                .or_else(|why| self.mend(sidecar, &why).map(|full| full.places.of_request(request).to_vec())),
        }
    }

    fn of_customer(
        &self,
        part: &Part,
        customer: CustomerId,
        window: &Window,
        limit: usize,
    ) -> io::Result<Vec<Place>> {
        match part {
            Part::Memory(full) => Ok(full.places.of_customer(customer, window, limit)),
            Part::Sidecar(sidecar) => {
                sidecar.of_customer(&*self.disk, customer, window, limit).or_else(|why| {
                    self.mend(sidecar, &why).map(|full| full.places.of_customer(customer, window, limit))
                })
            }
        }
    }

    /// Makes a sidecar again that cannot be read.
    fn mend(&self, sidecar: &Sidecar, why: &io::Error) -> io::Result<Full> {
        let segment = &*sidecar.segment;
        tracing::warn!(segment, %why, "the index of a segment cannot be read: it is made again");
        let read = || {
            let found = Segment::load(&*self.disk, segment, Position::Sealed)?;
            let mut places = Places::new(Arc::clone(&sidecar.segment), sidecar.about.before);
            let ending = found.read(sidecar.about.before, Seq::START, |frame, offset| {
                frame.entries.iter().for_each(|entry| places.note(entry, offset));
                Ok(())
            })?;
            Ok(Full { places, after: ending.head, bytes: ending.end })
        };
        let full = read().map_err(|why: segment::JournalError| io::Error::from(why))?;
        match sidecar::write(&*self.disk, &full) {
            Ok(sidecar) => self.put(sidecar),
            Err(why) => tracing::warn!(segment, %why, "the index of a segment cannot be written"),
        }
        Ok(full)
    }

    /// Reads entries of frames of one segment.
    fn frames(&self, segment: &str, offsets: Vec<u32>, entries: &mut Vec<Entry>) -> io::Result<()> {
        if offsets.is_empty() {
            return Ok(());
        }
        for frame in self.open(segment)?.frames(offsets.into_iter()) {
            entries.extend(frame?);
        }
        Ok(())
    }

    fn open(&self, segment: &str) -> io::Result<Opened> {
        let file = self.disk.open(segment)?;
        let size = file.size()?;
        Ok(Opened { file, size })
    }
}

/// A segment that is read here and there.
struct Opened {
    file: Arc<dyn File>,
    size: u64,
}

impl Opened {
    fn frames(&self, offsets: impl Iterator<Item = u32>) -> impl Iterator<Item = io::Result<Vec<Entry>>> {
        offsets.map(|offset| read_frame(&*self.file, self.size, u64::from(offset)))
    }
}

fn read_frame(file: &dyn File, size: u64, offset: u64) -> io::Result<Vec<Entry>> {
    let damaged = |why: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, why.to_string());
    let guess = usize::try_from(size.saturating_sub(offset).min(READ_BYTES)).expect("small");
    let mut bytes = vec![0; guess];
    file.read_at(&mut bytes, offset)?;
    let length = bytes.first_chunk::<4>().map(|length| u32::from_le_bytes(*length));
    let length = length.and_then(|length| usize::try_from(length).ok());
    let length = length.filter(|length| *length <= FRAME_BYTES_MAX);
    let whole = HEAD_BYTES + length.ok_or_else(|| damaged(&"a frame claims too many bytes"))?;
    if whole > bytes.len() {
        let read = bytes.len();
        bytes.resize(whole, 0);
        file.read_at(&mut bytes[read..], offset + u64::try_from(read).expect("usize fits"))?;
    }
    frame::decode_entries(&bytes).map_err(|why| damaged(&why))
}
