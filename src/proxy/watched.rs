//! A client's connection, watched while it sends the header of an HTTP/1.1 request: Pingora bounds
//! each read, not the whole, and takes headers of a megabyte. Of HTTP/2, whose idle connections
//! Pingora bounds, the first bytes are watched: for them it would wait for ever.
//!
//! A header that comes too slowly or is too large is answered here, since Pingora hands nothing to
//! the hooks before it is whole. An ordinary header comes in one read and costs a look at the clock.

use super::respond::Refusal;
use crate::config::HeaderLimits;
use crate::record::metrics::Metrics;
use async_trait::async_trait;
use bytes::Bytes;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream,
    TimingDigest, UniqueID, UniqueIDType,
};
use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// What every connection of HTTP/2 begins with, and Pingora reads before it decides between HTTP/1.1
/// and h2c. No request is shorter that has a key.
pub const H2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// See the module.
pub struct Watched {
    inner: Stream,
    limits: HeaderLimits,
    metrics: Arc<Metrics>,
    /// One of those below: the hooks see the connection shared.
    phase: AtomicU8,
    /// Of this header.
    bytes: usize,
    since: Option<Instant>,
    /// Only when it does not come at once.
    timer: Option<Pin<Box<Sleep>>>,
}

/// A header is being read.
const HEADER: u8 = 0;
/// A request is served: its body, if anything, is read.
const REQUEST: u8 = 1;
/// The same, and nothing may follow on it.
const LAST: u8 = 2;
/// It was served: what is read next is another header.
const NEXT: u8 = 3;
/// The first bytes of HTTP/2 are being read.
const PREFACE: u8 = 4;

/// What may follow on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Another one.
    Next,
    /// The end of the connection.
    Close,
}

impl Watched {
    /// Watches a connection that was opened at `opened`: until then its first header has to come.
    pub fn new(inner: Stream, limits: HeaderLimits, opened: Instant, metrics: Arc<Metrics>) -> Self {
        // Over TLS it is known before the first byte what is spoken.
        let is_h2 = matches!(inner.selected_alpn_proto(), Some(ALPN::H2));
        let phase = AtomicU8::new(if is_h2 { PREFACE } else { HEADER });
        Watched { inner, limits, metrics, phase, bytes: 0, since: Some(opened), timer: None }
    }

    /// The connection of a request, if it is watched.
    pub fn of(stream: &Stream) -> Option<&Self> {
        // The trait's own `as_any`, not that of the box.
        (**stream).as_any().downcast_ref()
    }

    /// A header follows, if it may. The first one needs no saying.
    pub fn expect_header(&self) -> Then {
        let _ = self.phase.compare_exchange(REQUEST, NEXT, Ordering::Relaxed, Ordering::Relaxed);
        if self.phase.load(Ordering::Relaxed) == LAST { Then::Close } else { Then::Next }
    }

    /// The header was read.
    pub fn header_came(&self, then: Then) {
        let phase = match then {
            Then::Next => REQUEST,
            Then::Close => LAST,
        };
        self.phase.store(phase, Ordering::Relaxed);
    }

    /// Reads a piece of a header within its bounds.
    fn poll_header(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.bytes > self.limits.bytes_max {
            return Poll::Ready(Err(self.shed(cx, &Refusal::HeaderTooLarge)));
        }
        let before = buf.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut self.inner).poll_read(cx, buf) {
            self.bytes += buf.filled().len() - before;
            self.since.get_or_insert_with(Instant::now);
            if *self.phase.get_mut() == PREFACE && self.bytes >= H2_PREFACE.len() {
                self.phase = AtomicU8::new(REQUEST);
            }
            return Poll::Ready(read);
        }
        // Before the first byte of a further request, Pingora's bound of idle connections counts.
        let Some(since) = self.since else { return Poll::Pending };
        let until = since + self.limits.timeout;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until.into())));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(self.shed(cx, &Refusal::HeaderTimeout)))
    }

    /// Says why, as far as that can be written at once, and fails.
    fn shed(&mut self, cx: &mut Context<'_>, refusal: &Refusal) -> io::Error {
        self.metrics.shed(refusal.reason());
        let text = match *self.phase.get_mut() {
            PREFACE => Bytes::new(),
            _ => refusal.wire(),
        };
        if let Poll::Ready(Ok(_)) = Pin::new(&mut self.inner).poll_write(cx, &text) {
            let _ = Pin::new(&mut self.inner).poll_flush(cx);
        }
        io::Error::new(io::ErrorKind::TimedOut, refusal.reason())
    }
}

/// Tells a client over HTTP/1.1 why its connection is not served. It may not listen.
pub async fn turn_away(stream: &mut Stream, refusal: &Refusal) {
    use tokio::io::AsyncWriteExt;
    const PATIENCE: Duration = Duration::from_millis(100);
    let text: Bytes = refusal.wire();
    let told = async {
        stream.write_all(&text).await?;
        stream.flush().await
    };
    if let Ok(Ok(())) = tokio::time::timeout(PATIENCE, told).await {
        let _ = stream.shutdown().await;
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watched").field(&self.inner).finish()
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.phase.load(Ordering::Relaxed) {
            REQUEST | LAST => return Pin::new(&mut self.inner).poll_read(cx, buf),
            NEXT => {
                (self.bytes, self.since, self.timer) = (0, None, None);
                self.phase.store(HEADER, Ordering::Relaxed);
            }
            _ => {}
        }
        self.poll_header(cx, buf)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[async_trait]
impl Shutdown for Watched {
    async fn shutdown(&mut self) {
        self.inner.shutdown().await;
    }
}

#[async_trait]
impl Peek for Watched {
    async fn try_peek(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        self.inner.try_peek(buf).await
    }
}

impl UniqueID for Watched {
    fn id(&self) -> UniqueIDType {
        self.inner.id()
    }
}

impl Ssl for Watched {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.inner.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.inner.selected_alpn_proto()
    }
}

impl GetTimingDigest for Watched {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner.get_timing_digest()
    }
}

impl GetProxyDigest for Watched {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.inner.get_proxy_digest()
    }
}

impl GetSocketDigest for Watched {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner.get_socket_digest()
    }
}
