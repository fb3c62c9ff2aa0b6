//! A ledger at work: each command is given to it and to the plain book, and they are compared.

use super::super::super::command::Charged;
use super::super::super::entry::Seq;
use super::super::super::{Commit, Refusal, Window};
use super::super::bench::Inline;
use super::super::reference::{self, Operation, Reference, Said};
use super::super::said::said;
use super::commands::{atto, booked, entries, name, translate};
use super::{COMMANDS_MAX, CROWD, Checked, Flaw, World, ensure};
use crate::id::{CustomerId, RequestId};
use futures_util::FutureExt;
use std::collections::BTreeMap;

/// A ledger that is open, the book as it should be, and who waits for the disk.
pub struct Running {
    pub inline: Inline,
    pub reference: Reference,
    /// The command, its last entry, and its commit.
    waiting: Vec<(usize, Seq, Commit)>,
    /// The first entry of each booking.
    entries: BTreeMap<(u64, u64), Seq>,
}

impl Running {
    pub fn new(inline: Inline, reference: Reference) -> Running {
        Running { inline, reference, waiting: Vec::new(), entries: BTreeMap::new() }
    }

    pub fn work(&mut self, world: &mut World) -> Checked {
        if world.log.is_empty() {
            self.begin(world)?;
        }
        for _ in 0..world.rng.usize(1..COMMANDS_MAX) {
            world.tick();
            let operation = world.source.next(&self.reference);
            self.command(world, &operation)?;
            // Some groups are of one command, some of many.
            if world.rng.u32(0..3) == 0 {
                self.step(world)?;
            }
            if self.inline.ledger.is_down() {
                break;
            }
        }
        if world.rng.bool() {
            self.settle(world)?;
        }
        self.check_statements(world)
    }

    /// Customers with keys and credit, so that there is something to do.
    fn begin(&mut self, world: &mut World) -> Checked {
        for customer in 0..CROWD.customers {
            let operations = [
                Operation::Create { customer, name: "Ada".into() },
                Operation::CreateKey { customer, key: 1 + customer },
                Operation::Deposit { customer, amount: 20_000, reference: 1 },
            ];
            operations.iter().try_for_each(|operation| self.command(world, operation))?;
        }
        self.step(world)
    }

    /// Ends what was in flight, as a start does; what was answered and goes on is told of, and stays.
    pub fn expire(&mut self, world: &mut World) -> Checked {
        let holds = self.reference.customers.iter().flat_map(|(customer, plain)| {
            plain.holds.keys().map(|request| (*customer, *request, plain.detached.contains(request)))
        });
        let (at_work, open): (Vec<_>, Vec<_>) = holds.partition(|(_, _, detached)| *detached);
        let told = self.inline.ledger.take_detached();
        let told: Vec<_> =
            told.iter().map(|(customer, request)| (customer.int(), request.int(), true)).collect();
        ensure(told == at_work, || format!("I4: {told:?} are at work, not {at_work:?}"))?;
        world.counts.detached += at_work.len();
        world.counts.expired += open.len();
        let known = self.reference.customers.values().map(|plain| plain.so_far.len());
        world.counts.charged += known.sum::<usize>();
        for (customer, request, _) in open {
            let operation = Operation::Expire { customer, request };
            if world.flaw == Flaw::KeepsHolds {
                self.reference.act(&operation);
                continue;
            }
            self.command(world, &operation)?;
        }
        self.step(world)
    }

    /// Gives a command to both books, and compares what they say.
    fn command(&mut self, world: &mut World, operation: &Operation) -> Checked {
        let charged = match *operation {
            Operation::Refund { customer, request, .. } => match self.charged(world, customer, request)? {
                None => return Ok(()),
                charged => charged,
            },
            _ => None,
        };
        let (customer, command) = translate(operation, charged, world);
        let expect = self.reference.act(operation);
        let told = |got: &str| format!("{operation:?}: {got}, not {expect:?}");
        match (self.inline.ledger.transact(CustomerId::from_int(customer), command), &expect) {
            (Ok(applied), Said::Done(_)) => {
                world.counts.commands += 1;
                world.log.push(operation.clone());
                let last = self.inline.given(entries(&expect));
                self.waiting.push((world.log.len(), last, applied.commit));
                if let Some(booked) = booked(operation) {
                    self.entries.insert(booked, last);
                }
                let plain = &self.reference.customers[&customer];
                let balance = (applied.balance.available.atto_usd(), applied.balance.held.atto_usd());
                ensure(balance == (plain.available, plain.held), || told(&format!("I2: {balance:?}")))
            }
            (Err(refusal), expect) if said(&refusal) == *expect => {
                let known = booked(operation).and_then(|booked| self.entries.get(&booked));
                match (refusal, known) {
                    (Refusal::BookedAlready, Some(seq)) => self.check_booking(operation, *seq),
                    _ => Ok(()),
                }
            }
            (Ok(_), _) => Err(told("done")),
            (Err(refusal), _) => Err(told(&format!("{refusal:?}"))),
        }
    }

    /// A booking that was made before is found, once it is durable.
    fn check_booking(&self, operation: &Operation, seq: Seq) -> Checked {
        let Some((customer, reference)) = booked(operation) else { return Ok(()) };
        let index = &self.inline.ledger.index;
        let found = index.booking(CustomerId::from_int(customer), name(reference));
        let expect = Some(seq).filter(|seq| *seq <= index.durable());
        ensure(found == expect, || format!("{operation:?} is entry {found:?}, not {expect:?}"))
    }

    /// What the journal says that a request was charged; nothing while that is on its way.
    fn charged(&self, world: &World, customer: u64, request: u128) -> Checked<Option<Charged>> {
        let id = RequestId::from_int(request);
        let entries = self.inline.ledger.entries_of_request(id).map_err(|why| format!("{id}: {why}"))?;
        let Some((owner, mut charged)) = Charged::of(&entries) else { return Ok(None) };
        let plain = &self.reference.customers[&customer];
        let of_request = |(kind, _): &&(reference::Booked, i128)| *kind == reference::Booked::Refund(request);
        let refunded: i128 = plain.bookings.values().filter(of_request).map(|(_, amount)| amount).sum();
        let expect = plain.charged[&request] + refunded;
        if world.flaw == Flaw::ForgetsRefunds {
            charged.amount += atto(refunded);
            return Ok(Some(charged));
        }
        ensure(owner.int() == customer && charged.amount == atto(expect), || {
            format!("I10: {id} of {owner} was charged {}, not {expect}", charged.amount.atto_usd())
        })?;
        Ok(Some(charged))
    }

    /// Lets the writer write what is in line, and tells who waits.
    fn step(&mut self, world: &mut World) -> Checked {
        self.inline.step();
        let down = self.inline.ledger.is_down();
        for (command, last, mut commit) in self.waiting.drain(..) {
            match commit.durable().now_or_never() {
                Some(Ok(seq)) => {
                    ensure(seq == last, || format!("command {command} is entry {seq}, not {last}"))?;
                    world.acknowledged = world.acknowledged.max(command);
                    world.counts.acknowledged += 1;
                }
                Some(Err(_)) => ensure(down, || format!("command {command} failed on a good disk"))?,
                None => return Err(format!("command {command} is neither durable nor failed")),
            }
        }
        Ok(())
    }

    pub fn settle(&mut self, world: &mut World) -> Checked {
        self.step(world)?;
        if self.inline.ledger.is_down() {
            return Ok(());
        }
        ensure(world.acknowledged == world.log.len(), || "all is durable, and was not told".into())
    }

    /// Statements have what is durable, by number and by time, however the clock went.
    fn check_statements(&self, world: &mut World) -> Checked {
        if world.memory.is_dead() {
            return Ok(());
        }
        let ledger = &self.inline.ledger;
        let customer = CustomerId::from_int(world.rng.u64(0..CROWD.customers));
        let page = |window| ledger.entries_of_customer(customer, window, usize::MAX);
        let read = |window| page(window).map_err(|why| format!("the statement of {customer}: {why}"));
        let all = read(Window::default())?;
        ensure(all.windows(2).all(|pair| pair[0].seq < pair[1].seq), || "I8: out of order".into())?;
        let Some(middle) = all.get(all.len() / 2).map(|entry| entry.at) else { return Ok(()) };
        let since = read(Window { from: Some(middle), ..Window::default() })?;
        let expect: Vec<_> = all.iter().filter(|entry| entry.at >= middle).cloned().collect();
        ensure(since == expect, || format!("{} entries since {middle}, not {}", since.len(), expect.len()))
    }
}
