//! Batches: runs of many requests. What each line of their output says that it used is charged, at the
//! prices of its own length; an error costs nothing. Of an answer that does not say, what it wrote is counted.

use super::{Running, Runs, Told, account_of, count_written};
use crate::clock::Timestamp;
use crate::endpoint::Endpoint;
use crate::ledger::Failure;
use crate::meter::{ANSWER_BYTES_MAX, BodyMeter, Delivered, Reading, Reported, Shape};
use crate::proxy::fetch::Opened;
use crate::proxy::shelf::Shelf;
use crate::proxy::{new_request, request::is_object_id};
use crate::settle::price::Tier;
use crate::settle::{Run, Tally};
use crate::usage::{Metered, Usage};
use bytes::{Buf, Bytes, BytesMut};
use http::{Method, StatusCode};
use memchr::memchr;
use pingora_http::RequestHeader;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::sync::Arc;

/// The longest name of several things in the ledger.
const NAMES_BYTES_MAX: usize = 256;

/// The longest sum that is kept in a provider's words: it goes into the receipt.
const REPORTED_BYTES_MAX: usize = 8 * 1024;

/// What a provider says of a batch.
#[derive(Deserialize)]
struct Said<'a> {
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(borrow, default)]
    output_file_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    error_file_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
}

/// A line of its output.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow, default)]
    response: Option<Answer<'a>>,
}

#[derive(Deserialize)]
struct Answer<'a> {
    status_code: u16,
    #[serde(borrow)]
    body: &'a RawValue,
}

/// What all lines of an output used.
#[derive(Default)]
struct Sum {
    price: Tally,
    cost: Tally,
    /// Answers that do not tell it: what they wrote was counted.
    counted: usize,
    /// Answers of which nothing can be counted: they are not charged.
    untold: usize,
}

/// What an answer tells of what it used.
enum Tells {
    /// This much.
    Used(Usage),
    /// Nothing, but it wrote this.
    Wrote(Delivered),
    /// Nothing, and nothing is there to count.
    Nothing,
    /// It is an error, which is free.
    Error,
}

impl Runs {
    /// Takes what the provider says of a batch. If it has ended, what is in its output is charged, and its
    /// files are its customer's from then on.
    pub(super) async fn told_batch(
        &self,
        running: &Running,
        of: Endpoint,
        body: &Bytes,
    ) -> Result<Told, Failure> {
        let Ok(said) = serde_json::from_slice::<Said<'_>>(body) else { return Ok(Told::AtWork) };
        let Some(end) = end(&said.status) else { return Ok(Told::AtWork) };
        if !self.ledger.is_away() && !self.ledger.holds(running.customer, running.request) {
            return Ok(Told::Ended);
        }
        let [output, errors] =
            [&said.output_file_id, &said.error_file_id].map(|id| id.as_deref().filter(|id| is_object_id(id)));
        let mut sum = Sum::default();
        if let Some(output) = output {
            match self.read_output(running, of, output).await? {
                Some(read) => sum = read,
                None => return Ok(Told::Missing),
            }
        }
        if output.is_none() && errors.is_none() {
            return self.release(running, end).await;
        }
        let Sum { price, cost, counted, untold } = sum;
        if counted + untold > 0 {
            let (request, upstream) = (running.request, running.run.upstream());
            tracing::warn!(%request, upstream, counted, untold, "answers of a batch do not tell what they used");
        }
        let usage = price.usage();
        let metered = match counted {
            _ if usage.is_none() => Metered::None,
            0 => Metered::Reported,
            _ => Metered::Estimated,
        };
        let reported = said.usage.map(RawValue::get).filter(|usage| usage.len() <= REPORTED_BYTES_MAX);
        let ended = running.run.summed((price, cost), (end, metered), reported, Timestamp::now());
        let files = [output, errors].into_iter().flatten().map(|id| Shelf::Files.object(id));
        self.end(running, ended, (usage, metered), names(&running.object, files)).await
    }

    /// What the lines of an output used; nothing if it is not there.
    async fn read_output(
        &self,
        running: &Running,
        of: Endpoint,
        output: &str,
    ) -> Result<Option<Sum>, Failure> {
        let live = self.live.load_full();
        let account = account_of(&live, &running.run).ok_or(Failure::Busy)?;
        let path = Shelf::Files.path(account, &["/", output, "/content"].concat());
        let asks = RequestHeader::build(Method::GET, path.as_bytes(), None).map_err(|_| Failure::Busy)?;
        let opened = self.fetcher.open(&asks, new_request(), (account, &path)).await;
        let mut opened = opened.map_err(|_| Failure::Busy)?;
        match opened.header.status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => {
                let read = read_lines(&mut opened, of, &running.run);
                let read = tokio::time::timeout(account.timeouts.total, read).await;
                read.map_err(|_| Failure::Busy)?.map(Some)
            }
            _ => Err(Failure::Busy),
        }
    }
}

/// How a batch has ended, if it has.
fn end(status: &str) -> Option<&'static str> {
    match status {
        "completed" => Some("complete"),
        "failed" => Some("failed"),
        "expired" => Some("expired"),
        "cancelled" => Some("cancelled"),
        _ => None,
    }
}

/// What a charge names: the batch, and as many of its files as there is room for.
fn names(batch: &Arc<str>, files: impl Iterator<Item = String>) -> Arc<str> {
    let mut names = batch.to_string();
    for file in files.filter(|file| !file.is_empty()) {
        if names.len() + 1 + file.len() <= NAMES_BYTES_MAX {
            names.push(' ');
            names.push_str(&file);
        }
    }
    names.into()
}

/// Reads an output line by line: it may be far larger than what is held in memory.
async fn read_lines(opened: &mut Opened<'_>, of: Endpoint, run: &Run) -> Result<Sum, Failure> {
    let (mut sum, mut rest) = (Sum::default(), BytesMut::new());
    while let Some(piece) = opened.next().await.map_err(|_| Failure::Busy)? {
        rest.extend_from_slice(&piece);
        while let Some(end) = memchr(b'\n', &rest) {
            sum.add(&rest[..end], of, run).await?;
            rest.advance(end + 1);
        }
        if rest.len() > ANSWER_BYTES_MAX {
            return Err(Failure::Busy);
        }
    }
    sum.add(&rest, of, run).await?;
    Ok(sum)
}

impl Sum {
    async fn add(&mut self, line: &[u8], of: Endpoint, run: &Run) -> Result<(), Failure> {
        let usage = match tells(line, of) {
            Tells::Used(usage) => usage,
            Tells::Wrote(delivered) => {
                self.counted += 1;
                Usage { output: count_written(run, delivered).await?, ..Usage::default() }
            }
            Tells::Nothing => {
                self.untold += 1;
                return Ok(());
            }
            Tells::Error => return Ok(()),
        };
        self.price.add(&usage, Tier::Batch, &run.price);
        run.cost.iter().for_each(|cost| self.cost.add(&usage, Tier::Batch, cost));
        Ok(())
    }
}

fn tells(line: &[u8], of: Endpoint) -> Tells {
    if line.trim_ascii().is_empty() {
        return Tells::Error;
    }
    let body = match serde_json::from_slice::<Line<'_>>(line).map(|line| line.response) {
        Ok(Some(Answer { status_code: 200, body })) => body,
        Ok(_) => return Tells::Error,
        Err(_) => return Tells::Nothing,
    };
    let mut meter = BodyMeter::of_text(of);
    if meter.feed(body.get().as_bytes()).is_err() {
        return Tells::Nothing;
    }
    match meter.end().1 {
        Reading { shape: Shape::Complete, usage: Some(Reported { usage: Ok(usage), .. }), .. } => {
            Tells::Used(usage)
        }
        Reading { shape: Shape::Complete, delivered, .. } if delivered.bytes > 0 => Tells::Wrote(delivered),
        _ => Tells::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::{Amount, UnitPrice};
    use crate::settle::price::{Encoding, Rates, Tariff, UnitPrices};

    fn run() -> Run {
        let input = UnitPrice::parse_per_million("1").unwrap();
        let unit = UnitPrices { input, output: input, ..UnitPrices::default() };
        let default = Rates { unit, ..Rates::default() };
        Run {
            endpoint: "batches".into(),
            lines: Some("chat.completions".into()),
            model: "m".into(),
            tier: Tier::Batch,
            output_cap: None,
            attempts: Vec::new(),
            begun: Timestamp::from_micros(0),
            most: Amount::ZERO,
            input_tokens: 0,
            encoding: Encoding::O200kBase,
            price: Tariff { default, flex: None, priority: None, batch: None },
            cost: None,
        }
    }

    async fn check(lines: &[&str], (input, output): (u64, u64), counted: usize, untold: usize) {
        let mut sum = Sum::default();
        for line in lines {
            sum.add(line.as_bytes(), Endpoint::Chat, &run()).await.expect("it is counted");
        }
        let usage = sum.price.usage();
        let found = ((usage.input, usage.output), sum.counted, sum.untold);
        assert_eq!(found, ((input, output), counted, untold), "{lines:?}");
    }

    #[tokio::test]
    async fn lines_that_tell_what_they_used_are_charged() {
        let answer = |status: u16, usage: &str| {
            format!(
                r#"{{"id":"b","custom_id":"1","response":{{"status_code":{status},"body":{{"choices":[]{usage}}}}},"error":null}}"#
            )
        };
        let used = |input: u64| {
            answer(200, &format!(r#","usage":{{"prompt_tokens":{input},"completion_tokens":1}}"#))
        };
        let (five, seven) = (used(5), used(7));
        check(&[&five, "", &seven], (12, 2), 0, 0).await;
        let wrote = answer(200, "").replace("[]", r#"[{"message":{"content":"one two"}}]"#);
        check(&[&five, &wrote], (5, 3), 1, 0).await;
        check(&[&five, &answer(200, "")], (5, 1), 0, 1).await;
        check(&[&answer(400, r#","usage":{"prompt_tokens":9,"completion_tokens":1}"#)], (0, 0), 0, 0).await;
        let expired = r#"{"custom_id":"1","response":null,"error":{"code":"batch_expired"}}"#;
        check(&[expired, &five], (5, 1), 0, 0).await;
        check(&[&five[1..]], (0, 0), 0, 1).await;
        check(&[&answer(200, r#","usage":{"prompt_tokens":-9,"completion_tokens":1}"#)], (0, 0), 0, 1).await;
    }

    #[test]
    fn a_charge_names_a_batch_and_its_files() {
        let batch: Arc<str> = "batches/b".into();
        let files = |lengths: &[usize]| lengths.iter().map(|n| "x".repeat(*n)).collect::<Vec<_>>();
        assert_eq!(*names(&batch, files(&[2, 3]).into_iter()), *"batches/b xx xxx");
        assert_eq!(*names(&batch, files(&[300, 3]).into_iter()), *"batches/b xxx");
        assert_eq!((end("completed"), end("finalizing"), end("cancelling")), (Some("complete"), None, None));
    }
}
