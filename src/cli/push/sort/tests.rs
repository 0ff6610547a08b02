use std::{fs, path::PathBuf};

use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use tempfile::TempDir;

use super::*;
use crate::cli::push::{
    Encoding,
    feed::{Event, Place},
    read,
};

const CUT: Cut = Cut { rows: 500, bytes: 1 << 20, row_bytes_max: 1000, span_us: None };
const MIB: usize = 1024 * 1024;

/// Files with these contents, and a folder to spill to.
struct Files {
    dir: TempDir,
    paths: Vec<PathBuf>,
    found: Finding,
}

impl Files {
    fn new(contents: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let write = |(n, contents): (usize, &&str)| {
            let path = dir.path().join(format!("{n}.ndjson"));
            fs::write(&path, contents).expect("write");
            path
        };
        let paths = contents.iter().enumerate().map(write).collect();
        Self { dir, paths, found: Finding::default() }
    }

    fn open(&self, memory_bytes: usize, needs_times: bool) -> Sorted {
        let inspect = |path: &PathBuf| read::inspect(path, None, Encoding::Auto).expect("inspect");
        let inputs = self.paths.iter().map(inspect).collect();
        let sort = Sort { memory_bytes, ..Sort::new("t", needs_times) };
        let told = (Arc::default(), Arc::clone(&self.found));
        Sorted::open(sort, "files".into(), inputs, CUT, self.dir.path(), told).expect("open")
    }

    /// The rows as `file:line json` or `file:line! reason`.
    fn sorted(&self) -> Vec<String> {
        let mut sorted = self.open(MIB, false);
        let next = std::iter::from_fn(|| sorted.next_row().expect("row"));
        next.map(|row| match row.row.content {
            Ok(json) => format!("{}:{} {}", row.file, row.row.line, String::from_utf8_lossy(&json)),
            Err(reason) => format!("{}:{}! {reason}", row.file, row.row.line),
        })
        .collect()
    }

    fn out_of_order(&self) -> u64 {
        self.found.get().expect("all is read").out_of_order
    }
}

#[test]
fn rows_with_the_same_time_keep_the_order_of_the_files() {
    let late = "{\"t\":\"2024-05-25T17:00:00+02:00\"}";
    let (early, middle) = ("{\"t\":\"2024-05-25 14:59:59.5\"}", "{\"t\":\"2024-05-25 15:00:00\"}");
    let files = Files::new(&[&format!("{late}\n{middle}\n"), &format!("\n{early}\n{late}\n")]);
    let expected = [("1:2", early), ("0:1", late), ("0:2", middle), ("1:3", late)]
        .map(|(place, row)| format!("{place} {row}"));
    assert_eq!(files.sorted(), expected, "17:00+02:00 is 15:00");
    assert_eq!(files.out_of_order(), 0, "files are looked at one by one");
}

#[test]
fn refused_rows_stand_first_with_their_reasons() {
    let rows = [
        "{\"t\":\"2024-05-25 15:00:01\"}",
        "{\"t\":null}",
        "{\"t\":12}",
        "{\"t\":NaN}",
        "{\"t\":\"2024-05-25 15:00:00\"}",
        &format!("{{\"t\":\"{}\"}}", "x".repeat(1000)),
        "{\"t\":\"2024-05-25 15:00:00\"}",
    ];
    let files = Files::new(&[&rows.join("\n")]);
    let expected = [
        "0:2! t is null, so the row has no place in the order",
        "0:4! bare NaN at column 6 is not JSON; write null",
        "0:6! 1008 bytes, but an event may have 1000",
        "0:3! t is \"12\", not a time (as 2024-05-25 15:46:52.42) as in other rows",
    ]
    .map(str::to_owned);
    let sorted = files.sorted();
    assert_eq!(sorted[..4], expected);
    assert_eq!(sorted[4..], [(5, 4), (7, 6), (1, 0)].map(|(l, n)| format!("0:{l} {}", rows[n])));
    assert_eq!(files.out_of_order(), 1, "rows 1 and 5: those between have no time");
}

#[test]
fn without_any_time_numbers_are_sorted_by() {
    let files = Files::new(&["{\"t\":10}\n{\"t\":\"9.5\"}\n{\"t\":-1e1}\n{\"t\":true}\n"]);
    let sorted = files.sorted();
    assert!(sorted[0].starts_with("0:4! t is \"true\", neither a time"), "{sorted:?}");
    assert_eq!(sorted[1..], ["0:3 {\"t\":-1e1}", "0:2 {\"t\":\"9.5\"}", "0:1 {\"t\":10}"]);
    assert_eq!(files.out_of_order(), 2);
    let error = files.open(MIB, true).next_row().map(|_| ()).expect_err("no times");
    let told = "files: --speed needs times, but t holds numbers; give --rate instead";
    assert_eq!(error.to_string(), told);
}

#[test]
fn what_memory_does_not_hold_is_spilled_and_comes_in_the_same_order() {
    const ROWS: u64 = 20_000;
    let mut numbers: Vec<u64> = (0..ROWS).map(|n| n / 3).collect();
    numbers.shuffle(&mut StdRng::seed_from_u64(7));
    let pad = "x".repeat(150);
    let row = |n: &u64| format!("{{\"t\":{n},\"pad\":\"{pad}\"}}\n");
    let contents: String = numbers.iter().map(row).collect();
    let files = Files::new(&[&contents]);
    let read = |memory_bytes| {
        let mut sorted = files.open(memory_bytes, false);
        let mut rows = Vec::new();
        while let Some(row) = sorted.next_row().expect("row") {
            assert!(row.row.content.is_ok_and(|json| json.len() > 150));
            rows.push((row.key, row.number));
        }
        assert!(sorted.next_row().expect("still the end").is_none());
        (rows, sorted.spills())
    };
    let (rows, spills) = read(MIB);
    assert!(spills > 1, "{} bytes were sorted in 1 MiB with {spills} spills", contents.len());
    let mut expected: Vec<(Option<i128>, u64)> = (0..ROWS)
        .zip(&numbers)
        .map(|(row, n)| (Some(i128::from(*n) * 1_000_000_000), row))
        .collect();
    expected.sort_unstable();
    assert!(rows == expected, "not in order");
    assert_eq!(read(MEMORY_BYTES), (rows, 0));
    let steps = numbers.windows(2).filter(|pair| pair[1] < pair[0]).count() as u64;
    assert_eq!(files.out_of_order(), steps);
}

#[test]
fn a_file_that_breaks_off_is_told_as_such() {
    let files = Files::new(&[]);
    let path = files.dir.path().join("a.ndjson.zst");
    let zstd = zstd::encode_all(&b"{\"t\":0}\n".repeat(40_000)[..], 1).expect("compress");
    fs::write(&path, &zstd[..zstd.len() - 4]).expect("write");
    let files = Files { paths: vec![path], ..files };
    let error = files.open(MIB, false).next_row().map(|_| ()).expect_err("breaks off");
    let message = error.to_string();
    assert!(message.starts_with("cannot read ") && message.contains("a.ndjson.zst after line "));
    assert_eq!(files.found.get(), None);
}

#[test]
fn a_folder_that_cannot_be_spilled_to_is_an_error() {
    let row = format!("{{\"t\":1,\"pad\":\"{}\"}}\n", "x".repeat(500));
    let files = Files::new(&[&row.repeat(5_000)]);
    let mut sorted = files.open(MIB, false);
    let folders = fs::read_dir(files.dir.path()).expect("folder").flatten();
    for folder in folders.map(|entry| entry.path()).filter(|path| path.is_dir()) {
        fs::remove_dir_all(folder).expect("remove");
    }
    let error = sorted.next_row().map(|_| ()).expect_err("nowhere to spill to");
    assert!(error.to_string().starts_with("cannot sort files: "), "{error}");
}

#[test]
fn rows_out_of_order_are_noticed() {
    let event = |key, file, row| {
        let (place, payload) = (Place { file, line: 1 }, Bytes::new());
        Event { row, place, key, payload }
    };
    let check =
        |order: &mut Ascending, events| order.check(&FileBatch { events, ..FileBatch::default() });
    let mut order = Ascending::default();
    let ascending = vec![event(Some(-1), 0, 5), event(Some(0), 0, 2), event(Some(0), 1, 0)];
    assert_eq!(check(&mut order, ascending), Ok(()));
    assert_eq!(check(&mut order, vec![event(Some(0), 1, 1)]), Ok(()));
    let told = "Some((0, 1, 0)) comes after Some((0, 1, 1)) (key, file, row) in the sort";
    assert_eq!(check(&mut order, vec![event(Some(0), 1, 0)]), Err(told.to_owned()));
    assert!(check(&mut order, vec![event(Some(0), 1, 1)]).is_err(), "twice");
    assert!(check(&mut order, vec![event(Some(-5), 2, 7)]).is_err());
    assert!(check(&mut order, vec![event(None, 2, 7)]).is_err());
}
