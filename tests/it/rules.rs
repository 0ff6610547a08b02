//! The rules of `docs/architecture.md`, held by machine.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Production lines of a file at most.
const FILE_LINES: usize = 500;
/// Lines of a function at most.
const FUNCTION_LINES: usize = 70;

/// What each module may use of ours. Tests may use everything.
const MAY_USE: [(&str, &[&str]); 11] = [
    ("domain", &[]),
    ("ops", &[]),
    ("project", &["domain"]),
    ("ingest", &["domain", "log", "ops", "project"]),
    ("log", &["domain", "ops"]),
    ("lake", &["domain", "ops"]),
    ("bronze", &["domain"]),
    ("models", &["domain", "project"]),
    ("process", &["domain", "project", "log", "lake", "bronze", "models", "ops"]),
    ("serve", &["domain", "project", "lake", "ops"]),
    ("verify", &["domain", "project", "lake", "bronze", "models", "process"]),
];

/// Crates that only one place knows: (crate, where).
const SOLE_OWNERS: [(&str, &[&str]); 7] = [
    ("deltalake", &["lake"]),
    ("object_store", &["lake"]),
    ("fjall", &["log", "cli"]),
    ("rdkafka", &["log"]),
    ("tonic", &["ingest", "serve", "cli"]),
    ("arrow_flight", &["serve", "cli"]),
    ("axum", &["serve"]),
];

/// Modules that do no I/O and know no clock.
const PURE: [&str; 3] = ["domain", "bronze", "models"];
const IMPURE: [&str; 6] =
    ["std::fs", "tokio::", "std::net", "std::time::Instant", "SystemTime", "async fn"];

struct Source {
    path: PathBuf,
    /// First folder or file below `src`.
    module: String,
    /// Without what only tests compile.
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut pending = vec![root.clone()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).expect("folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !is_test(&path) {
                let relative = path.strip_prefix(&root).expect("below src").to_path_buf();
                let first = relative.iter().next().expect("component").to_string_lossy();
                let module = first.trim_end_matches(".rs").to_owned();
                let text = fs::read_to_string(&path).expect("text");
                let text = production(&text).to_owned();
                found.push(Source { path: relative, module, text });
            }
        }
    }
    assert!(found.len() > 50, "only {} files found", found.len());
    found
}

fn is_test(path: &Path) -> bool {
    let in_tests = path.iter().any(|part| part == "tests");
    let names = ["tests.rs", "contract_tests.rs", "contract_support.rs", "faults.rs", "fake.rs"];
    in_tests || path.file_name().is_some_and(|name| names.iter().any(|n| name == *n))
}

/// A file up to its inline tests.
fn production(text: &str) -> &str {
    let inline = text
        .find("#[cfg(test)]\nmod tests {")
        .or_else(|| text.find("#[cfg(test)]\npub(super) mod"));
    inline.map_or(text, |end| &text[..end])
}

/// The modules of ours that `text` names after `crate::`.
fn used(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let before = text[..at].lines().last().unwrap_or_default();
        if before.trim_start().starts_with("//") {
            continue;
        }
        let rest = &text[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => {
                names.insert(identifier(rest));
            }
            Some(group) => names.extend(top_level(group)),
        }
    }
    names.remove("");
    names
}

/// First names of a `{…}` group, whose opening brace is already taken.
fn top_level(group: &str) -> Vec<String> {
    let (mut depth, mut names, mut start) = (0, Vec::new(), true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => start = true,
            c if depth == 0 && start && !c.is_whitespace() => {
                names.push(identifier(&group[at..]));
                start = false;
            }
            _ => {}
        }
    }
    names
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn modules_use_only_what_they_may() {
    let modules: BTreeSet<&str> = MAY_USE.iter().map(|(name, _)| *name).collect();
    let mut wrong = Vec::new();
    for source in sources() {
        let Some((_, may)) = MAY_USE.iter().find(|(name, _)| *name == source.module) else {
            continue; // cli, config, main and lib may use everything.
        };
        for name in used(&source.text) {
            let ours =
                modules.contains(name.as_str()) || ["cli", "config"].contains(&name.as_str());
            if ours && name != source.module && !may.contains(&name.as_str()) {
                wrong.push(format!("{} uses {name}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn crates_have_one_owner() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (name, owners) in SOLE_OWNERS {
            let uses = source.text.lines().any(|line| {
                let line = line.trim_start();
                !line.starts_with("//") && line.contains(&format!("{name}::"))
            });
            if uses && !owners.contains(&source.module.as_str()) {
                wrong.push(format!("{} knows {name}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_modules_do_no_io() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| PURE.contains(&s.module.as_str())) {
        for what in IMPURE {
            if source.text.lines().any(|l| !l.trim_start().starts_with("//") && l.contains(what)) {
                wrong.push(format!("{}: {what}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_and_functions_stay_small() {
    let mut wrong = Vec::new();
    for source in sources() {
        let lines: Vec<&str> = source.text.lines().collect();
        if lines.len() > FILE_LINES {
            wrong.push(format!("{}: {} lines", source.path.display(), lines.len()));
        }
        for (start, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let head = line.trim_start();
            let is_fn = [
                "fn ",
                "pub fn ",
                "async fn ",
                "pub async fn ",
                "pub(super) fn ",
                "pub(super) async fn ",
                "pub(crate) fn ",
                "pub(crate) async fn ",
            ]
            .iter()
            .any(|prefix| head.starts_with(prefix));
            if !is_fn {
                continue;
            }
            let close = format!("{}}}", " ".repeat(indent));
            let length = lines[start..].iter().position(|l| *l == close).map_or(0, |n| n + 1);
            if length > FUNCTION_LINES {
                wrong.push(format!("{}:{}: {length} lines", source.path.display(), start + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_says_what_it_is() {
    // A file whose types are shown through its parent is described there.
    let shown_elsewhere = |text: &str| !text.contains("\npub mod ") && text.lines().count() < 120;
    let wrong: Vec<String> = sources()
        .iter()
        .filter(|s| !s.text.starts_with("//!") && !shown_elsewhere(&s.text))
        .map(|s| s.path.display().to_string())
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_test_is_skipped_and_architecture_fits_its_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let architecture = fs::read_to_string(root.join("docs/architecture.md")).expect("page");
    assert!(architecture.lines().count() <= 200);
    let ignored = concat!("#[", "ignore");
    let mut pending = vec![root.join("src"), root.join("tests")];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).expect("folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("text");
                assert!(!text.contains(ignored), "{} skips a test", path.display());
            }
        }
    }
}
