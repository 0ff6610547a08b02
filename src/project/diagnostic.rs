//! What is wrong in a project, and where: file, line, the line itself, a hint.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// How much a diagnostic weighs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Level {
    #[default]
    Error,
    Warning,
    /// Worth knowing.
    Note,
}

/// One thing that is wrong in a project, or worth knowing, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub level: Level,
    /// Relative to the project folder.
    pub file: PathBuf,
    /// From 1.
    pub line: Option<usize>,
    /// From 1.
    pub column: Option<usize>,
    pub message: String,
    pub hint: Option<String>,
    /// The line at fault.
    pub excerpt: Option<String>,
}

impl Diagnostic {
    pub fn file(file: &Path, message: impl Into<String>) -> Self {
        Self {
            level: Level::default(),
            file: file.to_path_buf(),
            line: None,
            column: None,
            message: message.into(),
            hint: None,
            excerpt: None,
        }
    }

    pub fn level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// Points at a place in `text`, the content of the file.
    pub fn at(mut self, text: &str, line: usize, column: Option<usize>) -> Self {
        self.line = Some(line);
        self.column = column;
        self.excerpt = text.lines().nth(line.saturating_sub(1)).map(str::to_owned);
        self
    }

    /// Points at the first place in `text` where `needle` stands, if it does.
    pub fn find(self, text: &str, needle: &str) -> Self {
        match text.find(needle) {
            Some(start) => self.at_byte(text, start),
            None => self,
        }
    }

    /// Points at the first place behind `before` where `word` stands as a whole word; without one,
    /// at `before`.
    pub fn find_after(self, text: &str, before: &str, word: &str) -> Self {
        let Some(start) = text.find(before) else { return self };
        let from = start + before.len();
        let found = whole_word(&text[from..], word).map(|at| from + at);
        self.at_byte(text, found.unwrap_or(start))
    }

    /// Points at the byte `start` of `text`, the content of the file.
    pub fn at_byte(self, text: &str, start: usize) -> Self {
        let before = &text[..text.floor_char_boundary(start)];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
        self.at(text, line, Some(column))
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Note => "note",
        };
        write!(f, "{level}: {}\n  --> {}", self.message, self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(column) = self.column {
            write!(f, ":{column}")?;
        }
        if let (Some(excerpt), Some(line)) = (&self.excerpt, self.line) {
            let width = line.to_string().len();
            write!(f, "\n{:width$} |\n{line} | {excerpt}", "")?;
            let marker = self.column.unwrap_or(1).saturating_sub(1).min(excerpt.chars().count());
            write!(f, "\n{:width$} | {:marker$}^", "", "")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  = hint: {hint}")?;
        }
        Ok(())
    }
}

/// Where `word` stands first in `text`, not as part of a longer one.
pub(super) fn whole_word(text: &str, word: &str) -> Option<usize> {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let mut places = text.match_indices(word);
    let whole = |(at, _): &(usize, &str)| {
        let (before, behind) = (&text[..*at], &text[at + word.len()..]);
        !is_part(before.chars().next_back()) && !is_part(behind.chars().next())
    };
    places.find(whole).map(|(at, _)| at)
}

/// Everything that is wrong in a project.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there is an error among them, not just warnings and notes.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|diagnostic| diagnostic.level == Level::Error)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.0.iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in &self.0 {
            writeln!(f, "{diagnostic}\n")?;
        }
        let count = |level| self.0.iter().filter(|diagnostic| diagnostic.level == level).count();
        let counted = |n: usize, what: &str| match n {
            0 => None,
            1 => Some(format!("1 {what}")),
            n => Some(format!("{n} {what}s")),
        };
        let counts = [(Level::Error, "error"), (Level::Warning, "warning"), (Level::Note, "note")];
        let counts = counts.map(|(level, what)| counted(count(level), what));
        f.write_str(&counts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

impl std::error::Error for Diagnostics {}
