//! Durations as users write them.

use std::time::Duration;

/// `500ms`, `30s`, `1.5s`, `5m`, `2h`, `1d`, `1h30m`; a bare number is in seconds. Zero is rejected.
pub fn parse(text: &str) -> Result<Duration, &'static str> {
    let refused = "expected a time like 30, 500ms, 1.5s, 5m, 1h30m";
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let (mut total, mut rest) = (Duration::ZERO, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !is_number(c)).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(is_number).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let scale = match unit {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "" if number == text => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3_600),
            "d" => Duration::from_secs(86_400),
            _ => return Err(refused),
        };
        let part = times(number, scale).ok_or(refused)?;
        total = total.checked_add(part).ok_or(refused)?;
        rest = tail;
    }
    let year = Duration::from_secs(366 * 86_400);
    if total.is_zero() || total > year { Err(refused) } else { Ok(total) }
}

/// Multiplies a decimal number of at most nine fractional digits by a unit.
fn times(number: &str, unit: Duration) -> Option<Duration> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole = unit.checked_mul(whole.parse().ok()?)?;
    let digits = u32::try_from(fraction.len()).ok().filter(|digits| *digits <= 9)?;
    let fraction = unit.as_nanos() * u128::from(fraction.parse::<u32>().ok()?);
    let nanoseconds = u64::try_from(fraction / 10_u128.pow(digits)).ok()?;
    whole.checked_add(Duration::from_nanos(nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_units_or_is_seconds() {
        assert_eq!(parse("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("30"), Ok(Duration::from_secs(30)));
        assert_eq!(parse("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("1.5m0.5s"), Ok(Duration::from_millis(90_500)));
        let wrong = ["s", "", ".", ".5s", "1.", "1..5s", "1h30", "-1", "1.0000000001s", "1e3"];
        for text in wrong.into_iter().chain(["99999999999999999999s", "4294967295d"]) {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_duration_of_zero_is_rejected() {
        assert!(parse("0s").is_err());
        assert!(parse("0").is_err());
        assert!(parse("0.0s").is_err());
    }
}
