//! Files that an account keeps: uploaded as a form, listed, read and deleted.

use super::faults::scramble;
use super::refusal::Refusal;
use bytes::Bytes;
use futures_util::FutureExt;
use http::Method;
use multer::Multipart;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::convert::Infallible;

/// How many are kept; the oldest are forgotten.
const FILES_MAX: usize = 1_000;

/// A file as it is kept.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub account: String,
    pub id: String,
    pub name: String,
    pub purpose: String,
    pub bytes: Bytes,
    /// Seconds since the epoch.
    pub created: i64,
}

/// What is answered about files.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Object(String),
    Content(Bytes),
}

/// All files of all accounts.
#[derive(Default)]
pub(super) struct Files {
    all: Mutex<VecDeque<File>>,
}

impl Files {
    /// Keeps a file, and tells it.
    pub fn put(&self, file: File) -> String {
        let told = file.told().to_string();
        let mut all = self.all.lock();
        all.push_back(file);
        if all.len() > FILES_MAX {
            all.pop_front();
        }
        told
    }

    /// What is answered to who asks for a file, or for `below` it; without a name, for all of theirs.
    pub fn answer(&self, account: &str, method: &Method, id: &str, below: &str) -> Result<Said, Refusal> {
        let mut all = self.all.lock();
        if id.is_empty() {
            let theirs = all.iter().rev().filter(|file| file.account == account);
            let data: Vec<Value> = theirs.map(File::told).collect();
            let list = json!({ "object": "list", "data": data, "has_more": false });
            return Ok(Said::Object(list.to_string()));
        }
        let found = all.iter().position(|file| file.account == account && file.id == id);
        let found = found.ok_or_else(|| Refusal::no_file(id))?;
        if *method == Method::DELETE {
            all.remove(found);
            return Ok(Said::Object(json!({ "id": id, "object": "file", "deleted": true }).to_string()));
        }
        Ok(match below {
            "content" => Said::Content(all[found].bytes.clone()),
            _ => Said::Object(all[found].told().to_string()),
        })
    }
}

impl File {
    /// Reads an upload of this account, the one of this number.
    pub fn read(
        account: &str,
        (content_type, body): (&str, Bytes),
        number: u64,
        created: i64,
    ) -> Result<Self, Refusal> {
        let boundary = multer::parse_boundary(content_type).map_err(|_| Refusal::not_json())?;
        let stream = futures_util::stream::once(async move { Ok::<_, Infallible>(body) });
        let mut parts = Multipart::new(stream, boundary);
        let (mut purpose, mut file) = (None, None);
        // All of it is there: nothing is waited for.
        while let Some(field) =
            parts.next_field().now_or_never().and_then(Result::ok).ok_or_else(Refusal::not_json)?
        {
            let (name, file_name) = (field.name().map(str::to_owned), field.file_name().map(str::to_owned));
            let value = field.bytes().now_or_never().and_then(Result::ok).ok_or_else(Refusal::not_json)?;
            match (name.as_deref(), file_name) {
                (Some("file"), Some(name)) => file = Some((name, value)),
                (Some("purpose"), None) => purpose = Some(String::from_utf8_lossy(&value).into_owned()),
                _ => {}
            }
        }
        let (name, bytes) = file.ok_or_else(|| Refusal::missing("file"))?;
        let purpose = purpose.ok_or_else(|| Refusal::missing("purpose"))?;
        let id = format!("file-{:016x}", scramble(number));
        Ok(File { account: account.to_owned(), id, name, purpose, bytes, created })
    }

    fn told(&self) -> Value {
        json!({
            "id": self.id, "object": "file", "bytes": self.bytes.len(), "created_at": self.created,
            "filename": self.name, "purpose": self.purpose, "status": "processed", "status_details": null,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: &str = "multipart/form-data; boundary=b";

    fn upload(files: &Files, account: &str, number: u64) -> String {
        let part = |head: &str, value: &str| {
            format!("--b\r\ncontent-disposition: form-data; {head}\r\n\r\n{value}\r\n")
        };
        let form = part("name=\"purpose\"", "batch") + &part("name=\"file\"; filename=\"x\"", "words");
        let file = File::read(account, (KIND, (form + "--b--\r\n").into()), number, 7).unwrap();
        let id = file.id.clone();
        let told: Value = serde_json::from_str(&files.put(file)).unwrap();
        assert_eq!((&told["bytes"], &told["filename"]), (&json!(5), &json!("x")));
        id
    }

    #[test]
    fn a_file_is_there_for_its_account_until_it_is_deleted() {
        let files = Files::default();
        let id = upload(&files, "a", 1);
        upload(&files, "b", 2);
        let status = |account, method, below| {
            files.answer(account, &method, &id, below).map_or_else(|refusal| refusal.status, |_| 200)
        };
        assert_eq!((status("a", Method::GET, ""), status("b", Method::GET, "")), (200, 404));
        assert_eq!(files.answer("a", &Method::GET, &id, "content"), Ok(Said::Content("words".into())));
        let Ok(Said::Object(list)) = files.answer("a", &Method::GET, "", "") else { panic!() };
        assert_eq!(list.matches("\"id\"").count(), 1);
        assert_eq!((status("a", Method::DELETE, ""), status("a", Method::GET, "content")), (200, 404));
        assert!(File::read("a", ("application/json", Bytes::new()), 1, 7).is_err());
    }
}
