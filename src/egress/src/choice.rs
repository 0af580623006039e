//! Which network a VM gets: the value of `--network` and of `network` in a profile.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

/// Which network a VM gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkChoice {
    /// The public internet.
    Open,
    /// No network.
    None,
    /// The public internet and networks of a policy file.
    Policy(PathBuf),
    /// Through the proxy, by a policy file or to all of the public internet.
    Intercept(Option<PathBuf>),
}

impl NetworkChoice {
    /// Parses `open`, `none`, `policy=FILE`, `intercept` or `intercept=FILE`.
    pub fn parse(text: &[u8]) -> Result<Self, &'static str> {
        let file = |name: &[u8]| {
            let file = text.strip_prefix(name)?.strip_prefix(b"=")?;
            (!file.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(file)))
        };
        match text {
            b"open" => Ok(Self::Open),
            b"none" => Ok(Self::None),
            b"intercept" => Ok(Self::Intercept(None)),
            _ => {
                let intercept = || file(b"intercept").map(|file| Self::Intercept(Some(file)));
                let choice = file(b"policy").map(Self::Policy).or_else(intercept);
                choice.ok_or("expected open, none, policy=FILE, or intercept[=FILE]")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_open_none_or_a_policy() {
        assert_eq!(NetworkChoice::parse(b"open"), Ok(NetworkChoice::Open));
        assert_eq!(NetworkChoice::parse(b"policy=a=b"), Ok(NetworkChoice::Policy("a=b".into())));
        assert_eq!(NetworkChoice::parse(b"intercept"), Ok(NetworkChoice::Intercept(None)));
        assert_eq!(
            NetworkChoice::parse(b"intercept=a"),
            Ok(NetworkChoice::Intercept(Some("a".into())))
        );
        assert!(NetworkChoice::parse(b"intercept=").is_err());
        assert!(NetworkChoice::parse(b"policy=").is_err());
        assert!(NetworkChoice::parse(b"file.toml").is_err());
    }
}
