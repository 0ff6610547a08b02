use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// What Ctrl-C and SIGTERM ask for, seen by whoever runs.
///
/// Most commands take one [`token`](Self::token) and stop for good when it is cancelled. One that
/// goes on after a Ctrl-C, such as a shell whose query was stopped, takes a new one.
#[derive(Debug, Clone)]
pub struct Stop(Arc<State>);

#[derive(Debug)]
struct State {
    terminated: CancellationToken,
    /// A child of `terminated`.
    current: Mutex<CancellationToken>,
}

impl Default for Stop {
    fn default() -> Self {
        let terminated = CancellationToken::new();
        let current = Mutex::new(terminated.child_token());
        Self(Arc::new(State { terminated, current }))
    }
}

impl Stop {
    /// Is cancelled by the next Ctrl-C and by SIGTERM.
    pub fn token(&self) -> CancellationToken {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A new token, for work that begins after an earlier Ctrl-C.
    pub fn renew(&self) -> CancellationToken {
        let token = self.0.terminated.child_token();
        *self.0.current.lock().unwrap_or_else(PoisonError::into_inner) = token.clone();
        token
    }

    /// Is cancelled by SIGTERM only.
    pub fn terminated(&self) -> CancellationToken {
        self.0.terminated.clone()
    }

    /// Ctrl-C was pressed. Whether that was not asked for already.
    pub fn interrupt(&self) -> bool {
        let token = self.token();
        let first = !token.is_cancelled();
        token.cancel();
        first
    }

    /// SIGTERM came. Whether that was not asked for already.
    pub fn terminate(&self) -> bool {
        let first = !self.token().is_cancelled();
        self.0.terminated.cancel();
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_signal_is_told_from_the_first() {
        let stop = Stop::default();
        let token = stop.token();
        assert!(stop.interrupt() && token.is_cancelled());
        assert!(!stop.interrupt() && !stop.terminate());
    }

    #[test]
    fn a_new_token_forgets_ctrl_c_but_not_sigterm() {
        let stop = Stop::default();
        stop.interrupt();
        assert!(!stop.renew().is_cancelled() && !stop.terminated().is_cancelled());
        assert!(stop.interrupt(), "asked for anew");
        let token = stop.renew();
        assert!(stop.terminate() && token.is_cancelled());
        assert!(stop.renew().is_cancelled() && stop.terminated().is_cancelled());
    }
}
