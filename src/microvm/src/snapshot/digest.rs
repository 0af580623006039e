//! Verifies a snapshot's files by their digests.
//!
//! The digests are in the marker. Verification reads all data, so it is done once per boot of the host,
//! at the snapshot's first use; this also fills the page cache. The file `verified` has the id of the
//! boot in which it was done last. Damage later in the same boot is not detected.

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

/// A block of zeros counts as a hole: a file system may convert one to the other.
const BLOCK: u64 = 4096;
const ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];
/// How much is read at once.
const BUFFER: u64 = 64 * BLOCK;

/// The result of a verification.
pub(super) enum Verdict {
    /// Verified before, in this boot of the host.
    Known,
    /// Verified now.
    Sound,
    /// A file is damaged, with the reason.
    Damaged(String),
}

/// Compares a snapshot's files with `digests`, once per boot of the host. Concurrent callers wait for the
/// first.
pub(super) fn verify(snapshot: &Snapshot, digests: &[String]) -> Verdict {
    let boot = fs::read_to_string(BOOT_ID).unwrap_or_default();
    if is_verified(snapshot, &boot) {
        return Verdict::Known;
    }
    // Without the lock it is only verified twice.
    let folder = snapshot.opened.try_clone().ok();
    let _lock = folder.and_then(|folder| Flock::lock(folder, FlockArg::LockExclusive).ok());
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

/// The digest of a file's length and of its blocks with their offsets, without blocks of zeros.
pub(super) fn of(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut hasher = Sha256::new();
    hasher.update(length.to_le_bytes());
    let mut buffer = vec![0; BUFFER as usize];
    let mut at = 0;
    for (start, end) in disk::data(&file)? {
        at = at.max(start as u64 / BLOCK * BLOCK);
        let end = (end as u64).next_multiple_of(BLOCK).min(length);
        while at < end {
            let piece = &mut buffer[..BUFFER.min(end - at) as usize];
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
    fn a_hole_and_zeros_have_the_same_digest() {
        let zeros = vec![0; 1 << 20];
        assert_eq!(
            digest_of(&[(0, &zeros), (5000, b"a")], 1 << 20),
            digest_of(&[(5000, b"a")], 1 << 20)
        );
    }

    #[test]
    fn moved_data_and_another_length_change_the_digest() {
        let digest = digest_of(&[(4096, b"a")], 1 << 20);
        assert_ne!(digest, digest_of(&[(8192, b"a")], 1 << 20));
        assert_ne!(digest, digest_of(&[(4096, b"a")], (1 << 20) + 1));
    }

    #[test]
    fn the_last_byte_of_an_odd_length_is_part_of_the_digest() {
        let bytes = vec![1; 1_000_003];
        let digest = digest_of(&[(0, &bytes)], 1_000_003);
        assert_ne!(digest, digest_of(&[(0, &bytes), (1_000_002, b"a")], 1_000_003));
    }
}
