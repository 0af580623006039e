//! Ids and tokens.

use base::{hex, random};

use super::error::{Error, Result};

/// A sandbox's id: `i` and 20 of a-z and 0-9, as it is part of host names.
pub(super) fn sandbox() -> Result<String> {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut id = String::from("i");
    while id.len() < 21 {
        let bytes: [u8; 32] = random::bytes().map_err(|source| Error::Entropy { source })?;
        // Of 252 = 7 × 36 values each letter has as many.
        let letters = bytes.iter().filter(|byte| **byte < 252);
        let letters = letters.filter_map(|byte| LETTERS.get(usize::from(byte % 36)));
        id.extend(letters.take(21 - id.len()).map(|letter| char::from(*letter)));
    }
    Ok(id)
}

/// A token: 256 random bits.
pub(super) fn token() -> Result<String> {
    let bytes: [u8; 32] = random::bytes().map_err(|source| Error::Entropy { source })?;
    Ok(hex::encode(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_letter_and_twenty_letters_or_digits() {
        let id = sandbox().unwrap();
        assert_eq!((id.len(), id.starts_with('i')), (21, true));
        assert!(id.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()));
        assert_ne!(id, sandbox().unwrap());
    }
}
