//! Points in time, as numbers and as text.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECONDS_OF_DAY: u64 = 86_400;

/// Milliseconds since 1970.
pub fn epoch_ms() -> u64 {
    u64::try_from(since_epoch().as_millis()).unwrap_or(u64::MAX)
}

/// Now, as ISO-8601 in UTC with milliseconds.
pub fn iso_now() -> String {
    iso_of(since_epoch())
}

/// A time since 1970 as ISO-8601: `2026-01-31T12:00:00.000Z`.
pub fn iso_of(since: Duration) -> String {
    let seconds = since.as_secs();
    let (year, month, day) = date_of(seconds / SECONDS_OF_DAY);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let millis = since.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The time since 1970 of an HTTP date: `Sun, 06 Nov 1994 08:49:37 GMT`.
pub(crate) fn parse_http_date(text: &str) -> Option<Duration> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let (_, rest) = text.split_once(", ")?;
    let mut words = rest.split(' ');
    let day: u64 = words.next()?.parse().ok()?;
    let month = words.next().filter(|name| name.len() == 3)?;
    let month = MONTHS.find(month).filter(|at| at % 3 == 0)? as u64 / 3 + 1;
    let year: u64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let sane = (1..=31).contains(&day) && (1970..=9999).contains(&year);
    if !sane || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let days = days_to(year, month, day);
    Some(Duration::from_secs(days * SECONDS_OF_DAY + hour * 3600 + minute * 60 + second))
}

pub(crate) fn since_epoch() -> Duration {
    // A clock before 1970 is not set yet; 1970 says as much.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Days from 0000-03-01 to 1970-01-01. Years are counted from March, so that the leap day is the
/// last of its year.
const TO_1970: u64 = 719_468;

/// The Gregorian date of a day since 1970.
fn date_of(day: u64) -> (u64, u64, u64) {
    let day = day + TO_1970;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = 400 * era + year;
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

/// The days from 1970 to a Gregorian date from then on.
fn days_to(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    365 * year + leap_days + (153 * month + 2) / 5 + day - 1 - TO_1970
}

#[cfg(test)]
mod tests {
    use super::*;

    fn iso(seconds: u64) -> String {
        iso_of(Duration::from_secs(seconds))
    }

    #[test]
    fn dates_around_leap_days_are_right() {
        assert_eq!(iso(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso(951_868_799), "2000-02-29T23:59:59.000Z");
        assert_eq!(iso(1_709_251_200), "2024-03-01T00:00:00.000Z");
        assert_eq!(iso(4_107_542_400), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn an_http_date_is_the_time_it_says() {
        let time = parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(time, Some(Duration::from_secs(784_111_777)));
        assert_eq!(
            parse_http_date("Thu, 29 Feb 2024 23:59:59 GMT").map(iso_of).as_deref(),
            Some("2024-02-29T23:59:59.000Z")
        );
    }

    #[test]
    fn what_is_no_http_date_is_none() {
        for text in ["", "soon", "Sun, 99 Nov 1994 08:49:37 GMT", "Sun, 06 ovD 1994 08:49:37 GMT"] {
            assert_eq!(parse_http_date(text), None, "{text}");
        }
        assert_eq!(parse_http_date("Sun, 06 Nov 99999999999999999999 08:49:37 GMT"), None);
    }
}
