//! The certificate authority that guests trust. Each host makes its own, once.

use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, PublicKeyData,
};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::error::file;
use crate::{Error, Result};

/// The name of the folder below the state folder.
const FOLDER: &str = "authority";
/// The file with key and certificate, with mode 0600.
const FILE: &str = "ca.pem";
/// The common name, the same on every host: guests find the certificate by its hash.
const NAME: &str = "sandbox-runner";

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
const KEY: &str = "-----BEGIN PRIVATE KEY-----";

/// The certificate authority of a host.
#[derive(Clone)]
pub struct CertificateAuthority {
    /// The key, then the certificate, as mitmproxy expects.
    pem: String,
}

impl CertificateAuthority {
    /// Opens the host's authority, and makes it if there is none.
    pub fn open(state_dir: &Path) -> Result<Self> {
        let folder = state_dir.join(FOLDER);
        let path = folder.join(FILE);
        match fs::read_to_string(&path) {
            Ok(pem) if pem.contains(KEY) && pem.contains(CERTIFICATE) => Ok(Self { pem }),
            Ok(_) => Err(Error::BadAuthority { path }),
            Err(error) if error.kind() == ErrorKind::NotFound => Self::make(&folder, &path),
            Err(source) => Err(file("read", &path)(source)),
        }
    }

    /// The certificate alone, as PEM.
    pub fn certificate(&self) -> &str {
        self.pem.find(CERTIFICATE).and_then(|at| self.pem.get(at..)).unwrap_or_default()
    }

    /// Key and certificate.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    fn make(folder: &Path, path: &Path) -> Result<Self> {
        let made = generate().map_err(|source| Error::Certify { source })?;
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(folder).map_err(file("create", folder))?;
        let mut partial =
            tempfile::NamedTempFile::new_in(folder).map_err(file("write to", folder))?;
        partial.write_all(made.as_bytes()).map_err(file("write to", path))?;
        let only_ours = fs::Permissions::from_mode(0o600);
        partial.as_file().set_permissions(only_ours).map_err(file("protect", path))?;
        partial.as_file().sync_all().map_err(file("write to", path))?;
        match partial.persist_noclobber(path) {
            Ok(_) => {}
            // Another process has made one meanwhile.
            Err(error) if error.error.kind() == ErrorKind::AlreadyExists => {
                return Self::open(folder.parent().unwrap_or(folder));
            }
            Err(error) => return Err(file("create", path)(error.error)),
        }
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(file("write to", folder))?;
        log::info!("certificate authority made; path={}", path.display());
        Ok(Self { pem: made })
    }
}

fn generate() -> std::result::Result<String, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, NAME);
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // Valid from the past, as a guest's clock may be behind.
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2046, 1, 1);
    let key = KeyPair::generate()?;
    // mitmproxy derives the authority key identifier in this way, and clients compare it.
    let id = digest(&SHA1_FOR_LEGACY_USE_ONLY, key.der_bytes());
    params.key_identifier_method = KeyIdMethod::PreSpecified(id.as_ref().to_vec());
    let certificate = params.self_signed(&key)?;
    Ok(format!("{}{}", key.serialize_pem(), certificate.pem()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_authority_that_only_its_owner_reads() {
        let state = tempfile::tempdir().unwrap();
        let first = CertificateAuthority::open(state.path()).unwrap();
        let again = CertificateAuthority::open(state.path()).unwrap();
        assert_eq!(first.pem(), again.pem());
        let path = state.path().join("authority/ca.pem");
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(first.certificate().starts_with(CERTIFICATE));
        assert!(!first.certificate().contains("PRIVATE"));
    }

    #[test]
    fn a_malformed_file_is_not_replaced() {
        let state = tempfile::tempdir().unwrap();
        fs::create_dir(state.path().join(FOLDER)).unwrap();
        fs::write(state.path().join("authority/ca.pem"), "").unwrap();
        assert!(matches!(
            CertificateAuthority::open(state.path()),
            Err(Error::BadAuthority { .. })
        ));
    }
}
