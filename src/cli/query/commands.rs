//! The shell's own commands, which begin with a backslash.

use std::path::PathBuf;

use clap::ValueEnum as _;

use crate::{cli::query::Format, project::nearest};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Relations,
    Describe(String),
    Schemas,
    /// On, off, or the other of the two.
    Timing(Option<bool>),
    Expanded(Option<bool>),
    Format(Format),
    Include(PathBuf),
    Help,
    Quit,
}

/// Name, argument, what it does.
const COMMANDS: [(&str, &str, &str); 8] = [
    (r"\d", "[NAME]", "all relations, or the columns of one"),
    (r"\dn", "", "all schemas"),
    (r"\timing", "[on|off]", "tell how long each statement took"),
    (r"\format", "table|csv|json", "how rows are written"),
    (r"\x", "[on|off]", "tables with a line per value"),
    (r"\i", "FILE", "run the statements of a file"),
    (r"\?", "", "this help"),
    (r"\q", "", "leave, as Ctrl-D does"),
];

/// Reads a line that begins with a backslash. The error says what would be right.
pub(super) fn parse(line: &str) -> Result<Command, String> {
    let line = line.trim().trim_end_matches(';').trim_end();
    let (name, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let argument = argument.trim();
    let Some((_, takes, _)) = COMMANDS.iter().find(|(known, ..)| *known == name) else {
        let hint = nearest(name, COMMANDS.iter().map(|(known, ..)| *known)).unwrap_or_default();
        let end = if hint.is_empty() { "" } else { " " };
        return Err(format!(r"unknown command {name}; {hint}{end}\? lists them all"));
    };
    let wrong = || match *takes {
        "" => format!("{name} takes no argument"),
        takes => format!("{name}: give {takes}, not {argument:?}"),
    };
    let switch = || match argument {
        "" => Ok(None),
        "on" => Ok(Some(true)),
        "off" => Ok(Some(false)),
        _ => Err(wrong()),
    };
    match name {
        r"\d" if argument.is_empty() => Ok(Command::Relations),
        r"\d" => Ok(Command::Describe(argument.to_owned())),
        r"\timing" => switch().map(Command::Timing),
        r"\x" => switch().map(Command::Expanded),
        r"\format" => match Format::from_str(argument, true) {
            Ok(format) if format != Format::Arrow => Ok(Command::Format(format)),
            _ => Err(wrong()),
        },
        r"\i" if argument.is_empty() => Err(wrong()),
        r"\i" => Ok(Command::Include(PathBuf::from(argument))),
        _ if !argument.is_empty() => Err(wrong()),
        r"\dn" => Ok(Command::Schemas),
        r"\q" => Ok(Command::Quit),
        _ => Ok(Command::Help),
    }
}

/// The names of all commands.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    COMMANDS.iter().map(|(name, ..)| *name)
}

/// What `\?` prints.
pub(super) fn help() -> String {
    let mut lines = vec![
        "A statement ends with ; and may span lines. Ctrl-C clears what is typed or stops the query \
         that runs."
            .to_owned(),
    ];
    lines.extend(COMMANDS.iter().map(|(name, takes, does)| {
        let usage = format!("{name} {takes}");
        format!("  {usage:<24}{does}")
    }));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_read() {
        for (line, expected) in [
            (r"\d", Command::Relations),
            (r"\d gold.films;", Command::Describe("gold.films".to_owned())),
            (r"\dn ", Command::Schemas),
            (r"\timing", Command::Timing(None)),
            (r"\timing off", Command::Timing(Some(false))),
            (r"\x on", Command::Expanded(Some(true))),
            (r"\format CSV", Command::Format(Format::Csv)),
            (r"\i some file.sql", Command::Include(PathBuf::from("some file.sql"))),
            (r"\?", Command::Help),
            (r"\q;", Command::Quit),
        ] {
            assert_eq!(parse(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn a_wrong_command_says_what_would_be_right() {
        for (line, expected) in [
            (r"\dm", r"unknown command \dm; did you mean `\d`? \? lists them all"),
            (r"\fromat csv", r"unknown command \fromat; did you mean `\format`? \? lists them all"),
            (r"\connect host", r"unknown command \connect; \? lists them all"),
            (r"\format arrow", r#"\format: give table|csv|json, not "arrow""#),
            (r"\timing maybe", r#"\timing: give [on|off], not "maybe""#),
            (r"\i", r#"\i: give FILE, not """#),
            (r"\q now", r"\q takes no argument"),
        ] {
            assert_eq!(parse(line), Err(expected.to_owned()), "{line}");
        }
    }

    #[test]
    fn the_help_names_every_command() {
        for name in names() {
            assert!(help().contains(&format!("\n  {name} ")), "{name}");
        }
    }
}
