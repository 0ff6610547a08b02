//! Dates and times from text, strictly.
//!
//! A timestamp is `YYYY-MM-DD`, then a blank or `T`, `HH:MM:SS`, an optional fraction of up to nine
//! digits and an optional zone (`Z` or `±HH:MM`); without a zone it is UTC. Digits beyond
//! microseconds are cut. Day arithmetic follows Howard Hinnant's `days_from_civil`
//! (<https://howardhinnant.github.io/date_algorithms.html>).

/// Microseconds since 1970-01-01 UTC, or `None` where `text` is not a timestamp.
pub fn parse_timestamp(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() < 19 || !matches!(bytes[10], b' ' | b'T' | b't') {
        return None;
    }
    let days = i64::from(parse_date_bytes(&bytes[..10])?);
    let (hour, minute, second) =
        (two_digits(&bytes[11..13])?, two_digits(&bytes[14..16])?, two_digits(&bytes[17..19])?);
    let in_range = hour < 24 && minute < 60 && second < 60;
    if bytes[13] != b':' || bytes[16] != b':' || !in_range {
        return None;
    }
    let (micros, rest) = fraction(&bytes[19..])?;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second - zone_seconds(rest)?;
    Some(seconds * 1_000_000 + micros)
}

/// Days since 1970-01-01, or `None` where `text` is not `YYYY-MM-DD`.
pub fn parse_date(text: &str) -> Option<i32> {
    parse_date_bytes(text.as_bytes())
}

fn parse_date_bytes(bytes: &[u8]) -> Option<i32> {
    if bytes.len() != 10 || bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    let year = two_digits(&bytes[0..2])? * 100 + two_digits(&bytes[2..4])?;
    let (month, day) = (two_digits(&bytes[5..7])?, two_digits(&bytes[8..10])?);
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    i32::try_from(days_from_civil(year, month, day)).ok()
}

fn days_in_month(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn two_digits(bytes: &[u8]) -> Option<i64> {
    match bytes {
        [a @ b'0'..=b'9', b @ b'0'..=b'9'] => Some(i64::from(a - b'0') * 10 + i64::from(b - b'0')),
        _ => None,
    }
}

/// Microseconds of a leading `.123…`, and what follows it.
fn fraction(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let Some(digits) = bytes.strip_prefix(b".") else { return Some((0, bytes)) };
    let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if !(1..=9).contains(&count) {
        return None;
    }
    let digit = |i: usize| digits.get(i).filter(|_| i < count).map_or(0, |d| i64::from(d - b'0'));
    let micros = (0..6).fold(0, |sum, i| sum * 10 + digit(i));
    Some((micros, &digits[count..]))
}

fn zone_seconds(bytes: &[u8]) -> Option<i64> {
    let (sign, rest) = match bytes {
        [] | [b'Z' | b'z'] => return Some(0),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = match rest {
        [h1, h2] => (two_digits(&[*h1, *h2])?, 0),
        [h1, h2, b':', m1, m2] | [h1, h2, m1, m2] => {
            (two_digits(&[*h1, *h2])?, two_digits(&[*m1, *m2])?)
        }
        _ => return None,
    };
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3_600 + minutes * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_written_forms_are_one_instant() {
        let expected = Some(1_772_474_419_456_000);
        for text in [
            "2026-03-02 18:00:19.456",
            "2026-03-02T18:00:19.456Z",
            "2026-03-02T19:00:19.456000+01:00",
            "2026-03-02 13:00:19.456-0500",
        ] {
            assert_eq!(parse_timestamp(text), expected, "{text}");
        }
        assert_eq!(parse_timestamp("1969-12-31 23:59:59.999999999"), Some(-1));
    }

    #[test]
    fn what_is_not_a_time_is_refused() {
        for text in [
            "yesterday",
            "2026-02-29 00:00:00",
            "2026-03-02 24:00:00",
            "2026-03-02",
            "2026-03-02 18:00:19.",
            "2026-03-02 18:00:19 CET",
            "2026-03-02x18:00:19",
            "२०२६-०३-०२ १८:००:१९",
        ] {
            assert_eq!(parse_timestamp(text), None, "{text}");
        }
        assert_eq!(parse_date("2024-02-29"), Some(19_782));
        assert_eq!(parse_date("1900-02-29"), None);
    }
}
