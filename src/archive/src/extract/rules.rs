//! Owners and modes of extracted files.

use std::os::fd::OwnedFd;

use nix::sys::stat::{FileStat, Mode, fstat};
use nix::unistd::geteuid;

use super::{ExtractOptions, Owner, Ownership};

/// Decides owners and modes. Only root can give files to other users.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    ownership: Ownership,
    keeps_mode: bool,
    is_root: bool,
}

impl Rules {
    pub(super) fn new(options: &ExtractOptions) -> Self {
        let ExtractOptions { ownership, keeps_mode, .. } = *options;
        Self { ownership, keeps_mode, is_root: geteuid().is_root() }
    }

    /// The owner of a file in `folder` that replaces `existing`, if there is one. None means the owner of
    /// the process.
    pub(super) fn owner(
        &self,
        entry: Option<Owner>,
        folder: &OwnedFd,
        existing: Option<&FileStat>,
    ) -> nix::Result<Option<Owner>> {
        let of = |stat: &FileStat| Owner { uid: stat.st_uid, gid: stat.st_gid };
        Ok(match (self.ownership, existing) {
            (Ownership::Process, _) => None,
            (Ownership::Given(_) | Ownership::Source, _) => self.given(entry),
            _ if !self.is_root => None,
            (_, Some(stat)) => Some(of(stat)),
            (Ownership::New(owner), None) => Some(owner),
            (Ownership::Inherited, None) => Some(of(&fstat(folder)?)),
        })
    }

    /// The owner that existing folders get, too.
    pub(super) fn given(&self, entry: Option<Owner>) -> Option<Owner> {
        match self.ownership {
            Ownership::Given(owner) => Some(owner),
            Ownership::Source => entry,
            Ownership::Process | Ownership::Inherited | Ownership::New(_) => None,
        }
    }

    /// The mode of a file, without setuid, setgid and sticky.
    pub(super) fn mode(&self, entry: u32, existing: Option<&FileStat>) -> Mode {
        let kept = existing.filter(|_| self.keeps_mode).map(|stat| stat.st_mode);
        Mode::from_bits_truncate(kept.unwrap_or(entry) & 0o777)
    }
}
