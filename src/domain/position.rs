use std::{collections::BTreeMap, fmt, str::FromStr};

use crate::domain::ErrorKind;

/// Number of a partition of a stream, from 0.
pub type Partition = u32;

/// Position of a record in a partition, from 0.
pub type Offset = i64;

/// How far something reaches into the log: per (stream, partition) the last offset included.
///
/// Written as `clicks/0=41,clicks/3=17`, the form of the `x-sluice-after` header.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Positions(BTreeMap<(String, Partition), Offset>);

impl Positions {
    /// The last offset included, or `None` where nothing of the partition is.
    pub fn get(&self, stream: &str, partition: Partition) -> Option<Offset> {
        self.0.get(&(stream.to_owned(), partition)).copied()
    }

    /// Moves the partition forward to `offset`; a smaller offset changes nothing.
    pub fn advance(&mut self, stream: &str, partition: Partition, offset: Offset) {
        let at = self.0.entry((stream.to_owned(), partition)).or_insert(offset);
        *at = (*at).max(offset);
    }

    /// Moves every partition forward to at least where `other` is.
    pub fn merge(&mut self, other: &Self) {
        for (stream, partition, offset) in other.iter() {
            self.advance(stream, partition, offset);
        }
    }

    /// Keeps of every partition the smaller offset; a partition that only one side has is dropped.
    pub fn meet(&self, other: &Self) -> Self {
        let both = self.0.iter().filter_map(|(key, offset)| {
            other.0.get(key).map(|theirs| (key.clone(), *offset.min(theirs)))
        });
        Self(both.collect())
    }

    /// Whether this reaches at least as far as `other` in each of its partitions.
    pub fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|(key, offset)| self.0.get(key).is_some_and(|at| at >= offset))
    }

    /// The part that concerns one of `streams`.
    pub fn only(&self, streams: &[String]) -> Self {
        let kept = self.0.iter().filter(|((stream, _), _)| streams.contains(stream));
        Self(kept.map(|(key, offset)| (key.clone(), *offset)).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, Partition, Offset)> {
        self.0.iter().map(|((stream, partition), offset)| (stream.as_str(), *partition, *offset))
    }
}

impl fmt::Display for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (stream, partition, offset)) in self.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{stream}/{partition}={offset}")?;
        }
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("position {0:?} is not of the form stream/partition=offset")]
pub struct ParsePositionsError(String);

impl ParsePositionsError {
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

impl FromStr for Positions {
    type Err = ParsePositionsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut positions = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let parsed = part.split_once('=').and_then(|(key, offset)| {
                let (stream, partition) = key.rsplit_once('/')?;
                Some((stream, partition.parse().ok()?, offset.parse().ok()?))
            });
            let (stream, partition, offset) =
                parsed.ok_or_else(|| ParsePositionsError(part.to_owned()))?;
            positions.advance(stream, partition, offset);
        }
        Ok(positions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(text: &str) -> Positions {
        text.parse().expect("positions")
    }

    #[test]
    fn text_form_round_trips() {
        assert_eq!(positions("b/1=7, a/0=3").to_string(), "a/0=3,b/1=7");
        assert!("a=3".parse::<Positions>().is_err());
        assert!("a/x=3".parse::<Positions>().is_err());
    }

    #[test]
    fn covering_needs_every_partition_of_the_other() {
        assert!(positions("a/0=3,a/1=0").covers(&positions("a/0=3")));
        assert!(!positions("a/0=3").covers(&positions("a/0=3,a/1=0")));
        assert!(!positions("a/0=2").covers(&positions("a/0=3")));
    }

    #[test]
    fn meeting_keeps_what_both_have_seen() {
        assert_eq!(positions("a/0=3,a/1=9").meet(&positions("a/0=5,b/0=1")), positions("a/0=3"));
    }
}
