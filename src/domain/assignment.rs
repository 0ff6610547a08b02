use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::domain::Partition;

/// The partitions that one processor of several holds, by stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assignment(BTreeMap<String, BTreeSet<Partition>>);

impl Assignment {
    pub fn insert(&mut self, stream: &str, partition: Partition) {
        self.0.entry(stream.to_owned()).or_default().insert(partition);
    }

    pub fn remove(&mut self, stream: &str, partition: Partition) {
        if let Some(partitions) = self.0.get_mut(stream) {
            partitions.remove(&partition);
        }
    }

    pub fn holds(&self, stream: &str, partition: Partition) -> bool {
        self.0.get(stream).is_some_and(|partitions| partitions.contains(&partition))
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        other.iter().for_each(|(stream, partition)| self.insert(stream, partition));
    }

    /// Takes away all of `other`.
    pub fn subtract(&mut self, other: &Self) {
        other.iter().for_each(|(stream, partition)| self.remove(stream, partition));
    }

    /// Whether it has none of `other`.
    pub fn is_disjoint(&self, other: &Self) -> bool {
        other.iter().all(|(stream, partition)| !self.holds(stream, partition))
    }

    pub fn is_empty(&self) -> bool {
        self.0.values().all(BTreeSet::is_empty)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, Partition)> {
        self.0
            .iter()
            .flat_map(|(stream, partitions)| partitions.iter().map(|p| (stream.as_str(), *p)))
    }
}

impl<'a> FromIterator<(&'a str, Partition)> for Assignment {
    fn from_iter<I: IntoIterator<Item = (&'a str, Partition)>>(all: I) -> Self {
        let mut assignment = Self::default();
        all.into_iter().for_each(|(stream, partition)| assignment.insert(stream, partition));
        assignment
    }
}

/// `clicks/0 clicks/3`.
impl fmt::Display for Assignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (stream, partition)) in self.iter().enumerate() {
            let space = if i == 0 { "" } else { " " };
            write!(f, "{space}{stream}/{partition}")?;
        }
        Ok(())
    }
}
