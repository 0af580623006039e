//! Random ids.

use std::fs::File;
use std::io::Read as _;

use crate::error::{Error, Result};

/// A UUID of version 4 from the kernel's random numbers.
pub(crate) fn random() -> Result<String> {
    let mut bytes = [0; 16];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|source| Error::Random { source })?;
    Ok(version_4(u128::from_be_bytes(bytes)))
}

fn version_4(random: u128) -> String {
    let value = random & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{value:032x}");
    let (a, rest) = hex.split_at(8);
    let (b, rest) = rest.split_at(4);
    let (c, rest) = rest.split_at(4);
    let (d, e) = rest.split_at(4);
    format!("{a}-{b}-{c}-{d}-{e}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_and_variant_replace_random_bits() {
        assert_eq!(version_4(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }

    #[test]
    fn version_and_variant_are_set_where_the_random_bits_are_zero() {
        assert_eq!(version_4(0), "00000000-0000-4000-8000-000000000000");
    }
}
