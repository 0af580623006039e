//! Whether a snapshot's files still hold what was saved in them.
//!
//! Their digests are in the marker. Comparing them reads all data, so it is done once in each boot of
//! the host, at the snapshot's first use; that brings the data into the page cache, too. The file
//! `verified` has the id of the boot in which it was done last: damage that comes later in the same
//! boot is not noticed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use super::Snapshot;
use crate::disk;

const VERIFIED: &str = "verified";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What a file system keeps as a hole or as zeros: it may make the one of the other.
const BLOCK: u64 = 4096;
const ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];
/// How much is read at once.
const PIECE: u64 = 64 * BLOCK;

/// What came of comparing a snapshot's files with its digests.
pub(super) enum Verdict {
    /// It was done before, in this boot of the host.
    Known,
    /// They are as they were.
    Sound,
    /// One is not.
    Damaged(String),
}

/// Compares a snapshot's files with these digests, unless somebody has done so since the host booted.
/// Of several who would, one does, and the others wait for it.
pub(super) fn verify(snapshot: &Snapshot, digests: &[String]) -> Verdict {
    let boot = fs::read_to_string(BOOT_ID).unwrap_or_default();
    if is_verified(snapshot, &boot) {
        return Verdict::Known;
    }
    // Without the lock it would only be done twice.
    let folder = snapshot.opened.try_clone().ok();
    let _one = folder.and_then(|folder| Flock::lock(folder, FlockArg::LockExclusive).ok());
    if is_verified(snapshot, &boot) {
        return Verdict::Known;
    }
    for (name, digest) in Snapshot::names().into_iter().zip(digests) {
        match of(&snapshot.file(name)) {
            Ok(now) if now == *digest => {}
            Ok(_) => return Verdict::Damaged(format!("its file `{name}` is damaged")),
            Err(error) => {
                return Verdict::Damaged(format!("its file `{name}` cannot be read: {error}"));
            }
        }
    }
    if let Err(error) = fs::write(snapshot.file(VERIFIED), boot) {
        log::debug!("a snapshot will be verified again; error={error}");
    }
    Verdict::Sound
}

fn is_verified(snapshot: &Snapshot, boot: &str) -> bool {
    !boot.is_empty() && fs::read(snapshot.file(VERIFIED)).is_ok_and(|id| id == boot.as_bytes())
}

/// The digest of a file's length and of its blocks, each with its place, but for those of zeros.
pub(super) fn of(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut hasher = Sha256::new();
    hasher.update(length.to_le_bytes());
    let mut buffer = vec![0; PIECE as usize];
    let mut at = 0;
    for (start, end) in disk::data(&file)? {
        at = at.max(start as u64 / BLOCK * BLOCK);
        let end = (end as u64).next_multiple_of(BLOCK).min(length);
        while at < end {
            let piece = &mut buffer[..PIECE.min(end - at) as usize];
            file.read_exact_at(piece, at)?;
            update(&mut hasher, at, piece);
            at += piece.len() as u64;
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn update(hasher: &mut Sha256, at: u64, piece: &[u8]) {
    for (place, block) in (at..).step_by(ZEROS.len()).zip(piece.chunks(ZEROS.len())) {
        if *block != ZEROS[..block.len()] {
            hasher.update(place.to_le_bytes());
            hasher.update(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest_of(pieces: &[(u64, &[u8])], length: u64) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (at, piece) in pieces {
            file.as_file().write_all_at(piece, *at).unwrap();
        }
        file.as_file().set_len(length).unwrap();
        of(file.path()).unwrap()
    }

    #[test]
    fn zeros_are_what_a_hole_is() {
        let zeros = vec![0; 1 << 20];
        assert_eq!(
            digest_of(&[(0, &zeros), (5000, b"a")], 1 << 20),
            digest_of(&[(5000, b"a")], 1 << 20)
        );
    }

    #[test]
    fn what_is_elsewhere_or_longer_is_something_else() {
        let digest = digest_of(&[(4096, b"a")], 1 << 20);
        assert_ne!(digest, digest_of(&[(8192, b"a")], 1 << 20));
        assert_ne!(digest, digest_of(&[(4096, b"a")], (1 << 20) + 1));
    }

    #[test]
    fn the_last_byte_of_an_odd_length_counts() {
        let bytes = vec![1; 1_000_003];
        let digest = digest_of(&[(0, &bytes)], 1_000_003);
        assert_ne!(digest, digest_of(&[(0, &bytes), (1_000_002, b"a")], 1_000_003));
    }
}
