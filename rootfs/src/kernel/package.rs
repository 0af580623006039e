//! The kernel's Debian package: its selection, download and content.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::arch::Arch;
use crate::compress;
use crate::digest;
use crate::error::{Error, Result};
use crate::kernel::module::{self, Found as Module};
use crate::members::{Archive, Kind};
use crate::progress::Meter;
use crate::stage::Stage;
use crate::tool::{APT_CACHE, APT_GET, DPKG_DEB, Streams};

/// The size limit of a file of the package.
const FILE_LIMIT: u64 = 256 << 20;

/// A package that apt can download.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) name: String,
    pub(super) sha256: String,
    file: String,
}

/// The files of the package that a guest needs.
#[derive(Default)]
pub(super) struct Content {
    /// The release, as printed by `uname -r`.
    pub(super) release: String,
    /// The kernel, possibly compressed.
    pub(super) kernel: Vec<u8>,
    /// Paths of the built-in modules, one per line.
    pub(super) builtin: String,
    /// All modules by name (`virtio-rng`).
    pub(super) modules: BTreeMap<String, Module>,
}

/// Finds the newest kernel with apt. Package lists are updated only if they lack it.
pub(super) fn find(arch: Arch, stage: &Stage) -> Result<Found> {
    look_up(arch, stage).or_else(|error| {
        log::debug!("updating the package lists; error={error}");
        let mut command = APT_GET.command();
        command.args(["--quiet=2", "update"]);
        APT_GET.run(command, stage)?;
        look_up(arch, stage)
    })
}

fn look_up(arch: Arch, stage: &Stage) -> Result<Found> {
    let meta = arch.kernel_package();
    let missing = || Error::NoKernelPackage { name: meta };
    let mut show = APT_CACHE.command();
    show.args(["--no-all-versions", "show", meta]);
    let name = kernel_of(&APT_CACHE.output(show, stage)?).ok_or_else(missing)?;
    let mut print = APT_GET.command();
    print.args(["--print-uris", "download", &name]).current_dir(stage.dir());
    parse_uris(&name, &APT_GET.output(print, stage)?).ok_or_else(missing)
}

/// The package that the metapackage depends on.
fn kernel_of(description: &str) -> Option<String> {
    let depends = description.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    let first = depends.split([',', ' ', '(']).next()?;
    first.starts_with("linux-image-").then(|| first.to_owned())
}

/// Parses `'URI' FILE SIZE SHA256:HEX`.
fn parse_uris(name: &str, output: &str) -> Option<Found> {
    let line = output.lines().find(|line| line.starts_with('\''))?;
    let mut fields = line.split_whitespace().skip(1);
    let file = fields.next()?.to_owned();
    let sha256 = fields.nth(1)?.strip_prefix("SHA256:")?.to_owned();
    (!file.contains('/')).then(|| Found { name: name.to_owned(), sha256, file })
}

/// Downloads the package into the staging folder.
pub(super) fn download(found: &Found, stage: &Stage) -> Result<PathBuf> {
    let mut command = APT_GET.command();
    // Only root can write to the staging folder, so apt's user `_apt` cannot.
    command.args(["--quiet=2", "-o", "APT::Sandbox::User=root", "download", &found.name]);
    command.current_dir(stage.dir());
    APT_GET.run(command, stage)?;
    let path = stage.path(&found.file);
    if digest::of_file(&path)? != found.sha256 {
        return Err(Error::WrongDigest { path });
    }
    Ok(path)
}

/// Reads the selected files from the package.
pub(super) fn open(package: &Path, stage: &Stage, meter: &mut Meter<'_>) -> Result<Content> {
    let mut command = DPKG_DEB.command();
    command.arg("--fsys-tarfile").arg(package);
    let mut running = DPKG_DEB.start(command, Streams::Output, stage)?;
    let content = match running.stdout() {
        Some(stdout) => read(Archive::new(stdout, &package.display().to_string()), meter),
        None => Ok(Content::default()),
    };
    match content {
        Ok(content) => running.finish().map(|()| content),
        // If the archive ended early, the error of the failed tool explains it. A tool whose output
        // was rejected has no such error.
        Err(error @ Error::BadArchive { .. }) => Err(running.finish().err().unwrap_or(error)),
        Err(error) => Err(error),
    }
}

fn read(mut archive: Archive<impl std::io::Read>, meter: &mut Meter<'_>) -> Result<Content> {
    let mut content = Content::default();
    while let Some(member) = archive.next_member()? {
        meter.add(member.size);
        let path = String::from_utf8_lossy(&member.path).into_owned();
        if member.kind != Kind::File || !is_wanted(&path) {
            continue;
        }
        let bytes = compress::read_bounded(archive.body(), FILE_LIMIT)
            .map_err(|source| Error::ReadMember { member: path.clone(), source })?;
        let file = path.rsplit('/').next().unwrap_or_default();
        if let Some(release) = file.strip_prefix("vmlinuz-") {
            content.release = release.to_owned();
            content.kernel = bytes;
        } else if file == "modules.builtin" {
            content.builtin = String::from_utf8_lossy(&bytes).into_owned();
        } else if let Some(name) = module::name(file) {
            let below = path.find("/kernel/").map_or(file, |at| &path[at + 1..]);
            content.modules.insert(name.to_owned(), (below.to_owned(), bytes));
        }
    }
    Ok(content)
}

fn is_wanted(path: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or_default();
    path.trim_start_matches("./").starts_with("boot/vmlinuz-")
        || file == "modules.builtin"
        || module::name(file).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::{Origin, Reporter, Step};
    use crate::testing::TarBuilder;

    #[test]
    fn the_kernel_package_is_the_dependency_of_the_metapackage() {
        let text = "Package: linux-image-cloud-amd64\nVersion: 6.1\n\
            Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\n";

        assert_eq!(kernel_of(text).unwrap(), "linux-image-6.1.0-56-cloud-amd64");
    }

    #[test]
    fn a_package_with_another_dependency_is_no_metapackage() {
        assert_eq!(kernel_of("Depends: libc6"), None);
    }

    #[test]
    fn a_printed_uri_is_parsed_to_file_name_and_hash() {
        let found = parse_uris("k", "'http://m.test/k.deb' k_1_amd64.deb 99 SHA256:abc\n").unwrap();

        assert_eq!((found.file.as_str(), found.sha256.as_str()), ("k_1_amd64.deb", "abc"));
    }

    #[test]
    fn file_name_that_is_a_path_is_refused() {
        assert_eq!(parse_uris("k", "'http://m.test/k.deb' ../k.deb 99 SHA256:abc"), None);
    }

    #[test]
    fn a_package_yields_kernel_and_modules_only() {
        let bytes = TarBuilder::new()
            .file("./boot/vmlinuz-6.1", "kernel")
            .file("./lib/modules/6.1/modules.builtin", "kernel/fs/ext4/ext4.ko\n")
            .file("./lib/modules/6.1/kernel/fs/overlayfs/overlay.ko", "module")
            .file("./usr/share/doc/linux-image/copyright", "other")
            .finish();

        let content = Reporter::new(&mut |_| ())
            .step(Step::Kernel, |meter| {
                Ok((read(Archive::new(&bytes[..], "k.deb"), meter)?, Origin::Made))
            })
            .unwrap();

        assert_eq!((content.release.as_str(), &content.kernel[..]), ("6.1", &b"kernel"[..]));
        assert_eq!(content.builtin, "kernel/fs/ext4/ext4.ko\n");
        let module = ("kernel/fs/overlayfs/overlay.ko".to_owned(), b"module".to_vec());
        assert_eq!(content.modules, [("overlay".to_owned(), module)].into());
    }
}
