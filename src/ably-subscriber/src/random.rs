//! Random numbers for the order of hosts, the jitter of retries, and WebSocket's keys and masks.

/// Random bytes; zeros if the system has none, as nothing here is secret.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if getrandom::fill(&mut bytes).is_err() {
        bytes = [0; N];
    }
    bytes
}

/// A number below `bound`.
pub(crate) fn below(bound: usize) -> usize {
    usize::try_from(u32::from_le_bytes(bytes())).unwrap_or(0) % bound.max(1)
}

/// A number from 0 to 1.
pub(crate) fn fraction() -> f64 {
    f64::from(u32::from_le_bytes(bytes())) / f64::from(u32::MAX)
}
