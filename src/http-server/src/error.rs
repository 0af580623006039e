//! What can go wrong on the server's side. What is wrong with a request is a [`Refusal`](crate::Refusal).

use std::io;
use std::path::PathBuf;

use rustls::pki_types::pem;

/// The result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The operation that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Error {
    #[error("cannot start thread {name}")]
    Thread { name: String, source: io::Error },
    #[error("thread {name} panicked: this is a bug")]
    Panicked { name: String },

    // The certificate and its key.
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is larger than 1 MiB: it is no certificate or key")]
    LargePem { path: PathBuf },
    #[error("{path} is damaged: it is not PEM")]
    Pem { path: PathBuf, source: pem::Error },
    #[error("{path} has no certificate in PEM (`-----BEGIN CERTIFICATE-----`)")]
    NoCertificate { path: PathBuf },
    #[error("{path} has no private key in PEM (`-----BEGIN PRIVATE KEY-----`)")]
    NoKey { path: PathBuf },
    #[error("the private key in {path} has a passphrase: write one without with `openssl pkey`")]
    EncryptedKey { path: PathBuf },
    #[error("cannot use the certificate {certificate} with the key {key}")]
    Certificate { certificate: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("cannot configure TLS")]
    Tls { source: rustls::Error },
}
