//! A file that is uploaded: a form with the requests of a batch.

use super::fields::not_served;
use super::form::{Form, Kind, boundary, shown};
use super::lines::{self, Common};
use super::{BadRequest, bad};
use std::ops::Range;

/// What a file is for: nothing else that is sold takes one.
const PURPOSE: &str = "batch";
/// Fields beside the file that mean nothing to us.
const PASSED: [&str; 2] = ["expires_after[anchor]", "expires_after[seconds]"];

/// What the requests in an uploaded file ask, and where these stand in the body.
///
/// # Errors
/// When it is not a form with the file of a batch.
pub fn read(content_type: &str, body: &[u8]) -> Result<(Common, Range<usize>), BadRequest> {
    let boundary = boundary(content_type)?;
    let boundary = boundary.ok_or_else(|| not_served(&"a file is sent as multipart/form-data"))?;
    let form = Form::read(body, boundary)?;
    if let Some(other) = form.parts().iter().find(|part| !is_known(part.name)) {
        return Err(not_served(&format_args!(
            "the field `{}` is not known: leave it out",
            shown(other.name)
        )));
    }
    let purpose = form.text("purpose").ok_or_else(|| bad("purpose", "you must provide purpose"))?;
    if purpose.value != PURPOSE.as_bytes() {
        return Err(bad("purpose", "must be batch: nothing else that is sold here takes a file"));
    }
    let file = form.parts().iter().find(|part| part.name == "file" && part.kind == Kind::File);
    let file = file.ok_or_else(|| bad("file", "you must provide file"))?;
    Ok((lines::read(file.value, |_| Ok(()))?, file.place.clone()))
}

fn is_known(name: &str) -> bool {
    name == "purpose" || name == "file" || PASSED.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str =
        r#"{"custom_id":"1","method":"POST","url":"/v1/embeddings","body":{"model":"e","input":"a"}}"#;

    #[track_caller]
    fn check(parts: &[(&str, &str)], expect: Result<&str, &str>) {
        let part = |(head, value): &(&str, &str)| {
            format!("--b\r\ncontent-disposition: form-data; name={head}\r\n\r\n{value}\r\n")
        };
        let body = parts.iter().map(part).collect::<String>() + "--b--\r\n";
        let read = read("multipart/form-data; boundary=b", body.as_bytes());
        let told = read.as_ref().map(|(common, _)| &*common.model).map_err(|bad| &*bad.message);
        match (told, expect) {
            (Err(told), Err(expect)) => assert!(told.contains(expect), "{told}"),
            (told, expect) => assert_eq!(told, expect),
        }
    }

    #[test]
    fn a_file_is_of_a_batch_and_nothing_else() {
        let (file, purpose) = ((r#""file"; filename="x""#, LINE), (r#""purpose""#, "batch"));
        check(&[purpose, file], Ok("e"));
        check(&[file, (r#""expires_after[seconds]""#, "3600"), purpose], Ok("e"));
        check(&[file, (r#""purpose""#, "user_data")], Err("purpose: must be batch"));
        check(&[file], Err("purpose: you must provide"));
        check(&[purpose], Err("file: you must provide"));
        check(&[purpose, (r#""file""#, LINE)], Err("file: you must provide"));
        check(&[purpose, file, (r#""url""#, "x")], Err("`url` is not known"));
        check(&[purpose, (r#""file"; filename="x""#, "{}")], Err("line 1 of the file"));
        assert!(read("application/json", b"{}").unwrap_err().message.contains("multipart"));
    }
}
