//! Chance: for the order of hosts, the spread of retries, and what WebSocket wants.

/// Random bytes. If the system has none, zeros do: nothing here is a secret.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if getrandom::fill(&mut bytes).is_err() {
        bytes = [0; N];
    }
    bytes
}

/// A number less than `bound`, which is more than 0.
pub(crate) fn below(bound: usize) -> usize {
    usize::try_from(u32::from_le_bytes(bytes())).unwrap_or(0) % bound.max(1)
}

/// From 0 up to 1.
pub(crate) fn fraction() -> f64 {
    f64::from(u32::from_le_bytes(bytes())) / f64::from(u32::MAX)
}
