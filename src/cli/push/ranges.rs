//! Where in the log the acknowledged events are: ranges of offsets, merged.

use std::collections::BTreeMap;

use crate::{domain::Positions, ingest::proto::OffsetRange};

/// Inclusive ranges of offsets by partition.
#[derive(Debug, Default)]
pub(super) struct Ranges(BTreeMap<u32, Vec<(i64, i64)>>);

impl Ranges {
    pub(super) fn add(&mut self, range: &OffsetRange) {
        let ranges = self.0.entry(range.partition).or_default();
        match ranges.last_mut() {
            Some(last) if last.1.checked_add(1) == Some(range.first) => last.1 = range.last,
            _ => ranges.push((range.first, range.last)),
        }
    }

    /// (partition, first, last), without overlaps, in order.
    pub(super) fn merged(&self) -> Vec<(u32, i64, i64)> {
        let mut merged: Vec<(u32, i64, i64)> = Vec::new();
        for (partition, ranges) in &self.0 {
            let mut sorted = ranges.clone();
            sorted.sort_unstable();
            for (first, last) in sorted {
                match merged.last_mut() {
                    Some((known, _, end))
                        if known == partition && first <= end.saturating_add(1) =>
                    {
                        *end = last.max(*end);
                    }
                    _ => merged.push((*partition, first, last)),
                }
            }
        }
        merged
    }

    /// Offsets in all ranges.
    pub(super) fn count(&self) -> u64 {
        self.merged().iter().map(|(_, first, last)| last.abs_diff(*first) + 1).sum()
    }

    /// The last offset of each partition.
    pub(super) fn positions(&self, stream: &str) -> Positions {
        let mut positions = Positions::default();
        for (partition, ranges) in &self.0 {
            if let Some(last) = ranges.iter().map(|range| range.1).max() {
                positions.advance(stream, *partition, last);
            }
        }
        positions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_or_overlap_become_one() {
        let mut ranges = Ranges::default();
        for (partition, first, last) in [(1, 0, 4), (0, 10, 12), (1, 5, 9), (1, 20, 21), (1, 8, 19)]
        {
            ranges.add(&OffsetRange { partition, first, last });
        }
        assert_eq!(ranges.merged(), [(0, 10, 12), (1, 0, 21)]);
        assert_eq!(ranges.count(), 25);
        assert_eq!(ranges.positions("s").to_string(), "s/0=12,s/1=21");
    }
}
