//! The `sluice` program: command line, runtime, signals, exit code.

use std::{fmt, io::Write as _, process::ExitCode};

use clap::Parser as _;
use sluice::{
    cli::{self, Cli},
    ops::Stop,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Planning deeply nested queries recurses.
const STACK_BYTES: usize = 16 * 1024 * 1024;
const INTERNAL: u8 = 70;
const SECOND_SIGNAL: i32 = 130;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(STACK_BYTES)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tell(format_args!("the runtime cannot start: {error}"));
            return ExitCode::from(INTERNAL);
        }
    };
    let stop = Stop::default();
    let ended = runtime.block_on(async {
        let signals = tokio::spawn(watch_signals(stop.clone()));
        // On a worker thread, which has the large stack.
        let ended = tokio::spawn(cli::run(cli, stop)).await;
        signals.abort();
        ended
    });
    // Blocking work that is still under way must not hold up the exit.
    runtime.shutdown_background();
    match ended {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(failure)) => {
            tell(&failure);
            ExitCode::from(failure.exit_code())
        }
        Err(panic) => {
            tell(format_args!("a defect: {panic}"));
            ExitCode::from(INTERNAL)
        }
    }
}

/// Unlike `eprintln!`, bears a standard error that nobody reads any more.
fn tell(text: impl fmt::Display) {
    writeln!(std::io::stderr(), "sluice: {text}").ok();
}

/// The first Ctrl-C or SIGTERM asks to stop, the second ends the process at once.
async fn watch_signals(stop: Stop) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        tell("signals cannot be watched, stop with SIGKILL");
        return;
    };
    loop {
        let is_first = tokio::select! {
            _ = interrupt.recv() => stop.interrupt(),
            _ = terminate.recv() => stop.terminate(),
        };
        if !is_first {
            #[allow(clippy::disallowed_methods, reason = "only main exits")]
            std::process::exit(SECOND_SIGNAL);
        }
    }
}
