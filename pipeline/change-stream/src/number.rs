//! Writes numbers that MongoDB considers equal with one text, whichever of its four types they have.

use bson::Decimal128;

/// Appends `number` as an integer if it is one of 64 bits, else as the shortest digits that read back the same.
pub(super) fn write_double(out: &mut Vec<u8>, number: f64) {
    // Exactly the doubles that fit into 64 bits: -2^63 does, 2^63 does not.
    const INTEGERS: std::ops::Range<f64> = -9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0;
    let text = if !number.is_finite() {
        format!("{{\"$numberDouble\":\"{}\"}}", not_finite(number))
    } else if INTEGERS.contains(&number) && number.fract() == 0.0 {
        #[expect(clippy::cast_possible_truncation, reason = "it is an integer of 64 bits")]
        let integer = number as i64;
        integer.to_string()
    } else {
        format!("{number:?}")
    };
    out.extend_from_slice(text.as_bytes());
}

/// The Extended JSON name of a non-finite number. MongoDB considers all NaNs equal, whatever their sign.
pub(super) fn not_finite(number: f64) -> &'static str {
    if number.is_nan() {
        "NaN"
    } else if number > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}

/// Appends `number` like the double of the same value, or as a normalized decimal if no double equals it.
pub(super) fn write_decimal(out: &mut Vec<u8>, number: Decimal128) {
    let text = number.to_string();
    match text.as_str() {
        "NaN" => return write_double(out, f64::NAN),
        "Infinity" => return write_double(out, f64::INFINITY),
        "-Infinity" => return write_double(out, f64::NEG_INFINITY),
        _ => {}
    }
    let Some(value) = Value::parse(&text) else { return out.extend_from_slice(text.as_bytes()) };
    if let Some(integer) = value.integer() {
        return out.extend_from_slice(integer.to_string().as_bytes());
    }
    match text.parse::<f64>() {
        Ok(double) if double.is_finite() && Value::of(double).as_ref() == Some(&value) => write_double(out, double),
        _ => out.extend_from_slice(format!("{{\"$numberDecimal\":\"{}\"}}", value.text()).as_bytes()),
    }
}

/// A decimal number: `digits`, an integer without zeros at either end, times ten to the power of `exponent`. Zero has no digits.
#[derive(Debug, PartialEq, Eq)]
struct Value {
    negative: bool,
    digits: String,
    exponent: i32,
}

impl Value {
    /// Reads `-1.5E+10` and the like.
    fn parse(text: &str) -> Option<Self> {
        let unsigned = text.strip_prefix('-').unwrap_or(text);
        let (digits, exponent) = unsigned.split_once(['E', 'e']).unwrap_or((unsigned, "0"));
        let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
        let exponent = exponent.parse::<i32>().ok()?.checked_sub(i32::try_from(part.len()).ok()?)?;
        let digits = format!("{whole}{part}");
        let digits = digits.trim_start_matches('0');
        let significant = digits.trim_end_matches('0');
        if significant.is_empty() {
            return Some(Self { negative: false, digits: String::new(), exponent: 0 });
        }
        let exponent = exponent.checked_add(i32::try_from(digits.len() - significant.len()).ok()?)?;
        Some(Self { negative: unsigned.len() < text.len(), digits: significant.to_owned(), exponent })
    }

    /// The exact decimal value of a double, which has at most 767 digits.
    fn of(double: f64) -> Option<Self> {
        Self::parse(&format!("{double:.800e}"))
    }

    /// The value as a 64-bit integer, if it is one.
    fn integer(&self) -> Option<i64> {
        // An integer of 64 bits has at most 19 digits.
        let zeros = usize::try_from(self.exponent).ok().filter(|zeros| *zeros < 19)?;
        let sign = if self.negative { "-" } else { "" };
        format!("{sign}0{}{}", self.digits, "0".repeat(zeros)).parse().ok()
    }

    /// The normalized text: one digit before the point, then the exponent.
    fn text(&self) -> String {
        let sign = if self.negative { "-" } else { "" };
        let (first, more) = self.digits.split_at(self.digits.len().min(1));
        let power = self.exponent + i32::try_from(more.len()).unwrap_or(i32::MAX);
        let point = if more.is_empty() { "" } else { "." };
        format!("{sign}{first}{point}{more}E{power:+}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decimal(text: &str) -> String {
        let mut out = Vec::new();
        write_decimal(&mut out, text.parse().unwrap());
        String::from_utf8(out).unwrap()
    }

    fn double(number: f64) -> String {
        let mut out = Vec::new();
        write_double(&mut out, number);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn equal_numbers_have_one_text() {
        for (decimals, number) in [
            (&["1", "1.0", "10E-1", "1.00000"][..], 1.0),
            (&["0", "-0", "0E+10", "0.000"], -0.0),
            (&["-2.50", "-25E-1"], -2.5),
            (&["9007199254740992"], 9_007_199_254_740_992.0),
            (&["1E+19", "10000000000000000000"], 1e19),
            (&["1E+22"], 1e22),
            (&["-9223372036854775808"], -9_223_372_036_854_775_808.0),
            (&["9223372036854775808"], 9_223_372_036_854_775_808.0),
            (&["NaN"], -f64::NAN),
            (&["Infinity"], f64::INFINITY),
            (&["-Infinity"], f64::NEG_INFINITY),
        ] {
            for text in decimals {
                assert_eq!(decimal(text), double(number), "{text}");
            }
        }
        assert_eq!(double(1.0), "1");
        assert_eq!(decimal("9223372036854775807"), i64::MAX.to_string());
    }

    #[test]
    fn different_numbers_have_different_texts() {
        // The double next to 0.1 is not 0.1, and 2^53 + 1 is not a double.
        assert_eq!(decimal("0.1"), "{\"$numberDecimal\":\"1E-1\"}");
        assert_eq!(decimal("0.10"), decimal("0.1"));
        assert_eq!(double(0.1), "0.1");
        assert_eq!(decimal("9007199254740993"), "9007199254740993");
        assert_eq!(decimal("10000000000000000001"), "{\"$numberDecimal\":\"1.0000000000000000001E+19\"}");
        assert_eq!(decimal("-1E-6176"), "{\"$numberDecimal\":\"-1E-6176\"}");
        assert_eq!(
            decimal("9.999999999999999999999999999999999E+6144"),
            "{\"$numberDecimal\":\"9.999999999999999999999999999999999E+6144\"}"
        );
    }

    proptest! {
        #[test]
        fn a_decimal_has_the_text_of_the_equal_double(integer: i64, shift in 0_u8..40) {
            // The low bits are dropped, so that many of them are doubles; divided by 2^shift they stay so.
            let number = (integer >> 20) as f64 / 2.0_f64.powi(i32::from(shift));
            let exact = Value::of(number).unwrap();
            if exact.digits.len() <= 34 {
                prop_assert_eq!(decimal(&exact.text()), double(number));
            }
        }
    }
}
