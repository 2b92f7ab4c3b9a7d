//! No error quotes the value of a secret key, whatever is wrong around it.

use super::*;

#[test]
fn a_file_that_does_not_parse_is_reported_by_line_and_column_without_its_text() {
    for file in [
        "[auth]\ntokens = [{ token = \"s3cret\" name = \"a\" }]",
        "[auth]\ntokens = [{ token = \"s3cret, name = \"a\" }]",
        "[auth]\ntokens = [{ token = \"s3cret\\q\", name = \"a\" }]",
        "[auth]\ntokens = [{ token = s3cret, name = \"a\" }]",
        "[publish]\nto = \"tls://h:1\"\ntoken = 's3cret",
        "[publish]\nto = \"tls://h:1\"\ntoken = \"\"\"s3cret",
        "[publish]\nto = \"tls://h:1\"\ntoken = \"x\"\ntoken = \"s3cret\"",
        "[[sources]]\nkind = \"sse\"\nurl = \"http://user:s3cret@h/\" # \u{7}",
        "[[sources]]\nkind = \"sse\"\nheaders = { authorization = \"Bearer s3cret\"",
        "s3cret",
    ] {
        let found = bad(file, &[], &[]).join("\n");
        assert!(found.contains("not valid TOML: line "), "{file}: {found}");
        assert!(!found.contains("s3cret"), "{file}: {found}");
    }
    assert_eq!(
        one("[broker]\nshards = = 1"),
        "herald.toml: not valid TOML: line 2, column 10: invalid string, expected `\"`, `'`"
    );
}

#[test]
fn a_variable_or_set_that_does_not_parse_is_not_quoted() {
    let tokens = "[{ token = \"s3cret\" name = \"a\" }]";
    for found in [
        bad("", &[("HERALD_AUTH__TOKENS", tokens)], &[]),
        bad("", &[], &[&format!("auth.tokens={tokens}")]),
        bad("", &[], &["publish.token:s3cret"]),
        bad("", &[], &["publish.token s3cret=x"]),
        bad("[auth]\ntokens = \"s3cret\"", &[], &[]),
        bad("[auth]\ntokens = [\"s3cret\"]", &[], &[]),
        bad("[auth]\ntokens = [{ token = \"a\", name = [\"b\"], subscribe = \"*\" }, \"s3cret\"]", &[], &[]),
        bad("auth = \"s3cret\"", &[], &[]),
        bad("[publish]\nto = \"tls://h:1\"\ntoken = [\"s3cret\"]", &[], &[]),
    ] {
        let found = found.join("\n");
        assert!(!found.is_empty() && !found.contains("s3cret"), "{found}");
    }
}
