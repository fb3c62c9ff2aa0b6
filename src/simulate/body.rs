//! Bodies of answers: a script run in time, and the log in pages.

use super::log::{Entry, Log, line};
use super::stream::{Script, Step};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Sleep, sleep};

/// Entries of the log in one frame: bounds what is cloned under its lock.
const PAGE_ENTRIES: usize = 1_000;

/// A script that is sent step by step, and the log entry that tells how far it went.
pub(super) struct Paced {
    script: Script,
    pace: Duration,
    pause: Option<Pin<Box<Sleep>>>,
    /// Until the last byte is handed over.
    entry: Option<Entry>,
    /// The next poll breaks the connection.
    cutting: bool,
}

impl Paced {
    pub fn new(script: Script, pace: Duration, entry: Entry) -> Self {
        let mut paced = Paced { script, pace, pause: None, entry: Some(entry), cutting: false };
        // An empty body is never polled.
        paced.complete_if_over();
        paced
    }

    fn sent(&mut self, tokens: u64) {
        if let Some(entry) = &mut self.entry {
            entry.served.chunks_sent = entry.served.chunks_sent.saturating_add(1);
            entry.served.tokens_sent += tokens;
        }
        if !self.pace.is_zero() {
            self.pause = Some(Box::pin(sleep(self.pace)));
        }
    }

    /// Logs before the last byte goes out, so that who has the answer finds it in the log.
    fn complete_if_over(&mut self) {
        if self.script.is_over()
            && let Some(entry) = self.entry.take()
        {
            entry.complete();
        }
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        if let Some(pause) = &mut this.pause {
            ready!(pause.as_mut().poll(cx));
            this.pause = None;
        }
        if this.cutting {
            // Logged before the connection closes.
            this.entry = None;
            return Poll::Ready(Some(Err(io::Error::other("cut as asked"))));
        }
        match this.script.next() {
            Some(Step::Send { bytes, content }) => {
                if let Some(content) = content {
                    this.sent(content.tokens);
                }
                this.complete_if_over();
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Some(Step::Cut) => {
                // One turn of waiting lets the server write out what it has, before the error
                // makes it throw away its buffer with the connection.
                this.cutting = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.script.is_over() && !self.cutting
    }

    fn size_hint(&self) -> SizeHint {
        self.script.length().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// The log from its oldest entry to the newest one at the time of asking, as JSON lines.
pub(super) struct Pages {
    log: Arc<Log>,
    next: u64,
    end: u64,
}

impl Pages {
    pub fn of(log: Arc<Log>) -> Self {
        let end = log.end();
        Pages { log, next: 0, end }
    }
}

impl Body for Pages {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        let (page, next) = this.log.page(this.next, this.end, PAGE_ENTRIES);
        this.next = next;
        if page.is_empty() {
            return Poll::Ready(None);
        }
        let lines: Vec<u8> = page.iter().flat_map(line).collect();
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(lines)))))
    }
}
