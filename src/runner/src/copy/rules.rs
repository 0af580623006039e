//! Owners and modes of files that are copied from a VM.

use std::os::fd::OwnedFd;

use nix::sys::stat::{FileStat, Mode, fstat};
use nix::unistd::geteuid;
use sandbox::Owner;

use super::Ownership;

/// Decides owners and modes of files on this host.
///
/// Only root inherits the owner of a folder; files that other users copy belong to them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    ownership: Ownership,
    /// Whether a replaced file keeps its mode.
    keeps_mode: bool,
    is_root: bool,
}

impl Rules {
    pub(crate) fn new(ownership: Ownership) -> Self {
        let keeps_mode = ownership != Ownership::Source;
        Self { ownership, keeps_mode, is_root: geteuid().is_root() }
    }

    /// The rules of an archive: replaced files get its modes, and keep their owners.
    #[cfg_attr(not(feature = "platform"), allow(dead_code, reason = "only jobs leave archives"))]
    pub(crate) fn of_archive() -> Self {
        Self { keeps_mode: false, ..Self::new(Ownership::Inherited) }
    }

    /// The owner of a file in `folder` that replaces `existing`, if there is one. None means the user who
    /// copies.
    pub(crate) fn owner(
        &self,
        entry: Option<Owner>,
        folder: &OwnedFd,
        existing: Option<&FileStat>,
    ) -> nix::Result<Option<Owner>> {
        let of = |stat: &FileStat| Owner { uid: stat.st_uid, gid: stat.st_gid };
        Ok(match (self.ownership, existing) {
            (Ownership::Given(_) | Ownership::Source, _) => self.given(entry),
            _ if !self.is_root => None,
            (_, Some(stat)) => Some(of(stat)),
            (Ownership::New(owner), None) => Some(owner),
            (Ownership::Inherited, None) => Some(of(&fstat(folder)?)),
        })
    }

    /// The owner that existing folders get, too.
    pub(crate) fn given(&self, entry: Option<Owner>) -> Option<Owner> {
        match self.ownership {
            Ownership::Given(owner) => Some(owner),
            Ownership::Source => entry,
            Ownership::Inherited | Ownership::New(_) => None,
        }
    }

    /// The mode of a file, without setuid, setgid and sticky.
    pub(crate) fn mode(&self, entry: u32, existing: Option<&FileStat>) -> Mode {
        let kept = existing.filter(|_| self.keeps_mode).map(|stat| stat.st_mode);
        Mode::from_bits_truncate(kept.unwrap_or(entry) & 0o777)
    }
}
