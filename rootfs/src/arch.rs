//! Processor architectures: every name that differs between them is here.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The processor architecture of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 64-bit Arm.
    Aarch64,
}

impl Arch {
    /// The architecture of this host, which is the one images are built for.
    pub fn host() -> Result<Arch> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Arch::X86_64),
            "aarch64" => Ok(Arch::Aarch64),
            name => Err(Error::UnknownArch { name }),
        }
    }

    /// The name that Debian uses.
    pub fn debian(self) -> &'static str {
        match self {
            Arch::X86_64 => "amd64",
            Arch::Aarch64 => "arm64",
        }
    }

    /// The name that OCI image indexes use; it is the Go one, as is Debian's.
    pub(crate) fn oci(self) -> &'static str {
        self.debian()
    }

    /// The empty package that depends on the newest cloud kernel.
    pub(crate) fn kernel_package(self) -> &'static str {
        match self {
            Arch::X86_64 => "linux-image-cloud-amd64",
            Arch::Aarch64 => "linux-image-cloud-arm64",
        }
    }

    /// `e_machine` of this architecture's ELF files.
    pub(crate) fn elf_machine(self) -> u16 {
        match self {
            Arch::X86_64 => 62,
            Arch::Aarch64 => 183,
        }
    }
}
