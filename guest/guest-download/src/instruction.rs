//! Instruction files for the agent. Each agent type reads its own file name.

use std::fs;
use std::io;
use std::path::Path;

use crate::{Error, Result};

/// The name of an instruction file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileName {
    Claude,
    Agents,
}

impl FileName {
    const ALL: [FileName; 2] = [FileName::Claude, FileName::Agents];

    /// Parses a name. Logs an unknown one and returns `None`: then the files stay as they are.
    pub(crate) fn parse(text: &str) -> Option<FileName> {
        let known = FileName::ALL.into_iter().find(|name| name.text() == text);
        if known.is_none() {
            log::warn!("ignoring instructions with an unknown file name");
        }
        known
    }

    /// The names that a cleanup removes: the given one, or all.
    pub(crate) fn for_cleanup(text: Option<String>) -> Vec<FileName> {
        match text {
            Some(text) => FileName::parse(&text).into_iter().collect(),
            None => FileName::ALL.to_vec(),
        }
    }

    fn text(self) -> &'static str {
        match self {
            FileName::Claude => "CLAUDE.md",
            FileName::Agents => "AGENTS.md",
        }
    }

    fn other(self) -> FileName {
        match self {
            FileName::Claude => FileName::Agents,
            FileName::Agents => FileName::Claude,
        }
    }
}

/// Moves the instructions from `unpacked` to `mount`, under the name that the agent reads, and removes
/// the file with the other name.
pub(crate) fn install(name: FileName, unpacked: &Path, mount: &Path) -> Result<()> {
    let wanted = mount.join(name.text());
    let failed = |source| Error::Instruction { path: wanted.clone(), source };
    let source = [name, name.other()].map(|name| unpacked.join(name.text()));
    if let Some(source) = source.into_iter().find(|path| is_file(path)) {
        if source != wanted {
            move_file(&source, &wanted).map_err(failed)?;
        }
        let other = mount.join(name.other().text());
        if is_file(&other) {
            fs::remove_file(&other).map_err(failed)?;
        }
    }
    if unpacked != mount {
        crate::stage::remove(unpacked).map_err(failed)?;
    }
    Ok(())
}

/// Removes instruction files.
pub(crate) fn remove(mount: &Path, names: &[FileName]) -> Result<()> {
    for path in names.iter().map(|name| mount.join(name.text())).filter(|path| is_file(path)) {
        fs::remove_file(&path).map_err(|source| Error::Instruction { path, source })?;
    }
    Ok(())
}

/// Moves a file atomically, also from another file system.
fn move_file(from: &Path, to: &Path) -> io::Result<()> {
    if let Err(error) = fs::rename(from, to) {
        if error.kind() != io::ErrorKind::CrossesDevices {
            return Err(error);
        }
        let draft = to.with_extension("md.vm0-new");
        // A leftover may be a link that the agent of an earlier run planted.
        let _ = fs::remove_file(&draft);
        fs::copy(from, &draft)?;
        fs::rename(draft, to)?;
        fs::remove_file(from)?;
    }
    Ok(())
}

fn is_file(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_file())
}
