//! The downstream session of an admitted exchange: Pingora's own, with five changes.
//!
//! - The request's body is kept, whole, for every attempt.
//! - The end of the answer waits until the charge is durable; a plain answer waits as a whole, so
//!   that its header can say the charge.
//! - What of a stream is not held yet waits until it is; if no more can be held, the stream ends.
//! - A client that hangs up may let the provider's answer be drained to its reported usage.
//! - An operator who ends the exchange ends it as a client would who hangs up, but never drains.
//!
//! Pingora calls this a custom session. Its inner session is handed back through a slot when this
//! one is dropped, so that the client's connection can be used again.

use super::bill::{End, Settled};
use super::exchange::{Exchange, Then, no_more};
use super::line::Line;
use crate::ledger::Down;
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, header, response};
use pingora::protocols::Digest;
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::custom::CustomMessageWrite;
use pingora::protocols::http::custom::server::Session as CustomSession;
use pingora::protocols::http::server::Session as HttpSession;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::{Error, ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use std::sync::Arc;
use std::time::Duration;

/// What a plain answer cost, in USD.
const CHARGE: HeaderName = HeaderName::from_static("x-tollgate-charge");

/// Puts `session` under the rules of `exchange`.
pub fn keep(session: &mut pingora_proxy::Session, exchange: &Arc<Exchange>, line: &Arc<Line>) {
    let dummy = HttpSession::new_custom(Box::new(()));
    let inner = std::mem::replace(&mut session.downstream_session, Box::new(dummy));
    let kept =
        Kept { inner: Some(inner), exchange: Arc::clone(exchange), line: Arc::clone(line), header: None };
    *session.downstream_session = HttpSession::new_custom(Box::new(kept));
}

/// Takes the rules off again.
pub fn restore(session: &mut pingora_proxy::Session, line: &Line) {
    if session.downstream_session.is_custom() {
        // Dropping the kept session puts the inner one into the slot.
        *session.downstream_session = HttpSession::new_custom(Box::new(()));
        if let Some(inner) = line.inner.lock().take() {
            session.downstream_session = inner;
        }
    }
}

struct Kept {
    inner: Option<Box<HttpSession>>,
    exchange: Arc<Exchange>,
    line: Arc<Line>,
    /// The header of a plain answer, until its end is known.
    header: Option<Box<ResponseHeader>>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        *self.line.inner.lock() = self.inner.take();
    }
}

impl Kept {
    fn inner(&self) -> &HttpSession {
        self.inner.as_ref().expect("present until dropped")
    }

    fn inner_mut(&mut self) -> &mut HttpSession {
        self.inner.as_mut().expect("present until dropped")
    }

    /// Puts what Pingora wants written into the order in which it may be written.
    async fn release(&mut self, tasks: Vec<HttpTask>) -> Result<(Vec<HttpTask>, Then)> {
        let mut out = Vec::with_capacity(tasks.len() + 1);
        for mut task in tasks {
            let ends = task.is_end() && !matches!(task, HttpTask::Failed(_));
            if ends {
                // The end may come without a piece of body, which the hooks would have seen.
                self.end(&mut out)?;
                while self.exchange.is_short() {
                    if let HttpTask::Body(last @ Some(_), true) = &mut task {
                        out.push(HttpTask::Body(last.take(), false));
                    }
                    if self.cover(&mut out).await == Then::Ends {
                        return Ok((out, Then::Ends));
                    }
                    self.end(&mut out)?;
                }
            }
            if matches!(task, HttpTask::Header(..)) {
                // One withheld in an earlier attempt will never be sent.
                self.header = None;
            }
            match task {
                HttpTask::Header(header, _) if header.status.is_informational() => {}
                HttpTask::Header(header, false) if self.exchange.is_held_back() => self.header = Some(header),
                HttpTask::Body(Some(piece), false) if piece.is_empty() => {}
                HttpTask::Body(None, false) => {}
                other => out.push(other),
            }
        }
        let then = self.cover(&mut out).await;
        if !out.is_empty()
            && let Some(settled) = self.exchange.settled().await
        {
            self.settle(&mut out, settled)?;
        }
        Ok((out, then))
    }

    /// The answer has ended: what is left of it passes.
    fn end(&self, out: &mut Vec<HttpTask>) -> Result<()> {
        let left = self.exchange.end().map_err(|why| unusable(why.0))?;
        if !left.is_empty() {
            out.push(HttpTask::Body(Some(left), false));
        }
        Ok(())
    }

    /// Waits until what is kept back is held, and lets it pass.
    async fn cover(&self, out: &mut Vec<HttpTask>) -> Then {
        let Some((piece, then)) = self.exchange.more().await else { return Then::On };
        if !piece.is_empty() {
            out.push(HttpTask::Body(Some(piece), false));
        }
        then
    }

    /// Writes what may be written, unless the client is gone; tells whether the answer has ended.
    async fn write(&mut self, tasks: Vec<HttpTask>, ends: bool) -> Result<bool> {
        if self.line.gone_since().is_some() {
            return tasks.into_iter().try_fold(ends, |ends, task| match task {
                HttpTask::Failed(error) => Err(error),
                _ => Ok(ends),
            });
        }
        if tasks.is_empty() {
            return Ok(false);
        }
        match self.inner_mut().response_duplex_vec(tasks).await {
            Err(error) if *error.esource() == pingora::ErrorSource::Downstream => {
                self.line.went(error)?;
                Ok(ends)
            }
            other => other,
        }
    }

    /// The charge is durable: completes the header of a plain answer.
    fn settle(&mut self, out: &mut Vec<HttpTask>, settled: Result<Settled, Down>) -> Result<()> {
        let settled = settled
            .map_err(|Down| Error::explain(ErrorType::InternalError, "the charge cannot be made durable"))?;
        let Some(header) = self.header.take() else { return Ok(()) };
        let length: usize = out.iter().map(piece_length).sum();
        let charge = settled.charge.to_string().try_into();
        let mut parts = response::Parts::from(*header);
        parts.headers.remove(header::TRANSFER_ENCODING);
        parts.headers.insert(header::CONTENT_LENGTH, length.into());
        // Of what runs on, nobody knows it yet.
        if settled.end != End::Running {
            parts.headers.insert(CHARGE, charge.or_err(ErrorType::InvalidHTTPHeader, "a charge")?);
        }
        out.insert(0, HttpTask::Header(Box::new(parts.into()), false));
        Ok(())
    }
}

/// An error that lets the request be tried elsewhere, as long as nothing was written.
pub fn unusable(why: &'static str) -> Box<Error> {
    Error::explain(ErrorType::InvalidHTTPHeader, format!("the provider's answer cannot be used: {why}"))
        .into_up()
}

fn piece_length(task: &HttpTask) -> usize {
    match task {
        HttpTask::Body(Some(piece), _) => piece.len(),
        _ => 0,
    }
}

#[async_trait]
impl CustomSession for Kept {
    fn get_retry_buffer(&self) -> Option<Bytes> {
        Some(self.exchange.upstream_body())
    }

    fn retry_buffer_truncated(&self) -> bool {
        false
    }

    fn is_body_done(&mut self) -> bool {
        true
    }

    fn is_body_empty(&mut self) -> bool {
        false
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        Ok(None)
    }

    async fn read_body_or_idle(&mut self, _no_body_expected: bool) -> Result<Option<Bytes>> {
        let Kept { inner, exchange, line, .. } = self;
        let inner = inner.as_mut().expect("present until dropped");
        tokio::select! {
            biased;
            () = exchange.permit.stopped() => {
                Err(Error::explain(ErrorType::ConnectionClosed, "the operator ended it").into_down())
            }
            heard = line.listen(inner.read_body_or_idle(true)) => heard,
        }
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let ends = tasks.iter().any(HttpTask::is_end);
        let (tasks, then) = self.release(tasks).await?;
        let ended = self.write(tasks, ends).await?;
        match then {
            Then::On => Ok(ended),
            Then::Ends => Err(no_more()),
        }
    }

    async fn write_response_header(&mut self, header: Box<ResponseHeader>, _end: bool) -> Result<()> {
        self.inner_mut().write_response_header(header).await
    }

    async fn write_response_header_ref(&mut self, header: &ResponseHeader, _end: bool) -> Result<()> {
        self.inner_mut().write_response_header_ref(header).await
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.inner_mut().write_response_body(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.inner_mut().write_response_trailers(trailers).await
    }

    fn req_header(&self) -> &RequestHeader {
        self.inner().req_header()
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        self.inner_mut().req_header_mut()
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        Ok(())
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.inner_mut().set_read_timeout(timeout);
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.inner().get_read_timeout()
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.inner_mut().set_write_timeout(timeout);
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.inner().get_write_timeout()
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.inner_mut().set_total_drain_timeout(timeout);
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.inner().get_total_drain_timeout()
    }

    fn request_summary(&self) -> String {
        self.inner().request_summary()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.inner().response_written()
    }

    async fn shutdown(&mut self, _code: u32, _context: &str) {
        self.inner_mut().shutdown().await;
    }

    async fn finish(&mut self) -> Result<()> {
        self.inner_mut().finish_body().await
    }

    fn body_bytes_sent(&self) -> usize {
        self.inner().body_bytes_sent()
    }

    fn body_bytes_read(&self) -> usize {
        self.inner().body_bytes_read()
    }

    fn digest(&self) -> Option<&Digest> {
        self.inner().digest()
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.inner_mut().digest_mut()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.inner().client_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.inner().server_addr()
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        self.inner().to_h1_raw()
    }

    fn enable_retry_buffering(&mut self) {}

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn futures_util::Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _reader: Box<dyn futures_util::Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _writer: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
