//! The initramfs: guest-init, and the modules that it loads to reach its disks.
//!
//! Contract with guest-init: it is `/init`; it loads `/modules/NAME` for each line
//! NAME of `/modules/order`, in that order; the first disk then is the root file
//! system, the second the writable one.

use crate::cpio::Cpio;

/// Builds the archive. It is not compressed: unpacking would take the guest longer
/// than loading the bytes takes the host.
pub(crate) fn build(init: &[u8], modules: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut cpio = Cpio::default();
    for directory in ["dev", "proc", "sys", "mnt", "run", "modules"] {
        cpio.directory(directory);
    }
    // The kernel opens it for PID 1 before anything is mounted.
    cpio.character_device("dev/console", 0o600, (5, 1));
    cpio.file("init", 0o755, init);
    let order: String = modules.iter().flat_map(|(name, _)| [name.as_str(), "\n"]).collect();
    cpio.file("modules/order", 0o644, order.as_bytes());
    for (name, bytes) in modules {
        cpio.file(&format!("modules/{name}"), 0o644, bytes);
    }
    cpio.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_list_has_one_name_per_line() {
        let modules = [("a.ko".to_owned(), b"1".to_vec()), ("b.ko".to_owned(), b"2".to_vec())];

        let bytes = build(b"init", &modules);

        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.contains("modules/order\0"));
        assert!(text.contains("a.ko\nb.ko\n"));
        assert!(text.contains("modules/b.ko\0"));
    }
}
