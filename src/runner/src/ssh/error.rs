//! Errors of SSH to a VM.

use std::io;
use std::path::PathBuf;

/// An error of SSH to a VM.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot run ssh-keygen: install openssh-client")]
    Keygen { source: io::Error },
    #[error("ssh-keygen made no key in {path}")]
    ClientKey { path: PathBuf },
    #[error(
        "the VM has no SSH server: use the image `base`, or build one with --package openssh-server"
    )]
    NoServer,
    #[error("ssh-keygen made no host key in the VM: {said}")]
    HostKey { said: String },
}
