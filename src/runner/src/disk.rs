//! Disk limits of a VM: `bandwidth=200M,operations=5000` as a flag, or a TOML table.
//!
//! ```toml
//! disk_limits = { bandwidth = "200M", operations = 5000 }    # bytes and operations per second
//! ```

use std::ops::RangeInclusive;

use sandbox::DiskLimits;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::network::Word;
use crate::value::{self, Refused};

/// With both minima, an emulated VM boots in about ten seconds; with much less, its start would time out.
const BANDWIDTHS: RangeInclusive<u64> = 1_000_000..=1_000_000_000_000;
/// See [`BANDWIDTHS`].
const OPERATIONS: RangeInclusive<u64> = 50..=1_000_000_000;

/// Disk limits in a configuration file.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitsTable {
    bandwidth: Option<Bandwidth>,
    operations: Option<Operations>,
}

/// Bytes per second.
struct Bandwidth(u64);

/// Operations per second.
struct Operations(u64);

impl LimitsTable {
    pub(crate) fn understand(&self) -> DiskLimits {
        DiskLimits {
            bytes_per_second: self.bandwidth.as_ref().map(|limit| limit.0),
            operations_per_second: self.operations.as_ref().map(|limit| limit.0),
        }
    }
}

/// Disk limits of a flag.
pub(crate) fn limits(text: &str) -> Result<DiskLimits, Refused> {
    let refused = "expected bandwidth=RATE in bytes per second (like 200M, from 1M to 1000G), \
                   operations=N per second (from 50 to 1G), or both with a comma between them";
    let mut limits = DiskLimits::default();
    for part in text.split(',') {
        let (name, rate) = part.split_once('=').ok_or(refused)?;
        let (limit, parse): (_, fn(&str) -> Option<u64>) = match name {
            "bandwidth" => (&mut limits.bytes_per_second, bandwidth),
            "operations" => (&mut limits.operations_per_second, operations),
            _ => return Err(refused),
        };
        // A repeated limit is ambiguous.
        if limit.replace(parse(rate).ok_or(refused)?).is_some() {
            return Err(refused);
        }
    }
    Ok(limits)
}

fn bandwidth(text: &str) -> Option<u64> {
    value::decimal(text).filter(|rate| BANDWIDTHS.contains(rate))
}

fn operations(text: &str) -> Option<u64> {
    value::decimal(text).filter(|rate| OPERATIONS.contains(rate))
}

impl<'de> Deserialize<'de> for Bandwidth {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let text = Word::deserialize(from)?.text();
        let refused =
            || format!("`{text}`: expected bytes per second, like 200M, from 1M to 1000G");
        bandwidth(&text).map(Self).ok_or_else(|| D::Error::custom(refused()))
    }
}

impl<'de> Deserialize<'de> for Operations {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let text = Word::deserialize(from)?.text();
        let refused = || format!("`{text}`: expected operations per second, from 50 to 1G");
        operations(&text).map(Self).ok_or_else(|| D::Error::custom(refused()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes_per_second: Option<u64>, operations_per_second: Option<u64>) -> DiskLimits {
        DiskLimits { bytes_per_second, operations_per_second }
    }

    #[test]
    fn a_flag_limits_bandwidth_operations_or_both() {
        assert_eq!(limits("bandwidth=200M"), Ok(of(Some(200_000_000), None)));
        assert_eq!(limits("operations=5000"), Ok(of(None, Some(5000))));
        assert_eq!(limits("operations=5K,bandwidth=1G"), Ok(of(Some(1_000_000_000), Some(5000))));
    }

    #[test]
    fn limits_that_are_too_low_unknown_or_repeated_are_rejected() {
        for text in ["", "200M", "bandwidth=", "bandwidth=999K", "operations=49", "iops=100"] {
            assert!(limits(text).is_err(), "{text}");
        }
        assert!(limits("bandwidth=1M,bandwidth=2M").is_err());
        assert!(limits("bandwidth=1M,").is_err());
    }

    #[test]
    fn a_table_sets_the_same_limits() {
        let table: LimitsTable = toml::from_str("bandwidth = \"200M\"\noperations = 5000").unwrap();
        assert_eq!(table.understand(), of(Some(200_000_000), Some(5000)));
        assert_eq!(toml::from_str::<LimitsTable>("").unwrap().understand(), DiskLimits::default());
    }
}
