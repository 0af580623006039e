//! Random bytes and numbers of the kernel's.

pub use getrandom::Error;

/// Random bytes, good enough for keys.
pub fn bytes<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// A number from 0 up to, and without, 1; 0 if the kernel has no randomness. For delays and the
/// order of hosts, never for secrets.
pub fn fraction() -> f64 {
    let bits = u32::from_le_bytes(bytes().unwrap_or_default());
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

/// A number less than `bound`; 0 if that is 0. Not for secrets.
pub fn below(bound: usize) -> usize {
    let bits = u64::from_le_bytes(bytes().unwrap_or_default());
    let bound = u64::try_from(bound).unwrap_or(u64::MAX);
    // Less than `bound`, so it fits.
    usize::try_from(bits.checked_rem(bound).unwrap_or(0)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bytes_differ_and_numbers_stay_below_their_bound() {
        assert_ne!(bytes::<16>().unwrap(), bytes::<16>().unwrap());
        assert!((0.0..1.0).contains(&fraction()));
        assert!(below(3) < 3);
        assert_eq!(below(1), 0);
        assert_eq!(below(0), 0);
    }
}
