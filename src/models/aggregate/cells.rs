//! What an aggregate function remembers of every group: exact sums and counts, which rows can be
//! added to and taken from, and for inputs that only grow also floating-point sums and extremes.

use std::{fmt::Debug, sync::Arc};

use arrow::{
    array::{
        Array as _, ArrayRef, AsArray as _, BooleanArray, Decimal128Array, Float64Array,
        Int64Array, UInt64Array,
    },
    compute::{cast, interleave},
    datatypes::{
        DECIMAL128_MAX_PRECISION, DataType, Decimal128Type, DecimalType as _, Field, Float64Type,
        Int64Type,
    },
    row::{OwnedRow, RowConverter, SortField},
};
use datafusion::{common::exec_err, error::DataFusionError};

use crate::models::types::data_type;

type Result<T> = std::result::Result<T, DataFusionError>;

/// An aggregate function as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Rows whose argument is not null.
    Count,
    /// Sum of integers or decimals.
    Sum {
        scale: i8,
        result: DataType,
    },
    /// Mean of integers or decimals.
    Mean {
        scale: i8,
        result: DataType,
    },
    /// Sum of binary floating-point numbers: nothing can be taken from it exactly.
    FloatSum,
    FloatMean,
    /// The least or greatest value: nothing can be taken from it.
    Extreme {
        of: DataType,
        is_greatest: bool,
    },
}

impl Kind {
    /// Whether rows can be taken out again.
    pub(super) fn is_exact(&self) -> bool {
        matches!(self, Self::Count | Self::Sum { .. } | Self::Mean { .. })
    }

    /// The columns that hold it in the table.
    pub(super) fn fields(&self, number: usize) -> Vec<Field> {
        let value = |of: DataType| Field::new(format!("__a{number}"), of, true);
        let count = Field::new(format!("__c{number}"), DataType::Int64, true);
        match self {
            Self::Count => vec![count],
            Self::Sum { scale, .. } | Self::Mean { scale, .. } => {
                vec![value(DataType::Decimal128(DECIMAL128_MAX_PRECISION, *scale)), count]
            }
            Self::FloatSum | Self::FloatMean => vec![value(DataType::Float64), count],
            Self::Extreme { of, .. } => vec![value(data_type(of))],
        }
    }

    pub(super) fn cells(&self) -> Result<Box<dyn Cells>> {
        Ok(match self {
            Self::Count => Box::new(Counts::default()),
            Self::Sum { scale, result } => Box::new(Exact::new(*scale, result, false)),
            Self::Mean { scale, result } => Box::new(Exact::new(*scale, result, true)),
            Self::FloatSum => Box::new(Floats::default()),
            Self::FloatMean => Box::new(Floats { is_mean: true, ..Floats::default() }),
            Self::Extreme { of, is_greatest } => Box::new(Extremes {
                converter: RowConverter::new(vec![SortField::new(of.clone())])?,
                none: arrow::array::new_null_array(of, 1),
                is_greatest: *is_greatest,
                best: Vec::new(),
            }),
        })
    }
}

/// What one aggregate function remembers of all groups.
pub(super) trait Cells: Debug + Send + Sync {
    /// Makes room for `groups` groups; new ones are empty.
    fn grow(&mut self, groups: usize);

    /// Adds `values` (of weight 1) to their groups, or takes them out (−1).
    fn update(&mut self, groups: &[u32], values: &ArrayRef, weight: i64) -> Result<()>;

    /// The columns of [`Kind::fields`].
    fn stored(&self, groups: &[u32]) -> Result<Vec<ArrayRef>>;

    /// Sets groups to what [`Cells::stored`] gave.
    fn restore(&mut self, groups: &[u32], columns: &[ArrayRef]) -> Result<()>;

    /// What SQL sees.
    fn result(&self, groups: &[u32]) -> Result<ArrayRef>;
}

fn values_of<T: Copy>(cells: &[T], groups: &[u32]) -> impl Iterator<Item = T> {
    groups.iter().map(|group| cells[*group as usize])
}

#[derive(Debug, Default)]
struct Counts(Vec<i64>);

impl Counts {
    fn add(&mut self, groups: &[u32], values: &ArrayRef, weight: i64) {
        match values.logical_nulls() {
            None => groups.iter().for_each(|group| self.0[*group as usize] += weight),
            Some(nulls) => {
                for (group, is_valid) in groups.iter().zip(&nulls) {
                    self.0[*group as usize] += if is_valid { weight } else { 0 };
                }
            }
        }
    }

    fn column(&self, groups: &[u32]) -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(values_of(&self.0, groups)))
    }

    fn set(&mut self, groups: &[u32], column: &ArrayRef) {
        let counts = column.as_primitive::<Int64Type>().values();
        groups.iter().zip(counts).for_each(|(group, count)| self.0[*group as usize] = *count);
    }
}

impl Cells for Counts {
    fn grow(&mut self, groups: usize) {
        self.0.resize(groups, 0);
    }

    fn update(&mut self, groups: &[u32], values: &ArrayRef, weight: i64) -> Result<()> {
        self.add(groups, values, weight);
        Ok(())
    }

    fn stored(&self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.column(groups)])
    }

    fn restore(&mut self, groups: &[u32], columns: &[ArrayRef]) -> Result<()> {
        self.set(groups, &columns[0]);
        Ok(())
    }

    fn result(&self, groups: &[u32]) -> Result<ArrayRef> {
        Ok(self.column(groups))
    }
}

/// Sums of integers and decimals, as integers of the argument's scale.
#[derive(Debug)]
struct Exact {
    scale: i8,
    result: DataType,
    is_mean: bool,
    sums: Vec<i128>,
    counts: Counts,
}

impl Exact {
    fn new(scale: i8, result: &DataType, is_mean: bool) -> Self {
        let (sums, counts) = (Vec::new(), Counts::default());
        Self { scale, result: result.clone(), is_mean, sums, counts }
    }

    fn add(&mut self, group: u32, value: i128) -> Result<()> {
        let sum = &mut self.sums[group as usize];
        match sum.checked_add(value) {
            Some(added) => *sum = added,
            None => return exec_err!("a sum overflows 38 digits"),
        }
        Ok(())
    }

    /// The sums of groups that have values, by what is made of sum and count.
    fn each<T>(
        &self,
        groups: &[u32],
        make: impl Fn(i128, i64) -> Result<T>,
    ) -> Result<Vec<Option<T>>> {
        let cells = values_of(&self.sums, groups).zip(values_of(&self.counts.0, groups));
        cells.map(|(sum, count)| (count != 0).then(|| make(sum, count)).transpose()).collect()
    }

    /// As the engine's own mean: scaled up, then cut off.
    fn decimal_mean(&self, precision: u8, scale: i8) -> impl Fn(i128, i64) -> Result<i128> {
        let up = u32::try_from(scale - self.scale).unwrap_or_default();
        move |sum, count| {
            let scaled = 10_i128.checked_pow(up).and_then(|factor| sum.checked_mul(factor));
            let Some(scaled) = scaled else { return exec_err!("a mean overflows 38 digits") };
            let mean = scaled / i128::from(count);
            Decimal128Type::validate_decimal_precision(mean, precision, scale)?;
            Ok(mean)
        }
    }
}

impl Cells for Exact {
    fn grow(&mut self, groups: usize) {
        self.sums.resize(groups, 0);
        self.counts.grow(groups);
    }

    fn update(&mut self, groups: &[u32], values: &ArrayRef, weight: i64) -> Result<()> {
        let weighed = i128::from(weight);
        if let Some(integers) = values.as_primitive_opt::<Int64Type>() {
            for (group, value) in groups.iter().zip(integers.iter()) {
                if let Some(value) = value {
                    self.add(*group, i128::from(value) * weighed)?;
                }
            }
        } else {
            let exact = DataType::Decimal128(DECIMAL128_MAX_PRECISION, self.scale);
            let decimals = cast(values, &exact)?;
            for (group, value) in groups.iter().zip(decimals.as_primitive::<Decimal128Type>()) {
                if let Some(value) = value {
                    self.add(*group, value * weighed)?;
                }
            }
        }
        self.counts.add(groups, values, weight);
        Ok(())
    }

    fn stored(&self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        let sums = Decimal128Array::from_iter_values(values_of(&self.sums, groups));
        let sums = sums.with_precision_and_scale(DECIMAL128_MAX_PRECISION, self.scale)?;
        sums.validate_decimal_precision(DECIMAL128_MAX_PRECISION)?;
        Ok(vec![Arc::new(sums), self.counts.column(groups)])
    }

    fn restore(&mut self, groups: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let sums = columns[0].as_primitive::<Decimal128Type>().values();
        groups.iter().zip(sums).for_each(|(group, sum)| self.sums[*group as usize] = *sum);
        self.counts.set(groups, &columns[1]);
        Ok(())
    }

    fn result(&self, groups: &[u32]) -> Result<ArrayRef> {
        #[allow(clippy::cast_precision_loss, reason = "a mean of integers is a float")]
        Ok(match (&self.result, self.is_mean) {
            (DataType::Float64, true) => {
                let means = self.each(groups, |sum, count| Ok(sum as f64 / count as f64))?;
                Arc::new(Float64Array::from(means))
            }
            (DataType::Decimal128(precision, scale), true) => {
                let means = self.each(groups, self.decimal_mean(*precision, *scale))?;
                let means = Decimal128Array::from(means);
                Arc::new(means.with_precision_and_scale(*precision, *scale)?)
            }
            (DataType::Int64, false) => {
                let sums = self.each(groups, |sum, _| match i64::try_from(sum) {
                    Ok(sum) => Ok(sum),
                    Err(_) => exec_err!("sum {sum} overflows BIGINT: cast to DECIMAL(38, 0)"),
                })?;
                Arc::new(Int64Array::from(sums))
            }
            (DataType::UInt64, false) => {
                let sums = self.each(groups, |sum, _| match u64::try_from(sum) {
                    Ok(sum) => Ok(sum),
                    Err(_) => exec_err!("sum {sum} overflows BIGINT UNSIGNED"),
                })?;
                Arc::new(UInt64Array::from(sums))
            }
            (DataType::Decimal128(precision, scale), false) => {
                let sums = Decimal128Array::from(self.each(groups, |sum, _| Ok(sum))?);
                Arc::new(sums.with_precision_and_scale(*precision, *scale)?)
            }
            (other, _) => return exec_err!("no sum of type {other}"),
        })
    }
}

#[derive(Debug, Default)]
struct Floats {
    is_mean: bool,
    sums: Vec<f64>,
    counts: Counts,
}

impl Cells for Floats {
    fn grow(&mut self, groups: usize) {
        self.sums.resize(groups, 0.0);
        self.counts.grow(groups);
    }

    fn update(&mut self, groups: &[u32], values: &ArrayRef, weight: i64) -> Result<()> {
        if weight < 0 {
            return exec_err!("a row was taken from a floating-point sum");
        }
        for (group, value) in groups.iter().zip(values.as_primitive::<Float64Type>()) {
            self.sums[*group as usize] += value.unwrap_or_default();
        }
        self.counts.add(groups, values, weight);
        Ok(())
    }

    fn stored(&self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        let sums = Float64Array::from_iter_values(values_of(&self.sums, groups));
        Ok(vec![Arc::new(sums), self.counts.column(groups)])
    }

    fn restore(&mut self, groups: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let sums = columns[0].as_primitive::<Float64Type>().values();
        groups.iter().zip(sums).for_each(|(group, sum)| self.sums[*group as usize] = *sum);
        self.counts.set(groups, &columns[1]);
        Ok(())
    }

    fn result(&self, groups: &[u32]) -> Result<ArrayRef> {
        let cells = values_of(&self.sums, groups).zip(values_of(&self.counts.0, groups));
        #[allow(clippy::cast_precision_loss, reason = "a mean of floats is one")]
        let results = cells.map(|(sum, count)| {
            let result = if self.is_mean { sum / count as f64 } else { sum };
            (count > 0).then_some(result)
        });
        Ok(Arc::new(results.collect::<Float64Array>()))
    }
}

/// The least or greatest value, in the order of its encoding as a row, which is that of the values.
#[derive(Debug)]
struct Extremes {
    converter: RowConverter,
    /// One null.
    none: ArrayRef,
    is_greatest: bool,
    best: Vec<Option<OwnedRow>>,
}

impl Cells for Extremes {
    fn grow(&mut self, groups: usize) {
        self.best.resize(groups, None);
    }

    fn update(&mut self, groups: &[u32], values: &ArrayRef, weight: i64) -> Result<()> {
        if weight < 0 {
            return exec_err!("a row was taken from an extreme");
        }
        let rows = self.converter.convert_columns(std::slice::from_ref(values))?;
        let nulls = values.logical_nulls();
        for (i, group) in groups.iter().enumerate() {
            if nulls.as_ref().is_some_and(|nulls| nulls.is_null(i)) {
                continue;
            }
            let (row, best) = (rows.row(i), &mut self.best[*group as usize]);
            let is_better = best.as_ref().is_none_or(|best| match self.is_greatest {
                true => row > best.row(),
                false => row < best.row(),
            });
            if is_better {
                *best = Some(row.owned());
            }
        }
        Ok(())
    }

    fn stored(&self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        let stored = data_type(self.none.data_type());
        Ok(vec![cast(&self.result(groups)?, &stored)?])
    }

    fn restore(&mut self, groups: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let values = cast(&columns[0], self.none.data_type())?;
        let rows = self.converter.convert_columns(std::slice::from_ref(&values))?;
        let present: BooleanArray = arrow::compute::is_not_null(&columns[0])?;
        for (i, group) in groups.iter().enumerate() {
            self.best[*group as usize] = present.value(i).then(|| rows.row(i).owned());
        }
        Ok(())
    }

    fn result(&self, groups: &[u32]) -> Result<ArrayRef> {
        let best = groups.iter().map(|group| self.best[*group as usize].as_ref());
        let some: Vec<_> = best.clone().flatten().map(OwnedRow::row).collect();
        let values = self.converter.convert_rows(some)?.swap_remove(0);
        let mut next = 0;
        let places: Vec<(usize, usize)> = best
            .map(|best| match best {
                Some(_) => {
                    next += 1;
                    (1, next - 1)
                }
                None => (0, 0),
            })
            .collect();
        Ok(interleave(&[self.none.as_ref(), values.as_ref()], &places)?)
    }
}
