//! Where rendered SQL comes from: its places in the user's file.

/// Around the place of what follows, in templates and what they render to. Of Unicode's private
/// use: a model that holds one itself is rendered without places.
pub(super) const OPEN: char = '\u{E000}';
pub(super) const CLOSE: char = '\u{E001}';

/// A mark: the text behind it stands at byte `at` of the source, for `length` bytes. A length of 0
/// is an expression, all of whose text comes from there.
pub(super) fn mark(at: usize, length: usize) -> String {
    format!("{OPEN}{at}.{length}{CLOSE}")
}

/// Where the parts of a rendered text come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    /// Where it begins in the text.
    start: usize,
    /// Where that stands in the source, and for how many bytes.
    source: usize,
    length: usize,
}

impl Places {
    /// Takes the marks out of a rendered text.
    pub(super) fn take(rendered: &str) -> (String, Self) {
        let mut text = String::with_capacity(rendered.len());
        let mut parts = Vec::new();
        let mut rest = rendered;
        while let Some((before, behind)) = rest.split_once(OPEN) {
            text.push_str(before);
            let Some((mark, behind)) = behind.split_once(CLOSE) else { break };
            rest = behind;
            let numbers = mark.split_once('.').map(|(at, length)| (at.parse(), length.parse()));
            if let Some((Ok(source), Ok(length))) = numbers {
                parts.push(Part { start: text.len(), source, length });
            }
        }
        text.push_str(rest);
        (text, Self(parts))
    }

    /// The places of the text with `by` bytes before it.
    pub(in crate::project) fn behind(mut self, by: usize) -> Self {
        self.0.iter_mut().for_each(|part| part.start += by);
        self
    }

    /// The byte of the source from which byte `at` of the text comes, if that is known.
    pub fn source_byte(&self, at: usize) -> Option<usize> {
        let part = self.0.partition_point(|part| part.start <= at).checked_sub(1)?;
        let part = &self.0[part];
        Some(part.source + (at - part.start).min(part.length))
    }
}

/// The byte of `text` at a line and column, both from 1, the column in characters.
pub fn byte_at(text: &str, line: usize, column: usize) -> usize {
    let mut start = 0;
    for (number, part) in text.split_inclusive('\n').enumerate() {
        if number + 1 == line {
            let within = part.char_indices().nth(column.saturating_sub(1));
            return start + within.map_or(part.len(), |(at, _)| at);
        }
        start += part.len();
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_expressions_are_found_in_their_source() {
        let source = "select a,\n  {{ x }} from b";
        let rendered =
            format!("{}select a,\n  {}one, two{} from b", mark(0, 10), mark(12, 0), mark(19, 7));
        let (text, places) = Places::take(&rendered);
        assert_eq!(text, "select a,\n  one, two from b");
        let place = |word: &str| places.source_byte(text.find(word).expect("a word"));
        assert_eq!(place("select"), Some(0));
        assert_eq!(place("a,"), source.find("a,"));
        assert_eq!(place("two"), source.find("{{ x"));
        assert_eq!(place("from"), source.find("from"));
        assert_eq!(byte_at(&text, 2, 3), text.find("one").expect("a word"));
    }
}
