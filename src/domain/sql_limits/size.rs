//! How many bytes the values of an array hold, whatever buffers they share with others.

use arrow::{
    array::{Array, AsArray as _, OffsetSizeTrait},
    datatypes::DataType,
};

/// Bytes of the rows of `array` alone, not of the buffers that it is a slice of.
pub fn bytes(array: &dyn Array) -> usize {
    let rows = array.len();
    match array.data_type() {
        DataType::Null => 0,
        DataType::Boolean => rows.div_ceil(8),
        DataType::Utf8 => 4 * rows + span(array.as_string::<i32>().value_offsets()).1,
        DataType::LargeUtf8 => 8 * rows + span(array.as_string::<i64>().value_offsets()).1,
        DataType::Binary => 4 * rows + span(array.as_binary::<i32>().value_offsets()).1,
        DataType::LargeBinary => 8 * rows + span(array.as_binary::<i64>().value_offsets()).1,
        DataType::Utf8View => 16 * rows + total(array.as_string_view().lengths()),
        DataType::BinaryView => 16 * rows + total(array.as_binary_view().lengths()),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let (start, length) = span(list.value_offsets());
            4 * rows + bytes(&list.values().slice(start, length))
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            let (start, length) = span(list.value_offsets());
            8 * rows + bytes(&list.values().slice(start, length))
        }
        DataType::FixedSizeList(..) => bytes(array.as_fixed_size_list().values()),
        DataType::Map(..) => {
            let map = array.as_map();
            let (start, length) = span(map.value_offsets());
            4 * rows + bytes(&map.entries().slice(start, length))
        }
        DataType::Struct(_) => array.as_struct().columns().iter().map(|c| bytes(c)).sum(),
        DataType::FixedSizeBinary(width) => rows * usize::try_from(*width).unwrap_or(0),
        other => match other.primitive_width() {
            Some(width) => rows * width,
            None => array.get_array_memory_size(),
        },
    }
}

/// Bytes of each row.
pub(super) fn rows(array: &dyn Array) -> Vec<usize> {
    let lengths = |offsets: &[i32]| -> Vec<usize> {
        offsets.windows(2).map(|pair| 4 + count(pair[1]) - count(pair[0])).collect()
    };
    match array.data_type() {
        DataType::Utf8 => lengths(array.as_string::<i32>().value_offsets()),
        DataType::Binary => lengths(array.as_binary::<i32>().value_offsets()),
        DataType::Utf8View => {
            array.as_string_view().lengths().map(|n| 16 + usize::try_from(n).unwrap_or(0)).collect()
        }
        other => match other.primitive_width() {
            Some(width) => vec![width; array.len()],
            None => (0..array.len()).map(|row| bytes(&array.slice(row, 1))).collect(),
        },
    }
}

/// First offset, and how far it is to the last.
pub(super) fn span<O: OffsetSizeTrait>(offsets: &[O]) -> (usize, usize) {
    let first = offsets.first().map_or(0, |offset| offset.as_usize());
    let last = offsets.last().map_or(0, |offset| offset.as_usize());
    (first, last.saturating_sub(first))
}

fn count(offset: i32) -> usize {
    usize::try_from(offset).unwrap_or(0)
}

fn total(lengths: impl Iterator<Item = u32>) -> usize {
    lengths.map(|length| usize::try_from(length).unwrap_or(0)).sum()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{ArrayRef, Int64Array, ListArray, StringArray, StringViewArray, StructArray},
        datatypes::Int64Type,
    };

    use super::*;

    #[test]
    fn a_slice_counts_its_own_rows_only() {
        let texts = StringArray::from(vec!["x".repeat(1_000), "yy".to_owned()]);
        assert_eq!(bytes(&texts), 1_010);
        assert_eq!(bytes(&texts.slice(1, 1)), 6);
        let views = StringViewArray::from(vec!["x".repeat(1_000), "yy".to_owned()]);
        assert_eq!(bytes(&views.slice(0, 1)), 1_016);
        let lists = ListArray::from_iter_primitive::<Int64Type, _, _>([
            Some((0..100).map(Some).collect::<Vec<_>>()),
            Some(vec![Some(1)]),
        ]);
        assert_eq!(rows(&lists), [804, 12]);
        let members: Vec<(&str, ArrayRef)> =
            vec![("a", Arc::new(Int64Array::from(vec![1, 2]))), ("b", Arc::new(texts))];
        let pairs = StructArray::try_from(members).expect("struct");
        assert_eq!(rows(&pairs), [1_012, 14]);
    }
}
