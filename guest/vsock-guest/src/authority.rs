//! Trust store: installs certificate authorities of the host, which are the proxy's and those that
//! the host's administrator added.
//!
//! ```text
//!  /usr/local/share/ca-certificates/sandbox-runner.crt      the proxy's, read by `update-ca-certificates`
//!                                  …/sandbox-runner-1.crt   the administrator's, one per file
//!                                  …/sandbox-runner.pem     all of them, for Node.js
//!  /etc/ssl/certs/ca-certificates.crt                       the bundle; ours are at its end, between two marks
//!  /etc/ssl/certs/57127529.0                                OpenSSL's links by subject hash
//!  …/cacerts                                                Java's key stores, if Java is installed
//! ```
//!
//! Environment variables direct programs with built-in roots to these files ([`variables`]).

mod java;
mod subject;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::errno::Errno;
use vsock_proto::Failure;

use crate::account::errno;
use crate::failure::{failed, refused};
use crate::write::{replace, replace_by_link};

const FOLDER: &str = "/usr/local/share/ca-certificates";
/// The name prefix of our files in [`FOLDER`].
const PREFIX: &str = "sandbox-runner";
const PROXY: &str = "/usr/local/share/ca-certificates/sandbox-runner.crt";
const ALL: &str = "/usr/local/share/ca-certificates/sandbox-runner.pem";
const HASHED: &str = "/etc/ssl/certs";
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Bundles of Red Hat, SUSE and Alpine; changed only if they exist.
const OTHER_BUNDLES: [&str; 3] =
    ["/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"];

const BEGIN: &[u8] = b"# sandbox-runner: begin\n";
const END: &[u8] = b"# sandbox-runner: end\n";

const BEGIN_CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
const END_CERTIFICATE: &str = "-----END CERTIFICATE-----";

/// The first adds the authorities to a program's own roots. The others replace those roots by the
/// system's store.
const VARIABLES: [(&str, &str); 6] = [
    ("NODE_EXTRA_CA_CERTS", ALL),
    ("SSL_CERT_FILE", BUNDLE),
    ("REQUESTS_CA_BUNDLE", BUNDLE),
    ("CURL_CA_BUNDLE", BUNDLE),
    ("GIT_SSL_CAINFO", BUNDLE),
    ("PIP_CERT", BUNDLE),
];

/// Trusts the proxy's and the administrator's authorities, and no longer those of an earlier call.
pub(crate) fn trust(root: &Path, proxy: Option<&str>, host: &[String]) -> Result<(), Failure> {
    let files: BTreeMap<String, &str> = proxy
        .map(|pem| (format!("{PREFIX}.crt"), pem))
        .into_iter()
        .chain((1..).zip(host).map(|(n, pem)| (format!("{PREFIX}-{n}.crt"), pem.as_str())))
        .collect();
    if files.values().any(|pem| !pem.starts_with(BEGIN_CERTIFICATE)) {
        return Err(refused(Errno::EINVAL, "an authority is no certificate".to_owned()));
    }
    for folder in [FOLDER, HASHED].map(|folder| below(root, folder)) {
        fs::create_dir_all(&folder).map_err(|error| failed("create", &folder)(errno(&error)))?;
    }
    forget(root);
    for (name, pem) in &files {
        replace(&below(root, FOLDER).join(name), pem.as_bytes())?;
        link_by_hash(root, name, pem)?;
    }
    let all: String = files.values().map(|pem| pem.trim_end().to_owned() + "\n").collect();
    replace(&below(root, ALL), all.as_bytes())?;
    let bundle = add_to_bundles(root, all.as_bytes())?;
    java::trust(root, &bundle)
}

/// Environment variables for commands; empty if no authority is trusted.
pub(crate) fn variables() -> &'static [(&'static str, &'static str)] {
    variables_in(Path::new("/"))
}

/// With a proxy, programs must use the system's store. Without one, they use it only if it has roots
/// of the image; a store with the administrator's authorities alone would replace the programs' roots.
fn variables_in(root: &Path) -> &'static [(&'static str, &'static str)] {
    if !below(root, ALL).exists() {
        return &[];
    }
    let has_others = || {
        let mut head = [0; BEGIN.len()];
        let read = File::open(below(root, BUNDLE)).and_then(|mut file| file.read_exact(&mut head));
        read.is_ok() && head != BEGIN
    };
    if below(root, PROXY).exists() || has_others() { &VARIABLES } else { &VARIABLES[..1] }
}

/// Removes our certificates, and the links to them.
fn forget(root: &Path) {
    for entry in fs::read_dir(below(root, FOLDER)).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with(PREFIX) {
            continue;
        }
        let pem = fs::read_to_string(entry.path()).unwrap_or_default();
        let own = certificates(&pem).first().and_then(|der| subject::hash(der));
        let is_ours = |link: &PathBuf| fs::read_link(link).is_ok_and(|to| to == target(&name));
        for link in own.iter().flat_map(|hash| links(root, hash)).filter(is_ours) {
            remove(&link);
        }
        remove(&entry.path());
    }
}

/// Removes a file. A failure is logged only: that authority stays trusted, the new ones are added.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        log::warn!("cannot remove an old authority; path={} error={error}", path.display());
    }
}

/// Adds OpenSSL's link to a certificate. A certificate without a hash is in the bundle only.
fn link_by_hash(root: &Path, name: &str, pem: &str) -> Result<(), Failure> {
    let hash = certificates(pem).first().and_then(|der| subject::hash(der));
    let free =
        hash.and_then(|hash| links(root, &hash).find(|link| link.symlink_metadata().is_err()));
    free.map_or(Ok(()), |link| replace_by_link(&link, OsStr::new(&target(name))))
}

/// The ten link names of a hash. OpenSSL numbers them, since hashes may collide.
fn links(root: &Path, hash: &str) -> impl Iterator<Item = PathBuf> + use<> {
    let (folder, hash) = (below(root, HASHED), hash.to_owned());
    (0..10).map(move |number| folder.join(format!("{hash}.{number}")))
}

/// The target of a link, as a path in the guest.
fn target(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// Adds the certificates to each bundle that exists. Creates Debian's if it is missing; returns it.
fn add_to_bundles(root: &Path, pem: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut own = None;
    for bundle in [BUNDLE].into_iter().chain(OTHER_BUNDLES) {
        let path = below(root, bundle);
        let found = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            read => read.map_err(|error| failed("read", &path)(errno(&error)))?,
        };
        let found = with(&found, pem);
        if bundle != BUNDLE {
            replace(&path, &found)?;
        }
        own.get_or_insert(found);
    }
    let own = own.unwrap_or_else(|| with(&[], pem));
    replace(&below(root, BUNDLE), &own)?;
    Ok(own)
}

/// The bundle with `pem` between the marks at its end, in place of what was there.
fn with(bundle: &[u8], pem: &[u8]) -> Vec<u8> {
    let begin = bundle.windows(BEGIN.len()).position(|window| window == BEGIN);
    let others = bundle.get(..begin.unwrap_or(bundle.len())).unwrap_or_default();
    let line: &[u8] = if others.is_empty() || others.ends_with(b"\n") { b"" } else { b"\n" };
    [others, line, BEGIN, pem, END].concat()
}

/// Decodes the PEM blocks of a text.
fn certificates(text: &str) -> Vec<Vec<u8>> {
    let blocks = text.split(BEGIN_CERTIFICATE).skip(1);
    let inner = blocks.filter_map(|block| block.split(END_CERTIFICATE).next());
    let compact = |block: &str| block.split_whitespace().collect::<String>();
    inner.filter_map(|block| STANDARD.decode(compact(block)).ok()).collect()
}

fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::subject::tests::UTF8_NAME;
    use super::*;

    fn pem(text: &str) -> String {
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    }

    fn read(root: &Path, path: &str) -> String {
        fs::read_to_string(below(root, path)).unwrap()
    }

    fn write(root: &Path, path: &str, text: &str) {
        fs::create_dir_all(below(root, path).parent().unwrap()).unwrap();
        fs::write(below(root, path), text).unwrap();
    }

    #[test]
    fn an_authority_is_trusted_instead_of_the_one_before_it() {
        let root = tempfile::tempdir().unwrap();
        trust(root.path(), Some(&pem("AAAA")), &[]).unwrap();
        let alone = read(root.path(), BUNDLE);
        write(root.path(), BUNDLE, &format!("others\n{alone}"));

        trust(root.path(), Some(&pem("BBBB")), &[]).unwrap();

        let (begin, end) = ("# sandbox-runner: begin\n", "# sandbox-runner: end\n");
        assert_eq!(read(root.path(), BUNDLE), format!("others\n{begin}{}{end}", pem("BBBB")));
        assert_eq!(read(root.path(), PROXY), pem("BBBB"));
    }

    #[test]
    fn authorities_of_the_host_are_in_the_store_beside_the_proxys() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), BUNDLE, "others\n");
        let host = [UTF8_NAME.to_owned(), pem("CCCC")];

        trust(root.path(), Some(&pem("AAAA")), &host).unwrap();

        let all = read(root.path(), ALL);
        assert!([&pem("AAAA"), UTF8_NAME, &pem("CCCC")].iter().all(|pem| all.contains(*pem)));
        assert!(read(root.path(), BUNDLE).contains(&all));
        let link = fs::read_link(below(root.path(), "/etc/ssl/certs/789bffef.0")).unwrap();
        assert_eq!(link, Path::new("/usr/local/share/ca-certificates/sandbox-runner-1.crt"));
    }

    #[test]
    fn authorities_that_the_host_has_no_longer_are_forgotten_with_their_links() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "/usr/local/share/ca-certificates/theirs.crt", "kept");
        trust(root.path(), None, &[UTF8_NAME.to_owned(), pem("CCCC")]).unwrap();

        trust(root.path(), None, &[pem("DDDD")]).unwrap();

        let folder = fs::read_dir(below(root.path(), FOLDER)).unwrap().flatten();
        let mut names: Vec<_> = folder.map(|entry| entry.file_name()).collect();
        names.sort();
        assert_eq!(names, ["sandbox-runner-1.crt", "sandbox-runner.pem", "theirs.crt"]);
        let link = below(root.path(), "/etc/ssl/certs/789bffef.0");
        assert!(link.symlink_metadata().is_err());
    }

    #[test]
    fn link_of_the_image_with_the_same_hash_stays() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "/etc/ssl/certs/789bffef.0", "theirs");

        trust(root.path(), None, &[UTF8_NAME.to_owned()]).unwrap();

        assert_eq!(read(root.path(), "/etc/ssl/certs/789bffef.0"), "theirs");
        assert!(fs::read_link(below(root.path(), "/etc/ssl/certs/789bffef.1")).is_ok());
    }

    #[test]
    fn bundle_of_another_distribution_is_added_to_and_the_usual_one_has_its_roots_too() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "/etc/pki/tls/certs/ca-bundle.crt", "redhat\n");

        trust(root.path(), None, &[pem("CCCC")]).unwrap();

        let theirs = read(root.path(), "/etc/pki/tls/certs/ca-bundle.crt");
        assert!(theirs.starts_with("redhat\n") && theirs.contains(&pem("CCCC")), "{theirs}");
        assert_eq!(read(root.path(), BUNDLE), theirs);
    }

    #[test]
    fn programs_are_told_to_use_a_store_only_if_it_has_what_they_need() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(variables_in(root.path()).len(), 0);

        trust(root.path(), None, &[pem("CCCC")]).unwrap();
        assert_eq!(variables_in(root.path()), &VARIABLES[..1]);

        write(
            root.path(),
            BUNDLE,
            &format!("other roots, a long line\n{}", read(root.path(), BUNDLE)),
        );
        assert_eq!(variables_in(root.path()), &VARIABLES);
    }

    #[test]
    fn where_the_proxys_authority_is_trusted_programs_use_the_store() {
        let root = tempfile::tempdir().unwrap();

        trust(root.path(), Some(&pem("AAAA")), &[]).unwrap();

        assert_eq!(variables_in(root.path()), &VARIABLES);
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        let root = tempfile::tempdir().unwrap();
        assert!(trust(root.path(), Some("-----BEGIN PRIVATE KEY-----"), &[]).is_err());
        assert!(trust(root.path(), None, &["-----BEGIN PRIVATE KEY-----".to_owned()]).is_err());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
