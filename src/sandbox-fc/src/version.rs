//! Versions of Firecracker, and their known faults.

use std::fmt;

/// A version. A development build counts as the release that follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u16,
    minor: u16,
    patch: u16,
}

/// The verdict on a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Supported.
    Good,
    /// Supported with a known fault.
    Weak(&'static str),
    /// Must not be used, with the reason.
    Unfit(&'static str),
    /// Unknown.
    Unknown,
}

const OLD: &str = "guests may escape from it: use 1.15.1 or later, or 1.14.4 or later of 1.14";
const HANGS: &str = "a guest's connections hang after a restore and after a pause: use 1.15";

impl Version {
    /// The first version in a text: `1.15.1` in `Firecracker v1.15.1`.
    pub fn parse(text: &str) -> Option<Self> {
        text.split_whitespace().find_map(|word| {
            let word = word.strip_prefix('v').unwrap_or(word);
            let release = word.split(['-', '+']).next().unwrap_or(word);
            let mut parts = release.split('.').map(|part| part.parse().ok());
            let version =
                Self { major: parts.next()??, minor: parts.next()??, patch: parts.next()?? };
            parts.next().is_none().then_some(version)
        })
    }

    /// The verdict on this version.
    pub fn judge(self) -> Verdict {
        match (self.major, self.minor, self.patch) {
            (0, ..) | (1, ..14, _) | (1, 14, ..4) | (1, 15, 0) => Verdict::Unfit(OLD),
            (1, 16, ..2) => Verdict::Weak(HANGS),
            _ => Verdict::Good,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(text: &str) -> Verdict {
        Version::parse(text).unwrap().judge()
    }

    #[test]
    fn a_version_is_parsed_from_the_programs_output() {
        let printed =
            "Firecracker v1.15.1\n\n2026-01-01T00:00:00 [anonymous-instance:main] Exiting";
        assert_eq!(Version::parse(printed).unwrap().to_string(), "1.15.1");
        assert_eq!(Version::parse("1.17.0-dev").unwrap().to_string(), "1.17.0");
        assert_eq!(Version::parse("Firecracker vNext 1.2 1.2.3.4"), None);
    }

    #[test]
    fn each_release_series_is_accepted_from_its_fixed_version_on() {
        assert!(matches!(judge("1.14.3"), Verdict::Unfit(_)));
        assert_eq!(judge("1.14.4"), Verdict::Good);
        assert!(matches!(judge("1.15.0"), Verdict::Unfit(_)));
        assert_eq!(judge("1.15.1"), Verdict::Good);
        assert!(matches!(judge("1.16.0"), Verdict::Weak(_)));
        assert!(matches!(judge("1.16.1"), Verdict::Weak(_)));
        assert_eq!(judge("1.16.2"), Verdict::Good);
        assert!(matches!(judge("0.25.2"), Verdict::Unfit(_)));
    }
}
