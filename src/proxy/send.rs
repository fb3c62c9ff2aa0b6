//! Sending a request over a connection of our own, beside those that Pingora opens.

use bytes::Bytes;
use http::{Uri, Version, header};
use pingora::protocols::http::client::HttpSession;
use pingora::{Error, ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use std::time::Duration;

/// The beginning of an answer.
pub struct Answered {
    /// Its header.
    pub header: ResponseHeader,
    /// Whether the request was taken whole; else its connection is of no use to others.
    pub is_whole: bool,
}

/// Sends a request, and waits for the header of its answer; `silence` is the longest pause at each step.
///
/// # Errors
/// When there is none in time, or the connection breaks.
pub async fn send(
    session: &mut HttpSession,
    mut header: RequestHeader,
    body: Bytes,
    silence: Duration,
) -> Result<Answered> {
    session.set_read_timeout(Some(silence));
    session.set_write_timeout(Some(silence));
    // Whatever the client speaks.
    match session {
        HttpSession::H2(_) => name_authority(&mut header)?,
        HttpSession::H1(_) | HttpSession::Custom(()) => header.set_version(Version::HTTP_11),
    }
    session.write_request_header(Box::new(header)).await?;
    match send_body(session, body).await {
        Ok(()) => Ok(Answered { header: read_header(session).await?, is_whole: true }),
        Err(error) if *error.etype() == ErrorType::WriteTimedout => Err(error),
        // Who refuses a request need not have read all of it.
        Err(error) => match read_header(session).await {
            Ok(header) => Ok(Answered { header, is_whole: false }),
            Err(_) => Err(error),
        },
    }
}

async fn send_body(session: &mut HttpSession, body: Bytes) -> Result<()> {
    if !body.is_empty() {
        session.write_request_body(body, true).await?;
    }
    session.finish_request_body().await
}

async fn read_header(session: &mut HttpSession) -> Result<ResponseHeader> {
    loop {
        session.read_response_header().await?;
        let header = session.response_header();
        let header = header.ok_or_else(|| Error::explain(ErrorType::InvalidHTTPHeader, "there is none"))?;
        if !header.status.is_informational() {
            return Ok(header.clone());
        }
    }
}

/// HTTP/2, which is spoken over TLS only, has the host in the URI.
fn name_authority(header: &mut RequestHeader) -> Result<()> {
    let host = header.remove_header(&header::HOST);
    let path = header.uri.path_and_query().cloned();
    let uri = Uri::builder()
        .scheme("https")
        .authority(host.as_ref().map(|host| host.as_bytes()).unwrap_or_default())
        .path_and_query(path.ok_or_else(|| Error::explain(ErrorType::InvalidHTTPHeader, "no path"))?)
        .build();
    header.set_uri(uri.or_err(ErrorType::InvalidHTTPHeader, "the address of an account")?);
    header.set_version(Version::HTTP_2);
    Ok(())
}
