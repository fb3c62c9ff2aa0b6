//! Asking a provider for something of its customer's: in bounds of bytes and time.
//!
//! A connection of its own each time: it is rare, and no kept one can be found closed. Nothing of it
//! counts for or against an account's health, which is about requests that are sold.

use super::context::BodyPermit;
use super::forward;
use super::respond::Refusal;
use super::send::{Answered, send};
use crate::id::RequestId;
use crate::meter::{ANSWER_BYTES_MAX, Decoder};
use crate::upstream::Account;
use bytes::Bytes;
use http::{Method, StatusCode};
use pingora::connectors::http::Connector;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::ALPN;
use pingora_http::{RequestHeader, ResponseHeader};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// How many are asked for at once: each answer is held in memory.
const AT_ONCE_MAX: usize = 64;
/// How many are read piece by piece at once: each is a connection to a provider.
const STREAMED_MAX: usize = 256;
/// How long one may take.
const TIME_MAX: Duration = Duration::from_secs(60);
/// Errors are far shorter.
const ERROR_BYTES_MAX: usize = 64 * 1024;
/// What a client is told to wait when the provider does not say.
const WAIT: Duration = Duration::from_secs(1);

/// Asks providers.
pub struct Fetcher {
    connector: Connector,
    places: Semaphore,
    streams: Semaphore,
}

impl Default for Fetcher {
    fn default() -> Self {
        let (places, streams) = (Semaphore::new(AT_ONCE_MAX), Semaphore::new(STREAMED_MAX));
        Fetcher { connector: Connector::new(None), places, streams }
    }
}

/// What a provider said.
pub struct Fetched {
    /// Its header.
    pub header: ResponseHeader,
    /// All that came, as it was before any compression.
    pub body: Bytes,
}

/// What a provider says, piece by piece.
pub struct Opened<'a> {
    /// Its header.
    pub header: ResponseHeader,
    session: HttpSession,
    decoder: Option<Decoder>,
    _place: Option<SemaphorePermit<'a>>,
}

/// Why there is nothing to give.
enum Failed {
    /// No connection, or it broke, or what came is no answer.
    Broken(Box<pingora::Error>),
    /// It is larger than what is held in memory.
    TooLarge,
}

impl From<Box<pingora::Error>> for Failed {
    fn from(why: Box<pingora::Error>) -> Self {
        Failed::Broken(why)
    }
}

impl Fetcher {
    /// Asks `account` for what stands at `path` of it, as `client` asks. What the provider refuses by
    /// the request's own fault is an answer, too.
    ///
    /// # Errors
    /// When there is none that the client could be given.
    pub async fn fetch(
        &self,
        client: &RequestHeader,
        request: RequestId,
        at: (&Account, &str),
        permit: &mut BodyPermit,
    ) -> Result<Fetched, Refusal> {
        self.send((client, Bytes::new()), request, at, permit).await
    }

    /// The same with a body.
    ///
    /// # Errors
    /// When there is no answer that the client could be given.
    pub async fn send(
        &self,
        (client, body): (&RequestHeader, Bytes),
        request: RequestId,
        (account, path): (&Account, &str),
        permit: &mut BodyPermit,
    ) -> Result<Fetched, Refusal> {
        let Ok(_place) = self.places.try_acquire() else { return Err(Refusal::Overloaded) };
        let header = forward::request(client, account, path, request, body.len());
        let header = header.map_err(|_| Refusal::Overloaded)?;
        let asked = tokio::time::timeout(TIME_MAX, async {
            let opened = self.ask(account, header, body).await?;
            read_all(opened, permit).await
        });
        let fetched = told(account, asked.await.ok())?;
        judge(account, &fetched.header)?;
        Ok(fetched)
    }

    /// The same as [`Fetcher::fetch`], of what may be larger than what is held in memory.
    ///
    /// # Errors
    /// When there is nothing that the client could be given.
    pub async fn open(
        &self,
        client: &RequestHeader,
        request: RequestId,
        (account, path): (&Account, &str),
    ) -> Result<Opened<'_>, Refusal> {
        let Ok(place) = self.streams.try_acquire() else { return Err(Refusal::Overloaded) };
        let header = forward::request(client, account, path, request, 0).map_err(|_| Refusal::Overloaded)?;
        let asked = tokio::time::timeout(TIME_MAX, self.ask(account, header, Bytes::new()));
        let mut opened = told(account, asked.await.ok())?;
        judge(account, &opened.header)?;
        opened._place = Some(place);
        Ok(opened)
    }

    async fn ask(
        &self,
        account: &Account,
        mut header: RequestHeader,
        body: Bytes,
    ) -> Result<Opened<'static>, Failed> {
        // Also of whom wants the header alone.
        if header.method == Method::HEAD {
            header.set_method(Method::GET);
        }
        let unknown = || pingora::Error::new(pingora::ErrorType::ConnectNoRoute);
        let address = account.address().ok_or_else(unknown)?;
        let mut peer = forward::peer(account, address);
        peer.options.alpn = ALPN::H1;
        let connected = self.connector.get_http_session(&peer).await;
        let (mut session, _) = connected.inspect_err(|_| account.addresses().unreached(address))?;
        let sent = send(&mut session, header, body, account.timeouts.silence);
        let Answered { header, .. } = sent.await?;
        let decoder = forward::decoder(&header).map_err(|_| broken())?;
        Ok(Opened { header, session, decoder, _place: None })
    }
}

impl Opened<'_> {
    /// Whether its length is what its header says.
    pub fn is_plain(&self) -> bool {
        self.decoder.is_none()
    }

    /// What comes first of it, whether or not it breaks off: as much as an error has.
    pub async fn beginning(&mut self) -> Bytes {
        let mut beginning = Vec::new();
        while beginning.len() < ERROR_BYTES_MAX
            && let Ok(Some(piece)) = self.next().await
        {
            beginning.extend_from_slice(&piece);
        }
        beginning.into()
    }

    /// The next piece, as it was before any compression; none at the end.
    ///
    /// # Errors
    /// When it broke off.
    pub async fn next(&mut self) -> pingora::Result<Option<Bytes>> {
        while let Some(piece) = self.session.read_response_body().await? {
            let piece = match &mut self.decoder {
                Some(decoder) => decoder.feed(&piece).map_err(|_| broken())?,
                None => piece,
            };
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
        let Some(decoder) = self.decoder.take() else { return Ok(None) };
        let last = decoder.finish().map_err(|_| broken())?;
        Ok((!last.is_empty()).then_some(last))
    }
}

async fn read_all(mut opened: Opened<'_>, permit: &mut BodyPermit) -> Result<Fetched, Failed> {
    let mut body = Vec::new();
    while let Some(piece) = opened.next().await? {
        body.extend_from_slice(&piece);
        if !permit.grow(piece.len()) || body.len() > ANSWER_BYTES_MAX {
            return Err(Failed::TooLarge);
        }
    }
    opened.session.shutdown().await;
    Ok(Fetched { header: opened.header, body: body.into() })
}

fn broken() -> Box<pingora::Error> {
    pingora::Error::new(pingora::ErrorType::InvalidHTTPHeader)
}

/// What came, or why nothing did; `None` where it took too long.
fn told<T>(account: &Account, asked: Option<Result<T, Failed>>) -> Result<T, Refusal> {
    match asked {
        Some(Ok(answer)) => Ok(answer),
        Some(Err(Failed::TooLarge)) => Err(Refusal::Overloaded),
        Some(Err(Failed::Broken(why))) => {
            tracing::warn!(upstream = &*account.name, %why, "what an upstream account keeps cannot be read");
            Err(Refusal::UpstreamUnavailable { wait: WAIT })
        }
        None => Err(Refusal::UpstreamTimeout),
    }
}

/// Whether an answer is for the client.
fn judge(account: &Account, header: &ResponseHeader) -> Result<(), Refusal> {
    match header.status {
        StatusCode::TOO_MANY_REQUESTS => {
            Err(Refusal::PoolBusy { wait: forward::report(header).wait.unwrap_or(WAIT) })
        }
        StatusCode::UNAUTHORIZED | StatusCode::PAYMENT_REQUIRED | StatusCode::FORBIDDEN => {
            let status = header.status.as_u16();
            tracing::warn!(
                upstream = &*account.name,
                status,
                "an upstream account may not read what it keeps"
            );
            Err(Refusal::UpstreamUnavailable { wait: WAIT })
        }
        status if status.is_success() || status.is_client_error() => Ok(()),
        _ => Err(Refusal::UpstreamUnavailable { wait: WAIT }),
    }
}
