//! Credit: deposits, refunds, adjustments, write-offs.

use super::Done;
use super::client::Client;
use super::table::{print, print_json};
use crate::admin::views::{BookingView, RefundView};
use crate::id::{CustomerId, RequestId};
use crate::money::Amount;
use clap::{Args, Subcommand};
use serde_json::json;

/// What can be done with credit.
#[derive(Subcommand)]
pub enum CreditCommand {
    /// Pay in
    Deposit {
        /// Whose
        #[arg(long, value_parser = super::id::<CustomerId>)]
        customer: CustomerId,
        /// US dollars, such as 25.00
        #[arg(long, value_parser = Amount::parse, allow_hyphen_values = true)]
        amount: Amount,
        /// Your own name for it, such as an invoice number; the same one twice is one deposit
        #[arg(long)]
        reference: String,
    },
    /// Give a charge back to the balance it was taken from, in full or in part
    Refund {
        /// The request that was charged
        #[arg(long, value_parser = super::id::<RequestId>)]
        request: RequestId,
        /// US dollars; without it, all that was not given back yet
        #[arg(long, value_parser = Amount::parse, allow_hyphen_values = true)]
        amount: Option<Amount>,
        /// Your own name for it, such as a ticket number; the same one twice is one refund
        #[arg(long)]
        reference: String,
        #[command(flatten)]
        why: Why,
    },
    /// Give credit by hand, or take it
    Adjust {
        /// Whose
        #[arg(long, value_parser = super::id::<CustomerId>)]
        customer: CustomerId,
        /// US dollars, such as 5.00; taken if negative, such as --amount=-5.00
        #[arg(long, value_parser = Amount::parse, allow_hyphen_values = true)]
        amount: Amount,
        /// Your own name for it; the same one twice is one adjustment
        #[arg(long)]
        reference: String,
        /// Why, for the audit
        #[arg(long)]
        reason: String,
    },
    /// Give up what a customer owes
    WriteOff {
        /// Whose debt
        #[arg(long, value_parser = super::id::<CustomerId>)]
        customer: CustomerId,
        /// US dollars; without it, all that is owed
        #[arg(long, value_parser = Amount::parse, allow_hyphen_values = true)]
        amount: Option<Amount>,
        /// Your own name for it; the same one twice is one write-off
        #[arg(long)]
        reference: String,
        /// Why, for the audit
        #[arg(long)]
        reason: String,
    },
}

/// Why something is done, if that is to be said.
#[derive(Args)]
pub struct Why {
    /// Why, for the audit
    #[arg(long)]
    pub reason: Option<String>,
}

/// `credit`
pub fn run(client: &Client, command: &CreditCommand) -> Done {
    match command {
        CreditCommand::Deposit { customer, amount, reference } => {
            let body = json!({ "customer": customer, "amount": amount, "reference": reference });
            booked(client, "/deposits", &body)
        }
        CreditCommand::Refund { request, amount, reference, why } => {
            let body = json!({
                "request": request, "amount": amount, "reference": reference, "reason": why.reason
            });
            let refund: RefundView = client.post("/refunds", &body)?;
            if client.json {
                return print_json(&refund);
            }
            let RefundView { entry_id, customer, refunded, charge, balance, .. } = refund;
            print(&format!(
                "entry {entry_id}: {refunded} of {charge} USD are given back; {customer} now has {balance} USD\n"
            ))
        }
        CreditCommand::Adjust { customer, amount, reference, reason } => {
            let body = json!({
                "customer": customer, "amount": amount, "reference": reference, "reason": reason
            });
            booked(client, "/adjustments", &body)
        }
        CreditCommand::WriteOff { customer, amount, reference, reason } => {
            let body = json!({
                "customer": customer, "amount": amount, "reference": reference, "reason": reason
            });
            booked(client, "/write-offs", &body)
        }
    }
}

fn booked(client: &Client, path: &str, body: &serde_json::Value) -> Done {
    let booked: BookingView = client.post(path, body)?;
    if client.json {
        return print_json(&booked);
    }
    print(&format!("entry {}: {} now has {} USD\n", booked.entry_id, booked.customer, booked.balance))
}
