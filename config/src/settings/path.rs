//! Dotted keys: `topics."tweets.*".max_waiting`, `sources[0].url`.

use broker_core::settings::text::quoted;

/// `name` below `path`, quoted where TOML requires it.
pub(crate) fn below(path: &str, name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let mut key = path.to_owned();
    if !key.is_empty() {
        key.push('.');
    }
    if bare {
        key.push_str(name);
    } else {
        key.push_str(&quoted(name));
    }
    key
}

/// Entry `index` of the list at `path`.
pub(crate) fn entry(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_quoted_where_toml_wants_it() {
        assert_eq!(below("", "storage"), "storage");
        assert_eq!(below("topics", "tweets.*"), "topics.\"tweets.*\"");
        assert_eq!(below(&entry("sources", 1), "url"), "sources[1].url");
    }
}
