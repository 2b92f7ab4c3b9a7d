//! The clock of the simulated feed, and Twitter's time format.
//!
//! A tweet's time is a function of its number, not of the wall clock: otherwise the same tweet would differ between connections. The
//! clock advances at the default rate, 50 tweets per second and stream.

use super::json::push_u64;

/// The time of the first tweet, in seconds since 1970 (UTC): Wed 16 Feb 2022, 08:26:40.
pub(super) const EPOCH_SECONDS: u64 = 1_645_000_000;

/// The time between two tweets of a stream, in milliseconds.
pub(super) const MILLIS_PER_TWEET: u64 = 20;

/// Appends a time in the format of the v1.1 API, such as `Wed Feb 16 08:26:40 +0000 2022`. `seconds` count from 1970, UTC.
pub(super) fn push_created_at(out: &mut String, seconds: u64) {
    const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    out.push_str(WEEKDAYS[(days % 7) as usize]);
    out.push(' ');
    out.push_str(MONTHS[month]);
    out.push(' ');
    two_digits(out, day);
    out.push(' ');
    two_digits(out, second / 3_600);
    out.push(':');
    two_digits(out, second / 60 % 60);
    out.push(':');
    two_digits(out, second % 60);
    out.push_str(" +0000 ");
    push_u64(out, year);
}

fn two_digits(out: &mut String, n: u64) {
    if n < 10 {
        out.push('0');
    }
    push_u64(out, n);
}

/// Year, month (0 to 11) and day (1 to 31) of a day counted from 1 January 1970. Counts in 400-year cycles of years that begin in
/// March, so that the leap day is the last day of a year.
fn civil(days: u64) -> (u64, usize, u64) {
    // From 1 March of the year 0 to 1 January 1970.
    let z = days + 719_468;
    let cycle = z / 146_097;
    let day_of_cycle = z % 146_097;
    let year_of_cycle = (day_of_cycle - day_of_cycle / 1_460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = (march_month + 2) % 12;
    let year = 400 * cycle + year_of_cycle + u64::from(month < 2);
    (year, month as usize, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_twitter_writes_them() {
        // Checked with `date -u -d @N '+%a %b %d %H:%M:%S +0000 %Y'`.
        for (seconds, expected) in [
            (0, "Thu Jan 01 00:00:00 +0000 1970"),
            (951_782_399, "Mon Feb 28 23:59:59 +0000 2000"),
            (951_782_400, "Tue Feb 29 00:00:00 +0000 2000"),
            (1_409_444_955, "Sun Aug 31 00:29:15 +0000 2014"),
            (EPOCH_SECONDS, "Wed Feb 16 08:26:40 +0000 2022"),
            (1_735_689_599, "Tue Dec 31 23:59:59 +0000 2024"),
            (4_102_444_800, "Fri Jan 01 00:00:00 +0000 2100"),
        ] {
            let mut out = String::new();
            push_created_at(&mut out, seconds);
            assert_eq!(out, expected);
        }
    }
}
