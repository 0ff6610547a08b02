//! How large the output of a function can be, told from its arguments before it runs.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray as _, new_null_array},
    compute::cast,
    datatypes::{DataType, Int64Type},
};
use datafusion::error::Result;

use super::{call_bytes_max, series, size};

/// A number, a time or the text of one, with the separators around it.
const SCALAR_TEXT_BYTES: u64 = 48;
/// Bytes of one character at most.
const CHARACTER_BYTES: u64 = 4;
/// The place of one value in a list: its index while it is copied, its offset.
const PLACE_BYTES: u64 = 16;

/// What a function makes of its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Growth {
    /// The first argument in the type that the second one names.
    Cast,
    /// All arguments, one after the other.
    Sum,
    /// The first argument between all others.
    Separated,
    /// The first argument, as often as the second says.
    Repeat,
    /// A text of as many characters as the second argument says.
    Pad,
    /// A list of as many values as the second argument says.
    Resize,
    /// Every value from start to stop.
    Series,
    /// A text in which each occurrence of the second argument becomes the third.
    Replace,
    /// The same with a pattern, whose groups the third argument may repeat.
    ReplacePattern,
    /// A list in which values become the third argument.
    ReplaceValue,
    /// The values of a list as text, with the second argument between them.
    Join,
    /// Lists side by side, each as long as the longest.
    Zip,
}

/// Functions whose output can be much larger than what they are given.
const FUNCTIONS: [(&str, Growth); 27] = [
    ("array_append", Growth::Sum),
    ("array_concat", Growth::Sum),
    ("array_prepend", Growth::Sum),
    ("array_repeat", Growth::Repeat),
    ("array_replace", Growth::ReplaceValue),
    ("array_replace_all", Growth::ReplaceValue),
    ("array_replace_n", Growth::ReplaceValue),
    ("array_resize", Growth::Resize),
    ("array_to_string", Growth::Join),
    ("array_union", Growth::Sum),
    ("arrays_zip", Growth::Zip),
    ("arrow_cast", Growth::Cast),
    ("arrow_try_cast", Growth::Cast),
    ("concat", Growth::Sum),
    ("concat_ws", Growth::Separated),
    ("generate_series", Growth::Series),
    ("lpad", Growth::Pad),
    ("make_array", Growth::Sum),
    ("map", Growth::Sum),
    ("named_struct", Growth::Sum),
    ("overlay", Growth::Sum),
    ("range", Growth::Series),
    ("regexp_replace", Growth::ReplacePattern),
    ("repeat", Growth::Repeat),
    ("replace", Growth::Replace),
    ("rpad", Growth::Pad),
    ("struct", Growth::Sum),
];

impl Growth {
    /// What the function of this name does; `None`: its output is no larger than its input.
    pub(super) fn of(function: &str) -> Option<Self> {
        FUNCTIONS.iter().find(|(name, _)| *name == function).map(|(_, growth)| *growth)
    }

    /// Whether the output is small whatever the rows hold, told without looking at each.
    pub(super) fn is_small(self, given: &Arguments, rows: usize) -> bool {
        let all = given.arrays.iter().zip(&given.is_constant).map(|(array, constant)| {
            let times = if *constant { rows } else { 1 };
            count(size::bytes(array)).saturating_mul(count(times))
        });
        let total = all.fold(0, u64::saturating_add);
        match self {
            // Nothing grows but the type, which is checked when it is planned.
            Self::Cast => true,
            Self::Sum => total <= call_bytes_max(),
            Self::Separated => total.saturating_mul(count(given.arrays.len())) <= call_bytes_max(),
            _ => false,
        }
    }

    /// Most bytes of each of `rows` rows of output.
    pub(super) fn bounds(self, function: &str, given: &Arguments, rows: usize) -> Result<Vec<u64>> {
        let sizes: Vec<Vec<u64>> = given.arrays.iter().map(sizes).collect();
        let size = |argument: usize, row: usize| {
            let rows = sizes.get(argument);
            rows.and_then(|rows| rows.get(given.place(argument, row))).copied().unwrap_or(0)
        };
        let sum = |row| (0..sizes.len()).map(|argument| size(argument, row)).sum::<u64>();
        let numbers = match self {
            Self::Repeat | Self::Pad | Self::Resize => given.numbers(1)?,
            _ => Vec::new(),
        };
        let number = |row| numbers.get(given.place(1, row)).copied().unwrap_or(0);
        let bound = |row: usize| -> Result<u64> {
            Ok(match self {
                Self::Cast | Self::Sum => sum(row),
                Self::Separated => sum(row) + size(0, row).saturating_mul(count(sizes.len())),
                Self::Repeat => number(row).saturating_mul(size(0, row) + PLACE_BYTES),
                Self::Pad => size(0, row) + number(row).saturating_mul(CHARACTER_BYTES),
                Self::Resize => {
                    let value = size(2, row).max(given.null_bytes()).max(PLACE_BYTES);
                    size(0, row) + number(row).saturating_mul(value)
                }
                Self::Series => {
                    let place = |argument| given.place(argument, row);
                    let values = series::length(function, &given.arrays, place)?;
                    u64::try_from(values.saturating_mul(8)).unwrap_or(u64::MAX)
                }
                Self::Replace => {
                    let found = size(0, row) / given.text_bytes(1, row).max(1) + 1;
                    size(0, row) + found.saturating_mul(size(2, row))
                }
                Self::ReplacePattern => {
                    size(0, row) + (size(0, row) + 1).saturating_mul(2 * size(2, row))
                }
                Self::ReplaceValue => {
                    size(0, row) + given.values(0, row).saturating_mul(size(2, row) + PLACE_BYTES)
                }
                Self::Join => {
                    let between = size(1, row) + size(2, row) + SCALAR_TEXT_BYTES;
                    size(0, row) + given.leaves(0, row).saturating_mul(between)
                }
                Self::Zip => {
                    let lists = 0..sizes.len();
                    let longest = lists.clone().map(|a| given.values(a, row)).max().unwrap_or(0);
                    let width = |a| PLACE_BYTES + size(a, row) / given.values(a, row).max(1);
                    longest.saturating_mul(lists.map(width).sum())
                }
            })
        };
        (0..rows).map(bound).collect()
    }
}

pub(super) fn sizes(array: &ArrayRef) -> Vec<u64> {
    size::rows(array).into_iter().map(count).collect()
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// The arguments of one call; those that are the same for each row hold one.
pub(super) struct Arguments {
    pub(super) arrays: Vec<ArrayRef>,
    pub(super) is_constant: Vec<bool>,
}

impl Arguments {
    /// Where the value for `row` stands.
    pub(super) fn place(&self, argument: usize, row: usize) -> usize {
        if self.is_constant.get(argument).copied().unwrap_or(false) { 0 } else { row }
    }

    /// The counts of an argument; negative and null are none.
    fn numbers(&self, argument: usize) -> Result<Vec<u64>> {
        let Some(array) = self.arrays.get(argument) else { return Ok(Vec::new()) };
        let array = cast(array, &DataType::Int64)?;
        let number = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        Ok(array.as_primitive::<Int64Type>().iter().map(number).collect())
    }

    fn text_bytes(&self, argument: usize, row: usize) -> u64 {
        let Some(array) = self.arrays.get(argument) else { return 0 };
        let place = self.place(argument, row);
        count(match array.data_type() {
            DataType::Utf8 => array.as_string::<i32>().value(place).len(),
            DataType::LargeUtf8 => array.as_string::<i64>().value(place).len(),
            DataType::Utf8View => array.as_string_view().value(place).len(),
            _ => 0,
        })
    }

    /// Values of a list.
    fn values(&self, argument: usize, row: usize) -> u64 {
        let list = self.arrays.get(argument).map(|a| a.slice(self.place(argument, row), 1));
        count(list.and_then(|list| inner(&list)).map_or(0, |values| values.len()))
    }

    /// Values of a list and of the lists in it.
    pub(super) fn leaves(&self, argument: usize, row: usize) -> u64 {
        let Some(array) = self.arrays.get(argument) else { return 0 };
        let mut at = array.slice(self.place(argument, row), 1);
        while let Some(values) = inner(&at) {
            at = values;
        }
        count(at.len())
    }

    /// Bytes of an empty value in the list that is the first argument.
    fn null_bytes(&self) -> u64 {
        let list = self.arrays.first().map(|array| array.data_type());
        let (Some(DataType::List(item)) | Some(DataType::LargeList(item))) = list else { return 0 };
        count(size::bytes(&new_null_array(item.data_type(), 1)))
    }
}

/// The values of all lists of an array.
fn inner(array: &ArrayRef) -> Option<ArrayRef> {
    match array.data_type() {
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let (start, length) = size::span(list.value_offsets());
            Some(list.values().slice(start, length))
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            let (start, length) = size::span(list.value_offsets());
            Some(list.values().slice(start, length))
        }
        DataType::FixedSizeList(..) => Some(Arc::clone(array.as_fixed_size_list().values())),
        _ => None,
    }
}
