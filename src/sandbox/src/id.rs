//! The id of a sandbox on its host.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::str::FromStr;

use crate::{Error, Result};

/// 64 random bits, written as 16 hexadecimal digits: the name of the sandbox's folder, cgroup,
/// and (its first eight digits) thread.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SandboxId(u64);

impl SandboxId {
    /// A random id.
    pub fn random() -> Result<Self> {
        let mut bytes = [0; 8];
        File::open("/dev/urandom")
            .and_then(|mut urandom| urandom.read_exact(&mut bytes))
            .map_err(|source| Error::Entropy { source })?;
        Ok(Self(u64::from_ne_bytes(bytes)))
    }

    /// As a number.
    pub fn number(self) -> u64 {
        self.0
    }

    /// The first eight digits, which fit into a thread's name.
    pub fn short(self) -> String {
        format!("{:08x}", self.0 >> 32)
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

impl FromStr for SandboxId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || Error::InvalidId { text: text.to_owned() };
        let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if text.len() != 16 || !digits {
            return Err(refuse());
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| refuse())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_parsed_from_its_text() {
        let id = SandboxId::random().unwrap();
        assert_eq!(id.to_string().parse::<SandboxId>().unwrap(), id);
        assert!(id.to_string().starts_with(&id.short()));
    }

    #[test]
    fn only_sixteen_lower_case_hexadecimal_digits_are_an_id() {
        assert!("0123456789abcdeF".parse::<SandboxId>().is_err());
        assert!("../../etc/passwd".parse::<SandboxId>().is_err());
        assert!("+123456789abcdef".parse::<SandboxId>().is_err());
    }
}
