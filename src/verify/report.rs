//! What the check found, for people and for programs.

use std::fmt;

use serde::Serialize;

/// Places or events that a finding names at most.
const SAMPLES: usize = 10;

/// In which way a promise is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// What was acked, or stands in an input, is not there.
    Lost,
    /// What counts once is there twice.
    Duplicated,
    /// It is there, but nobody sent it, or its producer was told that it is not.
    Unexpected,
    /// Not in the order in which it was sent.
    Reordered,
    /// It is there with another content.
    Corrupted,
    /// A position went back, or says more than there is.
    Position,
    /// The table's log has a hole, or cannot be read.
    Version,
    /// A data file is missing, or does not have the rows that the log says.
    File,
    /// A table is not what its SQL gives over its inputs at the recorded positions.
    Content,
}

impl Kind {
    pub const ALL: [Self; 9] = [
        Self::Lost,
        Self::Duplicated,
        Self::Unexpected,
        Self::Reordered,
        Self::Corrupted,
        Self::Position,
        Self::Version,
        Self::File,
        Self::Content,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Duplicated => "duplicated",
            Self::Unexpected => "unexpected",
            Self::Reordered => "reordered",
            Self::Corrupted => "corrupted",
            Self::Position => "position",
            Self::Version => "version",
            Self::File => "file",
            Self::Content => "content",
        }
    }
}

/// One broken promise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub kind: Kind,
    /// The stream or table.
    pub place: String,
    pub what: String,
    pub count: u64,
    /// Some of them.
    pub samples: Vec<String>,
}

/// How much was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Looked {
    pub sent: u64,
    pub records: u64,
    pub accepted: u64,
    pub repeats: u64,
    pub quarantined: u64,
    pub tables: u64,
    pub versions: u64,
    pub files: u64,
    pub rows_compared: u64,
}

/// The result of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub green: bool,
    pub looked_at: Looked,
    pub findings: Vec<Finding>,
    /// Tables whose content was not compared, and why.
    pub not_compared: Vec<String>,
}

/// Collects what belongs to one finding.
pub(super) struct Collected {
    kind: Kind,
    place: String,
    what: &'static str,
    count: u64,
    samples: Vec<String>,
}

impl Collected {
    pub(super) fn new(kind: Kind, place: &str, what: &'static str) -> Self {
        Self { kind, place: place.to_owned(), what, count: 0, samples: Vec::new() }
    }

    pub(super) fn add(&mut self, sample: impl FnOnce() -> String) {
        self.count += 1;
        if self.samples.len() < SAMPLES {
            self.samples.push(sample());
        }
    }
}

impl Report {
    pub(super) fn close(&mut self, collected: impl IntoIterator<Item = Collected>) {
        let found = collected.into_iter().filter(|collected| collected.count > 0);
        self.findings.extend(found.map(|collected| Finding {
            kind: collected.kind,
            place: collected.place,
            what: collected.what.to_owned(),
            count: collected.count,
            samples: collected.samples,
        }));
    }

    pub fn count(&self, kind: Kind) -> u64 {
        self.findings.iter().filter(|found| found.kind == kind).map(|found| found.count).sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let looked = &self.looked_at;
        writeln!(
            f,
            "looked at {} records ({} accepted, {} repeats, {} quarantined), {} sent events, {} \
             tables, {} versions, {} files, {} rows compared with their SQL",
            looked.records,
            looked.accepted,
            looked.repeats,
            looked.quarantined,
            looked.sent,
            looked.tables,
            looked.versions,
            looked.files,
            looked.rows_compared
        )?;
        for reason in &self.not_compared {
            writeln!(f, "not compared: {reason}")?;
        }
        for found in &self.findings {
            write!(f, "{}: {}: {} {}", found.kind.as_str(), found.place, found.count, found.what)?;
            if !found.samples.is_empty() {
                let more = if found.count > found.samples.len() as u64 { ", …" } else { "" };
                write!(f, ": {}{more}", found.samples.join(", "))?;
            }
            writeln!(f)?;
        }
        let counts =
            Kind::ALL.iter().map(|kind| format!("{} {}", kind.as_str(), self.count(*kind)));
        writeln!(f, "{}", counts.collect::<Vec<_>>().join("  "))?;
        f.write_str(if self.green { "green" } else { "red" })?;
        if !self.not_compared.is_empty() {
            write!(f, ", {} not compared", self.not_compared.len())?;
        }
        Ok(())
    }
}
