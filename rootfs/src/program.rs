//! Our own programs that go into every image.

use std::fs;
use std::fs::File;
use std::path::Path;

use crate::arch::Arch;
use contract::guest::{AGENT, DOWNLOAD};

use crate::compress;
use crate::error::{Error, Result};

/// PID 1: goes into the initramfs.
pub(crate) const INIT: &str = "guest-init";

/// Go into the root file system's `/usr/local/bin`, those that the folder has.
const INSTALLED: [&str; 4] = [AGENT, DOWNLOAD, "guest-files", "guest-mock-claude"];

/// The largest program; a build with debug information is below it.
const LIMIT: u64 = 256 << 20;

pub(crate) struct Programs {
    pub(crate) init: Vec<u8>,
    /// Name and bytes.
    pub(crate) installed: Vec<(&'static str, Vec<u8>)>,
}

/// Reads the programs and checks that they can run in a guest that has nothing yet.
pub(crate) fn load(folder: &Path, arch: Arch) -> Result<Programs> {
    let init = read(&folder.join(INIT), arch)?;
    let mut installed = Vec::new();
    for name in INSTALLED {
        let path = folder.join(name);
        if fs::exists(&path).unwrap_or(true) {
            installed.push((name, read(&path, arch)?));
        }
    }
    Ok(Programs { init, installed })
}

fn read(path: &Path, arch: Arch) -> Result<Vec<u8>> {
    let bytes = File::open(path)
        .and_then(|file| compress::read_bounded(file, LIMIT))
        .map_err(|source| Error::Read { path: path.to_owned(), source })?;
    match needs_interpreter(&bytes, arch) {
        Some(false) => Ok(bytes),
        Some(true) => Err(Error::DynamicProgram { path: path.to_owned() }),
        None => Err(Error::NotAProgram { path: path.to_owned(), arch }),
    }
}

/// Whether an ELF file asks for a dynamic loader; `None` if it is not an ELF
/// program of this architecture.
fn needs_interpreter(elf: &[u8], arch: Arch) -> Option<bool> {
    const HEADER: &[u8] = b"\x7fELF\x02\x01";
    const PT_INTERP: u32 = 3;
    let u16_at = |at: usize| Some(u16::from_le_bytes(*elf.get(at..)?.first_chunk()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(*elf.get(at..)?.first_chunk()?));
    let u64_at = |at: usize| Some(u64::from_le_bytes(*elf.get(at..)?.first_chunk()?));
    if !elf.starts_with(HEADER) || u16_at(18)? != arch.elf_machine() {
        return None;
    }
    let table = usize::try_from(u64_at(32)?).ok()?;
    let (size, count) = (usize::from(u16_at(54)?), usize::from(u16_at(56)?));
    for index in 0..count {
        if u32_at(table.checked_add(index * size)?)? == PT_INTERP {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The start of an ELF program with one program header of type `kind`.
    fn elf(kind: u8, machine: u8) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18] = machine;
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64] = kind;
        bytes
    }

    #[test]
    fn static_program_is_accepted() {
        assert_eq!(needs_interpreter(&elf(1, 62), Arch::X86_64), Some(false));
    }

    #[test]
    fn a_program_with_an_interpreter_is_recognized() {
        assert_eq!(needs_interpreter(&elf(3, 62), Arch::X86_64), Some(true));
    }

    #[test]
    fn a_program_of_another_architecture_is_not_recognized() {
        assert_eq!(needs_interpreter(&elf(1, 183), Arch::X86_64), None);
    }

    #[test]
    fn a_truncated_program_is_not_recognized() {
        assert_eq!(needs_interpreter(&elf(1, 62)[..66], Arch::X86_64), None);
    }

    #[test]
    fn script_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(INIT), "#!/bin/sh").unwrap();

        let error = load(dir.path(), Arch::X86_64).err().unwrap();

        assert!(matches!(error, Error::NotAProgram { .. }));
    }

    #[test]
    fn programs_that_are_absent_are_not_installed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(INIT), elf(1, 62)).unwrap();
        fs::write(dir.path().join("guest-agent"), elf(1, 62)).unwrap();

        let programs = load(dir.path(), Arch::X86_64).unwrap();

        assert_eq!(programs.installed.len(), 1);
        assert_eq!(programs.installed[0].0, "guest-agent");
    }
}
