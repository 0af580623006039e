//! A platform elsewhere: its addresses, the token, and whom TLS trusts.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls_platform_verifier::Verifier;

use super::address::Address;
use super::connection::{Calls, Connection};
use crate::{Error, Result};

/// How to reach a platform elsewhere.
#[derive(Clone, Default)]
pub struct RemotePlatform {
    /// Its URLs, which are tried in turn: `https://platform.example`, without a path.
    pub urls: Vec<String>,
    /// The token of an operator or a submitter.
    pub token: String,
    /// Certificate authorities in PEM that are trusted besides those of the system.
    pub authorities: Option<Vec<u8>>,
    /// Whether the token may be sent without encryption to another host.
    pub allows_plain_http: bool,
}

/// Prints no token.
impl fmt::Debug for RemotePlatform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemotePlatform").finish_non_exhaustive()
    }
}

/// The addresses of a platform. INVARIANT: there is at least one.
pub(super) struct Remote {
    addresses: Vec<Address>,
    /// The one that answered last.
    current: AtomicUsize,
    token: String,
    tls: Arc<ClientConfig>,
    allows_plain_http: bool,
}

impl Remote {
    pub(super) fn new(platform: RemotePlatform) -> Result<Self> {
        let RemotePlatform { urls, token, authorities, allows_plain_http } = platform;
        let addresses = urls.iter().map(|url| Address::parse(url)).collect::<Result<Vec<_>>>()?;
        if addresses.is_empty() {
            return Err(Error::BadUrl);
        }
        if token.is_empty() || !token.bytes().all(|c| c.is_ascii_graphic()) {
            return Err(Error::BadToken);
        }
        let tls = trusting(authorities.as_deref())?;
        let current = AtomicUsize::new(0);
        let remote = Self { addresses, current, token, tls, allows_plain_http };
        remote.addresses.iter().try_for_each(|address| remote.check_encrypted(address))?;
        Ok(remote)
    }

    /// Connects to the first address that answers, beginning with the one that did last.
    pub(super) fn connect(&self, calls: &Calls) -> Result<(&Address, Connection)> {
        let (count, first) = (self.addresses.len(), self.current.load(Ordering::Relaxed));
        let mut failures = Vec::new();
        for (index, address) in self.addresses.iter().enumerate().cycle().skip(first).take(count) {
            match Connection::to_address(address, &self.tls, calls) {
                _ if calls.is_cut() => return Err(Error::Cut),
                Ok(connection) => {
                    self.current.store(index, Ordering::Relaxed);
                    return Ok((address, connection));
                }
                Err(error) => failures.push(error),
            }
        }
        match failures.pop() {
            Some(only) if failures.is_empty() => Err(only),
            last => {
                failures.extend(last);
                let reasons: Vec<_> =
                    failures.iter().map(|error| base::error::chain(error)).collect();
                Err(Error::NoneReachable { reasons: reasons.join("; ") })
            }
        }
    }

    /// The number of addresses.
    pub(super) fn count(&self) -> usize {
        self.addresses.len()
    }

    /// Begins with the next address from now on: the current one took a request and did not answer it.
    pub(super) fn pass_over(&self, address: &Address) {
        let index = self.addresses.iter().position(|one| one == address).unwrap_or(0);
        let next = (index + 1) % self.addresses.len();
        // If another thread did so already, there is nothing to do.
        let _ = self.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn authorization(&self) -> String {
        format!("Authorization: Bearer {}\r\n", self.token)
    }

    fn check_encrypted(&self, address: &Address) -> Result<()> {
        if address.is_tls || address.is_loopback() || self.allows_plain_http {
            return Ok(());
        }
        Err(Error::NotEncrypted { url: address.to_string() })
    }
}

/// TLS that trusts the system's certificate authorities, and these.
fn trusting(authorities: Option<&[u8]>) -> Result<Arc<ClientConfig>> {
    let mut roots = Vec::new();
    if let Some(pem) = authorities {
        for root in CertificateDer::pem_slice_iter(pem) {
            roots.push(root.map_err(|error| Error::BadAuthorities { reason: error.to_string() })?);
        }
        if roots.is_empty() {
            return Err(Error::BadAuthorities { reason: "it has no certificate".to_owned() });
        }
    }
    let fail = |error: rustls::Error| Error::BadAuthorities { reason: error.to_string() };
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier::new_with_extra_roots(roots, Arc::clone(&provider)).map_err(fail)?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(fail)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
