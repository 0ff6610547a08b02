//! What is shown on stderr while events are sent.

use std::{
    io::{IsTerminal as _, stderr},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use crate::cli::print;

/// Where stderr is not a terminal: seconds between two lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// A bar on a terminal, else a line now and then.
pub(crate) enum Progress {
    Quiet,
    Bar(Box<ProgressBar>, Instant),
    Lines { name: String, bytes: u64, started: Instant, last: Instant },
}

impl Progress {
    /// `bytes`: how many there are to read; 0 where that is not known.
    pub(crate) fn start(name: &str, bytes: u64, quiet: bool) -> Self {
        let now = Instant::now();
        if quiet {
            return Self::Quiet;
        }
        if !stderr().is_terminal() {
            return Self::Lines { name: name.to_owned(), bytes, started: now, last: now };
        }
        let (bar, template) = if bytes > 0 {
            (ProgressBar::new(bytes), "{prefix} {wide_bar} {percent}% {msg}, {eta} left")
        } else {
            (ProgressBar::no_length(), "{prefix} {spinner} {msg}, {elapsed}")
        };
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(8));
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(name.to_owned());
        Self::Bar(Box::new(bar), now)
    }

    /// `events` acknowledged since the start, `read` bytes of the input behind us.
    pub(crate) fn update(&mut self, events: u64, read: u64) {
        match self {
            Self::Quiet => {}
            Self::Bar(bar, started) => {
                bar.set_message(format!("{events} events, {:.0}/s", per_second(events, *started)));
                bar.set_position(read);
            }
            Self::Lines { name, bytes, started, last } => {
                if last.elapsed() < LINE_EVERY {
                    return;
                }
                *last = Instant::now();
                let rate = per_second(events, *started);
                let share = match *bytes {
                    0 => String::new(),
                    total => format!(", {} %", read.min(total) * 100 / total),
                };
                print::note(format_args!("{name}: {events} events, {rate:.0}/s{share}"));
            }
        }
    }

    /// A line of its own, above the bar.
    pub(crate) fn note(&self, text: &str) {
        match self {
            Self::Quiet => {}
            Self::Bar(bar, _) => bar.suspend(|| print::note(text)),
            Self::Lines { .. } => print::note(text),
        }
    }

    pub(crate) fn finish(&self) {
        if let Self::Bar(bar, _) = self {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    /// An error must not leave half a bar behind.
    fn drop(&mut self) {
        self.finish();
    }
}

/// A line of its own, before there is any progress.
pub(crate) fn line(text: &str) {
    print::note(text);
}

fn per_second(events: u64, started: Instant) -> f64 {
    #[allow(clippy::cast_precision_loss)] // shown rounded
    let events = events as f64;
    events / started.elapsed().as_secs_f64().max(0.001)
}
