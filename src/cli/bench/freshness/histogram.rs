//! How times are spread, as lines of text.

use std::{fmt::Write as _, time::Duration};

/// Upper bounds of the bars, in milliseconds; above the last one there is another.
const BOUNDS_MS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000];
/// Length of the longest bar.
const WIDTH: usize = 50;

/// One bar per line, from the first with a value to the last.
pub(super) fn text(values: &[Duration]) -> String {
    let mut counts = [0; BOUNDS_MS.len() + 1];
    for value in values {
        let at = BOUNDS_MS.partition_point(|most| Duration::from_millis(*most) < *value);
        counts[at] += 1;
    }
    let most = counts.iter().max().copied().unwrap_or_default().max(1);
    let first = counts.iter().position(|count| *count > 0).unwrap_or_default();
    let last = counts.iter().rposition(|count| *count > 0).unwrap_or_default();
    let mut text = String::new();
    for (at, count) in counts.iter().enumerate().take(last + 1).skip(first) {
        let (sign, bound) = match BOUNDS_MS.get(at) {
            Some(bound) => ("≤", bound),
            None => (">", &BOUNDS_MS[BOUNDS_MS.len() - 1]),
        };
        let bar = "#".repeat((count * WIDTH).div_ceil(most));
        // Writing to a string cannot fail.
        writeln!(text, "{sign} {bound:>5} ms {count:>7} {bar}").ok();
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_reach_from_the_first_value_to_the_last() {
        let values = [3, 5, 5, 30, 7_000].map(Duration::from_millis);
        let lines: Vec<String> = text(&values).lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 11, "{lines:?}");
        assert_eq!(lines[0], format!("≤     5 ms       3 {}", "#".repeat(50)));
        assert_eq!(lines[1], "≤    10 ms       0 ");
        assert_eq!(lines[3], format!("≤    50 ms       1 {}", "#".repeat(17)));
        assert_eq!(lines[10], format!(">  5000 ms       1 {}", "#".repeat(17)));
        assert_eq!(text(&[]), "≤     1 ms       0");
    }
}
