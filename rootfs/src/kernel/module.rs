//! The kernel modules that a guest loads before it has a root file system.

use std::collections::BTreeMap;
use std::io::Read;

use crate::compress;
use crate::error::{Error, Result};

/// Whether a guest requires a module.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Required,
    /// Only some features need the module, or only some kernels have it as a module.
    Optional,
}

/// In loading order: each after its dependencies.
const WANTED: [(&str, Need); 14] = [
    ("virtio_ring", Need::Required),
    ("virtio", Need::Required),
    ("virtio_mmio", Need::Required),
    ("virtio_blk", Need::Required),
    ("failover", Need::Optional),
    ("net_failover", Need::Optional),
    ("virtio_net", Need::Required),
    ("virtio-rng", Need::Optional),
    ("virtio_balloon", Need::Optional),
    ("vsock", Need::Required),
    ("vmw_vsock_virtio_transport_common", Need::Required),
    ("vmw_vsock_virtio_transport", Need::Required),
    ("overlay", Need::Required),
    ("squashfs", Need::Required),
];

/// The size limit of a decompressed module.
const LIMIT: u64 = 64 << 20;

/// A module's name from its file's name: `overlay` of `overlay.ko.xz`.
pub(super) fn name(file: &str) -> Option<&str> {
    let (name, rest) = file.split_once(".ko")?;
    matches!(rest, "" | ".xz" | ".zst" | ".gz").then_some(name)
}

/// The names of all selected modules.
pub(super) fn wanted() -> impl Iterator<Item = &'static str> {
    WANTED.iter().map(|(name, _)| *name)
}

/// A module in the kernel's package: path below the release's folder, and content.
pub(super) type Found = (String, Vec<u8>);

/// The modules to load, decompressed and in order: file name and content. Built-in modules are left
/// out.
pub(super) fn select(
    found: &BTreeMap<String, Found>,
    builtin: &str,
    release: &str,
) -> Result<Vec<(String, Vec<u8>)>> {
    let built_in: Vec<&str> = builtin.lines().filter_map(|l| name(l.rsplit('/').next()?)).collect();
    let mut selected = Vec::new();
    for (wanted, need) in WANTED {
        if let Some((file, bytes)) = found.get(wanted) {
            selected.push((format!("{wanted}.ko"), decompress(file, bytes)?));
        } else if need == Need::Required && !built_in.contains(&wanted) {
            let release = release.to_owned();
            return Err(Error::MissingModule { module: wanted, release });
        }
    }
    Ok(selected)
}

pub(super) fn decompress(file: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut reader = compress::reader(bytes, file)?;
    compress::read_bounded(reader.by_ref(), LIMIT)
        .map_err(|source| Error::ReadMember { member: file.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> BTreeMap<String, (String, Vec<u8>)> {
        WANTED
            .iter()
            .map(|(name, _)| ((*name).to_owned(), (format!("{name}.ko"), name.as_bytes().to_vec())))
            .collect()
    }

    fn names(selected: &[(String, Vec<u8>)]) -> Vec<&str> {
        selected.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn modules_are_listed_in_loading_order() {
        let selected = select(&all(), "", "6.1").unwrap();

        assert_eq!(selected.len(), WANTED.len());
        assert_eq!(names(&selected)[..3], ["virtio_ring.ko", "virtio.ko", "virtio_mmio.ko"]);
    }

    #[test]
    fn built_in_module_is_left_out() {
        let mut found = all();
        found.remove("overlay");

        let selected = select(&found, "kernel/fs/overlayfs/overlay.ko\n", "6.1").unwrap();

        assert!(!names(&selected).contains(&"overlay.ko"));
    }

    #[test]
    fn a_missing_required_module_is_an_error() {
        let mut found = all();
        found.remove("overlay");

        let error = select(&found, "kernel/fs/ext4/ext4.ko\n", "6.1").unwrap_err();

        assert_eq!(error.to_string(), "kernel 6.1 has no module overlay");
    }

    #[test]
    fn a_missing_optional_module_is_skipped() {
        let mut found = all();
        found.remove("virtio-rng");

        assert!(select(&found, "", "6.1").is_ok());
    }

    #[test]
    fn compressed_module_is_decompressed() {
        let mut found = all();
        let bytes = zstd::encode_all(&b"elf"[..], 1).unwrap();
        found.insert("virtio_ring".into(), ("virtio_ring.ko.zst".into(), bytes));

        let selected = select(&found, "", "6.1").unwrap();

        assert_eq!(selected[0], ("virtio_ring.ko".to_owned(), b"elf".to_vec()));
    }

    #[test]
    fn name_drops_every_ending_of_a_module() {
        assert_eq!(name("virtio-rng.ko"), Some("virtio-rng"));
        assert_eq!(name("overlay.ko.xz"), Some("overlay"));
        assert_eq!(name("overlay.konfig"), None);
    }
}
