//! Names of time zones.

/// An IANA time zone, like `Europe/Berlin`. The VM checks whether its image has it.
pub fn parse(text: &str) -> Result<String, &'static str> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_+/".contains(&byte);
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic());
    if !starts || text.len() > 64 || !text.bytes().all(good) {
        return Err("expected a time zone, like Europe/Berlin or UTC");
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_zone_that_is_a_path_is_rejected() {
        assert!(parse("America/Argentina/Buenos_Aires").is_ok());
        assert!(parse("../../etc/shadow").is_err());
        assert!(parse("/etc/shadow").is_err());
    }
}
