//! The `sluice` program: command line, runtime, signals, exit code.
#![allow(clippy::print_stderr)]

use std::process::ExitCode;

use clap::Parser as _;
use sluice::cli::{self, Cli};
use tokio_util::sync::CancellationToken;

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
            eprintln!("sluice: the runtime cannot start: {error}");
            return ExitCode::from(INTERNAL);
        }
    };
    let stop = CancellationToken::new();
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
            eprintln!("sluice: {failure}");
            ExitCode::from(failure.exit_code())
        }
        Err(panic) => {
            eprintln!("sluice: a defect: {panic}");
            ExitCode::from(INTERNAL)
        }
    }
}

/// The first Ctrl-C or SIGTERM asks to stop, the second ends the process at once.
async fn watch_signals(stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        eprintln!("sluice: signals cannot be watched, stop with SIGKILL");
        return;
    };
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if stop.is_cancelled() {
            #[allow(clippy::disallowed_methods, reason = "only main exits")]
            std::process::exit(SECOND_SIGNAL);
        }
        stop.cancel();
    }
}
