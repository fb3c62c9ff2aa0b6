//! Responses that are kept: read, cancelled, deleted and gone on from, by the account that made them.
//!
//! A response in the background is at work until it has been read a given number of times.

use super::refusal::Refusal;
use http::Method;
use parking_lot::Mutex;
use serde::Deserialize;
use std::collections::VecDeque;

/// How many are kept; the oldest are forgotten.
const KEPT_MAX: usize = 1_000;

/// A response as it is kept.
#[derive(Debug)]
pub(super) struct Kept {
    pub id: String,
    /// What it read and wrote.
    pub tokens: u64,
    /// As it is told once it has ended.
    pub whole: String,
    /// Where it was made in the background.
    pub run: Option<Run>,
}

/// A response in the background.
#[derive(Debug)]
pub(super) struct Run {
    /// As it is told while it is at work.
    pub at_work: String,
    /// How often that is told before it has ended.
    pub reads: u32,
}

/// All responses of all accounts.
#[derive(Default)]
pub(super) struct Stored(Mutex<VecDeque<(String, Kept)>>);

impl Stored {
    /// Keeps a response of this account.
    pub fn put(&self, account: &str, kept: Kept) {
        let mut all = self.0.lock();
        all.push_back((account.to_owned(), kept));
        if all.len() > KEPT_MAX {
            all.pop_front();
        }
    }

    /// What a response came to that a request goes on from; nothing if it goes on from none.
    pub fn gone_on_from(&self, account: &str, body: &[u8]) -> Result<u64, Refusal> {
        let Ok(Previous { previous_response_id: Some(id) }) = serde_json::from_slice(body) else {
            return Ok(0);
        };
        let all = self.0.lock();
        let found = all.iter().find(|(owner, kept)| owner == account && kept.id == id);
        found.map(|(_, kept)| kept.tokens).ok_or_else(|| Refusal::no_previous(&id))
    }

    /// What is answered to whoever asks for a response, or for `below` it.
    pub fn answer(&self, account: &str, method: &Method, id: &str, below: &str) -> Result<String, Refusal> {
        let mut all = self.0.lock();
        let found = all.iter().position(|(owner, kept)| owner == account && kept.id == id);
        let found = found.ok_or_else(|| Refusal::no_response(id))?;
        if *method == Method::DELETE {
            all.remove(found);
            return Ok(format!(r#"{{"id":"{id}","object":"response","deleted":true}}"#));
        }
        let kept = &mut all[found].1;
        match (below, &mut kept.run) {
            ("input_items", _) => Ok(format!(
                r#"{{"object":"list","data":[{{"id":"msg_of_{id}","type":"message","role":"user","content":[]}}],"has_more":false}}"#
            )),
            ("cancel", None) => Err(Refusal::not_cancelled()),
            ("cancel", Some(run)) => {
                if run.reads > 0 {
                    kept.whole = kept.whole.replacen(r#""status":"completed""#, r#""status":"cancelled""#, 1);
                }
                run.reads = 0;
                Ok(kept.whole.clone())
            }
            (_, Some(run)) if run.reads > 0 => {
                run.reads -= 1;
                Ok(run.at_work.clone())
            }
            (_, Some(_) | None) => Ok(kept.whole.clone()),
        }
    }
}

#[derive(Deserialize)]
struct Previous {
    previous_response_id: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(stored: &Stored, id: &str, run: Option<Run>) {
        let whole = r#"{"status":"completed"}"#.to_owned();
        stored.put("a", Kept { id: id.to_owned(), tokens: 7, whole, run });
    }

    #[test]
    fn a_response_is_there_for_its_account_until_it_is_deleted() {
        let stored = Stored::default();
        put(&stored, "resp_1", None);
        let status = |account, method, below| {
            let answered = stored.answer(account, &method, "resp_1", below);
            answered.map_or_else(|refusal| refusal.status, |_| 200)
        };
        assert_eq!((status("a", Method::GET, ""), status("b", Method::GET, "")), (200, 404));
        assert_eq!(
            (status("a", Method::POST, "cancel"), status("a", Method::GET, "input_items")),
            (400, 200)
        );
        let body = br#"{"previous_response_id":"resp_1"}"#;
        assert_eq!((stored.gone_on_from("a", body), stored.gone_on_from("a", b"{}")), (Ok(7), Ok(0)));
        assert!(stored.gone_on_from("b", body).is_err());
        assert_eq!((status("a", Method::DELETE, ""), status("a", Method::GET, "")), (200, 404));
    }

    #[test]
    fn a_run_has_ended_when_it_was_read_often_enough() {
        let stored = Stored::default();
        let run = || Some(Run { at_work: "at work".to_owned(), reads: 1 });
        put(&stored, "resp_1", run());
        put(&stored, "resp_2", run());
        let ask = |method: Method, id, below| stored.answer("a", &method, id, below).unwrap();
        assert_eq!(ask(Method::GET, "resp_1", ""), "at work");
        assert!(ask(Method::GET, "resp_1", "").contains("completed"));
        assert!(ask(Method::POST, "resp_1", "cancel").contains("completed"), "it had ended");
        assert!(ask(Method::POST, "resp_2", "cancel").contains("cancelled"));
        assert!(ask(Method::GET, "resp_2", "").contains("cancelled"));
    }
}
