//! Points at which a test ends the process, to see what a crash just there leaves behind.
//!
//! `SLUICE_CRASH_AT=process.sealed:3,bronze.written:1` waits for the third time that the first point
//! is reached, then for the first time that the second is, and kills the process there with SIGKILL.
//! Only in builds with debug assertions, as the tests' is; others refuse the setting. The points are
//! listed in `docs/promises.md`.

use std::{
    fmt::Display,
    io::Write as _,
    sync::{Mutex, OnceLock, PoisonError},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// The variable that names the points.
pub const VARIABLE: &str = "SLUICE_CRASH_AT";

static PLAN: OnceLock<Mutex<Plan>> = OnceLock::new();

/// What has to be reached, in order, and how often.
struct Plan {
    /// The next step last.
    steps: Vec<(String, u64)>,
}

/// Takes over a plan; to be called once, before anything else runs.
pub fn arm(text: &str) -> Result<(), String> {
    if !cfg!(debug_assertions) {
        return Err(format!("{VARIABLE} is for builds with debug assertions"));
    }
    let plan = Plan::parse(text)?;
    PLAN.set(Mutex::new(plan)).map_err(|_| format!("{VARIABLE} is set already"))
}

/// A point that a plan can name.
#[inline]
pub fn point(name: impl Display) {
    if cfg!(debug_assertions)
        && let Some(plan) = PLAN.get()
    {
        let name = name.to_string();
        if plan.lock().unwrap_or_else(PoisonError::into_inner).is_last(&name) {
            end(&name);
        }
    }
}

impl Plan {
    fn parse(text: &str) -> Result<Self, String> {
        let step = |step: &str| {
            let (name, times) = step.trim().split_once(':')?;
            let times = times.parse().ok().filter(|times| *times > 0)?;
            Some((name.to_owned(), times))
        };
        let steps: Option<Vec<_>> = text.split(',').rev().map(step).collect();
        let steps = steps.ok_or_else(|| {
            format!("{VARIABLE}={text}: give POINT:TIMES, or several of them with commas between")
        })?;
        Ok(Self { steps })
    }

    /// Counts a point that was reached; whether it was the last one of the plan.
    fn is_last(&mut self, name: &str) -> bool {
        let Some((wanted, times)) = self.steps.last_mut() else { return false };
        if wanted != name {
            return false;
        }
        *times -= 1;
        if *times > 0 {
            return false;
        }
        self.steps.pop();
        self.steps.is_empty()
    }
}

fn end(name: &str) {
    // A test looks for this line; where standard error is gone, nobody looks.
    writeln!(std::io::stderr(), "crash point {name} reached").ok();
    // A signal to oneself fails only where it has no such name.
    kill(Pid::this(), Signal::SIGKILL).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_counted_in_their_order() {
        let mut plan = Plan::parse("sealed:2, written:1").expect("plan");
        let reached = ["written", "sealed", "written", "sealed", "sealed", "written", "written"];
        let last: Vec<bool> = reached.iter().map(|name| plan.is_last(name)).collect();
        assert_eq!(last, [false, false, false, false, false, true, false]);
    }

    #[test]
    fn a_plan_that_cannot_be_read_is_refused() {
        for text in ["", "sealed", "sealed:0", "sealed:x", "sealed:1,"] {
            let error = Plan::parse(text).err().expect(text);
            assert!(error.contains("give POINT:TIMES"), "{error}");
        }
    }
}
