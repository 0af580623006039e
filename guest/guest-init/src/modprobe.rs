//! The modprobe helper: loads kernel modules on demand.
//!
//! The kernel starts this program as its modprobe helper, as `/proc/1/exe -q -- NAME`. The image
//! needs no program for it. NAME is a module or an alias of one:
//! `bridge`, `fs-fuse`, `char-major-10-229`, `nft-chain-2-nat`. Modules and their dependencies are
//! listed in `/lib/modules/RELEASE`, in depmod's formats.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::{Error, Result, module};

/// The path of this program that the kernel gets, which becomes argument 0.
pub(crate) const NAME: &str = "/proc/1/exe";

/// The command's usual name, linked if the image has no program there.
pub(crate) const COMMAND: &str = "modprobe";

/// The kernel parameter that names the modprobe helper.
const HELPER: &str = "/proc/sys/kernel/modprobe";

/// Device nodes that every user may open; others are for root.
const FOR_EVERYBODY: [&str; 2] = ["fuse", "net/tun"];

/// Registers as modprobe helper, and creates device nodes that load a module when opened.
/// An image without modules boots, too.
pub(crate) fn offer() {
    let folder = folder();
    let Ok(nodes) = fs::read_to_string(folder.join("modules.devname")) else {
        log::debug!("no modules to load later; folder={}", folder.display());
        return;
    };
    if let Err(error) = fs::write(HELPER, NAME) {
        log::warn!("modules are not loaded on demand; error={error}");
    }
    for (name, major, minor) in nodes.lines().filter_map(node) {
        if let Err(error) = make_node(Path::new("/dev"), name, major, minor) {
            log::warn!("cannot make a device node; name={name} error={error}");
        }
    }
}

/// Loads the modules that the arguments name.
pub(crate) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let names = arguments.map(|name| name.to_string_lossy().into_owned());
    for name in names.filter(|name| !name.starts_with('-')) {
        let loaded = Library::read(&folder()).and_then(|library| library.load(&name));
        if let Err(error) = loaded {
            log::warn!("{}", base::error::chain(&error));
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn folder() -> PathBuf {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Path::new("/lib/modules").join(release.trim_end())
}

/// The index of the image's modules.
struct Library {
    folder: PathBuf,
    dependencies: String,
    aliases: String,
}

impl Library {
    fn read(folder: &Path) -> Result<Self> {
        let read = |name| {
            let path = folder.join(name);
            fs::read_to_string(&path).map_err(|source| Error::Read { path, source })
        };
        let (dependencies, aliases) = (read("modules.dep")?, read("modules.alias")?);
        Ok(Self { folder: folder.to_owned(), dependencies, aliases })
    }

    fn load(&self, name: &str) -> Result<()> {
        let paths = self.paths(name);
        if paths.is_empty() {
            return Err(Error::NoModule { name: name.to_owned() });
        }
        paths.iter().try_for_each(|path| module::load(&self.folder.join(path)))
    }

    /// The modules to load for a name, in order.
    fn paths(&self, name: &str) -> Vec<&str> {
        let name = plain(name);
        let own = self.with_dependencies(&name);
        if !own.is_empty() {
            return own;
        }
        let modules = self.aliases.lines().filter_map(|line| {
            let (pattern, module) = line.strip_prefix("alias ")?.rsplit_once(' ')?;
            matches(plain(pattern).as_bytes(), name.as_bytes()).then_some(module)
        });
        modules.flat_map(|module| self.with_dependencies(module)).collect()
    }

    fn with_dependencies(&self, name: &str) -> Vec<&str> {
        let line = self.dependencies.lines().find_map(|line| {
            let (path, others) = line.split_once(':')?;
            let file = path.rsplit('/').next()?.split('.').next()?;
            (plain(file) == name).then_some((path, others))
        });
        let Some((path, others)) = line else {
            return Vec::new();
        };
        others.split_ascii_whitespace().rev().chain([path]).collect()
    }
}

/// Normalises a module's name, in which `-` and `_` are equivalent.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

/// Whether a pattern, in which `*` stands for anything and `?` for one byte, fits all of `text`.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => (0..=text.len()).any(|at| matches(rest, &text[at..])),
        (Some((b'?', pattern)), Some((_, text))) => matches(pattern, text),
        (Some((one, pattern)), Some((other, text))) => one == other && matches(pattern, text),
        _ => false,
    }
}

/// Reads `MODULE NODE c10:229`.
fn node(line: &str) -> Option<(&str, u64, u64)> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (name, number) = (words.next()?, words.next()?.strip_prefix('c')?);
    let (major, minor) = number.split_once(':')?;
    Some((name, major.parse().ok()?, minor.parse().ok()?))
}

fn make_node(devices: &Path, name: &str, major: u64, minor: u64) -> io::Result<()> {
    let path = devices.join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mode = if FOR_EVERYBODY.contains(&name) { 0o666 } else { 0o600 };
    match mknod(&path, SFlag::S_IFCHR, Mode::from_bits_truncate(mode), makedev(major, minor)) {
        Err(nix::errno::Errno::EEXIST) => return Ok(()),
        made => made?,
    }
    // The kernel starts init with a umask that denies write to others.
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library() -> Library {
        let dependencies = "kernel/net/bridge.ko: kernel/net/stp.ko kernel/net/llc.ko\n\
            kernel/net/stp.ko: kernel/net/llc.ko\nkernel/net/llc.ko:\n\
            kernel/drivers/virtio-rng.ko:\nkernel/block/loop.ko:\n";
        let aliases = "alias rtnl-link-bridge bridge\nalias block-major-7-* loop\n\
            alias virtio:d00000004v* virtio_rng\n";
        let (dependencies, aliases) = (dependencies.to_owned(), aliases.to_owned());
        Library { folder: PathBuf::new(), dependencies, aliases }
    }

    #[test]
    fn dependencies_are_loaded_before_the_module() {
        let library = library();

        let paths = library.paths("bridge");

        assert_eq!(paths, ["kernel/net/llc.ko", "kernel/net/stp.ko", "kernel/net/bridge.ko"]);
    }

    #[test]
    fn a_module_is_found_by_its_alias() {
        let library = library();

        assert_eq!(library.paths("rtnl-link-bridge").last(), Some(&"kernel/net/bridge.ko"));
        assert_eq!(library.paths("block-major-7-0"), ["kernel/block/loop.ko"]);
        assert_eq!(library.paths("virtio:d00000004v00001AF4"), ["kernel/drivers/virtio-rng.ko"]);
        assert_eq!(library.paths("virtio_rng"), ["kernel/drivers/virtio-rng.ko"]);
    }

    #[test]
    fn a_name_without_a_module_is_an_error() {
        let error = library().load("fs-ntfs").unwrap_err();

        assert_eq!(error.to_string(), "no kernel module for fs-ntfs");
    }

    #[test]
    fn a_pattern_matches_whole_names_only() {
        assert!(matches(b"a?c*", b"abcd"));
        assert!(!matches(b"a?c", b"abcd"));
        assert!(!matches(b"abc", b"ab"));
        assert!(matches(b"*", b""));
    }

    #[test]
    fn device_node_is_read_with_its_numbers() {
        assert_eq!(node("tun net/tun c10:200"), Some(("net/tun", 10, 200)));
        assert_eq!(node("loop loop b7:0"), None);
    }
}
