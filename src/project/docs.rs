//! Blocks of documentation: `{% docs name %}…{% enddocs %}` in Markdown files, which descriptions
//! quote with `{{ doc('name') }}`.

use std::{collections::BTreeMap, path::Path};

use crate::project::{Diagnostic, Diagnostics, files, yaml};

/// The blocks of all Markdown files below these folders.
pub(super) fn read(
    root: &Path,
    folders: &[String],
    found: &mut Diagnostics,
) -> BTreeMap<String, String> {
    let mut blocks = BTreeMap::new();
    for folder in folders {
        for file in files(root, folder, &[".md"], found) {
            let Some(text) = yaml::text(root, &file, found) else { continue };
            let mut at = 0;
            while let Some((begin, name, body)) = tag(&text, at, "docs") {
                let Some((end, _, behind)) = tag(&text, body, "enddocs") else {
                    let message = format!("docs block `{name}` has no {{% enddocs %}}");
                    found.push(Diagnostic::file(&file, message).at_byte(&text, begin));
                    break;
                };
                if blocks.insert(name.to_owned(), text[body..end].trim().to_owned()).is_some() {
                    let message = format!("docs block `{name}` stands twice in the project");
                    found.push(Diagnostic::file(&file, message).at_byte(&text, begin));
                }
                at = behind;
            }
        }
    }
    blocks
}

/// The next tag `{% word name %}` from `from` on: where it begins, its name, where it ends.
fn tag<'a>(text: &'a str, from: usize, word: &str) -> Option<(usize, &'a str, usize)> {
    let mut at = from;
    loop {
        let begin = at + text[at..].find("{%")?;
        let close = begin + text[begin..].find("%}")?;
        let inside = text[begin + 2..close].trim_matches(['-', '+']).trim();
        if let Some(name) = inside.strip_prefix(word).filter(|n| n.is_empty() || n.starts_with(' '))
        {
            return Some((begin, name.trim(), close + 2));
        }
        at = close + 2;
    }
}
