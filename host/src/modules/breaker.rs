//! Takes a library out of service for a while when its handlers panic again and again.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// So many panics within [`WINDOW`] are no accident.
pub(crate) const PANICS: u32 = 10;
/// A broken caller that tries again every second stays below; a module that fails each call is well above.
pub(crate) const WINDOW: Duration = Duration::from_secs(10);
/// Long enough to spare the log, short enough to find out soon that it works again.
pub(crate) const OUT: Duration = Duration::from_secs(5);

/// Trips after [`PANICS`] within [`WINDOW`], and resets itself after [`OUT`].
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    tripped: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    window: Option<(Instant, u32)>,
    until: Option<Instant>,
}

impl Breaker {
    /// A handler panicked; says whether that was one too many.
    pub(super) fn panicked(&self, now: Instant) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, count) =
            state.window.filter(|(since, _)| now.saturating_duration_since(*since) < WINDOW).unwrap_or((now, 0));
        if count + 1 < PANICS {
            state.window = Some((since, count + 1));
            return false;
        }
        *state = State { window: None, until: Some(now + OUT) };
        self.tripped.store(true, Ordering::SeqCst);
        true
    }

    /// How long nothing is let through yet.
    pub(crate) fn out_for(&self) -> Option<Duration> {
        // The clock is read for a breaker that is out, and no other.
        if !self.tripped.load(Ordering::SeqCst) {
            return None;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let left = state.until.and_then(|until| until.checked_duration_since(Instant::now()));
        if left.is_none() {
            state.until = None;
            self.tripped.store(false, Ordering::SeqCst);
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_trips_at_the_last_panic_of_a_window_and_not_for_the_same_number_over_a_longer_time() {
        let (quick, slow, now) = (Breaker::default(), Breaker::default(), Instant::now());
        let tripped: Vec<bool> = (0..PANICS).map(|_| quick.panicked(now)).collect();
        assert_eq!(tripped.iter().filter(|tripped| **tripped).count(), 1);
        assert!(tripped.last() == Some(&true) && quick.out_for().is_some_and(|left| left <= OUT));
        assert!((0..PANICS * 2).all(|n| !slow.panicked(now + WINDOW / 4 * n)));
        assert_eq!(slow.out_for(), None);
    }

    #[test]
    fn it_resets_itself_when_its_time_is_over() {
        let breaker = Breaker::default();
        let before = Instant::now().checked_sub(OUT).expect("the machine runs for longer");
        assert!((0..PANICS).any(|_| breaker.panicked(before)));
        assert_eq!(breaker.out_for(), None);
    }
}
