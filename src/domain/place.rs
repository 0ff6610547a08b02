use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::domain::{ErrorKind, Offset, Partition};

/// Where an event stands in its stream.
///
/// Written as `PARTITION/OFFSET`, with `/INDEX` behind it where a record holds several events and
/// this is not the first. Persisted in the header [`ORIGIN_HEADER`]: must stay stable.
///
/// [`ORIGIN_HEADER`]: crate::domain::record::ORIGIN_HEADER
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Place {
    pub partition: Partition,
    pub offset: Offset,
    pub index: i32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.partition, self.offset)?;
        if self.index == 0 { Ok(()) } else { write!(f, "/{}", self.index) }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("position {0:?} is not of the form PARTITION/OFFSET, such as 0/41")]
pub struct ParsePlaceError(String);

impl ParsePlaceError {
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

impl FromStr for Place {
    type Err = ParsePlaceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParsePlaceError(text.to_owned());
        let mut parts = text.split('/');
        let partition = parts.next().and_then(|part| part.parse().ok()).ok_or_else(wrong)?;
        let offset = parts.next().and_then(|part| part.parse().ok()).ok_or_else(wrong)?;
        let index = parts.next().map_or(Ok(0), str::parse).map_err(|_| wrong())?;
        if parts.next().is_some() || offset < 0 || index < 0 {
            return Err(wrong());
        }
        Ok(Self { partition, offset, index })
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        place.to_string()
    }
}

impl TryFrom<String> for Place {
    type Error = ParsePlaceError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        for text in ["0/0", "3/41", "1/2/7"] {
            assert_eq!(text.parse::<Place>().expect(text).to_string(), text);
        }
        assert_eq!("1/2/0".parse::<Place>().expect("place").to_string(), "1/2");
        for text in ["", "1", "1/", "/1", "a/1", "1/-2", "1/2/-1", "1/2/3/4", "orders/1/2"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }
}
