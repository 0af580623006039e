//! The time as text.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now: ISO-8601 in UTC with milliseconds, such as `2026-01-31T12:00:00.000Z`.
pub(crate) fn now() -> String {
    // A clock before 1970 is not set yet; 1970 says as much.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format(since.as_secs(), since.subsec_millis())
}

fn format(seconds: u64, millis: u32) -> String {
    let (year, month, day) = date_of(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The Gregorian date of a day since 1970-01-01.
///
/// Years are counted from March, so that the leap day is a year's last; `cycle` is the Gregorian
/// calendar's period of 400 years, 146,097 days, the first of which began on 0000-03-01.
fn date_of(day: u64) -> (u64, u64, u64) {
    let day = day + 719_468;
    let (cycle, day) = (day / 146_097, day % 146_097);
    let leap_days = day / 1460 - day / 36_524 + day / 146_096;
    let year = (day - leap_days) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // From March on the lengths of months repeat every 5 months, 153 days.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = cycle * 400 + year;
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_is_the_first_of_january_1970() {
        assert_eq!(format(0, 0), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn a_leap_day_of_a_century_is_found() {
        assert_eq!(format(951_868_799, 999), "2000-02-29T23:59:59.999Z");
    }

    #[test]
    fn the_day_after_a_leap_day_is_the_first_of_march() {
        assert_eq!(format(1_709_251_200, 5), "2024-03-01T00:00:00.005Z");
    }

    #[test]
    fn a_century_without_a_leap_day_goes_from_february_to_march() {
        assert_eq!(format(4_107_542_400, 0), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn the_last_second_of_a_year_is_in_december() {
        assert_eq!(format(1_798_761_599, 0), "2026-12-31T23:59:59.000Z");
    }
}
