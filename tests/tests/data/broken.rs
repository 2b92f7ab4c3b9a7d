//! Damaged or mismatched files.

use std::fs;
use std::io::Write;

use super::{Ran, crc32, done, ran, run, sample, spawn};

#[test]
fn a_broken_file_is_refused_with_the_reason_before_anything_is_written() {
    let good = sample(40);
    let lines: Vec<&str> = good.lines().collect();
    let cut: String = lines[..20].iter().map(|line| format!("{line}\n")).collect();
    let dir = tempfile::tempdir().unwrap();
    for (broken, says) in [
        (String::new(), "line 1: the file is empty"),
        ("hello\n".to_owned(), "line 1: expected the first line of an export"),
        (cut, "line 21: the file ends here"),
        (good[..good.len() / 2].to_owned(), "expected a line of an export"),
        (good.replacen("needle", "needls", 1), "the file is damaged"),
        (good.replacen("\"seq\":9,", "\"seq\":8,", 1), "line 14: seq is 8: expected one above 8"),
        (format!("{good}more\n"), "there is more after the last line"),
        (good.replacen("\"events\":40", "\"events\":41", 1), "expected 46 lines with"),
    ] {
        fs::write(dir.path().join("in"), broken).unwrap();
        let Ran { status, out, err } = run(dir.path(), "json-log", "data", &["import", "in"]);
        assert_eq!((status, out.as_str()), (1, ""), "{says}: {err}");
        assert!(err.contains(says) && err.contains("nothing was imported"), "{says}: {err}");
    }
    // The directory can still be used for an intact export.
    fs::write(dir.path().join("in"), &good).unwrap();
    done(dir.path(), "json-log", "data", &["import", "in"]);
    let Ran { status, err, .. } = run(dir.path(), "json-log", "data", &["import", "nothing"]);
    assert_eq!(status, 1);
    assert!(err.contains("cannot open nothing"), "{err}");
}

#[test]
fn a_truncated_import_is_kept_but_not_served_until_it_is_completed() {
    let good = sample(3_000);
    let dir = tempfile::tempdir().unwrap();
    let feed = |text: &str| {
        let mut import = spawn(dir.path(), "json-log", "data", &["import", "-"]);
        // The import may fail before it has read its whole input.
        let _broken_pipe = import.stdin.take().unwrap().write_all(text.as_bytes());
        ran(import.wait_with_output().unwrap())
    };
    let cut = feed(&good[..good.len() / 2]);
    assert_eq!((cut.status, cut.out.as_str()), (1, ""), "{}", cut.err);
    assert!(cut.err.contains("`herald serve` refuses it"), "{}", cut.err);
    let serve = ["serve", "--set", "transports.tcp.listen=127.0.0.1:0"];
    assert_eq!(run(dir.path(), "json-log", "data", &serve).status, 1);
    // The same beginning with a different end is a different file.
    let at = good.find("needle \\u00e9 10 ").unwrap();
    let other = format!("{}noodle{}", &good[..at], &good[at + 6..]);
    let other = feed(&other);
    assert!(other.status == 1 && other.err.contains("another import"), "{}", other.err);
    let rest = feed(&good);
    assert_eq!(rest.status, 0, "{}", rest.err);
    assert_eq!(done(dir.path(), "json-log", "data", &["export"]), good);
}

#[test]
fn the_checksum_is_the_one_of_gzip() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
}
