use std::{fs, io, path::Path};

/// How a log's folder stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folder {
    /// There is no log in it yet.
    Absent,
    /// No process has it open.
    Free,
    /// A process has it open.
    InUse,
}

/// The file that fjall locks while a database is open.
const LOCK: &str = "lock";

/// Looks at the folder of a log without opening the log, which would write to it.
pub fn look(path: &Path) -> io::Result<Folder> {
    let lock = match fs::File::open(path.join(LOCK)) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Folder::Absent),
        Err(error) => return Err(error),
    };
    // Closed, and with it unlocked, at once.
    match lock.try_lock() {
        Ok(()) => Ok(Folder::Free),
        Err(fs::TryLockError::WouldBlock) => Ok(Folder::InUse),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        log::embedded::{EmbeddedLog, Settings},
        ops::Clock,
    };

    #[test]
    fn a_log_that_is_open_is_told_from_one_that_is_not() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("log");
        assert_eq!(look(&path).expect("absent"), Folder::Absent);
        let log = EmbeddedLog::open(&path, Settings::default(), Clock::system()).expect("log");
        assert_eq!(look(&path).expect("open"), Folder::InUse);
        drop(log);
        assert_eq!(look(&path).expect("closed"), Folder::Free);
    }
}
