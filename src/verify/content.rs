//! Two bags of rows: equal, or how they differ. Pure.
//!
//! Equal means the same bits, but for binary floating point: its last digits depend on the order of
//! additions, so values are equal within a relative 1e-9.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{Array as _, ArrayRef, AsArray as _, RecordBatch},
    compute::cast,
    datatypes::{DataType, Float64Type},
    error::ArrowError,
    row::{RowConverter, SortField},
    util::display::{ArrayFormatter, FormatOptions},
};

use crate::{
    domain::identity::{Fingerprint, fingerprint},
    verify::facts::Difference,
};

const TOLERANCE: f64 = 1e-9;
const SAMPLES: usize = 5;

/// A row of one side: batch and row number.
type At = (usize, usize);

/// How `found` differs from `expected`; both of one schema.
pub(super) fn differences(
    expected: &[RecordBatch],
    found: &[RecordBatch],
) -> Result<Difference, ArrowError> {
    let (mut missing, mut surplus) = unmatched(expected, found)?;
    if !missing.is_empty() && !surplus.is_empty() {
        match_close(expected, &mut missing, found, &mut surplus)?;
    }
    let mut samples = Vec::new();
    for (sign, batches, rows) in [('-', expected, &missing), ('+', found, &surplus)] {
        for (batch, row) in rows.iter().take(SAMPLES) {
            samples.push(format!("{sign}{}", shown(&batches[*batch], *row)?));
        }
    }
    Ok(Difference {
        rows: found.iter().map(|batch| batch.num_rows() as u64).sum(),
        missing: missing.len() as u64,
        surplus: surplus.len() as u64,
        samples,
    })
}

/// The rows that have no equal one on the other side.
fn unmatched(
    expected: &[RecordBatch],
    found: &[RecordBatch],
) -> Result<(Vec<At>, Vec<At>), ArrowError> {
    let mut waiting: HashMap<Fingerprint, Vec<At>> = HashMap::new();
    each_row(expected, |_| true, |print, at| waiting.entry(print).or_default().push(at))?;
    let mut surplus = Vec::new();
    each_row(
        found,
        |_| true,
        |print, at| {
            if waiting.get_mut(&print).and_then(Vec::pop).is_none() {
                surplus.push(at);
            }
        },
    )?;
    let mut missing: Vec<At> = waiting.into_values().flatten().collect();
    missing.sort_unstable();
    Ok((missing, surplus))
}

/// Takes out pairs that differ in floats alone, and there by no more than rounding does.
fn match_close(
    expected: &[RecordBatch],
    missing: &mut Vec<At>,
    found: &[RecordBatch],
    surplus: &mut Vec<At>,
) -> Result<(), ArrowError> {
    let is_exact = |data_type: &DataType| !data_type.is_floating();
    let mut prints: HashMap<At, Fingerprint> = HashMap::new();
    each_row(expected, is_exact, |print, at| {
        prints.insert(at, print);
    })?;
    let mut waiting: HashMap<Fingerprint, Vec<At>> = HashMap::new();
    for at in missing.iter() {
        waiting.entry(prints[at]).or_default().push(*at);
    }
    prints.clear();
    each_row(found, is_exact, |print, at| {
        prints.insert(at, print);
    })?;
    let (floats_expected, floats_found) = (floats(expected)?, floats(found)?);
    surplus.retain(|at| {
        let Some(candidates) = waiting.get_mut(&prints[at]) else { return true };
        let close = candidates
            .iter()
            .position(|candidate| are_close(&floats_expected, *candidate, &floats_found, *at));
        close.map(|position| candidates.swap_remove(position)).is_none()
    });
    *missing = waiting.into_values().flatten().collect();
    missing.sort_unstable();
    Ok(())
}

/// Calls `visit` with the fingerprint of every row over the columns of `wanted` types.
fn each_row(
    batches: &[RecordBatch],
    wanted: impl Fn(&DataType) -> bool,
    mut visit: impl FnMut(Fingerprint, At),
) -> Result<(), ArrowError> {
    let Some(first) = batches.first() else { return Ok(()) };
    let schema = first.schema();
    let columns: Vec<usize> = (0..schema.fields().len())
        .filter(|column| wanted(schema.field(*column).data_type()))
        .collect();
    let fields = columns.iter().map(|i| SortField::new(schema.field(*i).data_type().clone()));
    let converter = RowConverter::new(fields.collect())?;
    for (number, batch) in batches.iter().enumerate() {
        if columns.is_empty() {
            (0..batch.num_rows()).for_each(|row| visit(Fingerprint::default(), (number, row)));
            continue;
        }
        let picked: Vec<ArrayRef> = columns.iter().map(|i| Arc::clone(batch.column(*i))).collect();
        for (row, bytes) in converter.convert_columns(&picked)?.iter().enumerate() {
            visit(fingerprint(bytes.as_ref()), (number, row));
        }
    }
    Ok(())
}

/// The floating point columns of every batch, as doubles.
fn floats(batches: &[RecordBatch]) -> Result<Vec<Vec<ArrayRef>>, ArrowError> {
    let of = |batch: &RecordBatch| {
        let columns = batch.columns().iter().filter(|column| column.data_type().is_floating());
        columns.map(|column| cast(column, &DataType::Float64)).collect()
    };
    batches.iter().map(of).collect()
}

fn are_close(expected: &[Vec<ArrayRef>], a: At, found: &[Vec<ArrayRef>], b: At) -> bool {
    expected[a.0].iter().zip(&found[b.0]).all(|(one, other)| {
        if one.is_null(a.1) || other.is_null(b.1) {
            return one.is_null(a.1) == other.is_null(b.1);
        }
        let one = one.as_primitive::<Float64Type>().value(a.1);
        let other = other.as_primitive::<Float64Type>().value(b.1);
        let scale = one.abs().max(other.abs());
        one.to_bits() == other.to_bits() || one == other || (one - other).abs() <= scale * TOLERANCE
    })
}

fn shown(batch: &RecordBatch, row: usize) -> Result<String, ArrowError> {
    let options = FormatOptions::default().with_null("null");
    let values = batch.columns().iter().map(|column| {
        Ok(ArrayFormatter::try_new(column.as_ref(), &options)?.value(row).to_string())
    });
    Ok(format!("({})", values.collect::<Result<Vec<_>, ArrowError>>()?.join(", ")))
}

#[cfg(test)]
mod tests {

    use super::*;
    use arrow::array::{Float64Array, Int64Array, StringArray};

    fn rows(rows: &[(&str, Option<f64>)]) -> Vec<RecordBatch> {
        let names: StringArray = rows.iter().map(|(name, _)| Some(*name)).collect();
        let values: Float64Array = rows.iter().map(|(_, value)| *value).collect();
        let columns = [("name", Arc::new(names) as ArrayRef), ("value", Arc::new(values))];
        // In two batches, to have places in both.
        let all = RecordBatch::try_from_iter(columns).expect("rows");
        let half = rows.len() / 2;
        vec![all.slice(0, half), all.slice(half, rows.len() - half)]
    }

    type Row = (&'static str, Option<f64>);
    /// What it shows, expected rows, found rows, how many are missing and too many.
    type Case<'a> = (&'a str, &'a [Row], &'a [Row], (u64, u64));

    #[test]
    fn bags_are_compared() {
        const A: Row = ("a", Some(1.0));
        let cases: [Case<'_>; 9] = [
            ("in another order", &[A, ("b", None)], &[("b", None), A], (0, 0)),
            ("one too many", &[A], &[A, A], (0, 1)),
            ("one too few", &[A, A], &[A], (1, 0)),
            ("rounding", &[("a", Some(0.3))], &[("a", Some(0.1 + 0.2))], (0, 0)),
            ("more", &[("a", Some(0.3))], &[("a", Some(0.300_000_001))], (1, 1)),
            ("zeroes", &[("a", Some(0.0))], &[("a", Some(-0.0))], (0, 0)),
            ("nan", &[("a", Some(f64::NAN))], &[("a", Some(f64::NAN))], (0, 0)),
            ("null is not zero", &[("a", Some(0.0))], &[("a", None)], (1, 1)),
            ("nothing there", &[], &[A], (0, 1)),
        ];
        for (case, expected, found, wanted) in cases {
            let difference = differences(&rows(expected), &rows(found)).expect("compare");
            assert_eq!((difference.missing, difference.surplus), wanted, "{case}");
            assert_eq!(difference.rows, found.len() as u64, "{case}");
        }
    }

    #[test]
    fn samples_show_rows_with_their_side() {
        let one = |n: i64| {
            let column: ArrayRef = Arc::new(Int64Array::from(vec![n]));
            vec![RecordBatch::try_from_iter([("n", column)]).expect("rows")]
        };
        let difference = differences(&one(1), &one(2)).expect("compare");
        assert_eq!(difference.samples, ["-(1)", "+(2)"]);
    }
}
