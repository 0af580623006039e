//! The kernel's Debian package: which one it is, and what of it is wanted.

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

/// The largest file of the package that is read: no kernel is near it.
const FILE_LIMIT: u64 = 256 << 20;

/// A package that apt can download.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) name: String,
    pub(super) sha256: String,
    file: String,
}

/// What of the package a guest needs.
#[derive(Default)]
pub(super) struct Content {
    /// As `uname -r` prints it.
    pub(super) release: String,
    /// The kernel as the package has it.
    pub(super) kernel: Vec<u8>,
    /// Paths of the modules that are built in, a line each.
    pub(super) builtin: String,
    /// All modules by name (`virtio-rng`).
    pub(super) modules: BTreeMap<String, Module>,
}

/// Asks apt for the newest kernel. Its lists are fetched only if they lack it.
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

/// The package that the empty one depends on.
fn kernel_of(description: &str) -> Option<String> {
    let depends = description.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    let first = depends.split([',', ' ', '(']).next()?;
    first.starts_with("linux-image-").then(|| first.to_owned())
}

/// Reads `'ADDRESS' FILE SIZE SHA256:HEX`.
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
    // The staging folder is root's alone, so apt's own user cannot write there.
    command.args(["--quiet=2", "-o", "APT::Sandbox::User=root", "download", &found.name]);
    command.current_dir(stage.dir());
    APT_GET.run(command, stage)?;
    let path = stage.path(&found.file);
    if digest::of_file(&path)? != found.sha256 {
        return Err(Error::WrongDigest { path });
    }
    Ok(path)
}

/// Reads the wanted files out of the package.
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
        // A tool that failed explains an archive that ended early; one whose
        // output was refused has nothing to say.
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
    fn kernel_is_what_the_empty_package_depends_on() {
        let text = "Package: linux-image-cloud-amd64\nVersion: 6.1\n\
            Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\n";

        assert_eq!(kernel_of(text).unwrap(), "linux-image-6.1.0-56-cloud-amd64");
    }

    #[test]
    fn package_that_depends_on_something_else_is_none() {
        assert_eq!(kernel_of("Depends: libc6"), None);
    }

    #[test]
    fn printed_address_gives_file_and_hash() {
        let found = parse_uris("k", "'http://m.test/k.deb' k_1_amd64.deb 99 SHA256:abc\n").unwrap();

        assert_eq!((found.file.as_str(), found.sha256.as_str()), ("k_1_amd64.deb", "abc"));
    }

    #[test]
    fn file_name_that_is_a_path_is_refused() {
        assert_eq!(parse_uris("k", "'http://m.test/k.deb' ../k.deb 99 SHA256:abc"), None);
    }

    #[test]
    fn kernel_and_modules_are_read_and_others_skipped() {
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
