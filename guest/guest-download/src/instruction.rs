//! Files with instructions for the agent: each kind of agent reads one under a name of its own.

use std::fs;
use std::io;
use std::path::Path;

use crate::{Error, Result};

/// The names that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    Claude,
    Agents,
}

impl Name {
    const ALL: [Name; 2] = [Name::Claude, Name::Agents];

    /// A name as it is written; another one is none, and changes nothing.
    pub(crate) fn parse(text: &str) -> Option<Name> {
        let known = Name::ALL.into_iter().find(|name| name.text() == text);
        if known.is_none() {
            log::warn!("instructions have an unknown name, so they stay as they are");
        }
        known
    }

    /// The names that a cleanup means: all unless it says one.
    pub(crate) fn which(text: Option<String>) -> Vec<Name> {
        match text {
            Some(text) => Name::parse(&text).into_iter().collect(),
            None => Name::ALL.to_vec(),
        }
    }

    fn text(self) -> &'static str {
        match self {
            Name::Claude => "CLAUDE.md",
            Name::Agents => "AGENTS.md",
        }
    }

    fn other(self) -> Name {
        match self {
            Name::Claude => Name::Agents,
            Name::Agents => Name::Claude,
        }
    }
}

/// Makes the instructions of `unpacked` those of `mount`, under the name that the agent reads, and
/// removes those under the other name.
pub(crate) fn install(name: Name, unpacked: &Path, mount: &Path) -> Result<()> {
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

/// Removes instructions that are no longer wanted.
pub(crate) fn remove(mount: &Path, names: &[Name]) -> Result<()> {
    for path in names.iter().map(|name| mount.join(name.text())).filter(|path| is_file(path)) {
        fs::remove_file(&path).map_err(|source| Error::Instruction { path, source })?;
    }
    Ok(())
}

/// Whole or not at all, also from another file system.
fn move_file(from: &Path, to: &Path) -> io::Result<()> {
    if let Err(error) = fs::rename(from, to) {
        if error.kind() != io::ErrorKind::CrossesDevices {
            return Err(error);
        }
        let draft = to.with_extension("md.vm0-new");
        // What is left of an earlier attempt may be a link that somebody planted.
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
