//! The data folder: whether commits are exclusive there, and on disk when they are reported.

use std::{
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use super::finding::Finding;
use crate::{
    config::Server,
    domain::Durability,
    lake::{Probe, probe},
    ops::Clock,
};

/// An ack waits for the disk; from here on it is felt.
const WRITE_SLOW: Duration = Duration::from_millis(50);
/// Tables order by time: clocks that differ by more make a mess of it.
const CLOCK_MAX: Duration = Duration::from_secs(2);

pub(super) async fn check(server: &Server, clock: &Clock) -> Vec<Finding> {
    let folder = match existing(&server.data_dir) {
        Ok(folder) => folder,
        Err(reason) => return vec![unusable(&server.data_dir, &reason)],
    };
    let probed = match probe(&folder, server.durability).await {
        Ok(probed) => probed,
        Err(error) => return vec![unusable(&server.data_dir, &error.to_string())],
    };
    let shown = server.data_dir.display();
    let writable = if server.data_dir.exists() {
        format!("{shown} can be written")
    } else {
        format!("{shown} does not exist yet, the first start makes it in {}", folder.display())
    };
    let mut findings = vec![Finding::ok("data folder", writable), exclusive(&probed)];
    findings.push(durable(server.durability, &probed, is_in_memory(&folder)));
    findings.extend(skew(&probed, clock.now_us()));
    findings
}

/// The folder itself, or the nearest above it that exists.
pub(super) fn existing(folder: &Path) -> Result<PathBuf, String> {
    let folder = std::path::absolute(folder).map_err(|e| e.to_string())?;
    for place in folder.ancestors() {
        match std::fs::metadata(place) {
            Ok(meta) if meta.is_dir() => return Ok(place.to_path_buf()),
            Ok(_) => return Err(format!("{} is not a folder", place.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{}: {error}", place.display())),
        }
    }
    Err("no folder above it exists".to_owned())
}

fn unusable(folder: &Path, reason: &str) -> Finding {
    Finding::fail(
        "data folder",
        format!("{} cannot be used: {reason}", folder.display()),
        "let the user that runs the server own it, or choose another with --data-dir",
    )
}

fn exclusive(probed: &Probe) -> Finding {
    let name = "conditional put";
    match probed.winners {
        1 => Finding::ok(name, "of writers that create the same file at once, one wins"),
        winners => Finding::fail(
            name,
            format!("{winners} writers at once were told that they created the same file"),
            "put --data-dir on a file system whose hard links are exclusive, such as ext4 or xfs: \
             here two commits could take the same version of a table",
        ),
    }
}

fn durable(durability: Durability, probed: &Probe, is_in_memory: bool) -> Finding {
    let (name, ms) = ("fsync", format!("{:.1} ms", probed.write.as_secs_f64() * 1e3));
    if is_in_memory {
        let mend = "put --data-dir on a disk: what is acked here is gone when the machine stops";
        return Finding::warn(name, "the data folder is in memory (tmpfs)", mend);
    }
    if durability == Durability::Os {
        let mend =
            "set server.durability = \"fsync\", unless a power failure may cost acked events";
        return Finding::warn(name, "nothing is synced: server.durability is \"os\"", mend);
    }
    let found = format!("a file and its name are on disk after {ms}");
    if probed.write > WRITE_SLOW {
        let mend = "put --data-dir on a faster disk: every ack and every commit waits for it";
        return Finding::warn(name, found, mend);
    }
    Finding::ok(name, found)
}

/// Where the file system has a clock of its own, that it goes wrong.
fn skew(probed: &Probe, now_us: i64) -> Option<Finding> {
    let modified = probed.modified?.duration_since(UNIX_EPOCH).ok()?;
    let now = Duration::from_micros(u64::try_from(now_us).ok()?);
    let apart = modified.abs_diff(now);
    let found =
        format!("its clock and that of this machine differ by {:.0} s", apart.as_secs_f64());
    let mend = "let both machines follow the same time server";
    (apart > CLOCK_MAX).then(|| Finding::warn("data folder", found, mend))
}

fn is_in_memory(folder: &Path) -> bool {
    statfs(folder).is_ok_and(|stat| stat.filesystem_type() == TMPFS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::finding::Level;

    fn probed(winners: usize, ms: u64) -> Probe {
        let modified = Some(UNIX_EPOCH + Duration::from_secs(100));
        Probe { winners, write: Duration::from_millis(ms), modified }
    }

    #[test]
    fn what_is_measured_is_judged() {
        assert_eq!(exclusive(&probed(1, 1)).level, Level::Ok);
        assert_eq!(exclusive(&probed(2, 1)).level, Level::Fail);
        let durable = |durability, ms, memory| durable(durability, &probed(1, ms), memory).level;
        assert_eq!(durable(Durability::Fsync, 50, false), Level::Ok);
        assert_eq!(durable(Durability::Fsync, 51, false), Level::Warn);
        assert_eq!(durable(Durability::Fsync, 1, true), Level::Warn);
        assert_eq!(durable(Durability::Os, 1, false), Level::Warn);
        assert_eq!(skew(&probed(1, 1), 102_000_000), None);
        let found = skew(&probed(1, 1), 103_000_000).expect("a finding").found;
        assert_eq!(found, "its clock and that of this machine differ by 3 s");
    }

    #[test]
    fn a_folder_that_does_not_exist_is_judged_by_the_one_above() {
        let dir = tempfile::tempdir().expect("folder");
        let file = dir.path().join("file");
        std::fs::write(&file, b"").expect("file");
        assert_eq!(existing(&dir.path().join("a/b")), Ok(dir.path().to_path_buf()));
        let reason = existing(&file.join("b")).expect_err("below a file");
        assert!(reason.starts_with(&file.display().to_string()), "{reason}");
    }
}
