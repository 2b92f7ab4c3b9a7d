//! Errors of parsers in words that users know.

/// What the parsers say, and what it means. The longer of two that begin alike comes first.
const PLAIN: [(&str, &str); 15] = [
    ("expected i32", "expected an integer from -2147483648 to 2147483647"),
    ("expected u64", "expected an integer from 0 to 18446744073709551615"),
    ("expected u32", "expected an integer from 0 to 4294967295"),
    ("expected u16", "expected an integer from 0 to 65535"),
    ("expected u8", "expected an integer from 0 to 255"),
    ("expected usize", "expected an integer from 0"),
    ("expected i64", "expected an integer"),
    ("expected f64", "expected a number"),
    ("expected a borrowed string", "expected a string without escapes"),
    ("expected a sequence", "expected a list"),
    ("number too large to fit in target type", "the number is too large"),
    ("number too small to fit in target type", "the number is too small"),
    ("number would be zero for non-zero type", "the number is 0, and must be another"),
    ("invalid digit found in string", "not an integer"),
    ("EOF while parsing", "it ends inside"),
];

/// The text of a parser's error without the names of types.
///
/// The text is replaced as a whole: parts of the input that it quotes and that read the same are reworded too.
#[must_use]
pub fn plain_words(text: &str) -> String {
    let mut text = PLAIN.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    const STRUCT: &str = "expected struct ";
    while let Some(at) = text.find(STRUCT) {
        let name = text[at + STRUCT.len()..].bytes().take_while(u8::is_ascii_alphanumeric).count();
        text.replace_range(at..at + STRUCT.len() + name, "expected an object");
    }
    text
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Line {
        #[expect(dead_code, reason = "only errors count here")]
        number: i32,
    }

    #[test]
    fn no_type_of_the_program_is_named() {
        for (input, expected) in [
            (r#"{"number":"x"}"#, "invalid type: string \"x\", expected an integer from -2147483648 to 2147483647"),
            (r#"{"number":3000000000}"#, "invalid value: integer `3000000000`, expected an integer from "),
            ("5", "invalid type: integer `5`, expected an object at line 1"),
            (r#"{"number":"#, "it ends inside a value"),
        ] {
            let error = serde_json::from_str::<Line>(input).unwrap_err();
            let said = plain_words(&error.to_string());
            assert!(said.starts_with(expected), "{said}");
        }
        for error in ["x".parse::<u8>(), "300".parse::<u8>()].map(Result::unwrap_err) {
            let said = plain_words(&error.to_string());
            assert!(!said.contains("type") && !said.contains("digit"), "{said}");
        }
        assert_eq!(
            plain_words(&"0".parse::<std::num::NonZero<u8>>().unwrap_err().to_string()),
            "the number is 0, and must be another"
        );
    }
}
