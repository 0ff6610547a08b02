//! Mistakes in projects and what is said of them: a file each in `tests/cases/errors/`.
//!
//! A file holds what is written over a sound project, each text behind `--- path`, and behind `===`
//! what `sluice check` answers. With `SLUICE_BLESS=1` the answers are written anew, to be read.

use std::{collections::BTreeMap, path::Path};

use crate::{process::plan, project};

const STREAM: &str = "\
name: orders
format: json
partitions: 2
key: order_id
event_id: order_id
on_error: quarantine
fields:
  - {name: order_id, type: bigint, required: true}
  - {name: customer_id, type: bigint}
  - {name: amount, type: \"decimal(10,2)\"}
  - {name: status, type: text}
  - {name: ordered_at, type: timestamp}
rules:
  amount_positive: amount > 0
";
const LINES: &str = "\
SELECT order_id, customer_id, amount, status, ordered_at
FROM {{ source('bronze', 'orders') }}
";
const TOTALS: &str = "\
SELECT customer_id, sum(amount) AS total
FROM {{ ref('lines') }}
GROUP BY customer_id
";
const SOUND: [(&str, &str); 5] = [
    ("sluice.yml", "name: shop\n"),
    ("streams/orders.yml", STREAM),
    ("seeds/customers.csv", "customer_id,country\n1,NL\n"),
    ("models/silver/lines.sql", LINES),
    ("models/gold/totals.sql", TOTALS),
];
const AT_LEAST: usize = 60;

/// What is said of a project of these files.
fn answer(files: &BTreeMap<String, String>) -> String {
    let folder = tempfile::tempdir().expect("folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        std::fs::write(path, text).expect("file");
    }
    let read = project::load_partly(folder.path(), &project::Options::default());
    let said = match read.and_then(plan) {
        Ok(planned) => planned.project.warnings.to_string(),
        Err(errors) => errors.to_string(),
    };
    said.trim_end().to_owned()
}

/// The files of a case, and the answer that it expects.
fn read(text: &str) -> (BTreeMap<String, String>, String) {
    let (files, expected) = text.split_once("\n===").expect("`===` before the answer");
    let sound = SOUND.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    let mut all: BTreeMap<String, String> = sound.collect();
    for part in format!("\n{files}\n").split("\n--- ").skip(1) {
        let (name, text) = part.split_once('\n').unwrap_or((part, ""));
        all.insert(name.trim().to_owned(), format!("{}\n", text.trim_end_matches('\n')));
    }
    (all, expected.trim().to_owned())
}

#[test]
fn each_mistake_is_told_as_its_golden_file_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/errors");
    let mut paths: Vec<_> =
        std::fs::read_dir(&folder).expect("cases").map(|e| e.expect("case").path()).collect();
    paths.sort();
    assert!(paths.len() >= AT_LEAST, "{} cases", paths.len());
    let is_blessed = std::env::var_os("SLUICE_BLESS").is_some();
    let mut wrong = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("case");
        let (files, expected) = read(&text);
        let found = answer(&files);
        if found == expected && !found.is_empty() {
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if is_blessed {
            let given = text.split("\n===").next().unwrap_or_default();
            std::fs::write(&path, format!("{given}\n===\n{found}\n")).expect("case");
        }
        wrong.push(format!("{name}\n-- expected\n{expected}\n-- found\n{found}\n"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_project_below_the_mistakes_is_sound() {
    let (files, _) = read("\n===\n");
    assert_eq!(answer(&files), "");
}
