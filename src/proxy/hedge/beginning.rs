//! The beginning of an answer: one attempt, up to the first byte that its client could be given.

use super::rules;
use crate::proxy::attempt::{bounds, fault_of};
use crate::proxy::forward;
use crate::proxy::forward::Verdict;
use crate::proxy::request::Comes;
use crate::proxy::send::{Answered, send};
use crate::upstream::Account;
use crate::upstream::health::Fault;
use bytes::{Bytes, BytesMut};
use pingora::connectors::http::Connector;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::{HttpPeer, Peer};
use pingora::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// Errors are far shorter.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// A request on its way to an account.
pub struct Outgoing {
    pub account: Arc<Account>,
    pub address: SocketAddr,
    pub header: RequestHeader,
    pub body: Bytes,
    /// How its answer comes.
    pub comes: Comes,
    /// When its client had asked.
    pub started: Instant,
}

/// An answer that has begun.
pub struct Beginning {
    pub header: ResponseHeader,
    /// What was read of its body: the first piece of a stream, an error that says in it what it is for.
    ahead: Option<Bytes>,
    /// Whether the request was taken whole.
    is_whole: bool,
    session: HttpSession,
    peer: HttpPeer,
}

/// Why there is no beginning.
pub enum Lost {
    /// There was no connection: nothing was sent.
    Unconnected(Box<Error>),
    /// It broke, or took too long.
    Broke {
        /// By what.
        error: Box<Error>,
        /// Whether nothing had come of a connection that had been kept.
        reused: bool,
    },
}

impl Lost {
    fn broke(error: Box<Error>, reused: bool) -> Self {
        Lost::Broke { error: error.into_up(), reused }
    }

    /// Whose fault it is; `None` where a connection that had been kept was found closed: nobody's.
    pub fn fault(&self) -> Option<Fault> {
        match self {
            Lost::Unconnected(_) => Some(Fault::Connect),
            Lost::Broke { error, reused } => match fault_of(error) {
                Fault::Timeout => Some(Fault::Timeout),
                fault => (!reused).then_some(fault),
            },
        }
    }
}

impl Outgoing {
    /// Sends it, and waits until its answer begins.
    ///
    /// # Errors
    /// When it does not. Who drops this closes the connection.
    pub async fn begin(self, connector: &Connector) -> Result<Beginning, Lost> {
        let peer = forward::peer(&self.account, self.address);
        let connected = connector.get_http_session(&peer).await;
        let (session, reused) = connected.map_err(|error| {
            self.account.addresses().unreached(self.address);
            Lost::Unconnected(error)
        })?;
        let by = bounds(&self.account, self.comes, self.started).begins_by();
        let begun = async {
            let begun = self.exchange(session, &peer, reused).await;
            if let Err(Lost::Broke { error, .. }) = &begun
                && matches!(error.etype(), ErrorType::H2Downgrade | ErrorType::InvalidH2)
            {
                connector.prefer_h1(&peer);
            }
            begun
        };
        let Some(by) = by else { return begun.await };
        let late = || Error::explain(ErrorType::ReadTimedout, "the answer does not begin in time");
        tokio::time::timeout_at(by.into(), begun).await.unwrap_or_else(|_| Err(Lost::broke(late(), reused)))
    }

    async fn exchange(
        self,
        mut session: HttpSession,
        peer: &HttpPeer,
        reused: bool,
    ) -> Result<Beginning, Lost> {
        let sent = send(&mut session, self.header, self.body, self.account.timeouts.silence);
        let Answered { header, is_whole } = sent.await.map_err(|error| Lost::broke(error, reused))?;
        let ahead = match forward::judge(&header, self.comes) {
            Verdict::Stream | Verdict::Audio => {
                first(&mut session).await.map_err(|error| Lost::broke(error, false))?
            }
            Verdict::Judge => Some(error(&mut session).await),
            Verdict::Plain | Verdict::Refusal | Verdict::Fault(_) => None,
        };
        Ok(Beginning { header, ahead, is_whole, session, peer: peer.clone() })
    }
}

impl Beginning {
    /// Whether the client can be given it, or whose fault it is.
    ///
    /// # Errors
    /// When the account is at fault.
    pub fn judge(&self, comes: Comes) -> Result<(), Fault> {
        forward::decoder(&self.header)?;
        let wait = forward::report(&self.header).wait;
        rules::judge(forward::judge(&self.header, comes), self.ahead.as_deref(), wait)
    }

    /// The next piece of its body, as soon as it comes; none at the end.
    ///
    /// # Errors
    /// When it broke off.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        match self.ahead.take() {
            Some(piece) => Ok(Some(piece)),
            None => self.session.read_response_body().await.map_err(Error::into_up),
        }
    }

    /// It was read to its end: its connection is there for others, unless it is of no more use.
    pub async fn release(self, connector: &Connector) {
        if self.is_whole {
            let idle = self.peer.idle_timeout();
            connector.release_http_session(self.session, &self.peer, idle).await;
        }
    }
}

/// The first piece of a body that has any bytes.
async fn first(session: &mut HttpSession) -> Result<Option<Bytes>> {
    while let Some(piece) = session.read_response_body().await? {
        if !piece.is_empty() {
            return Ok(Some(piece));
        }
    }
    Ok(None)
}

/// What there is of an error, whether or not it breaks off.
async fn error(session: &mut HttpSession) -> Bytes {
    let mut body = BytesMut::new();
    while body.len() < ERROR_BYTES_MAX
        && let Ok(Some(piece)) = session.read_response_body().await
    {
        body.extend_from_slice(&piece);
    }
    body.freeze()
}
