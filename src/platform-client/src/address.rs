//! The addresses of one platform: which of them a request goes to.
//!
//! A client prefers one address, chosen at random so that clients spread. A request that gets no answer there
//! goes to the next one. An address that failed is left alone for a while, twice as long after each failure;
//! then one request tries it, and the client returns to the preferred one once that answers.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::sync::Mutex;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use ureq::tls::{Certificate, RootCerts};

/// For how long an address is left alone after its first failure, and at most.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(60);

/// The longest file of authorities, in bytes: guests get them in one message with other content.
const LARGEST_PEM: usize = 64 << 10;

/// The addresses of a platform, and the certificate authorities that its certificates are checked with. Clones
/// share what they know of failures.
#[derive(Clone)]
pub struct PlatformAddresses {
    shared: Arc<Shared>,
    /// `None`: the system's.
    roots: Option<RootCerts>,
}

struct Shared {
    urls: Vec<String>,
    /// The preferred one.
    home: usize,
    health: Mutex<Vec<Health>>,
}

#[derive(Clone, Copy, Default)]
struct Health {
    failures: u32,
    rests_until: Option<Instant>,
}

impl PlatformAddresses {
    /// The base URLs of a platform: `https://api.example`.
    #[must_use]
    pub fn new(urls: &[String]) -> Self {
        Self::preferring(base::random::below(urls.len()), urls)
    }

    /// As [`PlatformAddresses::new`], but prefers the one at this index.
    #[must_use]
    pub fn preferring(home: usize, urls: &[String]) -> Self {
        let urls: Vec<_> = urls.iter().map(|url| url.trim_end_matches('/').to_owned()).collect();
        let health = Mutex::new(vec![Health::default(); urls.len()]);
        Self { shared: Arc::new(Shared { urls, home, health }), roots: None }
    }

    /// As these, but certificates may also be issued by the authorities of a PEM file.
    pub fn trusting(self, path: &Path) -> io::Result<Self> {
        let malformed = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        let pem = fs::read(path)?;
        if pem.len() > LARGEST_PEM {
            return Err(malformed("it is longer than 64 KiB".to_owned()));
        }
        let own: Vec<CertificateDer<'_>> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|error| malformed(error.to_string()))?;
        if own.is_empty() {
            return Err(malformed("it has no certificate".to_owned()));
        }
        let system = rustls_native_certs::load_native_certs();
        system
            .errors
            .iter()
            .for_each(|error| log::warn!("cannot read certificate roots; error={error}"));
        let all = own.iter().chain(&system.certs);
        let all: Vec<_> = all.map(|der| Certificate::from_der(der).to_owned()).collect();
        Ok(Self { roots: Some(RootCerts::from(all)), ..self })
    }

    /// The base URLs.
    #[must_use]
    pub fn urls(&self) -> &[String] {
        &self.shared.urls
    }

    /// The base URLs for a text.
    #[must_use]
    pub fn names(&self) -> String {
        self.shared.urls.join(", ")
    }

    pub(crate) fn roots(&self) -> RootCerts {
        self.roots.clone().unwrap_or(RootCerts::PlatformVerifier)
    }

    /// The addresses in the order in which a request tries them. A request to one that failed before is the only
    /// one for a while.
    pub(crate) fn order(&self, now: Instant) -> Vec<usize> {
        let Shared { urls, home, health } = &*self.shared;
        let mut health = health.lock();
        let (mut ready, mut resting) = (Vec::new(), Vec::new());
        for index in (0..urls.len()).map(|step| (home + step) % urls.len()) {
            let Some(one) = health.get_mut(index) else { continue };
            match one.rests_until {
                Some(until) if until > now => resting.push((until, index)),
                Some(_) => {
                    one.rests_until = Some(now + rest(one.failures));
                    ready.push(index);
                }
                None => ready.push(index),
            }
        }
        // When no other answers, one of these may again.
        resting.sort();
        ready.extend(resting.into_iter().map(|(_, index)| index));
        ready
    }

    /// Records whether an address answered.
    pub(crate) fn record(&self, index: usize, has_answered: bool, now: Instant) {
        let mut health = self.shared.health.lock();
        let Some(one) = health.get_mut(index) else { return };
        if has_answered {
            *one = Health::default();
        } else {
            one.failures = one.failures.saturating_add(1);
            one.rests_until = Some(now + rest(one.failures));
        }
    }
}

/// For how long an address is left alone after so many failures in a row; by chance up to a quarter less, so that
/// clients do not return together.
fn rest(failures: u32) -> Duration {
    let whole = FIRST_REST.saturating_mul(1 << failures.saturating_sub(1).min(16));
    whole.min(LONGEST_REST).mul_f64(1.0 - base::random::fraction() / 4.0)
}

impl From<&str> for PlatformAddresses {
    fn from(url: &str) -> Self {
        Self::new(&[url.to_owned()])
    }
}

impl From<String> for PlatformAddresses {
    fn from(url: String) -> Self {
        Self::new(&[url])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn three(home: usize) -> PlatformAddresses {
        PlatformAddresses::preferring(
            home,
            &["http://a/", "http://b", "http://c"].map(str::to_owned),
        )
    }

    #[test]
    fn the_preferred_address_comes_first_and_the_others_in_turn() {
        let now = Instant::now();

        assert_eq!(three(0).order(now), [0, 1, 2]);
        assert_eq!(three(2).order(now), [2, 0, 1]);
        assert_eq!(three(0).urls()[0], "http://a");
        assert_eq!(PlatformAddresses::new(&[]).order(now), [0; 0]);
    }

    #[test]
    fn an_address_that_failed_is_left_alone_and_then_tried_by_one_request() {
        let (all, now) = (three(0), Instant::now());
        all.record(0, false, now);

        assert_eq!(all.order(now), [1, 2, 0]);
        assert_eq!(all.order(now + SECOND), [0, 1, 2]);
        assert_eq!(all.order(now + SECOND), [1, 2, 0]);
        all.record(0, true, now + SECOND);
        assert_eq!(all.order(now + SECOND), [0, 1, 2]);
    }

    #[test]
    fn the_rest_of_an_address_doubles_up_to_a_minute() {
        let (all, now) = (three(1), Instant::now());
        for _ in 0..3 {
            all.record(1, false, now);
        }

        assert_eq!(all.order(now + SECOND * 2), [2, 0, 1]);
        assert_eq!(all.order(now + SECOND * 4), [1, 2, 0]);
        for _ in 0..100 {
            all.record(1, false, now);
        }
        assert_eq!(all.order(now + SECOND * 61), [1, 2, 0]);
    }

    #[test]
    fn addresses_that_all_failed_are_tried_in_the_order_of_their_rests() {
        let (all, now) = (three(0), Instant::now());
        [0, 0, 0, 2, 2, 1].into_iter().for_each(|index| all.record(index, false, now));

        assert_eq!(all.order(now), [1, 2, 0]);
    }

    #[test]
    fn clones_share_what_is_known_of_failures() {
        let (all, now) = (three(0), Instant::now());
        all.clone().record(0, false, now);

        assert_eq!(all.order(now), [1, 2, 0]);
    }

    #[test]
    fn a_file_without_a_certificate_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        fs::write(&path, "no certificate").unwrap();

        let error = three(0).trusting(&path).err().unwrap();

        assert_eq!(error.to_string(), "it has no certificate");
        assert!(three(0).trusting(Path::new("/nonexistent")).is_err());
    }
}
