//! Where operations come from: many name what exists, some what does not.

use super::reference::{DEPOSIT_MAX, Operation, Reference, Standing, Step};
use fastrand::Rng;
use std::collections::BTreeMap;

/// From how many ids operations draw: from few, so that they meet.
#[derive(Clone, Copy)]
pub struct Crowd {
    /// With one more that is never created.
    pub customers: u64,
    pub references: u64,
}

/// Revoked for good, so that there must be some to spare.
const KEYS: u64 = 100_000;
/// Requests that operations may still name: open ones and some that have ended.
const REQUESTS_KEPT: usize = 60;

/// Draws operations.
pub struct Source {
    rng: Rng,
    crowd: Crowd,
    requests: Vec<(u64, u128)>,
    next_request: u128,
}

impl Source {
    pub fn new(seed: u64, crowd: Crowd) -> Source {
        Source { rng: Rng::with_seed(seed), crowd, requests: Vec::new(), next_request: 0 }
    }

    pub fn next(&mut self, reference: &Reference) -> Operation {
        let customer = self.rng.u64(0..=self.crowd.customers);
        let standing = reference.customers.get(&customer).map(|plain| plain.standing);
        // Who is kept out is soon let in again, so that there is something to keep them out of.
        match standing.filter(|_| self.rng.u32(0..8) == 0) {
            Some(Standing::Suspended) => return Operation::Step { customer, step: Step::Resume },
            Some(Standing::Banned) => return Operation::Step { customer, step: Step::Unban },
            Some(Standing::Active) | None => {}
        }
        match self.rng.u32(0..126) {
            0..2 => Operation::Create { customer: self.rng.u64(0..self.crowd.customers), name: self.name() },
            2..4 => Operation::CreateKey { customer, key: self.key(customer, reference, 10) },
            4 => Operation::RevokeKey { customer, key: self.key(customer, reference, 3) },
            5..14 => Operation::Deposit { customer, amount: self.deposit(), reference: self.reference() },
            14..55 => self.hold(customer, reference),
            55..92 => {
                let (customer, request) = self.request(customer, reference);
                let amount = self.capture(customer, request, reference);
                Operation::Capture { customer, request, amount }
            }
            92..100 => {
                let (customer, request) = self.request(customer, reference);
                Operation::Release { customer, request }
            }
            100..104 => {
                let (customer, request) = self.request(customer, reference);
                self.extend(customer, request)
            }
            104..109 => self.refund(customer, reference),
            109..112 => {
                let amount = self.rng.i128(-4_000..4_000);
                let amount = if self.rng.u32(0..10) == 0 { 0 } else { amount };
                Operation::Adjust { customer, amount, reference: self.reference() }
            }
            112..114 => self.expire(customer, reference),
            114..116 => {
                let amount = [-1, 0, 400, 3_000, 3_000, 3_000][self.rng.usize(0..6)];
                Operation::Overdraft { customer, amount }
            }
            116..120 => {
                let amount = [None, None, Some(0), Some(1), Some(200)][self.rng.usize(0..5)];
                Operation::WriteOff { customer, amount, reference: self.reference() }
            }
            120..123 => {
                let (customer, request) = self.request(customer, reference);
                Operation::Detach { customer, request }
            }
            _ => {
                let steps = [Step::Suspend, Step::Ban, Step::Resume, Step::Unban];
                Operation::Step { customer, step: steps[self.rng.usize(..steps.len())] }
            }
        }
    }

    fn reference(&mut self) -> u64 {
        self.rng.u64(0..self.crowd.references)
    }

    /// Of a charge; in parts, of all that is left, and of more than that.
    fn refund(&mut self, customer: u64, reference: &Reference) -> Operation {
        let known = reference.customers.get(&customer).map(|plain| &plain.charged);
        let at = self.next_request.saturating_sub(self.rng.u128(0..200));
        let Some((request, left)) = known.and_then(|charged| charged.range(..=at).next_back()) else {
            return Operation::Adjust { customer, amount: 0, reference: 0 };
        };
        let amount = match self.rng.u32(0..10) {
            0 => Some(0),
            1 => Some(left + 1),
            2..5 => None,
            _ => Some(self.rng.i128(1..=(*left).max(1))),
        };
        Operation::Refund { customer, request: *request, amount, reference: self.reference() }
    }

    /// By what there may be, by more than that with less to make do with, and of what makes no sense.
    fn extend(&mut self, customer: u64, request: u128) -> Operation {
        let amount = self.rng.i128(0..900);
        let least = if self.rng.bool() { amount } else { self.rng.i128(0..20) };
        let (amount, least) = if self.rng.u32(0..4) == 0 { (amount * 100, least) } else { (amount, least) };
        let so_far = if self.rng.u32(0..20) == 0 { -1 } else { self.rng.i128(0..2_000) };
        Operation::Extend { customer, request, amount, least, so_far }
    }

    /// Every other one of a hold that was extended: that one is charged as far as it had come.
    fn expire(&mut self, customer: u64, reference: &Reference) -> Operation {
        let extended = reference
            .customers
            .iter()
            .find_map(|(customer, plain)| plain.so_far.keys().next().map(|request| (*customer, *request)));
        let named = self.request(customer, reference);
        let (customer, request) = extended.filter(|_| self.rng.bool()).unwrap_or(named);
        Operation::Expire { customer, request }
    }

    fn name(&mut self) -> String {
        "n".repeat([0, 1, 12, 256, 257][self.rng.usize(0..5)])
    }

    fn deposit(&mut self) -> i128 {
        match self.rng.u32(0..20) {
            0 => [0, -1, DEPOSIT_MAX + 1][self.rng.usize(0..3)],
            1 => DEPOSIT_MAX,
            // Few, so that a repeated reference often comes with the same amount.
            _ => [1, 400, 5_000, 20_000][self.rng.usize(0..4)],
        }
    }

    fn hold(&mut self, customer: u64, reference: &Reference) -> Operation {
        self.next_request += 1;
        let open = reference.customers.get(&customer).and_then(|plain| plain.holds.keys().next());
        let request = open.filter(|_| self.rng.u32(0..20) == 0).copied().unwrap_or(self.next_request);
        let available = reference.customers.get(&customer).map_or(0, |plain| plain.available);
        let amount = match self.rng.u32(0..20) {
            0 => available,
            1 => available + 1,
            2 => -1,
            3 => 0,
            _ => self.rng.i128(0..3_000),
        };
        self.requests.push((customer, request));
        if self.requests.len() > REQUESTS_KEPT {
            self.requests.swap_remove(self.rng.usize(..REQUESTS_KEPT));
        }
        Operation::Hold { customer, key: self.key(customer, reference, 20), request, amount }
    }

    /// An active key of the customer but once in `odd` times.
    fn key(&mut self, customer: u64, reference: &Reference, odd: u32) -> u64 {
        let known = reference.customers.get(&customer).map(|plain| &plain.keys);
        let active = |keys: &BTreeMap<u64, bool>| keys.iter().rev().find(|(_, on)| **on).map(|(key, _)| *key);
        match known.and_then(active) {
            Some(key) if self.rng.u32(0..odd) > 0 => key,
            Some(_) | None => self.rng.u64(0..KEYS),
        }
    }

    /// Mostly an open hold and whose it is.
    fn request(&mut self, stranger: u64, reference: &Reference) -> (u64, u128) {
        let kept = self.requests.get(self.rng.usize(..REQUESTS_KEPT)).copied();
        let (customer, request) = kept.unwrap_or((stranger, 0));
        let holds = reference.customers.get(&customer).map(|plain| &plain.holds);
        let open = holds.and_then(|holds| holds.range(..=request).next_back().or(holds.iter().next()));
        match (self.rng.u32(0..20), open) {
            (0, _) => (stranger, self.rng.u128(..)),
            (1, _) => (stranger, request),
            (2, _) | (_, None) => (customer, request),
            (_, Some((open, _))) => (customer, *open),
        }
    }

    /// Below, at and above the hold, and above the balance.
    fn capture(&mut self, customer: u64, request: u128, reference: &Reference) -> i128 {
        let plain = reference.customers.get(&customer);
        let held = plain.and_then(|plain| plain.holds.get(&request)).copied().unwrap_or(50);
        let available = plain.map_or(0, |plain| plain.available);
        match self.rng.u32(0..20) {
            0 => 0,
            1 => -1,
            2..5 => held,
            5 => held + 1,
            6 => held + available,
            7 => held + available + self.rng.i128(1..500),
            8..10 => held + self.rng.i128(0..200),
            _ => self.rng.i128(0..=held),
        }
    }
}
