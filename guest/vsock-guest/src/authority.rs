//! The certificate authority that this machine is told to trust, in the system's store.
//!
//! ```text
//!  /usr/local/share/ca-certificates/sandbox-runner.crt   the certificate, where `update-ca-certificates` looks
//!  /etc/ssl/certs/ca-certificates.crt                    the bundle: it is added at the end, between marks
//!  /etc/ssl/certs/57127529.0                             a link to the first, by the hash of its name
//!  …/cacerts                                             Java's stores, where it is installed
//! ```
//!
//! Programs that bring roots of their own are told by variables ([`variables`]).

mod java;

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use nix::errno::Errno;
use vsock_proto::Failure;

use crate::account::errno;
use crate::failure::{failed, refused};
use crate::write::{replace, replace_by_link};

const CERTIFICATE: &str = "/usr/local/share/ca-certificates/sandbox-runner.crt";
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// By the hash of the subject, which is the same on every host.
const HASHED: &str = "/etc/ssl/certs/57127529.0";

const BEGIN: &[u8] = b"# sandbox-runner: begin\n";
const END: &[u8] = b"# sandbox-runner: end\n";

/// What makes programs trust the system's store, or the authority besides their own roots.
const VARIABLES: [(&str, &str); 6] = [
    ("SSL_CERT_FILE", BUNDLE),
    ("REQUESTS_CA_BUNDLE", BUNDLE),
    ("CURL_CA_BUNDLE", BUNDLE),
    ("GIT_SSL_CAINFO", BUNDLE),
    ("PIP_CERT", BUNDLE),
    ("NODE_EXTRA_CA_CERTS", CERTIFICATE),
];

/// Trusts it, instead of the one before.
pub(crate) fn trust(root: &Path, pem: &str) -> Result<(), Failure> {
    if !pem.starts_with("-----BEGIN CERTIFICATE-----") {
        return Err(refused(Errno::EINVAL, "the authority is no certificate".to_owned()));
    }
    for file in [CERTIFICATE, BUNDLE] {
        let path = below(root, file);
        let folder = path.parent().unwrap_or(root);
        fs::create_dir_all(folder).map_err(|error| failed("create", folder)(errno(&error)))?;
    }
    replace(&below(root, CERTIFICATE), pem.as_bytes())?;
    let path = below(root, BUNDLE);
    let bundle = match fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        read => read.map_err(|error| failed("read", &path)(errno(&error)))?,
    };
    let bundle = with(&bundle, pem.as_bytes());
    replace(&path, &bundle)?;
    java::trust(root, &bundle)?;
    replace_by_link(&below(root, HASHED), OsStr::new(CERTIFICATE))
}

/// What commands are to have in their environment; nothing where no authority is trusted.
pub(crate) fn variables() -> &'static [(&'static str, &'static str)] {
    if Path::new(CERTIFICATE).exists() { &VARIABLES } else { &[] }
}

/// The bundle with the certificate at its end, and not the one before it.
fn with(bundle: &[u8], pem: &[u8]) -> Vec<u8> {
    let begin = bundle.windows(BEGIN.len()).position(|window| window == BEGIN);
    let others = bundle.get(..begin.unwrap_or(bundle.len())).unwrap_or_default();
    let line: &[u8] = if others.is_empty() || others.ends_with(b"\n") { b"" } else { b"\n" };
    [others, line, BEGIN, pem, END].concat()
}

fn below(root: &Path, path: &str) -> std::path::PathBuf {
    root.join(path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_trusted_instead_of_the_one_before_it() {
        let root = tempfile::tempdir().unwrap();
        let pem = |text: &str| format!("-----BEGIN CERTIFICATE-----\n{text}\n");
        let read = || fs::read_to_string(below(root.path(), BUNDLE)).unwrap();
        trust(root.path(), &pem("first")).unwrap();
        let alone = read();
        fs::write(below(root.path(), BUNDLE), format!("others\n{alone}")).unwrap();

        trust(root.path(), &pem("second")).unwrap();

        let (begin, end) = ("# sandbox-runner: begin\n", "# sandbox-runner: end\n");
        assert_eq!(read(), format!("others\n{begin}{}{end}", pem("second")));
        assert_eq!(fs::read_to_string(below(root.path(), CERTIFICATE)).unwrap(), pem("second"));
        let link = fs::read_link(below(root.path(), HASHED)).unwrap();
        assert_eq!(link, Path::new(CERTIFICATE));
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        let root = tempfile::tempdir().unwrap();
        assert!(trust(root.path(), "-----BEGIN PRIVATE KEY-----").is_err());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
