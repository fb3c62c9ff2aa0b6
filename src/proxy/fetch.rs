//! Asking a provider for something small that is its customer's: whole, in bounds of bytes and time.
//!
//! A connection of its own each time: it is rare, and no kept one can be found closed. Nothing of it
//! counts for or against an account's health, which is about requests that are sold.

use super::context::BodyPermit;
use super::forward;
use super::respond::Refusal;
use crate::id::RequestId;
use crate::meter::{ANSWER_BYTES_MAX, Decoder};
use crate::upstream::Account;
use bytes::Bytes;
use http::{StatusCode, Version};
use pingora::connectors::http::Connector;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::ALPN;
use pingora_http::{RequestHeader, ResponseHeader};
use std::time::Duration;
use tokio::sync::Semaphore;

/// How many are asked for at once: each answer is held in memory.
const AT_ONCE_MAX: usize = 64;
/// How long one may take.
const TIME_MAX: Duration = Duration::from_secs(60);
/// What a client is told to wait when the provider does not say.
const WAIT: Duration = Duration::from_secs(1);

/// Asks providers.
pub struct Fetcher {
    connector: Connector,
    places: Semaphore,
}

impl Default for Fetcher {
    fn default() -> Self {
        Fetcher { connector: Connector::new(None), places: Semaphore::new(AT_ONCE_MAX) }
    }
}

/// What a provider said.
pub struct Fetched {
    /// Its header.
    pub header: ResponseHeader,
    /// All that came, as it was before any compression.
    pub body: Bytes,
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
        (account, path): (&Account, &str),
        permit: &mut BodyPermit,
    ) -> Result<Fetched, Refusal> {
        let Ok(_place) = self.places.try_acquire() else { return Err(Refusal::Overloaded) };
        let header = forward::request(client, account, path, request, 0);
        let mut header = header.map_err(|_| Refusal::Overloaded)?;
        // Whatever the client speaks.
        header.set_version(Version::HTTP_11);
        let asked = tokio::time::timeout(TIME_MAX, self.ask(account, header, permit));
        let fetched = match asked.await {
            Ok(Ok(fetched)) => fetched,
            Ok(Err(Failed::TooLarge)) => return Err(Refusal::Overloaded),
            Ok(Err(Failed::Broken(why))) => {
                tracing::warn!(upstream = &*account.name, %why, "what an upstream account keeps cannot be read");
                return Err(Refusal::UpstreamUnavailable { wait: WAIT });
            }
            Err(_) => return Err(Refusal::UpstreamTimeout),
        };
        match fetched.header.status {
            StatusCode::TOO_MANY_REQUESTS => {
                Err(Refusal::PoolBusy { wait: forward::report(&fetched.header).wait.unwrap_or(WAIT) })
            }
            StatusCode::UNAUTHORIZED | StatusCode::PAYMENT_REQUIRED | StatusCode::FORBIDDEN => {
                let status = fetched.header.status.as_u16();
                tracing::warn!(
                    upstream = &*account.name,
                    status,
                    "an upstream account may not read what it keeps"
                );
                Err(Refusal::UpstreamUnavailable { wait: WAIT })
            }
            status if status.is_success() || status.is_client_error() => Ok(fetched),
            _ => Err(Refusal::UpstreamUnavailable { wait: WAIT }),
        }
    }

    async fn ask(
        &self,
        account: &Account,
        header: RequestHeader,
        permit: &mut BodyPermit,
    ) -> Result<Fetched, Failed> {
        let unknown = || pingora::Error::new(pingora::ErrorType::ConnectNoRoute);
        let mut peer = forward::peer(account, account.address().ok_or_else(unknown)?);
        peer.options.alpn = ALPN::H1;
        let (mut session, _) = self.connector.get_http_session(&peer).await?;
        let read = read(&mut session, account, header, permit).await;
        session.shutdown().await;
        read
    }
}

async fn read(
    session: &mut HttpSession,
    account: &Account,
    header: RequestHeader,
    permit: &mut BodyPermit,
) -> Result<Fetched, Failed> {
    session.set_read_timeout(Some(account.timeouts.silence));
    session.set_write_timeout(Some(account.timeouts.silence));
    session.write_request_header(Box::new(header)).await?;
    session.finish_request_body().await?;
    let broken = || pingora::Error::new(pingora::ErrorType::InvalidHTTPHeader);
    let header = loop {
        session.read_response_header().await?;
        let header = session.response_header().ok_or_else(broken)?;
        if !header.status.is_informational() {
            break header.clone();
        }
    };
    let mut decoder: Option<Decoder> = forward::decoder(&header).map_err(|_| broken())?;
    let mut body = Vec::new();
    let mut take = |piece: &[u8]| {
        body.extend_from_slice(piece);
        let fits = permit.grow(piece.len()) && body.len() <= ANSWER_BYTES_MAX;
        if fits { Ok(()) } else { Err(Failed::TooLarge) }
    };
    while let Some(piece) = session.read_response_body().await? {
        match &mut decoder {
            Some(decoder) => take(&decoder.feed(&piece).map_err(|_| broken())?)?,
            None => take(&piece)?,
        }
    }
    if let Some(decoder) = decoder {
        take(&decoder.finish().map_err(|_| broken())?)?;
    }
    Ok(Fetched { header, body: body.into() })
}
