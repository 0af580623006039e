//! The distribution's cloud kernel: found with apt, its package opened, the
//! uncompressed kernel and the modules that the initramfs needs kept in the cache.
//!
//! The cache's key is the package's own hash, which apt states without a download.

mod module;
mod package;
mod payload;

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::build::Context;
use crate::digest::Key;
use crate::durable;
use crate::error::{Error, Result};
use crate::kernel::package::Content;
use crate::progress::{Origin, Reporter, Step};

/// Counts up when the same package must give other files.
const RECIPE: &str = "kernel 1";

const DESCRIPTION: &str = "kernel.json";

/// A kernel in the cache.
pub(crate) struct Kernel {
    pub(crate) vmlinux: PathBuf,
    /// As `uname -r` prints it.
    pub(crate) release: String,
    /// File name and bytes of each module, in the order of loading.
    pub(crate) modules: Vec<(String, Vec<u8>)>,
}

#[derive(Serialize, Deserialize)]
struct Description {
    release: String,
    modules: Vec<String>,
}

/// Finds the newest kernel and extracts it, unless the cache has it.
pub(crate) fn fetch(context: &Context<'_>, reporter: &mut Reporter<'_>) -> Result<Kernel> {
    reporter.step(Step::Kernel, |meter| {
        let found = package::find(context.arch, context.stage)?;
        let key = Key::new(RECIPE)
            .part(&found.name)
            .part(&found.sha256)
            .finish();
        if let Some(entry) = context.cache.get("kernel", &key) {
            return Ok((load(&entry)?, Origin::Cache));
        }
        let archive = package::download(&found, context.stage)?;
        let content = package::open(&archive, context.stage, meter)?;
        let made = context.stage.path("kernel");
        save(&content, &made)?;
        let entry = context.cache.put("kernel", &key, &made)?;
        Ok((load(&entry)?, Origin::Made))
    })
}

fn save(content: &Content, directory: &Path) -> Result<()> {
    durable::create_dir(directory)?;
    let vmlinux = payload::extract(&content.kernel)?;
    write(&directory.join("vmlinux"), &vmlinux)?;
    let modules = module::select(&content.modules, &content.builtin, &content.release)?;
    for (name, bytes) in &modules {
        write(&directory.join(name), bytes)?;
    }
    let description = Description {
        release: content.release.clone(),
        modules: modules.into_iter().map(|(name, _)| name).collect(),
    };
    let path = directory.join(DESCRIPTION);
    let json = serde_json::to_vec_pretty(&description).map_err(|source| Error::BadRecord {
        path: path.clone(),
        source,
    })?;
    write(&path, &json)
}

fn load(directory: &Path) -> Result<Kernel> {
    let path = directory.join(DESCRIPTION);
    let description: Description = serde_json::from_slice(&read(&path)?)
        .map_err(|source| Error::BadRecord { path, source })?;
    let mut modules = Vec::new();
    for name in description.modules {
        let bytes = read(&directory.join(&name))?;
        modules.push((name, bytes));
    }
    let vmlinux = directory.join("vmlinux");
    Ok(Kernel {
        vmlinux,
        release: description.release,
        modules,
    })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(|source| Error::Write {
        path: path.to_owned(),
        source,
    })
}
