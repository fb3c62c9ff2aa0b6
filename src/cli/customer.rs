//! Customers, keys, receipts and statements.

use super::client::Client;
use super::table::{layout, print, print_json};
use super::{CustomerCommand, Done, Failed};
use crate::admin::views::{CustomerView, KeyView};
use crate::admit::limits::Limits;
use crate::clock::Timestamp;
use crate::id::{CustomerId, KeyId, RequestId};
use crate::money::Amount;
use crate::record::export::{self, Head};
use crate::record::own::SpentView;
use crate::record::receipt::{Receipt, Refund, StatementLine, StatementPage};
use crate::settle::Line;
use crate::usage::Unit;
use serde_json::{Map, Value, json};
use std::io::Read;

/// How a statement is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For the eye
    Table,
    /// One JSON object a line
    Jsonl,
    /// For spreadsheets
    Csv,
}

/// The longest key that is read from standard input.
const KEY_INPUT_BYTES_MAX: u64 = 4_096;

/// `customer`
pub fn run(client: &Client, command: CustomerCommand) -> Done {
    let (id, step, reason) = match command {
        CustomerCommand::Create { name } => return create(client, &name),
        CustomerCommand::List => return list(client),
        CustomerCommand::Show { id } => return show(client, id),
        CustomerCommand::Set { id, overdraft, limits } => {
            return set(client, id, overdraft, &limits.changes());
        }
        CustomerCommand::AcceptTerms { id, terms, why } => {
            let body = json!({ "version": terms, "reason": why.reason });
            let customer: CustomerView = client.post(&format!("/customers/{id}/terms"), &body)?;
            return show_customers(client, &[customer]);
        }
        CustomerCommand::Suspend { id, why } => (id, "suspend", why.reason),
        CustomerCommand::Resume { id, why } => (id, "resume", why.reason),
        CustomerCommand::Ban { id, reason } => (id, "ban", Some(reason)),
        CustomerCommand::Unban { id, why } => (id, "unban", why.reason),
    };
    let body = json!({ "reason": reason });
    let customer: CustomerView = client.post(&format!("/customers/{id}/{step}"), &body)?;
    show_customers(client, &[customer])
}

/// `customer create`
fn create(client: &Client, name: &str) -> Done {
    let customer: CustomerView = client.post("/customers", &json!({ "name": name }))?;
    show_customers(client, &[customer])
}

/// `customer list`
fn list(client: &Client) -> Done {
    let customers: Vec<CustomerView> = client.get("/customers")?;
    show_customers(client, &customers)
}

/// `customer show`
fn show(client: &Client, id: CustomerId) -> Done {
    let customer: CustomerView = client.get(&format!("/customers/{id}"))?;
    show_customers(client, &[customer])
}

fn show_customers(client: &Client, customers: &[CustomerView]) -> Done {
    if client.json {
        return customers.iter().try_for_each(print_json);
    }
    let rows: Vec<Vec<String>> = customers
        .iter()
        .map(|c| {
            vec![
                c.id.to_string(),
                c.name.to_string(),
                c.status.to_string(),
                c.balance.to_string(),
                c.available.to_string(),
                c.reason.as_deref().unwrap_or_default().to_owned(),
            ]
        })
        .collect();
    let head = ["ID", "NAME", "STATUS", "BALANCE", "AVAILABLE", "REASON"];
    // Few customers have one: the column is there if any has.
    let columns = if customers.iter().any(|c| c.reason.is_some()) { 6 } else { 5 };
    print(&layout(&head[..columns], &rows, &[3, 4]))
}

/// `key create`
pub fn create_key(
    client: &Client,
    customer: CustomerId,
    name: Option<String>,
    limits: &Map<String, Value>,
) -> Done {
    let key: KeyView =
        client.post("/keys", &json!({ "customer": customer, "name": name, "limits": limits }))?;
    if client.json {
        return print_json(&key);
    }
    let plain = key.key.as_deref().unwrap_or_default();
    print(&format!("{plain}\n"))?;
    eprintln!("{} of {}; the key is not kept and will not be shown again", key.id, key.customer);
    Ok(())
}

/// `customer set`
fn set(client: &Client, id: CustomerId, overdraft: Option<Amount>, limits: &Map<String, Value>) -> Done {
    let owing = overdraft
        .map(|amount| client.post(&format!("/customers/{id}/overdraft"), &json!({ "amount": amount })));
    let customer: CustomerView = match owing.transpose()? {
        Some(customer) if limits.is_empty() => customer,
        Some(_) | None => client.post(&format!("/customers/{id}/limits"), &json!(limits))?,
    };
    if client.json {
        return print_json(&customer);
    }
    let owing = customer.overdraft.map(|amount| format!("overdraft {amount} USD\n"));
    print(&[owing.unwrap_or_default(), limits_text(&customer.limits, customer.spent)].concat())
}

/// `key set`
pub fn limit_key(client: &Client, id: KeyId, limits: &Map<String, Value>) -> Done {
    let key: KeyView = client.post(&format!("/keys/{id}/limits"), &json!(limits))?;
    if client.json { print_json(&key) } else { print(&limits_text(&key.limits, key.spent)) }
}

/// Limits for the eye, one a line; beside budgets, what was spent of them.
fn limits_text(limits: &Limits, spent: SpentView) -> String {
    let Ok(Value::Object(fields)) = serde_json::to_value(limits) else {
        unreachable!("limits are an object")
    };
    if fields.is_empty() {
        return "not limited\n".into();
    }
    let plain = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            items.iter().map(|item| item.as_str().unwrap_or_default()).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    };
    let used = |name: &str| match name {
        "budget" => format!(" USD, {} spent", spent.total),
        "budget_per_day" => format!(" USD, {} spent today", spent.day),
        "budget_per_month" => format!(" USD, {} spent this month", spent.month),
        _ => String::new(),
    };
    fields.iter().map(|(name, value)| format!("{name:<16} {}{}\n", plain(value), used(name))).collect()
}

/// `key import`
pub fn import_key(client: &Client, customer: CustomerId, name: Option<String>) -> Done {
    let mut key = String::new();
    let read = std::io::stdin().take(KEY_INPUT_BYTES_MAX).read_to_string(&mut key);
    read.map_err(|why| Failed::Usage(format!("the key cannot be read from standard input: {why}")))?;
    let body = json!({ "customer": customer, "name": name, "import": key.trim() });
    let key: KeyView = client.post("/keys", &body)?;
    show_keys(client, &[key])
}

/// `key list`
pub fn list_keys(client: &Client, customer: Option<CustomerId>) -> Done {
    let query = customer.map(|customer| format!("?customer={customer}")).unwrap_or_default();
    let keys: Vec<KeyView> = client.get(&format!("/keys{query}"))?;
    show_keys(client, &keys)
}

/// `key revoke`
pub fn revoke_key(client: &Client, id: KeyId) -> Done {
    let key: KeyView = client.post(&format!("/keys/{id}/revoke"), &json!({}))?;
    show_keys(client, &[key])
}

fn show_keys(client: &Client, keys: &[KeyView]) -> Done {
    if client.json {
        return keys.iter().try_for_each(print_json);
    }
    let rows: Vec<Vec<String>> = keys
        .iter()
        .map(|k| {
            vec![
                k.id.to_string(),
                k.prefix.to_string(),
                k.status.to_string(),
                k.customer.to_string(),
                k.name.to_string(),
            ]
        })
        .collect();
    print(&layout(&["ID", "KEY", "STATUS", "CUSTOMER", "NAME"], &rows, &[]))
}

/// `receipt`
pub fn receipt(client: &Client, request: RequestId) -> Done {
    let receipt: Receipt = client.get(&format!("/receipts/{request}"))?;
    if client.json { print_json(&receipt) } else { print(&receipt_text(&receipt)) }
}

/// A receipt for the eye.
pub fn receipt_text(receipt: &Receipt) -> String {
    let mut text = format!(
        "receipt  {}\n         {}  {}  {}  {}\n         {} ({}), usage {}, prices {}\n",
        receipt.request_id,
        receipt.at,
        receipt.customer,
        receipt.model,
        receipt.endpoint,
        receipt.status,
        receipt.end,
        receipt.metered.name(),
        receipt.price_version,
    );
    text.push_str(&applied(receipt));
    for attempt in &receipt.attempts {
        let status = attempt.status.map(|status| format!(" {status}")).unwrap_or_default();
        text.push_str(&format!(
            "         attempt: {}{status} {} in {} ms\n",
            attempt.upstream, attempt.outcome, attempt.ms
        ));
    }
    let mut rows: Vec<Vec<String>> = receipt
        .lines
        .iter()
        .map(|line| {
            let price = price(line);
            vec![
                format!("  {}", line.class.name()),
                line.quantity.to_string(),
                "x".into(),
                price,
                "=".into(),
                line.amount.to_string(),
            ]
        })
        .collect();
    let empty = String::new;
    rows.push(vec!["  charge".into(), empty(), empty(), empty(), "=".into(), receipt.charge.to_string()]);
    if receipt.written_off > Amount::ZERO {
        rows.push(vec![
            "  written off".into(),
            empty(),
            empty(),
            empty(),
            "=".into(),
            receipt.written_off.to_string(),
        ]);
    }
    if let Some(cost) = receipt.cost {
        rows.push(vec!["  provider cost".into(), empty(), empty(), empty(), empty(), cost.to_string()]);
    }
    rows.push(vec![
        "  balance after".into(),
        empty(),
        empty(),
        empty(),
        empty(),
        receipt.balance_after.to_string(),
    ]);
    let tokens = receipt.lines.iter().all(|line| line.class.unit() == Unit::Token);
    let quantity = if tokens { "TOKENS" } else { "QUANTITY" };
    text.push_str(&layout(&["  CLASS", quantity, "", "USD", "", "USD"], &rows, &[1, 3, 5]));
    for Refund { entry_id, at, amount, reference, reason } in &receipt.refunds {
        let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        text.push_str(&format!("refund   {amount} USD, entry {entry_id}, {at}, {reference}{why}\n"));
    }
    text
}

/// The unit price of a line, as the price book has it.
fn price(line: &Line) -> String {
    match line.class.unit() {
        Unit::Token | Unit::Character => format!("{} / 1M", line.unit_price),
        Unit::Image | Unit::Call => format!("{} each", line.unit_price.times(1)),
        Unit::Second => format!("{} / min", line.unit_price.times(60)),
    }
}

/// What was cut, and which of a model's prices applied, where they are not those of any request.
fn applied(receipt: &Receipt) -> String {
    let tier = receipt.service_tier.as_ref().map(|tier| format!("service tier {tier}"));
    let long = receipt.above_input_tokens.map(|above| format!("prices above {above} tokens of input"));
    let size = receipt.image_size.as_ref().map(|size| format!("images of size {size}"));
    let quality = receipt.image_quality.as_ref().map(|quality| format!("images of quality {quality}"));
    let cut = receipt.output_cap.map(|cap| format!("answers cut to {cap} tokens, as the credit reached"));
    match cut.into_iter().chain(tier).chain(long).chain(size).chain(quality).collect::<Vec<_>>() {
        none if none.is_empty() => String::new(),
        applied => format!("         {}\n", applied.join(", ")),
    }
}

/// `statement`
pub fn statement(
    client: &Client,
    customer: CustomerId,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    format: Format,
) -> Done {
    let format = if client.json { Format::Jsonl } else { format };
    let bound = |name: &str, at: Option<Timestamp>| at.map(|at| format!("&{name}={at}")).unwrap_or_default();
    let bounds = bound("from", from) + &bound("to", to);
    let mut after = Some(0);
    let mut head = Head::With;
    while let Some(from_entry) = after {
        let path = format!("/customers/{customer}/statement?after={from_entry}{bounds}");
        let page: StatementPage = client.get(&path)?;
        match format {
            Format::Jsonl => page.lines.iter().try_for_each(print_json)?,
            Format::Csv => print(&export::statement_csv(&page.lines, head))?,
            Format::Table => print(&statement_table(&page.lines))?,
        }
        head = Head::Without;
        after = page.next;
    }
    Ok(())
}

fn statement_table(lines: &[StatementLine]) -> String {
    let rows: Vec<Vec<String>> = lines.iter().map(|line| export::statement_row(line).to_vec()).collect();
    layout(&export::STATEMENT_HEAD, &rows, &[0, 3, 4, 5])
}
