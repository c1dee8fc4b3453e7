//! What a thread's sessions share while they read and write: a connection that waits owns no buffer.

use std::{cell::RefCell, io};

use bytes::{Bytes, BytesMut};
use tokio::{io::Interest, net::TcpStream};

/// How much is read at once: what a peer may have sent while others were served.
const INPUT: usize = 64 * 1024;

/// Texts that were unquoted are short as a rule; what a long one took is given back.
const TEXT_KEPT: usize = 64 * 1024;

/// Bodies up to this size, in bytes, share allocations of [`BODIES`].
const SHORT_BODY: usize = 1024;
const BODIES: usize = 16 * 1024;

/// Buffers of outboxes that a thread keeps, and the largest that it keeps, in bytes.
const SPARES: usize = 64;
const SPARE: usize = 4 * 1024;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch { input: vec![0; INPUT], texts: Texts::default() });
    static SPARE_BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Memory whose content means nothing between two uses.
pub(super) struct Scratch {
    /// Where to read to.
    pub(super) input: Vec<u8>,
    pub(super) texts: Texts,
}

/// Where the texts of messages are put.
#[derive(Default)]
pub(crate) struct Texts {
    /// The inner text of a double-encoded message.
    pub(crate) inner: String,
    pub(crate) bodies: Bodies,
}

/// Where bodies are put that go to another thread: many to an allocation, which is used again when that is done with them.
#[derive(Default)]
pub(crate) struct Bodies(BytesMut);

impl Bodies {
    /// The body, owned.
    pub(crate) fn own(&mut self, body: &str) -> Bytes {
        if body.len() > SHORT_BODY {
            return Bytes::copy_from_slice(body.as_bytes());
        }
        if self.0.capacity() < body.len() {
            self.0.reserve(BODIES);
        }
        self.0.extend_from_slice(body.as_bytes());
        self.0.split().freeze()
    }
}

/// Lends the thread's scratch memory; not again from within.
pub(super) fn with<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| {
        let result = work(scratch);
        if scratch.texts.inner.capacity() > TEXT_KEPT {
            scratch.texts.inner = String::new();
        }
        result
    })
}

/// An empty buffer for what is to be written; as a rule it has the memory of one that this thread has written.
pub(super) fn spare() -> Vec<u8> {
    // A thread that is ending has none any more; so below.
    SPARE_BUFFERS.try_with(|spares| spares.borrow_mut().pop()).ok().flatten().unwrap_or_default()
}

/// Takes back a buffer that was written.
pub(super) fn give_back(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > SPARE {
        return;
    }
    buffer.clear();
    let keep = |spares: &RefCell<Vec<Vec<u8>>>| {
        let mut spares = spares.borrow_mut();
        if spares.len() < SPARES {
            spares.push(buffer);
        }
    };
    SPARE_BUFFERS.try_with(keep).unwrap_or_default();
}

/// Reads once: the number of bytes, 0 at the end of the stream, `None` if there was nothing.
///
/// # Errors
/// Those of the socket.
pub(super) fn receive(stream: &TcpStream, into: &mut [u8]) -> io::Result<Option<usize>> {
    let mut received = None;
    let read = stream.try_io(Interest::READABLE, || {
        let length = rustix::io::read(stream, &mut *into)?;
        received = Some(length);
        // Less than there was room for: the socket is empty. To say so saves the read that would find it out.
        if length > 0 && length < into.len() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match read {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(received),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_was_written_is_empty_when_it_is_used_again() {
        give_back(b"written".to_vec());
        let spare = spare();
        assert!(spare.is_empty() && spare.capacity() >= "written".len());
    }

    #[test]
    fn a_thread_keeps_few_buffers_and_no_large_ones() {
        give_back(Vec::with_capacity(SPARE + 1));
        assert_eq!(spare().capacity(), 0);
        (0..=SPARES).for_each(|_| give_back(Vec::with_capacity(1)));
        assert_eq!(std::iter::repeat_with(spare).take_while(|spare| spare.capacity() > 0).count(), SPARES);
    }
}
