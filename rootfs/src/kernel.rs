//! The distribution's cloud kernel: found with apt, its package opened, the
//! uncompressed kernel, the modules that the initramfs needs, and those that a guest may load
//! later, kept in the cache.
//!
//! The cache has kernels by the hash of their package, which apt states without a
//! download, and the hash that was found today, so that apt is asked once a day.

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

/// Counts up when the same package must give other files, besides other modules.
const RECIPE: &str = "kernel 2";

const DESCRIPTION: &str = "kernel.json";
/// The folder of the cache's entry that becomes `/lib/modules/RELEASE`.
const LIBRARY: &str = "library";

/// A kernel in the cache.
pub(crate) struct Kernel {
    pub(crate) vmlinux: PathBuf,
    /// As `uname -r` prints it.
    pub(crate) release: String,
    /// File name and bytes of each module, in the order of loading.
    pub(crate) modules: Vec<(String, Vec<u8>)>,
    /// Path and bytes of each file of `/lib/modules/RELEASE`.
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
    let today = recipe().part(context.arch.debian()).part(context.day.to_le_bytes()).finish();
    reporter.step(Step::Kernel, |meter| {
        if let Some(newest) = context.cache.get("newest-kernel", &today) {
            let key = String::from_utf8_lossy(&read(&newest)?).into_owned();
            if let Some(entry) = context.cache.get("kernel", &key) {
                return Ok((load(&entry)?, Origin::Cache));
            }
        }
        let found = package::find(context.arch, context.stage)?;
        let key = recipe().part(&found.name).part(&found.sha256).finish();
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

/// What decides about the files that a package gives.
fn recipe() -> Key {
    module::wanted().chain(library::wanted()).fold(Key::new(RECIPE), Key::part)
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
    fn kernel_is_loaded_as_it_was_saved() {
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
