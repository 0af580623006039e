//! The distribution's cloud kernel, found with apt. The cache has the uncompressed kernel, the
//! modules for the initramfs, and the modules that a guest may load later.
//!
//! Cached kernels are named by the hash of their package, which apt prints without a download. The
//! hash found today is cached, too, so apt runs once a day.

mod library;
mod modinfo;
mod module;
mod package;
mod payload;

use std::fs;
use std::path::{Path, PathBuf};

use base::durable;
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::digest::Key;
use crate::error::{Error, Result};
use crate::kernel::package::{Content, Found};
use crate::progress::{Meter, Origin, Reporter, Step};

/// The version of the extracted files: it is increased when the same package must give other files.
const VERSION: &str = "kernel 2";

const DESCRIPTION: &str = "kernel.json";
/// The folder of a cache entry that becomes `/lib/modules/RELEASE`.
const LIBRARY: &str = "library";

/// A kernel in the cache.
pub(crate) struct Kernel {
    pub(crate) vmlinux: PathBuf,
    /// The release, as printed by `uname -r`.
    pub(crate) release: String,
    /// File name and content of each module, in loading order.
    pub(crate) modules: Vec<(String, Vec<u8>)>,
    /// Path and content of each file of `/lib/modules/RELEASE`.
    pub(crate) library: Vec<(String, Vec<u8>)>,
}

#[derive(Serialize, Deserialize)]
struct Description {
    release: String,
    modules: Vec<String>,
    library: Vec<String>,
}

/// Finds the newest kernel and extracts it, unless the cache has it.
pub(crate) fn fetch(context: &Context<'_>, reporter: &mut Reporter<'_>) -> Result<Kernel> {
    let today = version_key().part(context.arch.debian()).part(context.day.to_le_bytes()).finish();
    reporter.step(Step::Kernel, |meter| {
        if let Some(newest) = context.cache.get("newest-kernel", &today) {
            let key = String::from_utf8_lossy(&read(&newest)?).into_owned();
            if let Some(entry) = context.cache.get("kernel", &key) {
                return Ok((load(&entry)?, Origin::Cache));
            }
        }
        let found = package::find(context.arch, context.stage)?;
        let key = version_key().part(&found.name).part(&found.sha256).finish();
        let (entry, origin) = match context.cache.get("kernel", &key) {
            Some(entry) => (entry, Origin::Cache),
            None => (extract(&found, &key, context, meter)?, Origin::Made),
        };
        let newest = context.stage.path("newest-kernel");
        write(&newest, key.as_bytes())?;
        context.cache.put("newest-kernel", &today, &newest)?;
        Ok((load(&entry)?, origin))
    })
}

/// The version of the files that are extracted from a package, as part of the key.
fn version_key() -> Key {
    module::wanted().chain(library::wanted()).fold(Key::new(VERSION), Key::part)
}

fn extract(
    found: &Found,
    key: &str,
    context: &Context<'_>,
    meter: &mut Meter<'_>,
) -> Result<PathBuf> {
    let archive = package::download(found, context.stage)?;
    let content = package::open(&archive, context.stage, meter)?;
    let made = context.stage.path("kernel");
    save(&content, &made)?;
    context.cache.put("kernel", key, &made)
}

fn save(content: &Content, directory: &Path) -> Result<()> {
    durable::create_dir(directory)?;
    let vmlinux = payload::extract(&content.kernel)?;
    write(&directory.join("vmlinux"), &vmlinux)?;
    let modules = module::select(&content.modules, &content.builtin, &content.release)?;
    for (name, bytes) in &modules {
        write(&directory.join(name), bytes)?;
    }
    let library = library::build(&content.modules, &content.builtin)?;
    for (name, bytes) in &library {
        let path = directory.join(LIBRARY).join(name);
        durable::create_dir(path.parent().unwrap_or(directory))?;
        write(&path, bytes)?;
    }
    let names = |files: Vec<(String, Vec<u8>)>| files.into_iter().map(|(name, _)| name).collect();
    let description = Description {
        release: content.release.clone(),
        modules: names(modules),
        library: names(library),
    };
    let path = directory.join(DESCRIPTION);
    let json = serde_json::to_vec_pretty(&description)
        .map_err(|source| Error::BadRecord { path: path.clone(), source })?;
    write(&path, &json)
}

fn load(directory: &Path) -> Result<Kernel> {
    let path = directory.join(DESCRIPTION);
    let description: Description = serde_json::from_slice(&read(&path)?)
        .map_err(|source| Error::BadRecord { path, source })?;
    let files = |folder: &Path, names: Vec<String>| {
        let file = |name: String| read(&folder.join(&name)).map(|bytes| (name, bytes));
        names.into_iter().map(file).collect::<Result<Vec<_>>>()
    };
    Ok(Kernel {
        vmlinux: directory.join("vmlinux"),
        release: description.release,
        modules: files(directory, description.modules)?,
        library: files(&directory.join(LIBRARY), description.library)?,
    })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(|source| Error::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_kernel_is_loaded_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let entry = dir.path().join("kernel");
        let builtin = ["virtio_mmio", "virtio_blk", "virtio_net", "vsock", "overlay", "squashfs"]
            .map(|name| format!("kernel/{name}.ko\n"))
            .concat()
            + "vmw_vsock_virtio_transport_common.ko\nvmw_vsock_virtio_transport.ko\nvirtio_ring.ko\n";
        let module = ("kernel/drivers/virtio/virtio.ko".to_owned(), b"module".to_vec());
        let content = Content {
            release: "6.1".into(),
            kernel: b"\x7fELF".to_vec(),
            builtin,
            modules: [("virtio".to_owned(), module.clone())].into(),
        };

        save(&content, &entry).unwrap();
        let kernel = load(&entry).unwrap();

        assert_eq!(kernel.release, "6.1");
        assert_eq!(kernel.modules, [("virtio.ko".to_owned(), b"module".to_vec())]);
        assert!(kernel.library.contains(&module));
        let index = kernel.library.iter().find(|(name, _)| name == "modules.dep");
        assert_eq!(index.unwrap().1, b"kernel/drivers/virtio/virtio.ko:\n");
        assert_eq!(fs::read(kernel.vmlinux).unwrap(), b"\x7fELF");
    }
}
