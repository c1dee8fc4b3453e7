//! Who waits for which answer. Pure.

use std::collections::HashMap;

use tokio::sync::oneshot;

use super::{ClientError, Response};

/// Requests whose callers gave up are forgotten when this many wait, and again whenever their number has doubled.
const PRUNE_FROM: usize = 64;

/// The end of a request.
pub(super) type Answer = oneshot::Sender<Result<Response, ClientError>>;

/// Requests by their id. Each ends at most once; ids are never used twice, not even on another connection.
#[derive(Debug)]
pub(super) struct Waiting {
    last_id: u64,
    waiting: HashMap<u64, Answer>,
    prune_at: usize,
}

impl Waiting {
    pub(super) fn new() -> Waiting {
        Waiting { last_id: 0, waiting: HashMap::new(), prune_at: PRUNE_FROM }
    }

    /// Remembers a request; its id counts from 1, since 0 would be read as a notify.
    pub(super) fn add(&mut self, answer: Answer) -> u64 {
        if self.waiting.len() >= self.prune_at {
            self.waiting.retain(|_, answer| !answer.is_closed());
            self.prune_at = PRUNE_FROM.max(self.waiting.len() * 2);
        }
        self.last_id += 1;
        self.waiting.insert(self.last_id, answer);
        self.last_id
    }

    /// Ends a request. `false` if nobody waits: the original's modules sometimes answer twice (Q20).
    pub(super) fn answer(&mut self, id: u64, response: Response) -> bool {
        // Whoever asked may have stopped waiting.
        self.waiting.remove(&id).is_some_and(|answer| answer.send(Ok(response)).is_ok())
    }

    /// Ends all requests: the link broke.
    pub(super) fn end_all(&mut self, error: &ClientError) {
        for (_, answer) in self.waiting.drain() {
            drop(answer.send(Err(error.clone())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_answered_once_and_never_used_again() {
        let mut waiting = Waiting::new();
        let (answer, mut answered) = oneshot::channel();
        assert_eq!(waiting.add(answer), 1);
        assert!(!waiting.answer(2, Response::default()), "nobody asked this");
        assert!(waiting.answer(1, Response::default()));
        assert!(!waiting.answer(1, Response::default()), "the second answer");
        assert!(matches!(answered.try_recv(), Ok(Ok(_))));
        waiting.end_all(&ClientError::Disconnected);
        assert_eq!(waiting.add(oneshot::channel().0), 2);
    }

    #[test]
    fn requests_whose_callers_gave_up_do_not_pile_up() {
        let mut waiting = Waiting::new();
        let (answer, _kept) = oneshot::channel();
        let kept = waiting.add(answer);
        for _ in 0..10 * PRUNE_FROM {
            waiting.add(oneshot::channel().0);
        }
        assert!(waiting.waiting.len() <= PRUNE_FROM, "{} wait", waiting.waiting.len());
        assert!(waiting.answer(kept, Response::default()));
    }
}
