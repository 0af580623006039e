//! Java's key store, filled with all certificates of the system's bundle.
//!
//! ```text
//!  magic, version 2, count     (certificate: 2, alias, date, "X.509", length, DER) …     SHA-1
//! ```
//!
//! The digest at the end starts with the well-known default password, as `keytool` expects.

use std::fs;
use std::path::{Path, PathBuf};

use sha1::{Digest as _, Sha1};
use vsock_proto::Failure;

use super::{below, certificates};
use crate::write::replace;

/// The store of Debian's Java, the folders of other installations, and the stores in each of those.
const STORE: &str = "/etc/ssl/certs/java/cacerts";
const HOMES: [&str; 2] = ["/usr/lib/jvm", "/opt/java"];
const IN_HOME: [&str; 2] = ["lib/security/cacerts", "jre/lib/security/cacerts"];

const MAGIC: u32 = 0xFEED_FEED;
const VERSION: u32 = 2;
const TRUSTED: u32 = 2;
const PASSWORD: &str = "changeit";
const SALT: &[u8] = b"Mighty Aphrodite";

/// Writes the bundle into each Java key store.
pub(super) fn trust(root: &Path, bundle: &[u8]) -> Result<(), Failure> {
    let stores = stores(root);
    if stores.is_empty() {
        return Ok(());
    }
    let store = key_store(&certificates(&String::from_utf8_lossy(bundle)));
    stores.iter().try_for_each(|path| replace(path, &store))
}

/// The stores that exist. Symbolic links are skipped, since each leads to another store.
fn stores(root: &Path) -> Vec<PathBuf> {
    let homes = HOMES.iter().filter_map(|homes| fs::read_dir(below(root, homes)).ok());
    let homes = homes.flat_map(|homes| homes.flatten()).map(|home| home.path());
    let of_homes = homes.flat_map(|home| IN_HOME.map(|store| home.join(store)));
    let is_file = |path: &PathBuf| path.symlink_metadata().is_ok_and(|meta| meta.is_file());
    [below(root, STORE)].into_iter().chain(of_homes).filter(is_file).collect()
}

fn key_store(certificates: &[Vec<u8>]) -> Vec<u8> {
    let mut store = Vec::new();
    let number = |store: &mut Vec<u8>, number: usize| {
        store.extend(u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes());
    };
    let text = |store: &mut Vec<u8>, text: &str| {
        store.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
        store.extend(text.bytes());
    };
    store.extend(MAGIC.to_be_bytes());
    store.extend(VERSION.to_be_bytes());
    number(&mut store, certificates.len());
    for (index, certificate) in certificates.iter().enumerate() {
        store.extend(TRUSTED.to_be_bytes());
        text(&mut store, &format!("system-{index}"));
        store.extend(0_u64.to_be_bytes());
        text(&mut store, "X.509");
        number(&mut store, certificate.len());
        store.extend(certificate);
    }
    let mut digest = Sha1::new();
    PASSWORD.encode_utf16().for_each(|unit| digest.update(unit.to_be_bytes()));
    digest.update(SALT);
    digest.update(&store);
    store.extend(digest.finalize());
    store
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n";

    #[test]
    fn a_store_holds_what_the_bundle_has() {
        let store = key_store(&certificates(&format!("# one\n{PEM}# another\n{PEM}")));
        let entry = |alias: &str| {
            let head = [0, 0, 0, 2, 0, alias.len() as u8];
            let date_and_kind = b"\0\0\0\0\0\0\0\0\0\x05X.509";
            [&head[..], alias.as_bytes(), date_and_kind, &[0, 0, 0, 3], &[1, 2, 3]].concat()
        };
        let head = [0xFE, 0xED, 0xFE, 0xED, 0, 0, 0, 2, 0, 0, 0, 2];
        let wanted = [&head[..], &entry("system-0"), &entry("system-1")].concat();
        // Verified once: `keytool -list -storepass changeit` accepts a store of this form.
        let digest = [
            0x92, 0xAE, 0xFE, 0xCD, 0x47, 0x2E, 0x70, 0xD3, 0x2C, 0x08, 0x83, 0xB8, 0x7F, 0xCF,
            0x25, 0xD1, 0xBF, 0x8B, 0xA4, 0x65,
        ];
        assert_eq!(store, [wanted, digest.to_vec()].concat());
    }

    #[test]
    fn every_java_that_is_there_has_it_and_no_other_file_is_made() {
        let root = tempfile::tempdir().unwrap();
        let in_home = below(root.path(), "/usr/lib/jvm/a/lib/security");
        for folder in [&in_home, &below(root.path(), "/etc/ssl/certs/java")] {
            fs::create_dir_all(folder).unwrap();
        }
        fs::write(in_home.join("cacerts"), "old").unwrap();
        fs::create_dir_all(below(root.path(), "/opt/java/b/lib/security")).unwrap();

        trust(root.path(), PEM.as_bytes()).unwrap();

        assert!(fs::read(in_home.join("cacerts")).unwrap().starts_with(&MAGIC.to_be_bytes()));
        assert!(!below(root.path(), STORE).exists());
        assert!(!below(root.path(), "/opt/java/b/lib/security/cacerts").exists());
    }
}
