//! What commands tell: results on standard output, notes on standard error.
//!
//! `println!` panics where nobody reads any more (`sluice up … | head -1`). Here a reader that went
//! away is no failure.

use std::{
    fmt::Display,
    io::{self, Write},
};

use crate::cli::Failure;

/// Prints the result of a command, and a line end. A reader that has seen enough is none of its
/// business; a full disk is.
pub(super) fn result(text: impl Display) -> Result<(), Failure> {
    written(put(&mut io::stdout(), text))
}

/// Prints a line of a command that goes on whoever reads it.
pub(super) fn status(text: impl Display) {
    // A server does not end because its terminal is gone, and nobody is left to be told.
    put(&mut io::stdout(), text).ok();
}

/// Prints a line to standard error.
pub(super) fn note(text: impl Display) {
    // Where standard error is gone, there is no other place.
    put(&mut io::stderr(), text).ok();
}

/// A reader of a pipe sees each line when it is printed.
fn put(sink: &mut dyn Write, text: impl Display) -> io::Result<()> {
    writeln!(sink, "{text}")?;
    sink.flush()
}

/// A reader that went away (`| head`) is not a failure.
pub(super) fn written(outcome: io::Result<()>) -> Result<(), Failure> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::work(format!("standard output cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}
