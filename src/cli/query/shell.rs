//! The interactive shell: statements ended by `;`, and commands that begin with a backslash.

use std::{io::Write, path::Path, sync::PoisonError};

use arrow::{array::RecordBatch, error::ArrowError};
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use tokio::time::Instant;

use super::{
    Args, Client, Format, answer,
    commands::{self, Command},
    connect,
    editor::{Input, Names, Prompt},
    in_script,
    output::{Look, Writer},
    relations::{self, Relation},
    split, unless_stopped,
};
use crate::{
    cli::{Failure, print},
    ops::Stop,
};

/// Rows that a table shows.
const ROWS_MAX: usize = 1_000;

struct Shell {
    client: Client,
    names: Names,
    format: Format,
    expanded: bool,
    timing: bool,
}

/// Whether the shell goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Prompt,
    Leave,
}

/// Runs the shell until Ctrl-D, `\q` or SIGTERM.
pub(super) async fn run(args: Args, stop: Stop) -> Result<(), Failure> {
    if args.output.is_some() {
        return Err(Failure::invalid("--output needs the statement whose rows it takes"));
    }
    if args.format == Format::Arrow {
        return Err(Failure::invalid("the shell writes rows as table, csv or json, not as arrow"));
    }
    let _terminal = Terminal::save();
    let client = unless_stopped(&stop.token(), connect(&args)).await?;
    let mut shell = Shell {
        client,
        names: Names::default(),
        format: args.format,
        expanded: false,
        timing: true,
    };
    let host = args.url.split_once("://").map_or(args.url.as_str(), |(_, host)| host);
    let prompt = format!("{}> ", host.trim_end_matches('/'));
    let mut prompt = Prompt::new(prompt, Names::clone(&shell.names))?;
    print::status(format_args!(
        "sluice {}, connected to {}; \\? for help, \\q or Ctrl-D to leave",
        env!("CARGO_PKG_VERSION"),
        args.url
    ));
    // Only completion misses them; a server that does not answer is told by the first statement.
    unless_stopped(&stop.token(), shell.relations()).await.ok();
    let terminated = stop.terminated();
    loop {
        // The editor takes Ctrl-C as a key; from the moment it lets the terminal go, it is a signal.
        let token = stop.renew();
        let input = tokio::select! {
            input = prompt.read() => input?,
            () = terminated.cancelled() => return Err(Failure::stopped()),
        };
        let text = match input {
            Input::Text(text) => text,
            Input::Cleared => continue,
            Input::End => return Ok(()),
        };
        match unless_stopped(&token, shell.take(&text)).await {
            Ok(Next::Prompt) => {}
            Ok(Next::Leave) => return Ok(()),
            Err(failure) if terminated.is_cancelled() => return Err(failure),
            Err(_) if token.is_cancelled() => print::note("stopped"),
            Err(failure) => print::note(format_args!("error: {failure}")),
        }
    }
}

impl Shell {
    /// Does what was typed.
    async fn take(&mut self, text: &str) -> Result<Next, Failure> {
        if text.trim_start().starts_with('\\') {
            let command = commands::parse(text).map_err(Failure::invalid)?;
            return self.obey(command).await;
        }
        for statement in split::split(text).all() {
            self.answer(&statement.text).await?;
        }
        Ok(Next::Prompt)
    }

    async fn obey(&mut self, command: Command) -> Result<Next, Failure> {
        match command {
            Command::Relations => {
                let all = self.relations().await?;
                self.show(relations::listed(&all))?;
            }
            Command::Schemas => {
                let all = self.relations().await?;
                self.show(relations::schemas(&all))?;
            }
            Command::Describe(name) => {
                let all = self.relations().await?;
                for relation in relations::find(&all, &name)? {
                    print::status(relation.full_name());
                    self.show(relation.described())?;
                }
            }
            Command::Timing(on) => self.timing = switched("timing", self.timing, on),
            Command::Expanded(on) => self.expanded = switched("expanded", self.expanded, on),
            Command::Format(format) => self.format = format,
            Command::Include(path) => self.include(&path).await?,
            Command::Help => print::status(commands::help()),
            Command::Quit => return Ok(Next::Leave),
        }
        Ok(Next::Prompt)
    }

    async fn answer(&mut self, sql: &str) -> Result<(), Failure> {
        let look = Look {
            format: self.format,
            expanded: self.expanded,
            rows_max: ROWS_MAX,
            timed: self.timing.then(Instant::now),
        };
        answer(&mut self.client, sql, look, &mut super::Sink::default()).await.map(|_| ())
    }

    /// Runs the statements of a file, up to the first that fails.
    async fn include(&mut self, path: &Path) -> Result<(), Failure> {
        let shown = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::invalid(format!("{shown} cannot be read: {error}")))?;
        for statement in split::split(&text).all() {
            let answered = self.answer(&statement.text).await;
            answered
                .map_err(|failure| in_script(&failure, &format!("{shown}:{}", statement.line)))?;
        }
        Ok(())
    }

    /// What there is to query now, also for completion.
    async fn relations(&mut self) -> Result<Vec<Relation>, Failure> {
        let all = self.client.relations().await?;
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = relations::names(&all);
        Ok(all)
    }

    /// Shows rows of our own.
    fn show(&self, rows: Result<RecordBatch, ArrowError>) -> Result<(), Failure> {
        let rows = rows.map_err(|error| Failure::work(error.to_string()))?;
        let mut out = std::io::stdout();
        let sink: &mut (dyn Write + Send) = &mut out;
        let mut writer = Writer::new(Look::plain(self.format), sink);
        writer.write(&rows)?;
        writer.finish(Some(&rows.schema())).map(|_| ())
    }
}

fn switched(what: &str, is_on: bool, wanted: Option<bool>) -> bool {
    let is_on = wanted.unwrap_or(!is_on);
    print::status(format_args!("{what} is {}", if is_on { "on" } else { "off" }));
    is_on
}

/// Puts the terminal back as it was: a shell that SIGTERM ends leaves its editor in raw mode.
struct Terminal(Option<Termios>);

impl Terminal {
    fn save() -> Self {
        Self(tcgetattr(std::io::stdin()).ok())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(saved) = &self.0 {
            // Where the terminal has gone, there is nothing to put back.
            tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, saved).ok();
        }
    }
}
