//! How far a table that is made anew is.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::domain::TableName;

/// What makes tables anew writes here, and who waits for it reads.
#[derive(Debug, Default)]
pub struct Meter {
    current: Mutex<Option<(TableName, Instant)>>,
    read: AtomicU64,
    /// Rows that there are to read; 0 where that is not known.
    total: AtomicU64,
}

/// How far the table under way is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    pub table: TableName,
    pub elapsed: Duration,
    /// Rows of its inputs that were read.
    pub read: u64,
    /// Rows that there are to read; 0 where that is not known.
    pub total: u64,
}

impl Meter {
    pub(super) fn begin(&self, table: &TableName) {
        self.read.store(0, Ordering::Relaxed);
        self.total.store(0, Ordering::Relaxed);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Some((table.clone(), Instant::now()));
    }

    pub(super) fn expect(&self, rows: u64) {
        self.total.fetch_add(rows, Ordering::Relaxed);
    }

    pub(super) fn read(&self, rows: u64) {
        self.read.fetch_add(rows, Ordering::Relaxed);
    }

    /// How far it is; `None` before the first table.
    pub fn reading(&self) -> Option<Reading> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (table, since) = current?;
        Some(Reading {
            table,
            elapsed: since.elapsed(),
            read: self.read.load(Ordering::Relaxed),
            total: self.total.load(Ordering::Relaxed),
        })
    }
}

impl Reading {
    /// How long the rest takes if it goes on as it went; `None` where that is not known.
    pub fn left(&self) -> Option<Duration> {
        let known = self.read > 0 && self.total >= self.read;
        let rest = self.total.checked_sub(self.read).filter(|_| known)?;
        // Both are far below 2^53.
        Some(self.elapsed.mul_f64(rest as f64 / self.read as f64))
    }
}

impl std::fmt::Display for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.elapsed.as_secs();
        match self.left() {
            Some(left) => write!(
                f,
                "{}: {} of {} rows read, {} %, about {} s left",
                self.table,
                self.read,
                self.total,
                self.read * 100 / self.total.max(1),
                left.as_secs()
            ),
            None if self.read > 0 => {
                write!(f, "{}: {} rows so far, {seconds} s", self.table, self.read)
            }
            None => write!(f, "{}: {seconds} s", self.table),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_by_what_it_took() {
        let table = TableName::new("gold", "t");
        let of = |read, total| Reading {
            table: table.clone(),
            elapsed: Duration::from_secs(10),
            read,
            total,
        };
        assert_eq!(of(250, 1_000).left(), Some(Duration::from_secs(30)));
        assert_eq!(
            of(250, 1_000).to_string(),
            "gold.t: 250 of 1000 rows read, 25 %, about 30 s left"
        );
        assert_eq!((of(0, 1_000).left(), of(5, 0).left()), (None, None));
        assert_eq!(of(5, 0).to_string(), "gold.t: 5 rows so far, 10 s");
        let meter = Meter::default();
        assert_eq!(meter.reading(), None);
        meter.begin(&table);
        meter.expect(7);
        meter.read(3);
        meter.begin(&table);
        meter.read(2);
        let reading = meter.reading().expect("a table");
        assert_eq!((reading.read, reading.total), (2, 0));
    }
}
