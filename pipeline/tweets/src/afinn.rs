//! AFINN-111: English words with their valence, from -5 (very bad) to +5 (very good). Data and licence are in `afinn/`.

use std::collections::HashMap;
use std::sync::LazyLock;

static DATA: &str = include_str!("afinn/AFINN-111.txt");

/// The number of words and phrases in the list.
pub const WORDS: usize = 2_477;

/// A line is `word<TAB>value`. The list's phrases ("does not work") are in the table too: a single word never equals one, so
/// they never count, as in the reference system.
static VALENCES: LazyLock<HashMap<&'static str, i8>> = LazyLock::new(|| {
    DATA.lines()
        .filter_map(|line| line.split_once('\t').and_then(|(word, value)| Some((word, value.parse().ok()?))))
        .collect()
});

/// The valence of a word, which must be in lower case; 0 if it is not in the list.
#[must_use]
pub fn valence(word: &str) -> i8 {
    VALENCES.get(word).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_list_is_read() {
        assert_eq!(VALENCES.len(), WORDS);
        assert!(VALENCES.values().all(|value| (-5..=5).contains(value)));
        assert!(VALENCES.keys().all(|word| *word == word.to_lowercase()));
    }

    #[test]
    fn words_have_their_values() {
        for (word, value) in [("abandon", -2), ("superb", 5), ("zealous", 2), ("naïve", -2), ("some", 0), ("Superb", 0)]
        {
            assert_eq!(valence(word), value, "{word}");
        }
    }
}
