//! Builds an image, in this order:
//!
//! 1. Take the build lock and a staging folder; check the free disk space.
//! 2. Kernel and writable disk, from the cache or built.
//! 3. Root file system: prepare the source, which yields its cache key. Without a cached result, read
//!    the source into a tree, add the runner's own files, and pack the tree.
//! 4. Initramfs, from the kernel's modules and guest-init.
//! 5. Store all four parts under the image's name.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base::durable;

use crate::arch::Arch;
use crate::cache::{Cache, Reuse};
use crate::context::Context;
use crate::digest::{self, Key};
use crate::disk;
use crate::error::{Error, Result};
use crate::initramfs;
use crate::kernel::{self, Kernel};
use crate::program::{self, Programs};
use crate::progress::{Origin, Progress, Reporter, Step};
use crate::request::BuildRequest;
use crate::setup;
use crate::source::{self, Prepared, Source};
use crate::squashfs;
use crate::stage::Stage;
use crate::store::{self, Description, Image, Store};

/// The disk space that a build needs besides that of its source.
const MIN_FREE: u64 = 1 << 30;

/// Builds an image and stores it; replaces an older one of that name. A state folder has one build
/// at a time; a second one reports that it waits.
pub fn build(
    store: &Store,
    request: &BuildRequest,
    progress: &mut dyn FnMut(Progress),
) -> Result<Image> {
    store::check_name(&request.name)?;
    let arch = Arch::host()?;
    let programs = program::load(&request.guest_programs, arch)?;
    let mut reporter = Reporter::new(progress);
    let stage = Stage::enter(store.state_dir(), &mut reporter)?;
    stage.require_space(MIN_FREE + size_of(&request.source))?;
    let reuse = if request.no_cache { Reuse::Refused } else { Reuse::Allowed };
    let cache = Cache::open(store.state_dir(), reuse);
    let context = Context { arch, day: today(), stage: &stage, cache: &cache };

    let kernel = kernel::fetch(&context, &mut reporter)?;
    let disk = disk::template(request.disk_mib, &context, &mut reporter)?;
    let source = source::prepare(request, &context, &mut reporter)?;
    let rootfs = rootfs(&source, &programs, &kernel, &context, &mut reporter)?;
    let image = reporter.step(Step::Store, |_| {
        let initramfs = initramfs::build(&programs.init, &kernel.modules);
        let parts = Parts { kernel: &kernel, initramfs, rootfs: &rootfs, disk: &disk };
        Ok((assemble(store, request, &source, parts, &context)?, Origin::Made))
    })?;
    cache.prune()?;
    Ok(image)
}

/// The root file system, packed or from the cache.
fn rootfs(
    source: &Prepared,
    programs: &Programs,
    kernel: &Kernel,
    context: &Context<'_>,
    reporter: &mut Reporter<'_>,
) -> Result<PathBuf> {
    let key = source.key.as_ref().map(|key| rootfs_key(key, source.has_sudo, programs, kernel));
    if let Some(found) = key.as_ref().and_then(|key| context.cache.get("rootfs", key)) {
        return reporter.step(Step::Pack, |_| Ok((found, Origin::Cache)));
    }
    let mut tree = source.read(&context.stage.path("spool"), reporter)?;
    reporter.step(Step::Pack, |meter| {
        setup::add_runner_files(&mut tree, programs, kernel)?;
        if source.has_sudo {
            setup::allow_sudo(&mut tree)?;
        }
        let made = context.stage.path(store::ROOTFS);
        squashfs::pack(&tree, &made, context.stage, meter)?;
        let path = match &key {
            Some(key) => context.cache.put("rootfs", key, &made)?,
            None => made,
        };
        Ok((path, Origin::Made))
    })
}

fn rootfs_key(source: &str, has_sudo: bool, programs: &Programs, kernel: &Kernel) -> String {
    let key =
        Key::new(setup::VERSION).part(source).part([u8::from(has_sudo)]).part(&kernel.release);
    let programs = programs.installed.iter().map(|(name, bytes)| (*name, bytes));
    let library = kernel.library.iter().map(|(path, bytes)| (path.as_str(), bytes));
    programs.chain(library).fold(key, |key, (name, bytes)| key.part(name).part(bytes)).finish()
}

/// The four files of an image.
struct Parts<'a> {
    kernel: &'a Kernel,
    initramfs: Vec<u8>,
    rootfs: &'a Path,
    disk: &'a Path,
}

/// Collects the files in one folder and commits it. Cached files are hard links, so an image needs
/// no more space.
fn assemble(
    store: &Store,
    request: &BuildRequest,
    source: &Prepared,
    parts: Parts<'_>,
    context: &Context<'_>,
) -> Result<Image> {
    let folder = context.stage.path("image");
    durable::create_dir(&folder)?;
    link(&parts.kernel.vmlinux, &folder.join(store::KERNEL))?;
    link(parts.rootfs, &folder.join(store::ROOTFS))?;
    link(parts.disk, &folder.join(store::DISK))?;
    let initramfs = folder.join(store::INITRAMFS);
    fs::write(&initramfs, &parts.initramfs)
        .map_err(|source| Error::Write { path: initramfs, source })?;
    let id = Key::new("image")
        .part(digest::of_file(&parts.kernel.vmlinux)?)
        .part(digest::of_file(parts.rootfs)?)
        .part(digest::of_bytes(&parts.initramfs))
        .part(request.disk_mib.to_le_bytes())
        .finish();
    let description = Description {
        kernel_version: parts.kernel.release.clone(),
        created: SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs(),
        size_bytes: store::size_on_disk(&folder)?,
        source: request.source.to_string(),
        arch: context.arch,
        defaults: source.defaults.clone(),
    };
    store.commit(&request.name, &id, &folder, description)
}

fn link(from: &Path, to: &Path) -> Result<()> {
    fs::hard_link(from, to).map_err(|source| Error::Link {
        from: from.to_owned(),
        to: to.to_owned(),
        source,
    })
}

fn today() -> u64 {
    const DAY: u64 = 24 * 60 * 60;
    let now = now();
    now - now % DAY
}

fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs()
}

/// The space for the unpacked archive or for a recipe's programs. `ROOM` covers the other sources.
fn size_of(source: &Source) -> u64 {
    match source {
        Source::Tar(path) | Source::Oci(path) if path.is_file() => {
            path.metadata().map_or(0, |metadata| metadata.len() * 2)
        }
        Source::Recipe(_) => 1 << 30,
        _ => 0,
    }
}
