//! One `POST`: a connection of its own, a request, the head of the answer.

use std::borrow::Cow;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderMap, RETRY_AFTER, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::{Secret, Settings, body};
use crate::clock::Clock;
use crate::store::{files, tcp, tls};

/// The system's CAs are read again after this long, and behind every handshake that failed; a `ca_file`, at every `POST`.
const SYSTEM_CAS_KEPT: Duration = Duration::from_secs(3_600);

/// A receiver that asks for more patience is asked again all the same.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Why a `POST` failed: the label values of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The receiver can't be reached, or the connection broke.
    Connect,
    /// There is no TLS that both trust.
    Tls,
    /// No answer in time.
    Timeout,
    /// It answered that it can't now: 5xx, 408, 425 or 429.
    Unavailable,
    /// It answered that it never will, as things are: a redirect, or any other 4xx. A person may mend that.
    Refused,
    /// It answered that it will never have what it was told: 400, 409, 413 or 422.
    Unacceptable,
    /// The secret can't be read, and unsigned nothing is sent.
    Secret,
}

impl Failure {
    /// Each, in the order of [`Self::index`].
    pub const ALL: [Self; 7] =
        [Self::Connect, Self::Tls, Self::Timeout, Self::Unavailable, Self::Refused, Self::Unacceptable, Self::Secret];

    /// The name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::Refused => "refused",
            Self::Unacceptable => "unacceptable",
            Self::Secret => "secret",
        }
    }

    /// The place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// A `POST` that was not taken.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) why: Failure,
    /// For the log; nothing of what was sent stands in it.
    pub(super) what: String,
    /// How long the receiver asks us to wait.
    pub(super) retry_after: Option<Duration>,
}

impl Failed {
    fn new(why: Failure, what: impl Into<String>) -> Self {
        Self { why, what: what.into(), retry_after: None }
    }

    fn late(what: &str, timeout: Duration) -> Self {
        Self::new(Failure::Timeout, format!("no {what} within {timeout:?}"))
    }

    fn broken(error: impl std::fmt::Display) -> Self {
        Self::new(Failure::Connect, error.to_string())
    }
}

/// Whoever sends: to one receiver.
pub(super) struct Sender<'s> {
    settings: &'s Settings,
    /// The system's CAs, which are hundreds of files, and when they were read.
    system: Option<(TlsConnector, Instant)>,
}

impl<'s> Sender<'s> {
    pub(super) fn to(settings: &'s Settings) -> Self {
        Self { settings, system: None }
    }

    /// Sends a document, and waits for the first line of the answer.
    pub(super) async fn post(&mut self, document: &str, delivery: &str) -> Result<(), Failed> {
        let timeout = self.settings.timeout;
        let deadline = Instant::now() + timeout;
        let sent = tokio::time::timeout_at(deadline, self.send(document, delivery, deadline)).await;
        sent.unwrap_or_else(|_| Err(Failed::late("answer", timeout)))
    }

    async fn send(&mut self, document: &str, delivery: &str, deadline: Instant) -> Result<(), Failed> {
        let url = &self.settings.url;
        let request = self.request(document, delivery).await?;
        let stream = tcp::connect(&url.host, url.port, deadline).await;
        let stream = stream.ok_or_else(|| Failed::late("connection", self.settings.timeout))?;
        let stream = stream.map_err(Failed::broken)?;
        let _ = stream.set_nodelay(true);
        if !url.secure {
            return exchange(stream, request).await;
        }
        let no_name = |_| Failed::new(Failure::Tls, "no certificate can be for the host of the URL");
        let name = ServerName::try_from(url.host.clone()).map_err(no_name)?;
        let stream = self.connector().await?.connect(name, stream).await;
        if stream.is_err() {
            self.system = None;
        }
        exchange(stream.map_err(|error| Failed::new(Failure::Tls, error.to_string()))?, request).await
    }

    async fn connector(&mut self) -> Result<TlsConnector, Failed> {
        if let Some((known, read)) = &self.system
            && read.elapsed() < SYSTEM_CAS_KEPT
        {
            return Ok(known.clone());
        }
        let read = Instant::now();
        let ca_file = self.settings.ca_file.as_deref();
        let config = tls::for_webhooks(ca_file).await.map_err(|what| Failed::new(Failure::Tls, what))?;
        let connector = TlsConnector::from(config);
        self.system = ca_file.is_none().then(|| (connector.clone(), read));
        Ok(connector)
    }

    async fn request(&self, document: &str, delivery: &str) -> Result<Request<Full<Bytes>>, Failed> {
        let Settings { url, secret, .. } = self.settings;
        let mut request = Request::post(&url.target)
            .header(HOST, &url.authority)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("presence-reaper/", env!("CARGO_PKG_VERSION")))
            .header(CONNECTION, "close")
            .header("Presence-Reaper-Delivery", delivery);
        if let Some(secret) = secret {
            let secret = read(secret).await.map_err(|what| Failed::new(Failure::Secret, what))?;
            let seconds = Clock::wall().millis() / 1_000;
            request = request.header("Presence-Reaper-Signature", body::signature(&secret, seconds, document));
        }
        let document = Full::new(Bytes::copy_from_slice(document.as_bytes()));
        request.body(document).map_err(|error| Failed::new(Failure::Refused, format!("it can't be asked: {error}")))
    }
}

/// The request over this connection. What else the answer says is nobody's concern.
async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<(), Failed>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(Failed::broken)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let answer = sender.send_request(request).await.map_err(Failed::broken)?;
    judge(answer.status(), answer.headers())
}

fn judge(status: StatusCode, headers: &HeaderMap) -> Result<(), Failed> {
    let failed = |why, remedy: &str| {
        let retry_after = headers.get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?));
        Err(Failed { why, what: format!("it answers {status}{remedy}"), retry_after })
    };
    match status.as_u16() {
        200..=299 => Ok(()),
        400 | 409 | 413 | 422 => failed(Failure::Unacceptable, ""),
        408 | 425 | 429 | 500.. => failed(Failure::Unavailable, ""),
        300..=399 => failed(Failure::Refused, ", and redirects are not followed: write the URL that it leads to"),
        _ => failed(Failure::Refused, ""),
    }
}

/// Seconds, or a date.
fn retry_after(text: &str) -> Option<Duration> {
    let wait = match text.trim().parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text.trim()).ok()?;
            let millis = at.as_millisecond().saturating_sub(Clock::wall().millis());
            Duration::from_millis(u64::try_from(millis).unwrap_or_default())
        }
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

async fn read(secret: &Secret) -> Result<Cow<'_, [u8]>, String> {
    match secret {
        Secret::Text(text) => Ok(text.as_bytes().into()),
        Secret::File(path) => {
            files::secret(path).await.map(Cow::from).map_err(|what| format!("the secret file {what}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_success_a_refusal_or_a_wish_for_patience() {
        let judged = |status: u16, header: Option<&str>| {
            let mut headers = HeaderMap::new();
            header.map(|text| headers.insert(RETRY_AFTER, text.parse().unwrap()));
            let judged = judge(StatusCode::from_u16(status).unwrap(), &headers);
            judged.map_err(|failed| (failed.why, failed.retry_after.map(|wait| wait.as_secs())))
        };
        assert_eq!([200, 204, 299].map(|status| judged(status, None)), [Ok(()); 3]);
        for status in [408, 425, 429, 500, 503, 599] {
            assert_eq!(judged(status, None), Err((Failure::Unavailable, None)), "{status}");
        }
        for status in [400, 409, 413, 422] {
            assert_eq!(judged(status, None), Err((Failure::Unacceptable, None)), "{status}");
        }
        for status in [301, 308, 401, 403, 404, 405, 410, 415] {
            assert_eq!(judged(status, None), Err((Failure::Refused, None)), "{status}");
        }
        assert_eq!(judged(503, Some("7")), Err((Failure::Unavailable, Some(7))));
        assert_eq!(judged(503, Some("86400")), Err((Failure::Unavailable, Some(300))));
        assert_eq!(judged(503, Some("Sun, 06 Nov 1994 08:49:37 GMT")), Err((Failure::Unavailable, Some(0))));
        assert_eq!(judged(503, Some("Sat, 06 Nov 2094 08:49:37 GMT")), Err((Failure::Unavailable, Some(300))));
        assert_eq!(judged(503, Some("soon")), Err((Failure::Unavailable, None)));
    }
}
