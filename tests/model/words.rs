//! What came up, in words: each must often enough, or the test was about nothing.

use super::reference::{Operation, Said};

pub const WORDS: [&str; 31] = [
    "deposit",
    "hold",
    "capture below",
    "capture at",
    "overage",
    "written off",
    "release",
    "malformed",
    "unknown customer",
    "unknown key",
    "reference used",
    "booked already",
    "hold exists",
    "unknown hold",
    "insufficient",
    "key exists",
    "extension",
    "detachment",
    "overdraft",
    "debt written off",
    "owes more",
    "owes less",
    "expired, charged",
    "expired, released",
    "refund in part",
    "refund in full",
    "adjustment",
    "refund exceeds",
    "step",
    "forfeiture",
    "standing",
];

pub fn words(operation: &Operation, said: &Said) -> Vec<&'static str> {
    match (operation, said) {
        (Operation::Deposit { .. }, Said::Done(_)) => vec!["deposit"],
        (Operation::Hold { .. }, Said::Done(_)) => vec!["hold"],
        (Operation::Extend { .. }, Said::Done(_)) => vec!["extension"],
        (Operation::Detach { .. }, Said::Done(_)) => vec!["detachment"],
        (Operation::Expire { .. }, Said::Done(moved)) if moved.captured > 0 => vec!["expired, charged"],
        (Operation::Expire { .. }, Said::Done(_)) => vec!["expired, released"],
        (Operation::Refund { amount: Some(_), .. }, Said::Done(_)) => vec!["refund in part"],
        (Operation::Refund { amount: None, .. }, Said::Done(_)) => vec!["refund in full"],
        (Operation::Adjust { .. }, Said::Done(_)) => vec!["adjustment"],
        (Operation::Release { .. }, Said::Done(moved)) if moved.forfeited > 0 => {
            vec!["release", "forfeiture"]
        }
        (Operation::Release { .. }, Said::Done(_)) => vec!["release"],
        (Operation::Overdraft { .. }, Said::Done(_)) => vec!["overdraft"],
        (Operation::WriteOff { .. }, Said::Done(_)) => vec!["debt written off"],
        (Operation::Step { .. }, Said::Done(_)) => vec!["step"],
        (Operation::Capture { .. }, Said::Done(moved)) => {
            let ends = [
                (moved.released > 0, "capture below"),
                (moved.released == 0 && moved.overage + moved.written_off == 0, "capture at"),
                (moved.overage > 0, "overage"),
                (moved.written_off > 0, "written off"),
                (moved.forfeited > 0, "forfeiture"),
            ];
            ends.into_iter().filter_map(|(came, word)| came.then_some(word)).collect()
        }
        (_, Said::Done(_)) => vec!["other"],
        (_, Said::Malformed) => vec!["malformed"],
        (_, Said::UnknownCustomer) => vec!["unknown customer"],
        (_, Said::UnknownKey) => vec!["unknown key"],
        (_, Said::ReferenceUsed(_)) => vec!["reference used"],
        (_, Said::BookedAlready) => vec!["booked already"],
        (_, Said::Standing(_)) => vec!["standing"],
        (_, Said::OwesMore(_)) => vec!["owes more"],
        (_, Said::OwesLess(_)) => vec!["owes less"],
        (_, Said::RefundExceeds(_)) => vec!["refund exceeds"],
        (_, Said::UnknownHold) => vec!["unknown hold"],
        (_, Said::Insufficient(_)) => vec!["insufficient"],
        (_, Said::CustomerExists) => vec!["customer exists"],
        (_, Said::KeyExists) => vec!["key exists"],
        (_, Said::HoldExists) => vec!["hold exists"],
    }
}
