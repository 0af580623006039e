//! Certificate authorities that were added to this host's trust store. Guests trust them too, since a proxy
//! that inspects the host's TLS connections also inspects theirs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Folders of added authorities: `update-ca-certificates` reads `*.crt` of the first, `update-ca-trust` and
/// similar tools read every file of the others.
const FOLDERS: [(&str, Option<&str>); 4] = [
    ("/usr/local/share/ca-certificates", Some("crt")),
    ("/etc/pki/ca-trust/source/anchors", None),
    ("/etc/pki/trust/anchors", None),
    ("/etc/ca-certificates/trust-source/anchors", None),
];

/// The largest depth of folders that is searched.
const DEPTH: usize = 4;

/// The largest file that is read, in bytes.
const FILE_LIMIT: u64 = 1 << 20;

/// The largest size of all certificates, which are sent to the guest in one message with other content.
const TOTAL_LIMIT: usize = 256 << 10;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The added authorities of this host.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// As PEM, without duplicates.
    pub certificates: Vec<String>,
    /// How many certificates are omitted because of the size limit.
    pub left_out: usize,
}

/// Reads the added authorities.
pub fn read_all() -> Found {
    let found = read_below(Path::new("/"));
    if found.left_out > 0 {
        log::warn!(
            "some authorities exceed the size limit and are not trusted by guests; left_out={}",
            found.left_out
        );
    }
    found
}

fn read_below(root: &Path) -> Found {
    let mut certificates = BTreeSet::new();
    for (folder, ending) in FOLDERS {
        let folder = root.join(folder.trim_start_matches('/'));
        for file in files(&folder, DEPTH) {
            if ending.is_none() || file.extension().and_then(|e| e.to_str()) == ending {
                certificates.extend(read(&file));
            }
        }
    }
    let mut found = Found::default();
    let mut total = 0;
    for certificate in certificates {
        let pem = pem(&certificate);
        total += pem.len();
        if total <= TOTAL_LIMIT {
            found.certificates.push(pem);
        } else {
            found.left_out += 1;
        }
    }
    found
}

/// The files of a folder and its subfolders, following links as the tools do; none if it does not exist.
fn files(folder: &Path, depth: usize) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files = Vec::new();
    for path in entries.map(|entry| entry.path()) {
        match path.metadata() {
            Ok(metadata) if metadata.is_dir() && depth > 1 => {
                files.extend(self::files(&path, depth - 1));
            }
            Ok(metadata) if metadata.is_file() && metadata.len() <= FILE_LIMIT => files.push(path),
            _ => {}
        }
    }
    files
}

/// The certificates of a file as DER. The file is one DER certificate, or contains PEM blocks.
fn read(path: &Path) -> Vec<Vec<u8>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            log::warn!("cannot read an authority; path={} error={error}", path.display());
            return Vec::new();
        }
    };
    let text = String::from_utf8_lossy(&bytes);
    let blocks = text.split(BEGIN).skip(1).filter_map(|block| block.split_once(END));
    let compact = |block: &str| block.split_whitespace().collect::<String>();
    let ders = blocks.filter_map(|(block, _)| STANDARD.decode(compact(block)).ok());
    let found: Vec<_> = ders.filter(|der| is_whole(der)).collect();
    if found.is_empty() && is_whole(&bytes) { vec![bytes] } else { found }
}

/// Whether the bytes are exactly one DER sequence with a length of at least 128 bytes.
fn is_whole(der: &[u8]) -> bool {
    match der {
        [0x30, 0x81, length, rest @ ..] => rest.len() == usize::from(*length),
        [0x30, 0x82, high, low, rest @ ..] => {
            rest.len() == usize::from(u16::from_be_bytes([*high, *low]))
        }
        _ => false,
    }
}

fn pem(der: &[u8]) -> String {
    const COLUMNS: usize = 64;
    let text = STANDARD.encode(der);
    let mut pem = format!("{BEGIN}\n");
    let mut rest = text.as_str();
    while let Some((line, behind)) = rest.split_at_checked(COLUMNS) {
        pem += &format!("{line}\n");
        rest = behind;
    }
    if !rest.is_empty() {
        pem += &format!("{rest}\n");
    }
    pem + END + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "usr/local/share/ca-certificates";
    const RED_HAT: &str = "etc/pki/ca-trust/source/anchors";

    /// A DER sequence of the size of a certificate.
    fn der(byte: u8, length: u8) -> Vec<u8> {
        [&[0x30, 0x81, length][..], &vec![byte; usize::from(length)]].concat()
    }

    fn write(root: &Path, path: &str, bytes: impl AsRef<[u8]>) {
        fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        fs::write(root.join(path), bytes).unwrap();
    }

    #[test]
    fn a_host_without_added_authorities_has_none() {
        let root = tempfile::tempdir().unwrap();

        assert_eq!(read_below(root.path()), Found::default());
    }

    #[test]
    fn additions_of_debian_are_files_with_the_ending_crt_in_any_folder() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), &format!("{DEBIAN}/corp/root.crt"), pem(&der(1, 200)));
        write(root.path(), &format!("{DEBIAN}/README"), pem(&der(2, 200)));

        assert_eq!(read_below(root.path()).certificates, [pem(&der(1, 200))]);
    }

    #[test]
    fn additions_of_red_hat_are_all_files_in_either_form() {
        let root = tempfile::tempdir().unwrap();
        let two = format!("# ours\n{}{}", pem(&der(1, 200)), pem(&der(2, 200)));
        write(root.path(), &format!("{RED_HAT}/two.pem"), two);
        write(root.path(), &format!("{RED_HAT}/binary"), der(3, 200));

        let found = read_below(root.path()).certificates;

        assert_eq!(found, [1, 2, 3].map(|byte| pem(&der(byte, 200))));
    }

    #[test]
    fn certificate_in_two_places_is_given_once() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), &format!("{DEBIAN}/a.crt"), pem(&der(1, 200)));
        write(root.path(), &format!("{RED_HAT}/a.pem"), der(1, 200));

        assert_eq!(read_below(root.path()).certificates.len(), 1);
    }

    #[test]
    fn keys_and_damaged_files_are_ignored() {
        let root = tempfile::tempdir().unwrap();
        let key = pem(&der(1, 200)).replace("CERTIFICATE", "PRIVATE KEY");
        write(root.path(), &format!("{RED_HAT}/key.pem"), key);
        write(root.path(), &format!("{RED_HAT}/cut.pem"), &pem(&der(1, 200))[..100]);
        write(root.path(), &format!("{RED_HAT}/cut.der"), &der(1, 200)[..100]);

        assert_eq!(read_below(root.path()), Found::default());
    }

    #[test]
    fn certificates_beyond_the_size_limit_are_omitted_and_counted() {
        let root = tempfile::tempdir().unwrap();
        let large = |byte| [&[0x30, 0x82, 0xff, 0xff][..], &vec![byte; 0xffff]].concat();
        let all: String = (0..4).map(|byte| pem(&large(byte))).collect();
        write(root.path(), &format!("{RED_HAT}/all.pem"), all);

        let found = read_below(root.path());

        assert_eq!((found.certificates.len(), found.left_out), (2, 2));
    }
}
