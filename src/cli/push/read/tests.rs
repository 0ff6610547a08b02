use std::{fs, io::Write as _, path::PathBuf};

use arrow::array::{ArrayRef, Decimal128Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use tempfile::TempDir;

use super::*;

fn file(name: &str, contents: &[u8]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join(name);
    fs::write(&path, contents).expect("write");
    (dir, path)
}

/// The rows of a file as `line: json` or `line! reason`.
fn rows_with(name: &str, contents: &[u8], encoding: Encoding) -> Vec<String> {
    let (_dir, path) = file(name, contents);
    let input = inspect(&path, None, encoding).expect("inspect");
    let mut rows = input.open(Arc::default()).expect("open");
    let mut found = Vec::new();
    while let Some(row) = rows.next_row().expect("row") {
        found.push(match row.content {
            Ok(json) => format!("{}: {}", row.line, String::from_utf8_lossy(&json)),
            Err(reason) => format!("{}! {reason}", row.line),
        });
    }
    found
}

fn rows(name: &str, contents: &[u8]) -> Vec<String> {
    rows_with(name, contents, Encoding::Auto)
}

fn gzip(contents: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(contents).expect("compress");
    encoder.finish().expect("compress")
}

#[test]
fn csv_rows_become_objects_of_strings() {
    let found = rows("a.csv", b"\xef\xbb\xbfid,na\"me\r\n1,J\xc3\xb8rn\r\n\r\n02,\r\n,\"\"\r\n");
    assert_eq!(
        found,
        [
            r#"2: {"id":"1","na\"me":"Jørn"}"#,
            r#"4: {"id":"02","na\"me":null}"#,
            r#"5: {"id":null,"na\"me":null}"#,
        ]
    );
}

#[test]
fn quoted_fields_hold_separators_quotes_and_line_ends() {
    let found = rows("a.csv", b"a,b\n\"1,5\",\"say \"\"hi\"\"\"\n\"x\r\ny\n\",5\" pipe\nlast,row");
    assert_eq!(
        found,
        [
            r#"2: {"a":"1,5","b":"say \"hi\""}"#,
            r#"3: {"a":"x\r\ny\n","b":"5\" pipe"}"#,
            r#"6: {"a":"last","b":"row"}"#,
        ]
    );
}

#[test]
fn a_bad_csv_line_is_refused_and_the_rest_goes_on() {
    let found = rows("a.csv", b"a,b\n1\n2,3,4\n\"5,6\n7,8\n9,\"x\"y\n10,11\n");
    assert_eq!(
        found,
        [
            "2! too few fields: 1, but the header has 2",
            "3! too many fields: 3, but the header has 2",
            "4! text follows the closing quote of field 1",
            r#"5: {"a":"7","b":"8"}"#,
            "6! text follows the closing quote of field 2",
            r#"7: {"a":"10","b":"11"}"#,
        ]
    );
    let found = rows("a.csv", b"a,b\n1,\"2\n3,4\n5,6\n");
    assert_eq!(
        found,
        [
            "2! the quote that opens field 2 is never closed",
            r#"3: {"a":"3","b":"4"}"#,
            r#"4: {"a":"5","b":"6"}"#,
        ]
    );
}

#[test]
fn a_header_that_names_a_column_twice_is_an_error() {
    let (_dir, path) = file("a.csv", b"a,b,a\n1,2,3\n");
    let input = inspect(&path, None, Encoding::Auto).expect("inspect");
    let error = input.open(Arc::default()).expect("open").next_row().expect_err("twice");
    assert!(error.to_string().ends_with("a.csv:1: the header names column \"a\" twice"), "{error}");
}

#[test]
fn latin_1_is_detected_for_the_whole_file() {
    let latin = b"n\nJ\xf8rn\nplain\n\x8010\n";
    let expected = [r#"2: {"n":"Jørn"}"#, r#"3: {"n":"plain"}"#, r#"4: {"n":"€10"}"#];
    assert_eq!(rows("a.csv", latin), expected);
    assert_eq!(rows("a.csv.gz", &gzip(latin)), expected);
    assert_eq!(rows_with("a.csv", latin, Encoding::Latin1), expected);
    assert_eq!(
        rows_with("a.csv", latin, Encoding::Utf8)[0],
        "2! not valid UTF-8; is the file in Latin-1 (--encoding latin-1)?"
    );
}

#[test]
fn one_damaged_line_does_not_make_a_utf_8_file_latin_1() {
    let found = rows("a.csv", b"n\nJ\xc3\xb8rn\nbr\xf8ken\n\xc3\xa9\n");
    assert_eq!(found[0], r#"2: {"n":"Jørn"}"#);
    assert!(found[1].starts_with("3! not valid UTF-8"), "{}", found[1]);
    assert_eq!(found[2], r#"4: {"n":"é"}"#);
}

#[test]
fn ndjson_goes_as_it_is() {
    let found = rows("a.jsonl", b"\xef\xbb\xbf{\"a\": 1.50}\r\n\n  {\"b\":[{}]}\n{}");
    assert_eq!(found, [r#"1: {"a": 1.50}"#, r#"3: {"b":[{}]}"#, "4: {}"]);
}

#[test]
fn a_line_that_is_not_one_json_object_is_refused() {
    let found = rows(
        "a.ndjson",
        b"{\"a\":NaN}\n{\"a\": -Infinity}\n[1]\n{\"a\":1} {}\n\
          {\"a\":\"\xff\"}\n{\"a\":\nNaN\n{\"ok\":1}\n",
    );
    assert_eq!(
        found,
        [
            "1! bare NaN at column 6 is not JSON; write null",
            "2! bare Infinity at column 8 is not JSON; write null",
            "3! not a JSON object",
            "4! not one JSON object: trailing characters at column 9",
            "5! not valid UTF-8 at byte 7 of the line; JSON is UTF-8",
            "6! not one JSON object: EOF while parsing a value at column 5",
            "7! bare NaN at column 1 is not JSON; write null",
            r#"8: {"ok":1}"#,
        ]
    );
}

#[test]
fn compressed_files_are_read_directly() {
    let plain = b"{\"a\":1}\n{\"a\":2}\n";
    let expected = [r#"1: {"a":1}"#, r#"2: {"a":2}"#];
    assert_eq!(rows("a.ndjson.gz", &gzip(plain)), expected);
    let two_members = [gzip(&plain[..8]), gzip(&plain[8..])].concat();
    assert_eq!(rows("a.ndjson.gz", &two_members), expected);
    let zstd = zstd::encode_all(&plain[..], 1).expect("compress");
    assert_eq!(rows("a.json.zst", &zstd), expected);
}

#[test]
fn a_truncated_file_names_the_line_where_it_breaks_off() {
    let packed = gzip(&b"{\"a\":1}\n".repeat(3));
    let (_dir, path) = file("a.ndjson.gz", &packed[..packed.len() - 9]);
    let input = inspect(&path, None, Encoding::Auto).expect("inspect");
    let mut rows = input.open(Arc::default()).expect("open");
    let error = std::iter::from_fn(|| rows.next_row().transpose()).find_map(Result::err);
    let message = error.expect("an error").to_string();
    assert!(message.contains("a.ndjson.gz after line "), "{message}");
}

#[test]
fn parquet_keeps_every_digit() {
    let at = TimestampMicrosecondArray::from(vec![Some(1_772_474_419_456_000), None])
        .with_timezone("Europe/Berlin");
    let price = Decimal128Array::from(vec![Some(12_345_678_901_234_567_890), Some(-5)])
        .with_precision_and_scale(38, 2)
        .expect("decimal");
    let columns: [(&str, ArrayRef); 3] = [
        ("id", Arc::new(Int64Array::from(vec![9_007_199_254_740_993, 2]))),
        ("at", Arc::new(at)),
        ("price", Arc::new(price)),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("batch");
    let mut bytes = Vec::new();
    let mut writer =
        ::parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None).expect("writer");
    writer.write(&batch).expect("write");
    writer.close().expect("close");
    assert_eq!(
        rows("a.parquet", &bytes),
        [
            r#"1: {"id":9007199254740993,"at":"2026-03-02 18:00:19.456","price":123456789012345678.90}"#,
            r#"2: {"id":2,"price":-0.05}"#,
        ]
    );
}

#[test]
fn what_cannot_be_pushed_is_known_before_any_work() {
    let message = |path: &Path| inspect(path, None, Encoding::Auto).expect_err("error").to_string();
    let (dir, path) = file("a.txt", b"x");
    assert!(message(&path).ends_with("give --input-format csv, ndjson or parquet"));
    assert!(message(&dir.path().join("none.csv")).contains("none.csv: No such file"));
    let (_dir, path) = file("a.csv", b"\xff\xfea\0");
    let input = inspect(&path, None, Encoding::Auto).expect("inspect");
    let error = input.open(Arc::default()).expect("open").next_row().expect_err("utf-16");
    assert!(error.to_string().ends_with("the file is UTF-16; convert it to UTF-8 first"));
}

#[test]
fn the_digest_is_that_of_the_file_on_disk() {
    let (_dir, path) = file("a.csv", b"abc");
    let input = inspect(&path, None, Encoding::Auto).expect("inspect");
    assert_eq!(input.digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(input.bytes, 3);
}
