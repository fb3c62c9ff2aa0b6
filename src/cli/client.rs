//! The admin API's client.

use super::{Failed, Global};
use crate::admin::BY;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use ureq::http::{HeaderValue, Response, StatusCode};
use ureq::{Agent, Body, BodyReader};

/// The longest that the gateway may take: a whole journal is verified in this time.
const TIMEOUT: Duration = Duration::from_secs(600);
/// The largest answer: a page of a statement is far smaller.
const ANSWER_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Below which the admin API is served.
const PATH: &str = "/admin/v1";

/// Talks to one gateway.
pub struct Client {
    agent: Agent,
    base: String,
    token: String,
    by: Option<HeaderValue>,
    /// Whether to print JSON.
    pub json: bool,
}

impl Client {
    /// For the gateway that the command line names, with the token of the environment.
    ///
    /// # Errors
    /// When there is no token.
    pub(super) fn new(global: &Global) -> Result<Self, Failed> {
        let token = std::env::var("TOLLGATE_ADMIN_TOKEN").unwrap_or_default();
        if token.is_empty() {
            return Err(Failed::Usage("set TOLLGATE_ADMIN_TOKEN to the admin token of the gateway".into()));
        }
        let by = global
            .operator
            .as_deref()
            .filter(|by| !by.is_empty())
            .map(|by| HeaderValue::from_bytes(by.as_bytes()));
        let by = by
            .transpose()
            .map_err(|_| Failed::Usage("--operator must be a name without control characters".into()))?;
        Ok(Client { by, ..Self::with_token(&global.admin, &token, global.json) })
    }

    /// For the gateway at `base`.
    pub fn with_token(base: &str, token: &str, json: bool) -> Self {
        let base = format!("{}{PATH}", base.trim_end_matches('/'));
        Client { agent: agent(TIMEOUT), base, token: format!("Bearer {token}"), by: None, json }
    }

    /// The same, but it waits no longer than this for an answer.
    pub fn within(self, timeout: Duration) -> Self {
        Client { agent: agent(timeout), ..self }
    }

    /// Where the gateway is.
    pub fn gateway(&self) -> &str {
        self.base.strip_suffix(PATH).unwrap_or(&self.base)
    }

    /// Asks for text that everyone may see, at a URL of its own.
    ///
    /// # Errors
    /// When it is not there.
    pub fn text(&self, url: &str, bytes_max: u64) -> Result<String, Failed> {
        let unreachable = |why: ureq::Error| Failed::Failed(format!("{url} cannot be reached: {why}"));
        let mut answer = self.agent.get(url).call().map_err(unreachable)?;
        if !answer.status().is_success() {
            return Err(Failed::Failed(format!("{url} answers {}", answer.status())));
        }
        answer.body_mut().with_config().limit(bytes_max).read_to_string().map_err(unreachable)
    }

    /// Asks for something.
    ///
    /// # Errors
    /// When the gateway cannot be reached or refuses.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failed> {
        let url = format!("{}{path}", self.base);
        let ask = || self.agent.get(&url).header("authorization", &self.token).call();
        let mut sent = ask();
        // A long statement is many pages: it waits as it is told to.
        while let Some(wait) = sent.as_ref().ok().and_then(told_to_wait) {
            std::thread::sleep(wait);
            sent = ask();
        }
        self.read(sent)
    }

    /// Sends something.
    ///
    /// # Errors
    /// When the gateway cannot be reached or refuses.
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failed> {
        let mut request =
            self.agent.post(format!("{}{path}", self.base)).header("authorization", &self.token);
        if let Some(by) = &self.by {
            request = request.header(BY, by);
        }
        self.read(request.send_json(body))
    }

    /// Asks for lines, however long they take.
    ///
    /// # Errors
    /// When the gateway cannot be reached or refuses.
    pub fn stream(&self, path: &str) -> Result<BodyReader<'static>, Failed> {
        let url = format!("{}{path}", self.base);
        let request = self.agent.get(url).header("authorization", &self.token);
        let mut response =
            request.config().timeout_global(None).build().call().map_err(|why| self.unreachable(&why))?;
        if !response.status().is_success() {
            let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
            let body = body.map_err(|why| self.unreachable(&why))?;
            return Err(Failed::Refused(refusal(response.status().as_u16(), &body)));
        }
        Ok(response.into_body().into_reader())
    }

    fn unreachable(&self, why: &ureq::Error) -> Failed {
        let base = &self.base;
        Failed::Failed(format!(
            "the gateway's admin API at {base} cannot be reached: {why}; is it running? See --admin"
        ))
    }

    fn read<T: DeserializeOwned>(&self, sent: Result<Response<Body>, ureq::Error>) -> Result<T, Failed> {
        let base = &self.base;
        let mut response = sent.map_err(|why| self.unreachable(&why))?;
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let body = body.map_err(|why| self.unreachable(&why))?;
        if !response.status().is_success() {
            return Err(Failed::Refused(refusal(response.status().as_u16(), &body)));
        }
        serde_json::from_slice(&body)
            .map_err(|why| Failed::Failed(format!("the answer of {base} is not that of a gateway: {why}")))
    }
}

fn agent(timeout: Duration) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(timeout))
        // The token goes where it was told to go, not to a proxy of the environment.
        .proxy(None)
        .build();
    config.into()
}

/// How long until it may be asked again, if it was asked too often.
fn told_to_wait(response: &Response<Body>) -> Option<Duration> {
    let seconds = response.headers().get("retry-after")?.to_str().ok()?.parse().ok()?;
    (response.status() == StatusCode::TOO_MANY_REQUESTS).then_some(Duration::from_secs(seconds))
}

fn refusal(status: u16, body: &[u8]) -> String {
    let error: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let message = error.as_ref().and_then(|error| error["error"]["message"].as_str());
    message.map_or_else(|| format!("the gateway answered {status}"), str::to_owned)
}
