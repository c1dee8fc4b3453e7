//! Jobs of a plugin that may block, each on a thread that ends with it.
//!
//! No pool: a thread that has run code of a library holds it (its thread-locals) until it ends. And it is counted, since
//! while one runs the library must not be closed.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// What runs at a time: jobs block on disks and networks, more of them would only wait for each other.
const AT_ONCE: usize = 16;
/// What may wait: who asks faster than this many are done asks too much.
const WAITING: usize = 1024;

use crate::plugin::unload::STACK;

type Job = Box<dyn FnOnce() + Send>;

/// The jobs of one generation.
#[derive(Default)]
pub(crate) struct Jobs(Mutex<State>);

#[derive(Default)]
struct State {
    closed: bool,
    /// Threads that run a job, by when they began it.
    running: Vec<(u64, Instant)>,
    threads: u64,
    waiting: VecDeque<Job>,
}

/// Why a job is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotTaken {
    #[error("the module is not running")]
    Closed,
    #[error("{WAITING} jobs wait already: let some end first")]
    Full,
    #[error("the host cannot start a thread for it")]
    NoThread,
}

impl Jobs {
    /// Has a job done, now or when others have ended.
    ///
    /// # Errors
    /// When it is not taken; then it is dropped.
    pub(crate) fn submit(self: &Arc<Jobs>, job: impl FnOnce() + Send + 'static) -> Result<(), NotTaken> {
        let mut state = self.lock();
        if state.closed {
            return Err(NotTaken::Closed);
        }
        if state.running.len() >= AT_ONCE {
            if state.waiting.len() >= WAITING {
                return Err(NotTaken::Full);
            }
            state.waiting.push_back(Box::new(job));
            return Ok(());
        }
        state.threads += 1;
        let thread = state.threads;
        // Noted before it begins: who closes meanwhile waits for it.
        state.running.push((thread, Instant::now()));
        drop(state);
        let jobs = self.clone();
        let spawned = std::thread::Builder::new()
            .name("m-job".to_owned())
            .stack_size(STACK)
            .spawn(move || jobs.work(thread, Box::new(job)));
        if spawned.is_err() {
            self.lock().running.retain(|(running, _)| *running != thread);
            return Err(NotTaken::NoThread);
        }
        Ok(())
    }

    /// Takes no further jobs, and forgets those that wait.
    pub(crate) fn close(&self) {
        let forgotten = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.waiting)
        };
        drop(forgotten);
    }

    /// For how long the oldest job has been running; none if there is none, so that the library may be closed.
    pub(crate) fn running_for(&self) -> Option<Duration> {
        self.lock().running.iter().map(|(_, begun)| begun.elapsed()).max()
    }

    fn work(&self, thread: u64, first: Job) {
        let mut next = Some(first);
        while let Some(job) = next {
            job();
            let mut state = self.lock();
            next = state.waiting.pop_front();
            match &next {
                Some(_) => {
                    state.running.iter_mut().filter(|(of, _)| *of == thread).for_each(|(_, at)| *at = Instant::now())
                }
                None => state.running.retain(|(of, _)| *of != thread),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let State { closed, running, threads: _, waiting } = &*self.lock();
        write!(f, "Jobs({} running, {} waiting, closed: {closed})", running.len(), waiting.len())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn jobs_beyond_what_runs_at_once_wait_for_a_thread() {
        let jobs = Arc::new(Jobs::default());
        let (go, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let (done, ended) = mpsc::channel();
        for n in 0..AT_ONCE + 4 {
            let (gate, done) = (gate.clone(), done.clone());
            jobs.submit(move || {
                gate.lock().unwrap().recv().unwrap_err();
                done.send(n).unwrap();
            })
            .unwrap();
        }
        assert_eq!(format!("{jobs:?}"), "Jobs(16 running, 4 waiting, closed: false)");
        drop(go);
        let mut all: Vec<usize> = ended.iter().take(AT_ONCE + 4).collect();
        all.sort_unstable();
        assert_eq!(all, (0..AT_ONCE + 4).collect::<Vec<_>>());
    }

    #[test]
    fn what_has_begun_is_told_of_until_it_ends_and_nothing_begins_after_the_end() {
        let jobs = Arc::new(Jobs::default());
        let (go, gate) = mpsc::channel::<()>();
        jobs.submit(move || assert!(gate.recv().is_err())).unwrap();
        jobs.close();
        assert_eq!(jobs.submit(|| {}), Err(NotTaken::Closed));
        assert!(jobs.running_for().is_some());
        drop(go);
        while jobs.running_for().is_some() {
            std::thread::yield_now();
        }
    }
}
