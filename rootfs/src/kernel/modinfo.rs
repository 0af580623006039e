//! The section `.modinfo` of a kernel module's ELF file: `key=value` strings that end in zero
//! bytes.

/// The fields that decide about loading.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ModInfo {
    /// The modules that must be loaded before.
    pub(super) depends: Vec<String>,
    /// Patterns of the kernel's requests for this module.
    pub(super) aliases: Vec<String>,
}

/// Parses the section; empty for a file that is not a 64-bit ELF file.
pub(super) fn read(elf: &[u8]) -> ModInfo {
    let mut info = ModInfo::default();
    let section = section(elf, ".modinfo").unwrap_or_default();
    for entry in section.split(|byte| *byte == 0) {
        let entry = String::from_utf8_lossy(entry);
        match entry.split_once('=') {
            Some(("depends", names)) => {
                let names = names.split(',').filter(|name| !name.is_empty());
                info.depends.extend(names.map(str::to_owned));
            }
            Some(("alias", pattern)) => info.aliases.push(pattern.to_owned()),
            _ => {}
        }
    }
    info
}

/// The bytes of a section.
///
/// | offset | bytes | in the file's head              | offset | bytes | in a section's head     |
/// |--------|-------|---------------------------------|--------|-------|-------------------------|
/// | 0x28   | 8     | where the heads of sections are | 0x00   | 4     | its name, in the names  |
/// | 0x3a   | 2     | how long each is                | 0x18   | 8     | where it is             |
/// | 0x3c   | 2     | how many there are              | 0x20   | 8     | how long it is          |
/// | 0x3e   | 2     | which one has the names         |        |       |                         |
fn section<'a>(elf: &'a [u8], wanted: &str) -> Option<&'a [u8]> {
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = usize::try_from(u64_at(elf, 0x28)?).ok()?;
    let [size, count, names] = [0x3a, 0x3c, 0x3e].map(|at| u16_at(elf, at));
    let (size, count) = (usize::from(size?), usize::from(count?));
    let head = |index: usize| elf.get(table.checked_add(index.checked_mul(size)?)?..);
    let body = |head: &[u8]| {
        let start = usize::try_from(u64_at(head, 0x18)?).ok()?;
        let length = usize::try_from(u64_at(head, 0x20)?).ok()?;
        elf.get(start..start.checked_add(length)?)
    };
    let names = body(head(usize::from(names?))?)?;
    let is_wanted = |head: &[u8]| {
        let name = u32_at(head, 0).and_then(|at| names.get(at as usize..));
        name.and_then(|name| name.strip_prefix(wanted.as_bytes()))
            .is_some_and(|rest| rest.starts_with(b"\0"))
    };
    (0..count).filter_map(head).find(|head| is_wanted(head)).and_then(body)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// An ELF file that has nothing but such a section.
#[cfg(test)]
pub(super) fn elf(entries: &[&str]) -> Vec<u8> {
    let names = b"\0.modinfo\0.names\0";
    let info: Vec<u8> =
        entries.iter().flat_map(|entry| [entry.as_bytes(), b"\0"].concat()).collect();
    let table = 64 + names.len() + info.len();
    let mut bytes = vec![0; 64];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes[0x28..0x30].copy_from_slice(&(table as u64).to_le_bytes());
    bytes[0x3a] = 64;
    bytes[0x3c] = 3;
    bytes[0x3e] = 1;
    bytes.extend(names);
    bytes.extend(&info);
    let mut head = |name: u32, start: usize, length: usize| {
        let mut head = [0; 64];
        head[..4].copy_from_slice(&name.to_le_bytes());
        head[0x18..0x20].copy_from_slice(&(start as u64).to_le_bytes());
        head[0x20..0x28].copy_from_slice(&(length as u64).to_le_bytes());
        bytes.extend(head);
    };
    head(0, 0, 0);
    head(10, 64, names.len());
    head(1, 64 + names.len(), info.len());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_and_aliases_are_read_from_the_modinfo_section() {
        let bytes = elf(&["license=GPL", "alias=rtnl-link-bridge", "depends=llc,stp", "alias=a*"]);

        let info = read(&bytes);

        assert_eq!(info.depends, ["llc", "stp"]);
        assert_eq!(info.aliases, ["rtnl-link-bridge", "a*"]);
    }

    #[test]
    fn module_without_dependencies_has_none() {
        assert_eq!(read(&elf(&["depends="])), ModInfo::default());
    }

    #[test]
    fn truncated_or_foreign_files_have_no_modinfo() {
        let bytes = elf(&["depends=llc"]);
        // What follows a section's length in its head is not read.
        let cuts = (0..bytes.len() - 24).filter(|end| read(&bytes[..*end]) != ModInfo::default());

        assert_eq!(cuts.count(), 0);
        assert_eq!(read(b"#!/bin/sh"), ModInfo::default());
    }
}
