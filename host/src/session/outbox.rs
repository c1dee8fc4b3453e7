//! What waits to be written to one peer. Anybody may push; the session's task writes what is queued with one syscall.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// The queue in front of a socket. Bounded in bytes: a peer that does not read is cut, and nobody waits for it.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    changed: Notify,
    closed: Notify,
    limit: usize,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Bytes>,
    /// What is queued here; what the session has taken to write no longer counts.
    bytes: usize,
    order: Order,
}

/// What the session is to do with its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Order {
    #[default]
    GoOn,
    /// Write what is queued, then close.
    Finish,
    /// Close at once: the peer does not read.
    Overflow,
    /// The connection is closed; nothing will be written any more.
    Closed,
}

impl Outbox {
    /// An empty outbox that holds at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Outbox {
        Outbox { queue: Mutex::default(), changed: Notify::new(), closed: Notify::new(), limit }
    }

    /// Queues a frame; false if the connection is being closed.
    pub(crate) fn push(&self, frame: Bytes) -> bool {
        self.push_all([frame])
    }

    /// Queues frames one after the other, with nothing between them.
    pub(crate) fn push_all(&self, frames: impl IntoIterator<Item = Bytes>) -> bool {
        let mut wake;
        {
            let mut queue = self.queue.lock();
            if queue.order != Order::GoOn {
                return false;
            }
            wake = queue.frames.is_empty();
            for frame in frames {
                queue.bytes += frame.len();
                queue.frames.push_back(frame);
            }
            if queue.bytes > self.limit {
                queue.frames.clear();
                queue.bytes = 0;
                queue.order = Order::Overflow;
                wake = true;
            }
        }
        // The session takes all there is, so only the first of a batch has to wake it.
        if wake {
            self.changed.notify_one();
        }
        true
    }

    /// Orders the session to write what is queued and then to close.
    pub(crate) fn finish(&self) {
        let mut queue = self.queue.lock();
        if queue.order == Order::GoOn {
            queue.order = Order::Finish;
            self.changed.notify_one();
        }
    }

    /// For the session: moves what is queued behind what it is already writing.
    pub(crate) fn take(&self, writing: &mut VecDeque<Bytes>) -> Order {
        let mut queue = self.queue.lock();
        queue.bytes = 0;
        if writing.is_empty() {
            std::mem::swap(writing, &mut queue.frames);
        } else {
            writing.append(&mut queue.frames);
        }
        queue.order
    }

    /// For the session: what it is to do, while it is still writing.
    pub(crate) fn order(&self) -> Order {
        self.queue.lock().order
    }

    /// For the session: waits until there is something to take.
    ///
    /// # Cancel safety
    /// Safe: a notification that is not received stays for the next call.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// For the session: nothing will be written any more.
    pub(crate) fn close(&self) {
        let mut queue = self.queue.lock();
        *queue = Queue { order: Order::Closed, ..Queue::default() };
        drop(queue);
        self.closed.notify_waiters();
    }

    /// Waits until the connection is closed.
    pub(crate) async fn closed(&self) {
        let mut closed = std::pin::pin!(self.closed.notified());
        // Registered before the look, so that a close in between is not missed.
        closed.as_mut().enable();
        if self.queue.lock().order != Order::Closed {
            closed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_in_their_order() {
        let outbox = Outbox::new(100);
        assert!(outbox.push(Bytes::from_static(b"a")));
        assert!(outbox.push_all([Bytes::from_static(b"b"), Bytes::from_static(b"c")]));
        let mut writing = VecDeque::from([Bytes::from_static(b"0")]);
        assert_eq!(outbox.take(&mut writing), Order::GoOn);
        assert_eq!(writing.iter().map(|frame| frame[0]).collect::<Vec<_>>(), b"0abc");
    }

    #[test]
    fn a_peer_that_does_not_read_is_cut_and_holds_nothing() {
        let outbox = Outbox::new(10);
        assert!(outbox.push(Bytes::from_static(b"0123456789")));
        assert!(outbox.push(Bytes::from_static(b"x")));
        let mut writing = VecDeque::new();
        assert_eq!(outbox.take(&mut writing), Order::Overflow);
        assert!(writing.is_empty());
        assert!(!outbox.push(Bytes::from_static(b"y")));
    }

    #[test]
    fn nothing_follows_the_last_word() {
        let outbox = Outbox::new(10);
        outbox.push(Bytes::from_static(b"bye"));
        outbox.finish();
        assert!(!outbox.push(Bytes::from_static(b"more")));
        let mut writing = VecDeque::new();
        assert_eq!(outbox.take(&mut writing), Order::Finish);
        assert_eq!(writing.len(), 1);
    }
}
