//! The fast scanner agrees with the full parser.

use proptest::prelude::*;

use super::*;
use crate::protocol::event::fields::parse;
use crate::protocol::event::is_nested_deeper;

/// Checks that the full parser agrees wherever the fast path accepts.
fn agrees(json: &str) -> Result<(), TestCaseError> {
    let full = parse(json).ok().filter(|_| !is_nested_deeper(json, MAX_DEPTH));
    if let Some(fast) = fields(json) {
        prop_assert_eq!(Some(fast), full, "{}", json);
    }
    Ok(())
}

#[test]
fn ordinary_events_take_the_fast_path() {
    for json in [
        "{}",
        " { } ",
        r#"{"id":"042","priority":3,"msg":"any JSON value"}"#,
        r#"{"msg":{"a":[1,-0.5e+7,[],{},{"b":null}],"c":"\u00e9\ud800\n"},"other":true,"id":7,"ttl_ms":1,"delay_ms":false}"#,
        "{\"msg\" :\t[ 1 , 2 ]\r\n, \"id\" : \"ä\"}",
    ] {
        assert!(fields(json).is_some(), "{json}");
        agrees(json).unwrap();
    }
}

#[test]
fn nesting_is_counted_with_the_events_own_object() {
    for open in ["[", "{\"a\":"] {
        let nested = |n: usize| {
            let close = if open == "[" { "]" } else { "}" };
            format!("{{\"msg\":{}1{}}}", open.repeat(n), close.repeat(n))
        };
        assert!(fields(&nested(127)).is_some());
        assert!(fields(&nested(128)).is_none());
        assert!(fields(&nested(100_000)).is_none());
    }
}

#[test]
fn invalid_json_is_left_to_the_full_parser() {
    for json in [
        "",
        "{",
        "{]",
        "[]",
        "{} x",
        "{,}",
        r#"{"a"}"#,
        r#"{"a":}"#,
        r#"{"a":1,}"#,
        r#"{"a":1 "b":2}"#,
        r#"{"msg":01}"#,
        r#"{"msg":1.}"#,
        r#"{"msg":1e}"#,
        r#"{"msg":-}"#,
        r#"{"msg":.5}"#,
        r#"{"msg":+1}"#,
        r#"{"msg":tru}"#,
        r#"{"msg":[1,]}"#,
        r#"{"msg":[1}}"#,
        r#"{"msg":{"a":1]}"#,
        r#"{"msg":{"a"}}"#,
        r#"{"msg":{1:2}}"#,
        r#"{"msg":"\x"}"#,
        r#"{"msg":"\u12g4"}"#,
        r#"{"msg":"\u123"#,
        "{\"msg\":\"\u{1}\"}",
        r#"{"id":1,"id":2}"#,
        r#"{"\u0069d":1}"#,
    ] {
        assert!(fields(json).is_none(), "{json}");
    }
}

/// Texts that resemble JSON.
fn nearly_json() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\"id\"",
        "\"msg\"",
        "\"priority\"",
        "\"a\"",
        "1",
        "-",
        "0",
        ".5",
        "e",
        "E+3",
        "true",
        "false",
        "null",
        " ",
        "\t",
        "\n",
        "\\u00e9",
        "\\ud800",
        "\\n",
        "\u{1}",
        "ä",
        "x",
        "{\"msg\":",
        "{\"id\":\"7\",",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn it_accepts_nothing_that_the_full_parser_refuses(json in nearly_json()) {
        agrees(&json)?;
        agrees(&format!("{{\"msg\":{json}}}"))?;
    }

    #[test]
    fn a_changed_byte_has_the_same_effect_as_in_the_full_parser(at in 0_usize..120, byte in 0_u8..128) {
        let mut json = br#"{"id":"042","priority":-3,"msg":{"a":[1,2.5e3,"x\u00e9"],"b":{}},"ttl_ms":100,"other":[true,false,null]}"#.to_vec();
        let at = at % json.len();
        json[at] = byte;
        if let Ok(json) = String::from_utf8(json) {
            agrees(&json)?;
        }
    }
}
