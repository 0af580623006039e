//! The certificate and its key: PEM files, which are read again when they change.

use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::error::chain;
use base::sync::Mutex;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::error::{Error, Result};

/// The files are looked at once in this time, if clients connect.
const INTERVAL: Duration = Duration::from_secs(1);

/// The most bytes of a file.
const LARGEST: u64 = 1 << 20;

/// TLS 1.2 and 1.3, HTTP/1.1 only, with the certificate chain and the private key of two PEM files. Later
/// connections use what the files have by then; while that cannot be used, what they had before.
pub fn config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>> {
    let provider = Arc::new(ring::default_provider());
    let files = Files { certificate: certificate.to_owned(), key: key.to_owned() };
    let resolver = Reloading::open(files, Arc::clone(&provider))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| Error::Tls { source })?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

/// What tells versions of the files apart.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version([Option<(u64, u64, i64, i64)>; 2]);

impl Files {
    fn version(&self) -> Version {
        let of = |metadata: Metadata| {
            (metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec())
        };
        Version([&self.certificate, &self.key].map(|path| fs::metadata(path).ok().map(of)))
    }

    fn load(&self, provider: &CryptoProvider) -> Result<CertifiedKey> {
        let chain = read(&self.certificate)?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&chain)
            .collect::<std::result::Result<_, _>>()
            .map_err(|source| Error::Pem { path: self.certificate.clone(), source })?;
        if chain.is_empty() {
            return Err(Error::NoCertificate { path: self.certificate.clone() });
        }
        let path = || self.key.clone();
        let text = read(&self.key)?;
        let key = PrivateKeyDer::from_pem_slice(&text).map_err(|source| match source {
            PemError::NoItemsFound if is_encrypted(&text) => Error::EncryptedKey { path: path() },
            PemError::NoItemsFound => Error::NoKey { path: path() },
            source => Error::Pem { path: path(), source },
        })?;
        CertifiedKey::from_der(chain, key, provider).map_err(|source| Error::Certificate {
            certificate: self.certificate.clone(),
            key: path(),
            source,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let open = File::open(path);
    open.and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes))
        .map_err(|source| Error::Read { path: path.to_owned(), source })?;
    if bytes.len() as u64 > LARGEST {
        return Err(Error::LargePem { path: path.to_owned() });
    }
    Ok(bytes)
}

fn is_encrypted(pem: &[u8]) -> bool {
    let mark = b"BEGIN ENCRYPTED PRIVATE KEY";
    pem.windows(mark.len()).any(|part| part == mark)
}

/// The certificate as the files have it.
#[derive(Debug)]
struct Reloading {
    files: Files,
    provider: Arc<CryptoProvider>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    current: Arc<CertifiedKey>,
    version: Version,
    checked: Instant,
}

impl Reloading {
    fn open(files: Files, provider: Arc<CryptoProvider>) -> Result<Self> {
        // The version first: a change while the files are read is seen at the next look.
        let version = files.version();
        let current = Arc::new(files.load(&provider)?);
        let state = State { current, version, checked: Instant::now() };
        Ok(Self { files, provider, state: Mutex::new(state) })
    }

    /// Reads the files if they have changed.
    fn refresh(&self) {
        let version = self.files.version();
        if self.state.lock().version == version {
            return;
        }
        let loaded = self.files.load(&self.provider);
        let mut state = self.state.lock();
        state.version = version;
        match loaded {
            Ok(key) => {
                state.current = Arc::new(key);
                log::info!("certificate read again; path={}", self.files.certificate.display());
            }
            Err(error) => {
                log::warn!("the former certificate stays in use; error={}", chain(&error));
            }
        }
    }

    /// The certificate to use now; its files are looked at if that is due.
    fn current(&self, interval: Duration) -> Arc<CertifiedKey> {
        let is_due = {
            let mut state = self.state.lock();
            let is_due = state.checked.elapsed() >= interval;
            if is_due {
                state.checked = Instant::now();
            }
            is_due
        };
        if is_due {
            self.refresh();
        }
        Arc::clone(&self.state.lock().current)
    }
}

impl ResolvesServerCert for Reloading {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current(INTERVAL))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str) -> (String, String) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn files(folder: &Path) -> Files {
        Files { certificate: folder.join("cert.pem"), key: folder.join("key.pem") }
    }

    fn write(files: &Files, certificate: &str, key: &str) {
        fs::write(&files.certificate, certificate).unwrap();
        fs::write(&files.key, key).unwrap();
    }

    fn error(certificate: &str, key: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        write(&files, certificate, key);
        let error = config(&files.certificate, &files.key).unwrap_err();
        chain(&error).replace(&folder.path().display().to_string(), "F")
    }

    #[test]
    fn wrong_files_are_named_with_what_is_wrong() {
        let (certificate, key) = pair("a");
        let (_, other) = pair("b");
        let encrypted =
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let damaged = certificate.replace("-----END CERTIFICATE-----", "");

        assert!(error("", &key).starts_with("F/cert.pem has no certificate in PEM"));
        assert!(error(&key, &key).starts_with("F/cert.pem has no certificate in PEM"));
        assert!(error(&certificate, &certificate).starts_with("F/key.pem has no private key"));
        assert!(error(&certificate, encrypted).contains("F/key.pem has a passphrase"));
        assert!(error(&damaged, &key).starts_with("F/cert.pem is damaged"));
        assert!(error(&certificate, &other).contains("F/cert.pem with the key F/key.pem"));
        assert!(error(&"x".repeat(2 << 20), &key).contains("F/cert.pem is larger than"));
    }

    #[test]
    fn an_absent_file_is_named() {
        let error = config(Path::new("/absent/cert.pem"), Path::new("/absent/key.pem"));

        assert!(chain(&error.unwrap_err()).starts_with("cannot read /absent/cert.pem: "));
    }

    #[test]
    fn changed_files_are_used_once_they_fit_together() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        let (first, second) = (pair("a"), pair("b"));
        write(&files, &first.0, &first.1);
        let paths = (files.certificate.clone(), files.key.clone());
        let reloading = Reloading::open(files, Arc::new(ring::default_provider())).unwrap();
        let before = reloading.current(Duration::ZERO);

        fs::remove_file(&paths.0).unwrap();
        let without = reloading.current(Duration::ZERO);
        fs::write(&paths.0, second.0).unwrap();
        let half = reloading.current(Duration::ZERO);
        fs::write(&paths.1, second.1).unwrap();
        let rare = reloading.current(Duration::from_secs(3600));
        let after = reloading.current(Duration::ZERO);

        assert_eq!(without.cert, before.cert);
        assert_eq!(half.cert, before.cert);
        assert_eq!(rare.cert, before.cert);
        assert_ne!(after.cert, before.cert);
    }
}
