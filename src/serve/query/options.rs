//! What a client asks for beside the SQL, in request headers.

use std::time::Duration;

use tonic::metadata::MetadataMap;

use crate::{domain::Positions, serve::QueryError};

/// Header: wait until the tables reach these positions, or `all`.
pub(crate) const AFTER: &str = "x-sluice-after";
/// Header of an answer: how far into the log the query sees.
pub(crate) const POSITIONS: &str = "x-sluice-positions";
const FRESHNESS: [&str; 2] = ["x-sluice-freshness", "_freshness"];
/// Left for the answer to travel before the client's own deadline strikes.
const MARGIN: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) after: After,
    pub(crate) freshness: Freshness,
}

/// What a query waits for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum After {
    #[default]
    Nothing,
    /// Until the tables that it reads reach these positions.
    Positions(Positions),
    /// Until everything that is in the log now is in every table.
    All,
}

/// Which rows a query sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Also those that are not in a Delta commit yet.
    #[default]
    Hot,
    /// Only those in Delta commits.
    Committed,
}

impl Options {
    pub(crate) fn from_headers(headers: &MetadataMap) -> Result<Self, QueryError> {
        let after = match text(headers, AFTER)? {
            None => After::Nothing,
            Some(value) => After::parse(value)?,
        };
        let mut freshness = Freshness::Hot;
        for name in FRESHNESS {
            if let Some(value) = text(headers, name)? {
                freshness = Freshness::parse(name, value)?;
            }
        }
        let options = Self { after, freshness };
        if options.freshness == Freshness::Committed && options.after != After::Nothing {
            return Err(QueryError::Option(format!(
                "{AFTER} waits for rows that may not be committed: leave out {} = committed",
                FRESHNESS[0]
            )));
        }
        Ok(options)
    }
}

impl After {
    /// The text form; `""` is nothing.
    pub(crate) fn parse(text: &str) -> Result<Self, QueryError> {
        match text.trim() {
            "" => Ok(Self::Nothing),
            "all" => Ok(Self::All),
            positions => positions
                .parse()
                .map(Self::Positions)
                .map_err(|error| QueryError::Option(format!("{AFTER}: {error}, or all"))),
        }
    }

    pub(crate) fn text(&self) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::All => "all".to_owned(),
            Self::Positions(positions) => positions.to_string(),
        }
    }
}

impl Freshness {
    pub(crate) fn parse(name: &str, value: &str) -> Result<Self, QueryError> {
        match value {
            "hot" => Ok(Self::Hot),
            "committed" => Ok(Self::Committed),
            other => Err(QueryError::Option(format!("{name} is {other:?}: say hot or committed"))),
        }
    }
}

/// The time that the client gives, by its `grpc-timeout` header.
pub(crate) fn deadline(headers: &MetadataMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let amount: u64 = digits.parse().ok()?;
    let given = match unit {
        "H" => Duration::from_secs(amount.saturating_mul(3_600)),
        "M" => Duration::from_secs(amount.saturating_mul(60)),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    };
    Some(given.checked_sub(MARGIN).unwrap_or(given))
}

fn text<'a>(headers: &'a MetadataMap, name: &str) -> Result<Option<&'a str>, QueryError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str();
    text.map(Some).map_err(|_| QueryError::Option(format!("header {name} is not plain text")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(headers: &[(&'static str, &'static str)]) -> Result<Options, QueryError> {
        let mut map = MetadataMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().expect("value"));
        }
        Options::from_headers(&map)
    }

    #[test]
    fn headers_say_what_to_wait_for_and_how_fresh() {
        assert_eq!(options(&[]).expect("options"), Options::default());
        let asked = options(&[("x-sluice-after", "clicks/0=4")]).expect("options");
        assert_eq!(asked.after.text(), "clicks/0=4");
        assert_eq!(options(&[("x-sluice-after", "all")]).expect("options").after, After::All);
        let committed = options(&[("_freshness", "committed")]).expect("options");
        assert_eq!(committed.freshness, Freshness::Committed);
    }

    #[test]
    fn a_wrong_header_is_named() {
        let message = |headers| options(headers).expect_err("refused").to_string();
        assert_eq!(
            message(&[("x-sluice-after", "clicks")]),
            "x-sluice-after: position \"clicks\" is not of the form stream/partition=offset, or all"
        );
        assert_eq!(
            message(&[("x-sluice-freshness", "warm")]),
            "x-sluice-freshness is \"warm\": say hot or committed"
        );
        assert!(
            message(&[("_freshness", "committed"), ("x-sluice-after", "all")]).contains("leave")
        );
    }

    #[test]
    fn the_clients_deadline_is_read_with_its_unit() {
        let read = |value: &'static str| {
            let mut map = MetadataMap::new();
            map.insert("grpc-timeout", value.parse().expect("value"));
            deadline(&map)
        };
        assert_eq!(read("2S"), Some(Duration::from_millis(1_900)));
        assert_eq!(read("50m"), Some(Duration::from_millis(50)));
        assert_eq!(read("soon"), None);
        assert_eq!(read(""), None);
    }
}
