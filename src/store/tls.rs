//! TLS to the server: the operator's files, the handshake, and what a refusal means.
//!
//! We make the TLS session ourselves and hand the client a stream: the client would load the system's roots on every
//! dial, even beside a CA of one's own, hides the server's certificate, and can't be told which name to verify.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, InconsistentKeys, RootCertStore,
    SignatureScheme,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::Kind;
use super::files;
use crate::policy::entry::Timestamp;
use crate::text;

/// How the server is verified, and who we are to it. The files are read again at every dial.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// PEM file of the CAs that may have signed the server's certificate; the system's if none.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate, where the server asks for one.
    pub identity: Option<IdentityFiles>,
    /// The name that the server's certificate must be for; the host of the URL if none.
    pub server_name: Option<String>,
}

/// PEM files of a client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The certificate, and behind it those that lead up to its CA.
    pub cert_file: PathBuf,
    /// Its private key, not encrypted.
    pub key_file: PathBuf,
}

/// Whether a certificate can be for `name` at all: a DNS name or an IP address.
pub fn is_server_name(name: &str) -> bool {
    ServerName::try_from(name).is_ok()
}

/// What is wrong, and how to mend it; the caller knows with whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) what: String,
    pub(super) remedy: String,
}

impl Refusal {
    fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }
}

/// More than this is no file of certificates, and shall not fill our memory.
const LARGEST_FILE: u64 = 4 << 20;

/// All that a handshake needs, read from the files a moment ago.
pub(super) struct Prepared<'s> {
    settings: &'s Settings,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    ours: Arc<Ours>,
    /// When our own certificate ends.
    pub(super) client_expiry: Option<Timestamp>,
}

/// A session, and when the server's certificate ends.
pub(super) struct Session {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) server_expiry: Option<Timestamp>,
}

/// Our certificate, if any, and whether the server asked for it. In TLS 1.3 a server that wants one tells us after the
/// handshake, or just hangs up; knowing that it asked explains the silence.
struct Ours {
    key: Option<Arc<CertifiedKey>>,
    asked: AtomicBool,
}

impl Ours {
    fn new(key: Option<Arc<CertifiedKey>>) -> Arc<Self> {
        Arc::new(Self { key, asked: AtomicBool::new(false) })
    }
}

impl fmt::Debug for Ours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ours").finish_non_exhaustive()
    }
}

impl ResolvesClientCert for Ours {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.key.clone()
    }

    fn has_certs(&self) -> bool {
        self.key.is_some()
    }
}

// === files ===

impl<'s> Prepared<'s> {
    /// Reads the files, for a server that is reached as `host`.
    pub(super) async fn read(settings: &'s Settings, host: &str) -> Result<Self, Refusal> {
        let name = settings.server_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned()).map_err(|_| {
            Refusal::new(
                "no certificate can be for the host of the URL",
                "say the right name by `server_name` in [redis]",
            )
        })?;
        let roots = roots(settings.ca_file.as_deref()).await?;
        let provider = Arc::new(ring::default_provider());
        let (key, client_expiry) = match &settings.identity {
            Some(files) => read_identity(files, &provider).await.map(|(key, expiry)| (Some(key), expiry))?,
            None => (None, None),
        };
        let ours = Ours::new(key);
        let config =
            client_config(roots, provider, Arc::clone(&ours) as Arc<dyn ResolvesClientCert>).map_err(|error| {
                Refusal::new(
                    format!("TLS can't be set up: {error}"),
                    "this is a mistake in presence-reaper: please report it",
                )
            })?;
        Ok(Self { settings, config, name, ours, client_expiry })
    }
}

/// What a webhook is reached with: these CAs, or the system's, as they are now.
///
/// # Errors
/// A sentence that says why they can't be read.
pub async fn for_webhooks(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let roots = roots(ca_file).await.map_err(|refusal| format!("{} (see `ca_file` beside `webhook`)", refusal.what))?;
    let config = client_config(roots, Arc::new(ring::default_provider()), Ours::new(None));
    config.map_err(|error| format!("TLS can't be set up: {error}"))
}

/// A client that trusts these CAs, and is who that resolver says.
fn client_config(
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
    ours: Arc<dyn ResolvesClientCert>,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = config.with_root_certificates(roots).with_client_cert_resolver(ours);
    // Files are read anew; a resumed session would be one with the old ones.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

async fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, Refusal> {
    match ca_file {
        Some(path) => roots_of(path).await,
        None => system_roots().await,
    }
}

async fn roots_of(path: &Path) -> Result<RootCertStore, Refusal> {
    let pem = read("CA file", path).await?;
    let holds = "it must hold at least one `-----BEGIN CERTIFICATE-----` block";
    let certificates = certificates(&pem).map_err(|why| unreadable("CA file", path, &why))?;
    if certificates.is_empty() {
        let what = format!("the CA file {} holds no certificate in PEM form", path.display());
        return Err(Refusal::new(what, format!("{holds}; see `ca_file` in [redis]")));
    }
    let mut roots = RootCertStore::empty();
    let (good, bad) = roots.add_parsable_certificates(certificates);
    if good == 0 {
        let what = format!("none of the {bad} certificates in the CA file {} can be read", path.display());
        return Err(Refusal::new(what, "see `ca_file` in [redis]"));
    }
    Ok(roots)
}

async fn system_roots() -> Result<RootCertStore, Refusal> {
    // Reads a few hundred files on some systems, which must not hold up the other loops.
    let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await.unwrap_or_default();
    let mut roots = RootCertStore::empty();
    if roots.add_parsable_certificates(found.certs).0 > 0 {
        return Ok(roots);
    }
    let why = found.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
    let remedy = "install ca-certificates, or name the file of the server's CA by `ca_file` in [redis]";
    Err(Refusal::new(format!("this system has no CA certificates{why}"), remedy))
}

type Identity = (Arc<CertifiedKey>, Option<Timestamp>);

async fn read_identity(files: &IdentityFiles, provider: &CryptoProvider) -> Result<Identity, Refusal> {
    let IdentityFiles { cert_file, key_file } = files;
    let chain = certificates(&read("certificate file", cert_file).await?)
        .map_err(|why| unreadable("certificate file", cert_file, &why))?;
    if chain.is_empty() {
        let what = format!("the certificate file {} holds no certificate in PEM form", cert_file.display());
        return Err(Refusal::new(what, "see `cert_file` in [redis]"));
    }
    let key = PrivateKeyDer::from_pem_slice(&read("key file", key_file).await?).map_err(|_| {
        let what = format!("the key file {} holds no private key in PEM form", key_file.display());
        Refusal::new(what, "it must not be encrypted; see `key_file` in [redis]")
    })?;
    let expiry = first_end(&chain);
    let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => Refusal::new(
            format!("the key in {} does not belong to the certificate in {}", key_file.display(), cert_file.display()),
            "see `cert_file` and `key_file` in [redis]",
        ),
        error => unreadable("key file", key_file, &error),
    })?;
    Ok((Arc::new(key), expiry))
}

async fn read(what: &str, path: &Path) -> Result<Vec<u8>, Refusal> {
    files::read(path, LARGEST_FILE).await.map_err(|error| unreadable(what, path, &error))
}

fn unreadable(what: &str, path: &Path, why: &dyn fmt::Display) -> Refusal {
    let key = match what {
        "CA file" => "ca_file",
        "key file" => "key_file",
        _ => "cert_file",
    };
    Refusal::new(format!("the {what} {} can't be read: {why}", path.display()), format!("see `{key}` in [redis]"))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, rustls::pki_types::pem::Error> {
    CertificateDer::pem_slice_iter(pem).collect()
}

/// When the first of a chain's certificates ends.
fn first_end(chain: &[CertificateDer<'_>]) -> Option<Timestamp> {
    let end = |certificate: &CertificateDer<'_>| {
        let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
        Some(Timestamp::from_millis(certificate.validity().not_after.timestamp().checked_mul(1_000)?))
    };
    chain.iter().filter_map(end).min()
}

// === handshake ===

impl Prepared<'_> {
    /// Makes the session.
    pub(super) async fn handshake(&self, stream: TcpStream) -> Result<Session, Failed> {
        let stream = TlsConnector::from(Arc::clone(&self.config)).connect(self.name.clone(), stream).await;
        let stream = stream.map_err(|error| self.failed(&error))?;
        let server_expiry = stream.get_ref().1.peer_certificates().and_then(first_end);
        Ok(Session { stream, server_expiry })
    }

    fn failed(&self, error: &io::Error) -> Failed {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match inner {
            Some(rustls::Error::InvalidCertificate(why)) => Failed::Refused(self.distrust(why)),
            Some(rustls::Error::AlertReceived(alert)) => Failed::Refused(self.alerted(*alert)),
            Some(rustls::Error::PeerIncompatible(why)) => Failed::Refused(Refusal::new(
                format!("the server speaks no TLS that the reaper knows: {why:?}"),
                "it must offer TLS 1.2 or 1.3",
            )),
            _ => Failed::Broken(Kind::Connect, error.to_string()),
        }
    }

    /// Why we do not trust the server's certificate.
    fn distrust(&self, why: &CertificateError) -> Refusal {
        let its = "the certificate of the server";
        match why {
            CertificateError::UnknownIssuer => match &self.settings.ca_file {
                Some(path) => Refusal::new(
                    format!("{its} is signed by no CA in {}", path.display()),
                    "put the CA that signed it into `ca_file` in [redis], and let the server send what lies between",
                ),
                None => Refusal::new(
                    format!("{its} is signed by no CA that this system trusts"),
                    "name the file of its CA by `ca_file` in [redis] or --redis-tls-ca-file",
                ),
            },
            CertificateError::NotValidForName => self.wrong_name(&[]),
            CertificateError::NotValidForNameContext { presented, .. } => self.wrong_name(presented),
            CertificateError::Expired => Refusal::new(format!("{its} has expired"), RENEW),
            CertificateError::ExpiredContext { not_after, .. } => {
                Refusal::new(format!("{its} expired at {}", in_utc(*not_after)), RENEW)
            }
            CertificateError::NotValidYet => Refusal::new(format!("{its} is not valid yet"), CLOCK),
            CertificateError::NotValidYetContext { not_before, .. } => {
                Refusal::new(format!("{its} is not valid before {}", in_utc(*not_before)), CLOCK)
            }
            // It has no variant of its own in what rustls hands on.
            CertificateError::Other(other) if other.0.to_string() == CA_AS_SERVER => Refusal::new(
                format!("{its} is that of a CA, as `openssl req -x509` makes it"),
                "have one issued for the server by that CA, or make it with -addext basicConstraints=critical,CA:FALSE",
            ),
            other => {
                Refusal::new(format!("{its} is not acceptable: {other}"), "have another one issued for the server")
            }
        }
    }

    fn wrong_name(&self, presented: &[String]) -> Refusal {
        let names: Vec<String> = presented.iter().take(MOST_NAMES).map(|name| plain_name(name)).collect();
        let names = if names.is_empty() { "no name at all".to_owned() } else { names.join(", ") };
        Refusal::new(
            format!("the certificate of the server is for {names}, not for {}", self.name.to_str()),
            "connect by its name, or say that by `server_name` in [redis] or --redis-tls-server-name",
        )
    }

    /// What the server means by an alert.
    fn alerted(&self, alert: AlertDescription) -> Refusal {
        self.about_ours(&format!("{alert:?}")).unwrap_or_else(|| {
            Refusal::new(format!("the server refuses TLS with us: {alert:?}"), "see the server's log")
        })
    }

    /// What a connection that broke before its first answer has to do with our certificate, if the server asked for one.
    pub(super) fn about_ours(&self, detail: &str) -> Option<Refusal> {
        if !self.ours.asked.load(Ordering::Relaxed) {
            return None;
        }
        let Some(files) = &self.settings.identity else {
            return Some(Refusal::new(
                "the server asks for a client certificate and none is configured",
                "name it by `cert_file` and `key_file` in [redis], or set `tls-auth-clients no` on the server",
            ));
        };
        let why = alert_in_words(detail).map(|word| format!(": {word}")).unwrap_or_default();
        Some(Refusal::new(
            format!("the server refuses our certificate in {}{why}", files.cert_file.display()),
            "is it of a CA that the server knows (`tls-ca-cert-file` there), and still valid?",
        ))
    }
}

/// What webpki calls it where a CA's own certificate stands for a server.
const CA_AS_SERVER: &str = "CaUsedAsEndEntity";

const MOST_NAMES: usize = 4;
const RENEW: &str = "renew it on the server, or mend the clock here";
const CLOCK: &str = "mend the clock here or there";

/// A session that did not come about.
pub(super) enum Failed {
    /// Somebody refused somebody.
    Refused(Refusal),
    /// What came was no TLS, or nothing; it may be worth asking what the server speaks.
    Broken(Kind, String),
}

/// Our words for the alerts about a client certificate. Of an alert that comes after the handshake the client keeps no
/// more than its text.
fn alert_in_words(detail: &str) -> Option<&'static str> {
    let words = [
        ("CertificateExpired", "it has expired"),
        ("CertificateRevoked", "it was revoked"),
        ("UnknownCA", "its CA is unknown there"),
        ("BadCertificate", "it is bad"),
        ("UnsupportedCertificate", "it is of an unsupported kind"),
    ];
    words.into_iter().find(|(alert, _)| detail.contains(alert)).map(|(_, word)| word)
}

/// `DnsName("a.example")` → `a.example`, quoted where a stranger's certificate holds more than a name.
fn plain_name(presented: &str) -> String {
    let inner = presented.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(presented);
    text::shortened(inner.trim_matches('"').as_bytes(), 80)
}

fn in_utc(time: UnixTime) -> String {
    let second = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(second).map_or_else(|_| "the end of time".to_owned(), |time| time.to_string())
}

// === which of the two is spoken ===

/// The first message of a TLS client, for asking a server whether it speaks TLS; nothing is verified by it.
pub(super) fn client_hello() -> Option<Vec<u8>> {
    let config = client_config(RootCertStore::empty(), Arc::new(ring::default_provider()), Ours::new(None)).ok()?;
    let name = ServerName::try_from("localhost").ok()?;
    let mut connection = ClientConnection::new(config, name).ok()?;
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).ok()?;
    Some(hello)
}

/// Whether a server that answers with this byte speaks TLS: a handshake, or an alert.
pub(super) fn is_tls(first: u8) -> bool {
    matches!(first, 0x15 | 0x16)
}
