//! What waits to be written to one peer. Anybody may push; all that is queued goes out with one syscall, by whoever comes
//! to it first: the session's task, or the batch in which it was pushed.

use std::{
    collections::VecDeque,
    future::poll_fn,
    hint::black_box,
    io::{self, IoSlice},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use rustix::net::SendFlags;
use tokio::{io::Interest, net::TcpStream, sync::Notify};

use super::scratch;
use crate::batch;

/// Pieces that are written with one syscall; the kernel takes at most 1,024.
const WRITE_BATCH: usize = 64;

/// Frames up to this size, in bytes, are copied behind one another; larger ones are shared by all who get them.
const COPIED: usize = 1024;

/// The queue in front of a socket. Bounded in bytes: a peer that does not read is cut, and nobody waits for it.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    /// Where to write; without one, an owner takes what is queued.
    socket: Option<Arc<TcpStream>>,
    /// There is something to do for the session.
    changed: AtomicBool,
    session: AtomicWaker,
    closed: Notify,
    limit: usize,
}

#[derive(Debug, Default)]
struct Queue {
    /// What is not written yet.
    frames: Frames,
    bytes: usize,
    order: Order,
    /// Somebody is writing, without the lock: the frames in their hands come before those here.
    writing: bool,
    /// Since when the socket has taken nothing.
    blocked: Option<Instant>,
}

/// Frames in their order. Without any it owns no memory.
#[derive(Debug, Default)]
struct Frames {
    /// Large ones, and what comes before those; the first may be written in part.
    pieces: VecDeque<Bytes>,
    /// The rest, one behind the other.
    tail: Vec<u8>,
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
        Outbox {
            queue: Mutex::default(),
            socket: None,
            changed: AtomicBool::new(false),
            session: AtomicWaker::new(),
            closed: Notify::new(),
            limit,
        }
    }

    /// Has the processor fetch this from memory. Of many, all are under way at once; whoever locks and writes one after the
    /// other waits for each.
    pub(crate) fn fetch(&self) {
        black_box((self.queue.is_locked(), self.socket.as_ref().map(|socket| socket.as_raw_fd())));
    }

    /// Queues a frame; false if the connection is being closed.
    pub(crate) fn push(self: &Arc<Self>, frame: &Bytes) -> bool {
        self.push_all([frame])
    }

    /// Queues frames one after the other, with nothing between them.
    pub(crate) fn push_all<'f>(self: &Arc<Self>, frames: impl IntoIterator<Item = &'f Bytes>) -> bool {
        self.queue(|queue| frames.into_iter().map(|frame| queue.push(frame)).sum())
    }

    /// Queues a frame that `write` puts at the end of a buffer, under the outbox's lock: for short ones with one receiver.
    pub(crate) fn write(self: &Arc<Self>, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        self.queue(|queue| {
            let tail = queue.tail();
            let before = tail.len();
            write(tail);
            tail.len() - before
        })
    }

    /// Lets `add` queue something, of which it returns the bytes.
    fn queue(self: &Arc<Self>, add: impl FnOnce(&mut Frames) -> usize) -> bool {
        let wake;
        let overflow;
        {
            let mut queue = self.queue.lock();
            let Queue { frames, bytes, order, writing, .. } = &mut *queue;
            if *order != Order::GoOn {
                return false;
            }
            // Whoever writes what is there writes this as well, so only the first of a batch has to see to that.
            wake = frames.is_empty() && !*writing;
            *bytes += add(frames);
            overflow = *bytes > self.limit;
            if overflow {
                *frames = Frames::default();
                *bytes = 0;
                *order = Order::Overflow;
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
        writing.append(&mut std::mem::take(&mut queue.frames).into_pieces());
        queue.order
    }

    /// Writes what is queued, as far as the socket takes it. Also says what the session is to do.
    ///
    /// # Errors
    /// Those of the socket.
    pub(crate) fn flush(&self) -> io::Result<(Flushed, Order)> {
        let mut queue = self.queue.lock();
        loop {
            if queue.writing {
                return Ok((Flushed::Busy, queue.order));
            }
            let Some(socket) = self.socket.as_ref().filter(|_| !queue.frames.is_empty()) else {
                return Ok((Flushed::All, queue.order));
            };
            queue.writing = true;
            let mut frames = std::mem::take(&mut queue.frames);
            drop(queue);
            let (written, result) = frames.write_to(socket);
            queue = self.queue.lock();
            queue.writing = false;
            queue.bytes = queue.bytes.saturating_sub(written);
            if written > 0 {
                queue.blocked = None;
            }
            if frames.is_empty() && result.is_ok() {
                continue;
            }
            // What was pushed meanwhile comes behind what is left.
            frames.append(std::mem::take(&mut queue.frames));
            queue.frames = frames;
            return match result {
                Ok(()) => Ok((Flushed::Blocked(*queue.blocked.get_or_insert_with(Instant::now)), queue.order)),
                Err(error) => Err(error),
            };
        }
    }

    /// Writes what is queued, at the end of a batch of another thread. What cannot be written is left to the session.
    pub(crate) fn flush_from_batch(&self) {
        if self.socket.is_none() || !matches!(self.flush(), Ok((Flushed::All | Flushed::Busy, Order::GoOn))) {
            self.wake_session();
        }
    }

    /// Has the session look at this.
    pub(crate) fn wake_session(&self) {
        self.changed.store(true, Ordering::Release);
        self.session.wake();
    }

    /// For the session: waits until there is something to do.
    ///
    /// # Cancel safety
    /// Safe: a notification that is not received stays for the next call.
    pub(crate) async fn changed(&self) {
        poll_fn(|context| self.poll_changed(context)).await;
    }

    /// As [`changed`](Outbox::changed); the session's task alone may ask.
    pub(crate) fn poll_changed(&self, context: &mut Context<'_>) -> Poll<()> {
        if !self.changed.load(Ordering::Acquire) {
            self.session.register(context.waker());
        }
        if self.changed.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
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

impl Frames {
    fn is_empty(&self) -> bool {
        self.tail.is_empty() && self.pieces.is_empty()
    }

    /// Where to put what is copied.
    fn tail(&mut self) -> &mut Vec<u8> {
        if self.tail.capacity() == 0 {
            self.tail = scratch::spare();
        }
        &mut self.tail
    }

    fn push(&mut self, frame: &Bytes) -> usize {
        let bytes = frame.len();
        if bytes <= COPIED {
            self.tail().extend_from_slice(frame);
        } else {
            self.cut_tail(0);
            self.pieces.push_back(frame.clone());
        }
        bytes
    }

    fn append(&mut self, mut later: Frames) {
        if !later.pieces.is_empty() {
            self.cut_tail(0);
            self.pieces.append(&mut later.pieces);
        }
        if self.tail.is_empty() {
            self.tail = later.tail;
        } else {
            self.tail.extend_from_slice(&later.tail);
        }
    }

    fn into_pieces(mut self) -> VecDeque<Bytes> {
        self.cut_tail(0);
        self.pieces
    }

    /// Makes a piece of the tail, without its first `written` bytes.
    fn cut_tail(&mut self, written: usize) {
        if written < self.tail.len() {
            self.pieces.push_back(Bytes::from(std::mem::take(&mut self.tail)).slice(written..));
        } else {
            scratch::give_back(std::mem::take(&mut self.tail));
        }
    }

    /// Writes until the socket has no room; says how many bytes it took, and keeps the rest.
    fn write_to(&mut self, socket: &TcpStream) -> (usize, io::Result<()>) {
        let mut total = 0;
        while !self.is_empty() {
            let written = if self.pieces.is_empty() {
                socket.try_io(Interest::WRITABLE, || Ok(rustix::net::send(socket, &self.tail, SendFlags::NOSIGNAL)?))
            } else {
                let mut slices = [IoSlice::new(&[]); WRITE_BATCH];
                let pieces = self.pieces.iter().map(|piece| &piece[..]).chain([&self.tail[..]]);
                let used = slices.iter_mut().zip(pieces).map(|(slice, piece)| *slice = IoSlice::new(piece)).count();
                socket.try_write_vectored(&slices[..used])
            };
            match written {
                Ok(written) => {
                    total += written;
                    self.drop_written(written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return (total, Err(error)),
            }
        }
        (total, Ok(()))
    }

    fn drop_written(&mut self, mut written: usize) {
        while let Some(piece) = self.pieces.front_mut() {
            if written < piece.len() {
                return piece.advance(written);
            }
            written -= piece.len();
            self.pieces.pop_front();
        }
        if written > 0 {
            self.cut_tail(written);
        }
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
        assert!(outbox.push(&Bytes::from_static(b"a")));
        assert!(outbox.push_all(&[Bytes::from_static(b"b"), Bytes::from_static(b"c")]));
        let mut writing = VecDeque::from([Bytes::from_static(b"0")]);
        assert_eq!(outbox.take(&mut writing), Order::GoOn);
        assert_eq!(writing.iter().flatten().copied().collect::<Vec<_>>(), b"0abc");
    }

    #[test]
    fn large_frames_are_shared_and_stay_in_their_order() {
        let outbox = outbox(usize::MAX);
        let large = Bytes::from(vec![b'l'; COPIED + 1]);
        outbox.push(&Bytes::from_static(b"a"));
        outbox.push(&large);
        outbox.write(|out| out.push(b'b'));
        let mut writing = VecDeque::new();
        outbox.take(&mut writing);
        assert_eq!(writing[1].as_ptr(), large.as_ptr());
        assert_eq!(writing, [Bytes::from_static(b"a"), large, Bytes::from_static(b"b")]);
    }

    #[test]
    fn what_is_written_in_part_is_continued_where_it_stopped() {
        for written in 0..=9 {
            let mut frames = Frames::default();
            frames.pieces.push_back(Bytes::from_static(b"012"));
            frames.pieces.push_back(Bytes::from_static(b"345"));
            frames.tail = b"678".to_vec();
            frames.drop_written(written);
            let mut later = Frames::default();
            later.push(&Bytes::from_static(b"9"));
            frames.append(later);
            let rest: Vec<u8> = frames.into_pieces().into_iter().flatten().collect();
            assert_eq!(rest, &b"0123456789"[written..]);
        }
    }

    #[test]
    fn a_peer_that_does_not_read_is_cut_and_holds_nothing() {
        let outbox = outbox(10);
        assert!(outbox.push(&Bytes::from_static(b"0123456789")));
        assert!(outbox.push(&Bytes::from_static(b"x")));
        let mut writing = VecDeque::new();
        assert_eq!(outbox.take(&mut writing), Order::Overflow);
        assert!(writing.is_empty());
        assert!(!outbox.push(&Bytes::from_static(b"y")));
    }

    #[test]
    fn nothing_follows_the_last_word() {
        let outbox = outbox(10);
        outbox.push(&Bytes::from_static(b"bye"));
        outbox.finish();
        assert!(!outbox.push(&Bytes::from_static(b"more")));
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
                    outbox.push(&Bytes::copy_from_slice(&number.to_be_bytes()));
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
            if let (Flushed::Blocked(_), _) = outbox.flush().unwrap() {
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
