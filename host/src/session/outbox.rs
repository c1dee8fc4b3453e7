//! What waits to be written to one peer. Anybody may push; all that is queued goes out with one syscall, by whoever comes
//! to it first: the session's task, or the batch in which it was pushed.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    sync::Arc,
    time::Instant,
};

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::{net::TcpStream, sync::Notify};

use crate::batch;

/// Frames that are written with one syscall; the kernel takes at most 1,024.
const WRITE_BATCH: usize = 64;

/// The queue in front of a socket. Bounded in bytes: a peer that does not read is cut, and nobody waits for it.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    /// Where to write; without one, an owner takes what is queued.
    socket: Option<Arc<TcpStream>>,
    changed: Notify,
    closed: Notify,
    limit: usize,
}

#[derive(Debug, Default)]
struct Queue {
    /// What is not written yet; the first may be written in part.
    frames: VecDeque<Bytes>,
    bytes: usize,
    order: Order,
    /// Somebody is writing, without the lock: the frames in their hands come before those here.
    writing: bool,
    /// Since when the socket has taken nothing.
    blocked: Option<Instant>,
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

/// What became of an attempt to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// Nothing is left.
    All,
    /// The socket has no room, since this moment.
    Blocked(Instant),
    /// Somebody else is writing: they write all there is, or tell the session.
    Busy,
}

impl Outbox {
    /// An empty outbox in front of `socket` that holds at most `limit` bytes.
    pub(crate) fn new(socket: Arc<TcpStream>, limit: usize) -> Outbox {
        Outbox { socket: Some(socket), ..Outbox::without_socket(limit) }
    }

    /// An outbox whose owner takes what is queued.
    pub(crate) fn without_socket(limit: usize) -> Outbox {
        Outbox { queue: Mutex::default(), socket: None, changed: Notify::new(), closed: Notify::new(), limit }
    }

    /// Queues a frame; false if the connection is being closed.
    pub(crate) fn push(self: &Arc<Self>, frame: Bytes) -> bool {
        self.push_all([frame])
    }

    /// Queues frames one after the other, with nothing between them.
    pub(crate) fn push_all(self: &Arc<Self>, frames: impl IntoIterator<Item = Bytes>) -> bool {
        let wake;
        let overflow;
        {
            let mut queue = self.queue.lock();
            if queue.order != Order::GoOn {
                return false;
            }
            // Whoever writes what is there writes this as well, so only the first of a batch has to see to that.
            wake = queue.frames.is_empty() && !queue.writing;
            for frame in frames {
                queue.bytes += frame.len();
                queue.frames.push_back(frame);
            }
            overflow = queue.bytes > self.limit;
            if overflow {
                queue.frames.clear();
                queue.bytes = 0;
                queue.order = Order::Overflow;
            }
        }
        if overflow {
            self.wake_session();
        } else if wake {
            batch::write(self);
        }
        true
    }

    /// Orders the session to write what is queued and then to close.
    pub(crate) fn finish(&self) {
        let mut queue = self.queue.lock();
        if queue.order == Order::GoOn {
            queue.order = Order::Finish;
            drop(queue);
            self.wake_session();
        }
    }

    /// For the owner of an outbox without a socket: moves what is queued behind what it is already writing.
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

    /// What the session is to do.
    pub(crate) fn order(&self) -> Order {
        self.queue.lock().order
    }

    /// Writes what is queued, as far as the socket takes it.
    ///
    /// # Errors
    /// Those of the socket.
    pub(crate) fn flush(&self) -> io::Result<Flushed> {
        let Some(socket) = &self.socket else { return Ok(Flushed::All) };
        let mut frames = VecDeque::new();
        loop {
            {
                let mut queue = self.queue.lock();
                if queue.writing {
                    return Ok(Flushed::Busy);
                }
                if queue.frames.is_empty() {
                    return Ok(Flushed::All);
                }
                queue.writing = true;
                std::mem::swap(&mut queue.frames, &mut frames);
            }
            let (written, result) = write_all(socket, &mut frames);
            let mut queue = self.queue.lock();
            queue.writing = false;
            queue.bytes = queue.bytes.saturating_sub(written);
            if written > 0 {
                queue.blocked = None;
            }
            if frames.is_empty() && result.is_ok() {
                continue;
            }
            // What was pushed meanwhile comes behind what is left.
            frames.append(&mut queue.frames);
            queue.frames = frames;
            return match result {
                Ok(()) => Ok(Flushed::Blocked(*queue.blocked.get_or_insert_with(Instant::now))),
                Err(error) => Err(error),
            };
        }
    }

    /// Writes what is queued, at the end of a batch of another thread. What cannot be written is left to the session.
    pub(crate) fn flush_from_batch(&self) {
        if self.socket.is_none()
            || !matches!(self.flush(), Ok(Flushed::All | Flushed::Busy))
            || self.order() != Order::GoOn
        {
            self.wake_session();
        }
    }

    /// Has the session look at this.
    pub(crate) fn wake_session(&self) {
        self.changed.notify_one();
    }

    /// For the session: waits until there is something to do.
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

/// Writes frames until the socket has no room; says how many bytes it took. What is left stays in `frames`.
fn write_all(socket: &TcpStream, frames: &mut VecDeque<Bytes>) -> (usize, io::Result<()>) {
    let mut total = 0;
    while !frames.is_empty() {
        let mut slices = [IoSlice::new(&[]); WRITE_BATCH];
        let mut count = 0;
        for (slice, frame) in slices.iter_mut().zip(&*frames) {
            *slice = IoSlice::new(frame);
            count += 1;
        }
        match socket.try_write_vectored(&slices[..count]) {
            Ok(written) => {
                total += written;
                advance(frames, written);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return (total, Err(error)),
        }
    }
    (total, Ok(()))
}

fn advance(frames: &mut VecDeque<Bytes>, mut written: usize) {
    while let Some(frame) = frames.front_mut() {
        if written < frame.len() {
            return frame.advance(written);
        }
        written -= frame.len();
        frames.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox(limit: usize) -> Arc<Outbox> {
        Arc::new(Outbox::without_socket(limit))
    }

    #[test]
    fn frames_come_out_in_their_order() {
        let outbox = outbox(100);
        assert!(outbox.push(Bytes::from_static(b"a")));
        assert!(outbox.push_all([Bytes::from_static(b"b"), Bytes::from_static(b"c")]));
        let mut writing = VecDeque::from([Bytes::from_static(b"0")]);
        assert_eq!(outbox.take(&mut writing), Order::GoOn);
        assert_eq!(writing.iter().map(|frame| frame[0]).collect::<Vec<_>>(), b"0abc");
    }

    #[test]
    fn a_peer_that_does_not_read_is_cut_and_holds_nothing() {
        let outbox = outbox(10);
        assert!(outbox.push(Bytes::from_static(b"0123456789")));
        assert!(outbox.push(Bytes::from_static(b"x")));
        let mut writing = VecDeque::new();
        assert_eq!(outbox.take(&mut writing), Order::Overflow);
        assert!(writing.is_empty());
        assert!(!outbox.push(Bytes::from_static(b"y")));
    }

    #[test]
    fn nothing_follows_the_last_word() {
        let outbox = outbox(10);
        outbox.push(Bytes::from_static(b"bye"));
        outbox.finish();
        assert!(!outbox.push(Bytes::from_static(b"more")));
        let mut writing = VecDeque::new();
        assert_eq!(outbox.take(&mut writing), Order::Finish);
        assert_eq!(writing.len(), 1);
    }

    #[tokio::test]
    async fn two_writers_keep_the_order_and_a_full_socket_is_told_to_the_session() {
        use tokio::{io::AsyncReadExt, net::TcpListener};
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (ours, theirs) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), async { listener.accept().await });
        let (socket, (mut peer, _)) = (Arc::new(ours.unwrap()), theirs.unwrap());
        socket2::SockRef::from(&*socket).set_send_buffer_size(4096).unwrap();
        let outbox = Arc::new(Outbox::new(socket.clone(), usize::MAX));
        let total: u32 = 200_000;
        let pushing = {
            let outbox = outbox.clone();
            std::thread::spawn(move || {
                for number in 0..total {
                    outbox.push(Bytes::copy_from_slice(&number.to_be_bytes()));
                    if number % 1000 == 0 {
                        outbox.flush_from_batch();
                    }
                }
            })
        };
        let mut reading = tokio::spawn(async move {
            for number in 0..total {
                assert_eq!(peer.read_u32().await.unwrap(), number);
            }
        });
        let mut blocked = 0;
        loop {
            if let Flushed::Blocked(_) = outbox.flush().unwrap() {
                blocked += 1;
                socket.writable().await.unwrap();
                continue;
            }
            tokio::select! {
                read = &mut reading => break read.unwrap(),
                () = outbox.changed() => {}
            }
        }
        pushing.join().unwrap();
        assert!(blocked > 0, "the socket was never full: the test tests nothing");
    }
}
