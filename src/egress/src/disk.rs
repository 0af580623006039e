//! A VM's disk: its size, like `8G`, and its limits: `bandwidth=200M,operations=5000` as a flag, or a TOML table.
//!
//! ```toml
//! disk_limits = { bandwidth = "200M", operations = 5000 }    # bytes and operations per second
//! ```

use std::ops::RangeInclusive;

use sandbox::DiskLimits;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::number::{Word, decimal};

/// With both minima, an emulated VM boots in about ten seconds; with much less, its start would time out.
const BANDWIDTHS: RangeInclusive<u64> = 1_000_000..=1_000_000_000_000;
/// See [`BANDWIDTHS`].
const OPERATIONS: RangeInclusive<u64> = 50..=1_000_000_000;

/// Disk limits in a configuration file.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct LimitsTable {
    bandwidth: Option<Bandwidth>,
    operations: Option<Operations>,
}

/// Bytes per second.
struct Bandwidth(u64);

/// Operations per second.
struct Operations(u64);

impl LimitsTable {
    /// The limits of the table.
    pub fn limits(&self) -> DiskLimits {
        DiskLimits {
            bytes_per_second: self.bandwidth.as_ref().map(|limit| limit.0),
            operations_per_second: self.operations.as_ref().map(|limit| limit.0),
        }
    }
}

/// Disk limits of a flag.
pub fn limits(text: &str) -> Result<DiskLimits, &'static str> {
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

/// The size in MiB: `512M`, `8G`; a bare number is in MiB.
pub fn size(text: &str) -> Result<u64, &'static str> {
    let refused = "expected a size from 64M to 16T, like 8G";
    let (number, mib) = match text.as_bytes().last() {
        Some(b'M') => (text.strip_suffix('M'), 1),
        Some(b'G') => (text.strip_suffix('G'), 1 << 10),
        Some(b'T') => (text.strip_suffix('T'), 1 << 20),
        _ => (Some(text), 1),
    };
    let number: u64 = number.unwrap_or_default().parse().map_err(|_| refused)?;
    let size = number.checked_mul(mib).filter(|size| rootfs::DISK_SIZES_MIB.contains(size));
    size.ok_or(refused)
}

fn bandwidth(text: &str) -> Option<u64> {
    decimal(text).filter(|rate| BANDWIDTHS.contains(rate))
}

fn operations(text: &str) -> Option<u64> {
    decimal(text).filter(|rate| OPERATIONS.contains(rate))
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
        assert_eq!(table.limits(), of(Some(200_000_000), Some(5000)));
        assert_eq!(toml::from_str::<LimitsTable>("").unwrap().limits(), DiskLimits::default());
    }

    #[test]
    fn a_disk_size_outside_of_its_bounds_is_rejected() {
        assert_eq!(["512M", "8G", "1T", "100"].map(size), [512, 8192, 1 << 20, 100].map(Ok));
        for text in ["", "G", "8g", "8GB", "63M", "17T", "0", "-1G", "18446744073709551615T"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
