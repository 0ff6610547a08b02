//! How far a push got, on disk: a second run of the same command goes on where the first stopped.
//!
//! One small file per command, named by a hash of the server, the stream and the digests of the
//! files. It is replaced as a whole (written aside, fsynced, renamed), so a kill leaves the old or
//! the new one. It never claims more than was acknowledged, and it counts only where the server
//! still has the log that acknowledged it.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{feed::Cut, part::Part};
use crate::domain::ErrorKind;

/// At most this often the file is written while a push goes on.
pub(super) const WRITE_EVERY: Duration = Duration::from_millis(500);
const VERSION: u32 = 1;

/// The contents of the state file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    version: u32,
    /// For people who look at the file.
    url: String,
    stream: String,
    /// The log that holds what was acknowledged. Files from before this was recorded: none.
    #[serde(default)]
    log_id: String,
    /// Distinguishes this push from an earlier one of the same files.
    pub(super) push_id: String,
    /// Settings that decide where batches are cut.
    cut: (usize, usize, usize),
    #[serde(default)]
    span_us: Option<i64>,
    /// One per part: one per file, or one for all that are sorted together.
    pub(super) files: Vec<FileState>,
}

/// How far one part got.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct FileState {
    name: String,
    /// Rows that are settled, from the beginning of the part.
    pub(super) rows: u64,
    /// The line that the last of them begins on.
    pub(super) line: u64,
    /// Events of these rows that are in the log.
    pub(super) acked: u64,
    /// Records that hold them: fewer, where several are joined into one.
    #[serde(default)]
    pub(super) records: u64,
    pub(super) refused: u64,
    /// Why, the first ones as `file:line: reason`.
    pub(super) reasons: Vec<String>,
    /// The sequence of the next batch.
    pub(super) sequence: i64,
    pub(super) done: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot write the state of the push to {path}: {source}; give another --state-dir")]
pub(super) struct StateError {
    path: String,
    #[source]
    source: io::Error,
}

impl StateError {
    pub(super) fn kind(&self) -> ErrorKind {
        ErrorKind::Unavailable
    }
}

impl State {
    pub(super) fn new(url: &str, stream: &str, log_id: &str, parts: &[Part], cut: Cut) -> Self {
        let file = |part: &Part| FileState { name: part.name(), ..FileState::default() };
        Self {
            version: VERSION,
            url: url.to_owned(),
            stream: stream.to_owned(),
            log_id: log_id.to_owned(),
            push_id: new_push_id(),
            cut: as_tuple(cut),
            span_us: cut.span_us,
            files: parts.iter().map(file).collect(),
        }
    }

    /// The same push from its beginning, as another.
    pub(super) fn anew(&self, parts: &[Part], cut: Cut) -> Self {
        Self::new(&self.url, &self.stream, &self.log_id, parts, cut)
    }

    /// Takes up an earlier push. Batches that would be cut otherwise than before must not reuse its
    /// sequence numbers: they get a new push id.
    fn resumed(mut self, cut: Cut) -> Self {
        if (self.cut, self.span_us) != (as_tuple(cut), cut.span_us) {
            (self.cut, self.span_us) = (as_tuple(cut), cut.span_us);
            self.push_id = new_push_id();
        }
        self
    }
}

fn as_tuple(cut: Cut) -> (usize, usize, usize) {
    (cut.rows, cut.bytes, cut.row_bytes_max)
}

fn new_push_id() -> String {
    let mut id = uuid::Uuid::new_v4().simple().to_string();
    id.truncate(8);
    id
}

/// SHA-256 of these texts, each told apart from the next, in hex.
pub(super) fn hash<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hasher = Sha256::new();
    for text in texts {
        hasher.update((text.len() as u64).to_be_bytes());
        hasher.update(text);
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What an earlier, interrupted run of a command got done.
#[derive(Debug, PartialEq)]
pub(super) enum Earlier {
    Nothing,
    /// The push to go on with.
    Same(Box<State>),
    /// What it got acknowledged went into a log that the server does not have.
    OtherLog {
        acked: u64,
    },
}

/// Where the state of one command is kept.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
}

impl Store {
    /// The folder is created and probed, so that a push does not begin that could not be resumed.
    pub(super) fn open(
        dir: &Path,
        url: &str,
        stream: &str,
        parts: &[Part],
    ) -> Result<Self, StateError> {
        let digests: Vec<String> = parts.iter().map(Part::digest).collect();
        let mut name = hash([url, stream].into_iter().chain(digests.iter().map(String::as_str)));
        name.truncate(24);
        let failed = |source| StateError { path: dir.display().to_string(), source };
        fs::create_dir_all(dir).map_err(failed)?;
        tempfile::tempfile_in(dir).map_err(failed)?;
        Ok(Self { path: dir.join(format!("{name}.json")) })
    }

    /// What an earlier run of this command left, for a server with this log. Something unreadable
    /// counts as nothing: then all is sent again, which is always right.
    pub(super) fn load(&self, log_id: &str, parts: &[Part], cut: Cut) -> Earlier {
        let read = fs::read(&self.path).ok();
        let state = read.and_then(|bytes| serde_json::from_slice::<State>(&bytes).ok());
        match state {
            Some(state) if state.version != VERSION || state.files.len() != parts.len() => {
                Earlier::Nothing
            }
            // A server that does not name its log may have any.
            Some(state) if log_id.is_empty() || state.log_id != log_id => {
                Earlier::OtherLog { acked: state.files.iter().map(|file| file.acked).sum() }
            }
            Some(state) => Earlier::Same(Box::new(state.resumed(cut))),
            None => Earlier::Nothing,
        }
    }

    /// Replaces the file.
    pub(super) async fn write(&self, state: &State) -> Result<(), StateError> {
        let failed = |source| StateError { path: self.path.display().to_string(), source };
        let json = serde_json::to_vec_pretty(state).map_err(|e| failed(e.into()))?;
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || replace(&path, &json))
            .await
            .map_err(|error| failed(io::Error::other(error)))?
            .map_err(failed)
    }

    /// The push is complete: pushing the same files again sends everything again.
    pub(super) fn remove(&self) -> Result<(), StateError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StateError { path: self.path.display().to_string(), source: error })
            }
            _ => Ok(()),
        }
    }
}

fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(contents)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(dir)?.sync_all()
}

/// `$XDG_STATE_HOME/sluice` or `~/.local/state/sluice`.
pub(in crate::cli) fn home() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|dir| dir.is_absolute())
        .or_else(|| std::env::home_dir().map(|home| home.join(".local/state")))?;
    Some(base.join("sluice"))
}

/// Where interrupted pushes are remembered.
pub(super) fn default_dir() -> Option<PathBuf> {
    home().map(|home| home.join("push"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::push::{
        read::{Encoding, Format, Input},
        sort::Sort,
    };

    const CUT: Cut = Cut { rows: 500, bytes: 1000, row_bytes_max: 1000, span_us: None };

    fn part(digest: &str) -> Part {
        let input = Input {
            name: "a.csv".into(),
            path: Some("a.csv".into()),
            format: Format::Csv,
            encoding: Encoding::Utf8,
            bytes: 0,
            digest: digest.into(),
        };
        Part { inputs: vec![input], sort: None }
    }

    #[tokio::test]
    async fn a_state_is_found_by_server_stream_and_content() {
        let dir = tempfile::tempdir().expect("dir");
        let parts = [part("d1")];
        let open = |url: &str, stream: &str, parts: &[Part]| {
            Store::open(dir.path(), url, stream, parts).expect("store")
        };
        let store = open("u", "s", &parts);
        assert_eq!(store.load("l", &parts, CUT), Earlier::Nothing);
        let mut state = State::new("u", "s", "l", &parts, CUT);
        state.files[0].rows = 7;
        store.write(&state).await.expect("write");
        let same = Earlier::Same(Box::new(state));
        assert_eq!(open("u", "s", &parts).load("l", &parts, CUT), same);
        assert_eq!(open("u2", "s", &parts).load("l", &parts, CUT), Earlier::Nothing);
        assert_eq!(open("u", "s2", &parts).load("l", &parts, CUT), Earlier::Nothing);
        let sorted = Part { sort: Some(Sort::new("at", false)), ..part("d1") };
        for others in [[part("d2")], [sorted]] {
            assert_eq!(open("u", "s", &others).load("l", &others, CUT), Earlier::Nothing);
        }
        store.remove().expect("remove");
        store.remove().expect("remove what is gone");
        assert_eq!(store.load("l", &parts, CUT), Earlier::Nothing);
    }

    #[tokio::test]
    async fn batches_that_are_cut_otherwise_get_another_name() {
        let dir = tempfile::tempdir().expect("dir");
        let parts = [part("d1")];
        let store = Store::open(dir.path(), "u", "s", &parts).expect("store");
        let state = State::new("u", "s", "l", &parts, CUT);
        store.write(&state).await.expect("write");
        let push_id = |cut| match store.load("l", &parts, cut) {
            Earlier::Same(earlier) => earlier.push_id,
            other => panic!("{other:?}"),
        };
        assert_eq!(push_id(CUT), state.push_id);
        assert_ne!(push_id(Cut { rows: 7, ..CUT }), state.push_id);
        assert_ne!(push_id(Cut { span_us: Some(1), ..CUT }), state.push_id);
    }

    #[tokio::test]
    async fn a_state_counts_only_for_the_log_that_acknowledged_it() {
        let dir = tempfile::tempdir().expect("dir");
        let parts = [part("d1")];
        let store = Store::open(dir.path(), "u", "s", &parts).expect("store");
        let mut state = State::new("u", "s", "l", &parts, CUT);
        state.files[0].acked = 7;
        store.write(&state).await.expect("write");
        assert_eq!(store.load("fresh", &parts, CUT), Earlier::OtherLog { acked: 7 });
        assert_eq!(store.load("", &parts, CUT), Earlier::OtherLog { acked: 7 });
        let mut older = serde_json::to_value(&state).expect("json");
        older.as_object_mut().expect("object").remove("log_id");
        fs::write(&store.path, older.to_string()).expect("write");
        assert_eq!(store.load("l", &parts, CUT), Earlier::OtherLog { acked: 7 });
    }

    #[tokio::test]
    async fn a_damaged_state_counts_as_none() {
        let dir = tempfile::tempdir().expect("dir");
        let parts = [part("d1")];
        let store = Store::open(dir.path(), "u", "s", &parts).expect("store");
        fs::write(&store.path, "{\"version\":1,").expect("damage");
        assert_eq!(store.load("l", &parts, CUT), Earlier::Nothing);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error_before_any_work() {
        let dir = tempfile::tempdir().expect("dir");
        let blocked = dir.path().join("file");
        fs::write(&blocked, "").expect("file");
        let error = Store::open(&blocked, "u", "s", &[]).expect_err("not a folder");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("give another --state-dir"), "{error}");
    }
}
