//! Errors as operators read them: one line, with the causes.

use std::error::Error;

/// The text of `error` followed by its causes: `cannot open x: permission denied`.
///
/// Errors of ours keep the cause out of their own text. Some libraries' errors repeat it there; it is not repeated again.
#[must_use]
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    fn layers(texts: &[&'static str]) -> Layer {
        let (text, rest) = texts.split_first().expect("at least one layer");
        Layer { text, source: (!rest.is_empty()).then(|| Box::new(layers(rest))) }
    }

    #[test]
    fn causes_follow_in_order() {
        assert_eq!(error_chain(&layers(&["cannot start"])), "cannot start");
        assert_eq!(
            error_chain(&layers(&["cannot start", "cannot open x", "permission denied"])),
            "cannot start: cannot open x: permission denied"
        );
    }

    #[test]
    fn a_cause_that_an_error_states_itself_is_not_repeated() {
        assert_eq!(
            error_chain(&layers(&["cannot open x: denied", "denied", "code 13"])),
            "cannot open x: denied: code 13"
        );
    }
}
