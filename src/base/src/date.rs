//! Points in time, as numbers and as text.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The last second of the year 9999, the latest time that RFC 3339 can express.
const MAX_TIME: Duration = Duration::from_secs(253_402_300_799);

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
    humantime::format_rfc3339_millis(UNIX_EPOCH + since.min(MAX_TIME)).to_string()
}

/// A time since 1970 as HTTP has it (RFC 9110, section 5.6.7): `Sun, 06 Nov 1994 08:49:37 GMT`.
pub fn http_date(since: Duration) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let since = since.min(MAX_TIME);
    let text = humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string();
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
    // The first day of 1970 was a Thursday.
    let day = DAYS.iter().cycle().nth((since.as_secs() / 86_400 % 7) as usize);
    let month = part(5, 7).parse().ok().and_then(|month: usize| MONTHS.get(month.checked_sub(1)?));
    format!(
        "{}, {} {} {} {} GMT",
        day.unwrap_or(&""),
        part(8, 10),
        month.unwrap_or(&""),
        part(0, 4),
        part(11, 19)
    )
}

/// The time since 1970.
pub fn since_epoch() -> Duration {
    // A clock before 1970 is not set; it counts as 1970.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
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
        assert_eq!(iso(11_016 * 86_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(iso(20_513 * 86_400), "2026-03-01T00:00:00.000Z");
        assert_eq!(iso(951_868_799), "2000-02-29T23:59:59.000Z");
        assert_eq!(iso(1_709_251_200), "2024-03-01T00:00:00.000Z");
        assert_eq!(iso(4_107_542_400), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn a_date_of_http_has_the_day_of_the_week() {
        let date = |seconds| http_date(Duration::from_secs(seconds));
        assert_eq!(date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date(1_709_251_199), "Thu, 29 Feb 2024 23:59:59 GMT");
        assert_eq!(date(u64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
    }

    #[test]
    fn a_time_after_the_year_9999_is_clamped() {
        assert_eq!(iso(u64::MAX), "9999-12-31T23:59:59.000Z");
    }
}
