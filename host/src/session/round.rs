//! Many sockets are written one after the other, by no more tasks than the runtime has workers.
//!
//! To wake the session of each would cost as much as half a system call, and each would wait behind all others.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{runtime::Handle, task::yield_now};

use super::outbox::Outbox;
use crate::batch;

/// Sockets that are written before others have their turn.
const TURN: usize = 32;

/// Outboxes that are to be written. What is left when nobody goes on is left to their sessions.
struct Round {
    outboxes: Vec<Arc<Outbox>>,
    /// The first that nobody has taken.
    next: AtomicUsize,
}

/// Has all of them written, by tasks of the runtime that this thread belongs to.
pub(crate) fn begin(outboxes: Vec<Arc<Outbox>>) {
    let turns = outboxes.len().div_ceil(TURN);
    let round = Arc::new(Round { outboxes, next: AtomicUsize::new(0) });
    // In a thread without a runtime nobody takes it: then it ends here.
    let Ok(runtime) = Handle::try_current() else { return };
    for _ in 0..turns.min(runtime.metrics().num_workers()) {
        runtime.spawn(go(round.clone()));
    }
}

async fn go(round: Arc<Round>) {
    while let Some(outboxes) = round.take(TURN) {
        outboxes.iter().for_each(|outbox| outbox.fetch());
        outboxes.iter().for_each(|outbox| outbox.flush_from_batch());
        // What this thread has held back is not to wait for the last of them.
        batch::relieve();
        yield_now().await;
    }
}

impl Round {
    fn take(&self, most: usize) -> Option<&[Arc<Outbox>]> {
        let all = self.outboxes.len();
        let first = self.next.fetch_add(most, Ordering::Relaxed).min(all);
        let taken = &self.outboxes[first..all.min(first + most)];
        (!taken.is_empty()).then_some(taken)
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        while let Some(outboxes) = self.take(TURN) {
            outboxes.iter().for_each(|outbox| outbox.wake_session());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use tokio::{
        io::AsyncReadExt,
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_a_batch_pushes_to_many_is_written_and_no_session_is_woken() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut outboxes, mut peers) = (Vec::new(), Vec::new());
        for _ in 0..batch::DIRECT + 7 {
            let (ours, theirs) =
                tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), async { listener.accept().await });
            outboxes.push(Arc::new(Outbox::new(Arc::new(ours.unwrap()), usize::MAX)));
            peers.push(theirs.unwrap().0);
        }
        {
            let _batch = batch::begin();
            for outbox in &outboxes {
                outbox.push(&Bytes::from_static(b"news"));
            }
        }
        for peer in &mut peers {
            let mut news = [0; 4];
            timeout(Duration::from_secs(10), peer.read_exact(&mut news)).await.unwrap().unwrap();
            assert_eq!(&news, b"news");
        }
        for outbox in outboxes {
            assert!(timeout(Duration::ZERO, outbox.changed()).await.is_err(), "its session was woken");
        }
    }

    #[test]
    fn what_nobody_takes_is_left_to_the_sessions() {
        let outboxes: Vec<_> = (0..TURN + 1).map(|_| Arc::new(Outbox::without_socket(100))).collect();
        begin(outboxes.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for outbox in outboxes {
                timeout(Duration::from_secs(10), outbox.changed()).await.unwrap();
            }
        });
    }
}
