//! Folders whose names a power failure does not take back.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Makes the folder and those above it that are missing, each with its entry synced.
pub fn create(folder: &Path) -> io::Result<()> {
    let created = missing(folder);
    fs::create_dir_all(folder)?;
    sync_entries(&created)
}

/// The folders from `folder` upwards that do not exist yet, innermost first.
pub fn missing(folder: &Path) -> Vec<PathBuf> {
    // The path of a relative folder ends in an empty one, which is the current one.
    let folders = folder.ancestors().filter(|dir| !dir.as_os_str().is_empty());
    folders.take_while(|dir| !dir.exists()).map(Path::to_path_buf).collect()
}

/// Syncs the entry of each of these in the folder above it.
pub fn sync_entries(paths: &[PathBuf]) -> io::Result<()> {
    paths.iter().try_for_each(|path| sync_entry(path))
}

/// Syncs the entry of `path` in the folder above it.
pub fn sync_entry(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => sync(Path::new(".")),
        Some(parent) => sync(parent),
        None => Ok(()),
    }
}

/// Syncs the entries of a folder.
pub fn sync(folder: &Path) -> io::Result<()> {
    let synced = fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|e| io::Error::new(e.kind(), format!("sync {}: {e}", folder.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_made() {
        let dir = tempfile::tempdir().expect("folder");
        let (a, b) = (dir.path().join("a"), dir.path().join("a/b"));
        assert_eq!(missing(&b), [b.clone(), a]);
        create(&b).expect("create");
        assert!(b.is_dir());
        assert!(missing(&b).is_empty());
        create(&b).expect("is there");
        assert_eq!(missing(Path::new("no such folder/b")).len(), 2);
        let error = sync_entry(&dir.path().join("gone/a")).expect_err("no folder");
        assert!(error.to_string().starts_with(&format!("sync {}/gone: ", dir.path().display())));
    }
}
