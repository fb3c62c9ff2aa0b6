//! Sums of charges, found through the index: of full segments from their totals, of the segment that
//! is being written from its entries.

use super::super::entry::Seq;
use super::super::places::{Full, Window};
use super::super::segment::{Position, Segment};
use super::super::totals::{self, Counter, Group, Labels, Sums, Totals, Usage};
use super::{Hash, Index, Part, Shared};
use crate::id::CustomerId;
use std::io;
use std::sync::Arc;

impl Index {
    /// How charges are labelled. The first answer is kept.
    pub fn label_by(&self, labels: Labels) {
        self.shared.labels.get_or_init(|| labels);
    }

    /// Sums of a customer's charges in the window, whose ends are the beginnings of days.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn usage(&self, customer: CustomerId, window: &Window) -> io::Result<Usage> {
        let shared = &*self.shared;
        let labels = *shared.labels.get().ok_or_else(|| io::Error::other("nobody labels charges"))?;
        let (parts, live) = {
            let inner = shared.inner.read();
            let parts = inner.candidates(Hash::of_customer(customer), window);
            let live = inner.live.as_ref().map(|live| {
                (Arc::clone(&live.segment), live.of_customer(customer, &Window::default(), usize::MAX))
            });
            (parts, live)
        };
        let mut usage = Usage::new();
        let mut take = |group: Group, sums: &Sums| {
            let begin = group.day.begin();
            if window.meets(begin, begin) {
                usage.entry(group).or_default().add(sums);
            }
        };
        for part in &parts {
            shared.totals(part, labels, customer)?.into_iter().for_each(|(group, sums)| take(group, &sums));
        }
        if let Some((segment, places)) = live {
            let look_up = |request| shared.entries_of_request(request);
            let mut counter = Counter::new(labels, &look_up);
            for frame in shared.open(&segment)?.frames(places.iter().map(|place| place.offset)) {
                counter.frame(&frame?)?;
            }
            counter.totals().into_iter().for_each(|((_, group), sums)| take(group, &sums));
        }
        Ok(usage)
    }
}

impl Index {
    /// Makes the totals of all full segments that have none, as long as their entries are at hand.
    pub fn count_all(&self) {
        let Some(labels) = self.shared.labels.get() else { return };
        let parts = self.shared.inner.read().full.clone();
        for part in &parts {
            // Anybody's: they are made as a whole.
            if let Err(why) = self.shared.totals(part, *labels, CustomerId::from_int(0)) {
                tracing::warn!(segment = part.segment(), %why, "the totals of a segment cannot be made");
            }
        }
    }
}

impl Shared {
    /// Makes totals before they are asked for.
    pub(super) fn count_ahead(&self, full: &Arc<Full>) {
        let Some(labels) = self.labels.get() else { return };
        if let Err(why) = self.count(&Part::Memory(Arc::clone(full)), *labels) {
            let segment = &*full.places.segment;
            tracing::warn!(segment, %why, "the totals of a segment cannot be made");
        }
    }

    /// Sums of a customer's charges in a full segment, whose totals are made if there are none.
    fn totals(&self, part: &Part, labels: Labels, customer: CustomerId) -> io::Result<Usage> {
        let (segment, after) = (part.segment(), part.after());
        totals::read(&*self.disk, segment, after, labels, customer).or_else(|why| {
            if why.kind() != io::ErrorKind::NotFound {
                tracing::warn!(segment, %why, "the totals of a segment cannot be read: they are made again");
            }
            let all = self.count(part, labels)?;
            let ours = all.into_iter().filter(|((owner, _), _)| *owner == customer);
            Ok(ours.map(|((_, group), sums)| (group, sums)).collect())
        })
    }

    /// Makes the totals of a full segment from its entries, and writes them.
    fn count(&self, part: &Part, labels: Labels) -> io::Result<Totals> {
        let segment = part.segment();
        let look_up = |request| self.entries_of_request(request);
        let mut counter = Counter::new(labels, &look_up);
        let mut failed = None;
        let read = Segment::load(&*self.disk, segment, Position::Sealed).and_then(|found| {
            found.read(part.before(), Seq::START, |frame, _| {
                failed = failed.take().or_else(|| counter.frame(&frame.entries).err());
                Ok(())
            })
        });
        read?;
        failed.map_or(Ok(()), Err)?;
        let totals = counter.totals();
        if let Err(why) = totals::write(&*self.disk, segment, part.after(), labels, &totals) {
            tracing::warn!(segment, %why, "the totals of a segment cannot be written");
        }
        Ok(totals)
    }
}
