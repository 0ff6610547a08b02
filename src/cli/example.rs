//! The example dvd-clicks, as shipped in the binary.

use std::{borrow::Cow, path::Path};

use rust_embed::RustEmbed;

use crate::cli::Failure;

/// The stream of its clicks.
pub(super) const CLICKS: &str = "dvd_clicks";

#[derive(RustEmbed)]
#[folder = "examples/dvd-clicks"]
struct Files;

/// Its files: the name below the project's folder, and what is in it.
pub(super) fn files() -> impl Iterator<Item = (Cow<'static, str>, Cow<'static, [u8]>)> {
    Files::iter().filter_map(|name| Files::get(&name).map(|file| (name, file.data)))
}

/// Writes the example into `folder`.
pub(super) fn unpack(folder: &Path) -> Result<(), Failure> {
    files().try_for_each(|(name, content)| write(folder, &name, &content))
}

/// Writes a file of a project into `folder`.
pub(super) fn write(folder: &Path, name: &str, content: &[u8]) -> Result<(), Failure> {
    let path = folder.join(name);
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| std::fs::write(&path, content)).map_err(|e| {
        let hint = "choose another folder";
        Failure::unavailable(format!("{} cannot be written: {e}; {hint}", path.display()))
    })
}
