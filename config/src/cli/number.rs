//! Numbers on the command line, refused in words that do not depend on how they are stored.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// A parser of integers in `range`.
pub(super) fn integer<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("expected an integer from {} to {}", range.start(), range.end()))
    }
}

/// A parser of rates of a feed, in events a second.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| *rate > 0.0 && *rate <= 1_000_000.0);
    rate.ok_or_else(|| "expected events a second, above 0 and at most 1000000".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_none_or_out_of_range_is_told_what_is_expected() {
        let parse = integer(1_u16..=10_000);
        assert_eq!((parse("1"), parse("10000")), (Ok(1), Ok(10_000)));
        for wrong in ["", "x", "0", "10001", "-1", "1.5", "99999999999999999999999"] {
            assert_eq!(parse(wrong), Err("expected an integer from 1 to 10000".to_owned()), "{wrong}");
        }
        assert_eq!((rate("0.5"), rate("1000000")), (Ok(0.5), Ok(1_000_000.0)));
        for wrong in ["", "x", "0", "-1", "NaN", "inf", "1000001"] {
            assert!(rate(wrong).is_err_and(|said| said.starts_with("expected events a second")), "{wrong}");
        }
    }
}
