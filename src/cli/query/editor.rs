//! The line that is typed: editing, history, completion, and when it is complete.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use rustyline::{
    CompletionType, Config, Context, Editor, Helper,
    completion::Completer,
    error::ReadlineError,
    highlight::Highlighter,
    hint::Hinter,
    history::FileHistory,
    validate::{ValidationContext, ValidationResult, Validator},
};

use super::{commands, split};
use crate::{
    cli::{Failure, print, push},
    domain::ErrorKind,
};

/// What was typed.
pub(super) enum Input {
    Text(String),
    /// Ctrl-C.
    Cleared,
    /// Ctrl-D.
    End,
}

/// The words that Tab completes, besides the commands.
pub(super) type Names = Arc<RwLock<Vec<String>>>;

pub(super) struct Prompt {
    /// Away while a line is typed.
    editor: Option<Editor<Sql, FileHistory>>,
    history: Option<PathBuf>,
    text: String,
}

impl Prompt {
    /// `text` stands before what is typed.
    pub(super) fn new(text: String, names: Names) -> Result<Self, Failure> {
        let config = Config::builder()
            .completion_type(CompletionType::List)
            .history_ignore_space(true)
            .auto_add_history(false)
            .build();
        let made = Editor::with_config(config);
        let mut editor = made.map_err(|e| Failure::work(format!("the terminal: {e}")))?;
        editor.set_helper(Some(Sql { names }));
        let history = history_file();
        if let Some(path) = history.as_ref().filter(|path| path.exists())
            && let Err(error) = editor.load_history(path)
        {
            print::note(format_args!("the history {} is not read: {error}", path.display()));
        }
        Ok(Self { editor: Some(editor), history, text })
    }

    /// Reads a line, or several up to a semicolon.
    pub(super) async fn read(&mut self) -> Result<Input, Failure> {
        let broken = |reason: String| Failure::new(ErrorKind::Internal, reason);
        let mut editor = self.editor.take().ok_or_else(|| broken("no terminal".to_owned()))?;
        let prompt = self.text.clone();
        let typed = tokio::task::spawn_blocking(move || {
            let line = editor.readline(prompt.as_str());
            (editor, line)
        });
        let (editor, line) = typed.await.map_err(|error| broken(error.to_string()))?;
        self.editor = Some(editor);
        match line {
            Ok(text) => {
                self.remember(&text);
                Ok(Input::Text(text))
            }
            Err(ReadlineError::Interrupted) => Ok(Input::Cleared),
            Err(ReadlineError::Eof) => Ok(Input::End),
            Err(error) => Err(Failure::work(format!("the terminal cannot be read: {error}"))),
        }
    }

    /// Adds to the history, on disk at once, so that a crash loses nothing.
    fn remember(&mut self, text: &str) {
        let (Some(editor), Some(path)) = (&mut self.editor, &self.history) else { return };
        let text = text.trim_end();
        if text.is_empty() || !editor.add_history_entry(text).unwrap_or(false) {
            return;
        }
        let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        let kept = folder.map_err(ReadlineError::Io).and_then(|()| editor.append_history(path));
        if let Err(error) = kept {
            print::note(format_args!("the history {} is not kept: {error}", path.display()));
            self.history = None;
        }
    }
}

/// `$XDG_STATE_HOME/sluice/history` or `~/.local/state/sluice/history`.
fn history_file() -> Option<PathBuf> {
    push::state_home().map(|folder| folder.join("history"))
}

/// What the editor knows about SQL.
struct Sql {
    names: Names,
}

impl Helper for Sql {}
impl Highlighter for Sql {}

impl Hinter for Sql {
    type Hint = String;
}

impl Validator for Sql {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let complete = is_complete(context.input());
        Ok(if complete { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

impl Completer for Sql {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        Ok(completions(&line[..position], &names))
    }
}

/// Whether Enter ends the input: a command, nothing at all, or statements that all end with `;`.
fn is_complete(input: &str) -> bool {
    let split = split::split(input);
    input.starts_with('\\') || (split.rest.is_none() && !split.is_open)
}

/// Where the word before the cursor begins, and what it may become.
fn completions(before: &str, names: &[String]) -> (usize, Vec<String>) {
    if before.starts_with('\\') && !before.contains(char::is_whitespace) {
        let commands = commands::names().filter(|name| name.starts_with(before));
        return (0, commands.map(str::to_owned).collect());
    }
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.');
    let start = before.char_indices().rev().take_while(|(_, c)| is_name(*c)).last();
    let Some((start, _)) = start else { return (before.len(), Vec::new()) };
    let word = before[start..].to_lowercase();
    let fits = names.iter().filter(|name| name.to_lowercase().starts_with(&word));
    (start, fits.cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enter_ends_the_input_at_a_semicolon() {
        for complete in ["", "  ", r"\d films", "select 1;", "select 1; -- one\n", "select ';';"] {
            assert!(is_complete(complete), "{complete:?}");
        }
        for more in ["select 1", "select 1; select", "select ';", "/* ;", "select $$;"] {
            assert!(!is_complete(more), "{more:?}");
        }
    }

    #[test]
    fn tab_completes_names_and_commands() {
        let names = ["films", "film_id", "gold.films"].map(str::to_owned);
        let at = |before| completions(before, &names);
        assert_eq!(at("select FILM_"), (7, vec!["film_id".to_owned()]));
        assert_eq!(at("select * from gold.f"), (14, vec!["gold.films".to_owned()]));
        assert_eq!(at("select (fil").1, ["films", "film_id"]);
        assert_eq!(at("select "), (7, vec![]));
        assert_eq!(at(r"\ti"), (0, vec![r"\timing".to_owned()]));
        assert_eq!(at(r"\d fi"), (3, vec!["films".to_owned(), "film_id".to_owned()]));
    }
}
