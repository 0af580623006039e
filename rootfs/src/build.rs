//! Builds an image: what is made, in which order.
//!
//! 1. Take the build lock and a staging folder; check that there is room.
//! 2. Kernel and writable disk, from the cache or anew.
//! 3. Root file system: prepare the source, which gives its identity. Unless the
//!    cache has the result: read it into a tree, furnish the tree, pack it.
//! 4. Initramfs, out of the kernel's modules and guest-init.
//! 5. Put all four under the image's name.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::arch::Arch;
use crate::cache::{Cache, Reuse};
use crate::digest::{self, Key};
use crate::disk;
use crate::durable;
use crate::error::{Error, Result};
use crate::initramfs;
use crate::kernel::{self, Kernel};
use crate::program::{self, Programs};
use crate::progress::{Origin, Progress, Reporter, Step};
use crate::setup;
use crate::source::{self, Prepared, Source};
use crate::squashfs;
use crate::stage::Stage;
use crate::store::{self, Description, Image, Store};

/// What a build needs at least, beside what its source takes.
const ROOM: u64 = 1 << 30;

/// An image that is wanted.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// Its name.
    pub name: String,
    /// What it is made from.
    pub source: Source,
    /// The folder with our static programs: `guest-init`, and those of
    /// `guest-agent`, `guest-download` and `guest-mock-claude` that exist.
    pub guest_programs: PathBuf,
    /// Debian packages besides the usual ones; for a Debian source or a recipe only.
    pub packages: Vec<String>,
    /// Which image of a source that holds several: its tag, or its whole name.
    pub tag: Option<String>,
    /// Leave out `sudo`, with which the user `user` otherwise runs commands as root without a
    /// password; for a Debian source or a recipe only, as others have no `sudo` of ours.
    pub without_sudo: bool,
    /// Size of the writable disk.
    pub disk_mib: u64,
    /// Make everything anew, whatever the cache has.
    pub no_cache: bool,
}

/// What all steps of a build share.
pub(crate) struct Context<'a> {
    pub(crate) arch: Arch,
    /// Seconds since 1970 at the beginning of this day: what comes from a mirror
    /// is looked up there once a day.
    pub(crate) day: u64,
    pub(crate) stage: &'a Stage,
    pub(crate) cache: &'a Cache,
}

/// Builds an image and stores it, in place of an older one of that name. One build
/// runs at a time in a state directory; a second waits, and says so.
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
    stage.require_space(ROOM + size_of(&request.source))?;
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

/// The root file system: packed now, or found in the cache.
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
        setup::furnish(&mut tree, programs, kernel)?;
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
    let key = Key::new(setup::RECIPE).part(source).part([u8::from(has_sudo)]).part(&kernel.release);
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

/// Brings the files together in one folder and commits it. Those of the cache are
/// linked, so an image takes no room beside it.
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

/// What an archive takes again when it is read, and what a recipe's programs do; others are in
/// `ROOM`.
fn size_of(source: &Source) -> u64 {
    match source {
        Source::Tar(path) | Source::Oci(path) if path.is_file() => {
            path.metadata().map_or(0, |metadata| metadata.len() * 2)
        }
        Source::Recipe(_) => 1 << 30,
        _ => 0,
    }
}

/// Runs `work` as part of a build; `cached` gets the flag of each finished step.
#[cfg(test)]
pub(crate) fn with_context<T>(
    state_dir: &Path,
    cached: &mut Vec<bool>,
    work: impl FnOnce(&Context<'_>, &mut Reporter<'_>) -> Result<T>,
) -> T {
    let mut sink = |event| {
        if let Progress::Finished { cached: flag, .. } = event {
            cached.push(flag);
        }
    };
    let mut reporter = Reporter::new(&mut sink);
    let stage = Stage::enter(state_dir, &mut reporter).unwrap();
    let cache = Cache::open(state_dir, Reuse::Allowed);
    let context = Context { arch: Arch::X86_64, day: 0, stage: &stage, cache: &cache };
    work(&context, &mut reporter).unwrap()
}
