//! A certificate authority of one's own, which also issues what no good one would.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use tempfile::TempDir;

use super::server::Tls;

/// A CA, and a directory for the files that it issues.
pub(crate) struct Authority {
    dir: TempDir,
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// What a certificate says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaf {
    /// For whom it is: names and addresses.
    pub(crate) names: &'static [&'static str],
    /// The year in which it begins to be valid, on the first of January.
    pub(crate) from: i32,
    /// The year in which it ends, on the first of January.
    pub(crate) to: i32,
}

impl Leaf {
    /// Valid, and for where the tests' servers are.
    pub(crate) const GOOD: Self = Self { names: &["localhost", "127.0.0.1"], from: 2020, to: 2090 };
}

impl Authority {
    /// A new one, with a key that nobody has seen.
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let key_text = key.serialize_pem();
        let authority = Self { dir: TempDir::new().unwrap(), certificate, issuer: Issuer::new(params, key) };
        fs::write(authority.ca_file(), authority.certificate.pem()).unwrap();
        fs::write(authority.dir().join("ca.key"), key_text).unwrap();
        authority
    }

    /// Its directory.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its own certificate.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.dir().join("ca.pem")
    }

    /// A server's side of TLS by those who let the CA's own certificate stand for the server.
    pub(crate) fn as_server(&self) -> Tls {
        let (cert_file, key_file) = (self.ca_file(), self.dir().join("ca.key"));
        Tls { cert_file, key_file, ca_file: self.ca_file(), client_certificates: false }
    }

    /// Issues a certificate into `NAME.pem` and its key into `NAME.key`, over what stood there; the two files.
    pub(crate) fn issue(&self, name: &str, leaf: Leaf) -> (PathBuf, PathBuf) {
        let names: Vec<String> = leaf.names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(leaf.from, 1, 1);
        params.not_after = date_time_ymd(leaf.to, 1, 1);
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (cert_file, key_file) = (self.dir().join(format!("{name}.pem")), self.dir().join(format!("{name}.key")));
        fs::write(&cert_file, certificate.pem()).unwrap();
        fs::write(&key_file, key.serialize_pem()).unwrap();
        (cert_file, key_file)
    }

    /// A server's side of TLS, with a certificate from here.
    pub(crate) fn server(&self, leaf: Leaf, client_certificates: bool) -> Tls {
        let (cert_file, key_file) = self.issue("server", leaf);
        Tls { cert_file, key_file, ca_file: self.ca_file(), client_certificates }
    }
}
