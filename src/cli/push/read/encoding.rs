//! Text in UTF-8 or Latin-1.

use std::borrow::Cow;

use clap::ValueEnum;

/// How the text of a CSV file is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Encoding {
    /// UTF-8 where the bytes are valid UTF-8, else Latin-1; a file is decided as a whole.
    Auto,
    #[value(name = "utf-8")]
    Utf8,
    /// Windows-1252, which is Latin-1 with printable characters in 0x80 to 0x9F.
    #[value(name = "latin-1")]
    Latin1,
}

impl Encoding {
    /// `None` where the bytes are not text of this encoding. Nothing is ever replaced.
    pub(super) fn decode(self, bytes: &[u8]) -> Option<Cow<'_, str>> {
        match (self, std::str::from_utf8(bytes)) {
            (Self::Utf8 | Self::Auto, Ok(text)) => Some(Cow::Borrowed(text)),
            (Self::Utf8, Err(_)) => None,
            (Self::Latin1 | Self::Auto, _) => {
                Some(Cow::Owned(bytes.iter().map(|byte| windows_1252(*byte)).collect()))
            }
        }
    }
}

/// The characters of 0x80 to 0x9F; the five unassigned ones stay control characters, as browsers
/// read them.
const HIGH_CONTROLS: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}',
    '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

fn windows_1252(byte: u8) -> char {
    match byte {
        0x80..=0x9f => HIGH_CONTROLS[usize::from(byte - 0x80)],
        _ => char::from(byte),
    }
}
