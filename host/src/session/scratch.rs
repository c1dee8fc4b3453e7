//! What a thread's sessions share while they handle input: a connection that waits owns no buffer.

use std::{cell::RefCell, io};

use tokio::{io::Interest, net::TcpStream};

/// How much is read at once: what a peer may have sent while others were served.
const INPUT: usize = 64 * 1024;

/// Texts that were unquoted are short as a rule; what a long one took is given back.
const TEXT_KEPT: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch { input: vec![0; INPUT], text: String::new() });
}

/// Memory whose content means nothing between two uses.
pub(super) struct Scratch {
    /// Where to read to.
    pub(super) input: Vec<u8>,
    /// The inner text of a double-encoded message.
    pub(super) text: String,
}

/// Lends the thread's scratch memory; not again from within.
pub(super) fn with<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| {
        let result = work(scratch);
        if scratch.text.capacity() > TEXT_KEPT {
            scratch.text = String::new();
        }
        result
    })
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
