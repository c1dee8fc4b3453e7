//! The connecting end of the wire: what a monitor, a client and a caller of remotes have in common.
//!
//! A [`Link`] is open once the master has answered CONNECT; registering is up to its owner. It splits into halves that
//! one task uses side by side:
//!
//! ```text
//! loop { select! {
//!     incoming = reader.recv()                    => …            // cancel-safe
//!     sent     = writer.flush(), if writer.pending() > 0 => …     // cancel-safe; `writer.push` queued it
//!     ()       = sleep_until(keepalive.due())     => match keepalive.tick(Instant::now()) { … }
//! } }
//! ```

pub(crate) mod backoff;
mod keepalive;

use std::{
    collections::VecDeque,
    io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Buf, Bytes, BytesMut};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

pub(crate) use self::keepalive::{Beat, Keepalive};
use crate::wire::{
    Topic,
    packet::{self, Packet, PacketError},
};

/// From the open socket to CONNACK: the original's connect timeout. A master answers within a round trip.
pub(crate) const CONNACK_WITHIN: Duration = Duration::from_secs(5);

/// The largest packet taken from a master. Heap snapshots and settings of some hundred kB pass through it; four times
/// what our own master takes, and small enough that a wrong port cannot fill the memory.
pub(crate) const RECEIVE_LIMIT: usize = 64 * 1024 * 1024;

/// Idle time before the kernel probes a silent peer. With the two below a dead link is found within 25 s, long before
/// the keepalive of the protocol would find it.
const PROBE_AFTER: Duration = Duration::from_secs(10);
/// Time between two probes.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// Unanswered probes before the link is dead.
const PROBES: u32 = 3;
/// How long sent bytes may stay unacknowledged: probes are not sent while there are any.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Room that is made before each read: most messages fit.
const READ_CHUNK: usize = 8 * 1024;

/// A connection on which CONNECT was sent, and answered where the peer is a master.
#[derive(Debug)]
pub(crate) struct Link {
    reader: LinkReader,
    writer: LinkWriter,
}

/// The receiving half.
#[derive(Debug)]
pub(crate) struct LinkReader {
    socket: OwnedReadHalf,
    buffer: BytesMut,
    /// The largest packet that is taken.
    limit: usize,
}

/// The sending half, with what waits to be sent.
#[derive(Debug)]
pub(crate) struct LinkWriter {
    socket: OwnedWriteHalf,
    queue: VecDeque<Bytes>,
    pending: usize,
}

/// A packet from the master. What means nothing to us is skipped: unknown topics, repeated CONNACKs, subscriptions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Incoming {
    Publish {
        topic: Topic,
        payload: Bytes,
    },
    Pingreq,
    Pingresp,
    /// The master ends the connection; nothing comes after it.
    Disconnect,
}

/// Why there is no link, or no longer one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("cannot connect to {addr}")]
    Unreachable { addr: String, source: io::Error },
    #[error("no answer to CONNECT from {addr} within {}", humantime::format_duration(*after))]
    Timeout { addr: String, after: Duration },
    #[error("the connection was closed by the master")]
    Closed,
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    #[error("what listens there does not speak the admin protocol; check that the address is a master's admin port")]
    Protocol(#[source] PacketError),
}

impl Link {
    /// Connects to `HOST:PORT`: name resolution and TCP `within` this time, then CONNECT and its answer within as much
    /// again, at most [`CONNACK_WITHIN`].
    ///
    /// # Errors
    /// `Unreachable` for anything before the socket is open (running out of time included), then `Timeout`, `Closed`,
    /// `Broken` and `Protocol`.
    pub(crate) async fn open(addr: &str, within: Duration) -> Result<Link, LinkError> {
        let mut link = Link::dial(addr, within, RECEIVE_LIMIT).await?;
        let within = within.min(CONNACK_WITHIN);
        match timeout(within, link.reader.connack()).await {
            Ok(answered) => answered.map(|()| link),
            Err(_) => Err(LinkError::Timeout { addr: addr.to_owned(), after: within }),
        }
    }

    /// Connects to `HOST:PORT` `within` this time, sends CONNECT and does not wait for its answer: servers that take
    /// calls give none. Packets of the peer may have up to `limit` bytes.
    ///
    /// # Errors
    /// As for [`open`](Self::open), but for `Timeout`.
    pub(crate) async fn dial(addr: &str, within: Duration, limit: usize) -> Result<Link, LinkError> {
        let unreachable = |source| LinkError::Unreachable { addr: addr.to_owned(), source };
        let socket = match timeout(within, TcpStream::connect(addr)).await {
            Ok(connected) => connected.map_err(unreachable)?,
            Err(_) => return Err(unreachable(io::ErrorKind::TimedOut.into())),
        };
        tune(&socket).map_err(unreachable)?;
        let (reader, writer) = socket.into_split();
        let mut link = Link {
            reader: LinkReader { socket: reader, buffer: BytesMut::new(), limit },
            writer: LinkWriter { socket: writer, queue: VecDeque::new(), pending: 0 },
        };
        link.writer.send(Bytes::from(packet::connect_packet(&connect_id()))).await?;
        Ok(link)
    }

    /// The two halves, for one task.
    pub(crate) fn split(self) -> (LinkReader, LinkWriter) {
        (self.reader, self.writer)
    }

    /// See [`LinkReader::recv`].
    pub(crate) async fn recv(&mut self) -> Result<Incoming, LinkError> {
        self.reader.recv().await
    }

    /// See [`LinkWriter::send`].
    pub(crate) async fn send(&mut self, frame: Bytes) -> Result<(), LinkError> {
        self.writer.send(frame).await
    }
}

impl LinkReader {
    /// The next packet that means something.
    ///
    /// # Errors
    /// `Closed`, `Broken` or `Protocol`; the link is useless from then on.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped: bytes stay in the buffer until a packet is complete.
    pub(crate) async fn recv(&mut self) -> Result<Incoming, LinkError> {
        loop {
            if let Some(incoming) = self.take()? {
                return Ok(incoming);
            }
            self.fill().await?;
        }
    }

    async fn connack(&mut self) -> Result<(), LinkError> {
        loop {
            match self.decode()? {
                Some((Packet::Connack, used)) => {
                    self.buffer.advance(used);
                    return Ok(());
                }
                // The original's peers wait for CONNACK before they look at anything else.
                Some((Packet::Disconnect, _)) => return Err(LinkError::Closed),
                Some((_, used)) => self.buffer.advance(used),
                None => self.fill().await?,
            }
        }
    }

    /// The next packet of what was read, if one is complete.
    fn take(&mut self) -> Result<Option<Incoming>, LinkError> {
        while let Some((packet, used)) = self.decode()? {
            let incoming = match packet {
                Packet::Publish { topic: Some(topic), payload } => {
                    // The payload is the end of the packet.
                    let start = used - payload.len();
                    let payload = self.buffer.split_to(used).freeze().slice(start..);
                    return Ok(Some(Incoming::Publish { topic, payload }));
                }
                Packet::Pingreq => Some(Incoming::Pingreq),
                Packet::Pingresp => Some(Incoming::Pingresp),
                Packet::Disconnect => Some(Incoming::Disconnect),
                Packet::Publish { topic: None, .. } | Packet::Connect | Packet::Connack | Packet::Ignored => None,
            };
            self.buffer.advance(used);
            if incoming.is_some() {
                return Ok(incoming);
            }
        }
        Ok(None)
    }

    fn decode(&self) -> Result<Option<(Packet<'_>, usize)>, LinkError> {
        packet::decode(&self.buffer, self.limit).map_err(LinkError::Protocol)
    }

    async fn fill(&mut self) -> Result<(), LinkError> {
        self.buffer.reserve(READ_CHUNK);
        match self.socket.read_buf(&mut self.buffer).await {
            Ok(0) => Err(LinkError::Closed),
            Ok(_) => Ok(()),
            Err(error) => Err(LinkError::of_io(error)),
        }
    }
}

impl LinkWriter {
    /// Queues a frame; [`flush`](Self::flush) sends it.
    pub(crate) fn push(&mut self, frame: Bytes) {
        self.pending += frame.len();
        self.queue.push_back(frame);
    }

    /// Bytes that wait to be sent. The owner stops taking work while there are too many.
    pub(crate) fn pending(&self) -> usize {
        self.pending
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// `Closed` or `Broken`; the link is useless from then on.
    ///
    /// # Cancel safety
    /// What was not sent when the future is dropped stays queued; frames are never mixed or sent twice.
    pub(crate) async fn flush(&mut self) -> Result<(), LinkError> {
        while let Some(frame) = self.queue.front_mut() {
            // One write is one await: it happened, and is accounted for, or it did not.
            let sent = self.socket.write(frame).await.map_err(LinkError::of_io)?;
            if sent == 0 {
                return Err(LinkError::Closed);
            }
            self.pending -= sent;
            frame.advance(sent);
            if frame.is_empty() {
                self.queue.pop_front();
            }
        }
        Ok(())
    }

    /// Sends a frame, after whatever is queued.
    pub(crate) async fn send(&mut self, frame: Bytes) -> Result<(), LinkError> {
        self.push(frame);
        self.flush().await
    }

    /// Sends frames in their order, after whatever is queued.
    pub(crate) async fn send_all(&mut self, frames: impl IntoIterator<Item = Bytes>) -> Result<(), LinkError> {
        frames.into_iter().for_each(|frame| self.push(frame));
        self.flush().await
    }

    /// Says good-bye, after whatever is queued, and closes this half.
    pub(crate) async fn close(mut self) -> Result<(), LinkError> {
        self.send(Bytes::from_static(packet::DISCONNECT)).await?;
        self.socket.shutdown().await.map_err(LinkError::of_io)
    }
}

impl LinkError {
    fn of_io(error: io::Error) -> LinkError {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => LinkError::Closed,
            _ => LinkError::Broken(error),
        }
    }
}

fn tune(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    let probes = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY).with_retries(PROBES);
    socket.set_tcp_keepalive(&probes)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))
}

/// The client id of CONNECT, in the original's form. It has no meaning, and need not be unique.
fn connect_id() -> String {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("MQTT_ADMIN_{}", since_1970.as_millis())
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    /// A link, and the peer's end of it right after CONNACK.
    async fn linked() -> (Link, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let peer = async {
            let (mut peer, _) = listener.accept().await.unwrap();
            let connect = packet::connect_packet(&connect_id());
            let mut got = vec![0; connect.len()];
            peer.read_exact(&mut got).await.unwrap();
            assert_eq!(packet::decode(&got, 1000), Ok(Some((Packet::Connect, connect.len()))));
            peer.write_all(packet::CONNACK).await.unwrap();
            peer
        };
        let (link, peer) = tokio::join!(Link::open(&addr, SOON), peer);
        (link.unwrap(), peer)
    }

    fn publish(topic: &str, payload: &[u8]) -> Vec<u8> {
        let mut length = [0; 4];
        let used = packet::write_remaining_length(&mut length, 2 + topic.len() + payload.len());
        let mut out = vec![0x30];
        out.extend_from_slice(&length[..used]);
        out.extend_from_slice(&(topic.len() as u16).to_be_bytes());
        out.extend_from_slice(topic.as_bytes());
        out.extend_from_slice(payload);
        out
    }

    #[tokio::test]
    async fn packets_arrive_whole_however_they_are_cut_and_whatever_is_dropped() {
        let (mut link, mut peer) = linked().await;
        let mut bytes = [packet::CONNACK, packet::PINGRESP].concat();
        bytes.extend(publish("error", b"{}"));
        bytes.extend(publish("monitor", b"{\"moduleId\":\"m\"}"));
        bytes.extend_from_slice(packet::DISCONNECT);
        let mut got = Vec::new();
        for byte in bytes {
            peer.write_all(&[byte]).await.unwrap();
            // Dropped at every split point.
            if let Ok(incoming) = timeout(Duration::from_millis(1), link.recv()).await {
                got.push(incoming.unwrap());
            }
        }
        while got.len() < 3 {
            got.push(timeout(SOON, link.recv()).await.unwrap().unwrap());
        }
        let payload = Bytes::from_static(b"{\"moduleId\":\"m\"}");
        assert_eq!(
            got,
            [Incoming::Pingresp, Incoming::Publish { topic: Topic::Monitor, payload }, Incoming::Disconnect]
        );
        drop(peer);
        assert!(matches!(link.recv().await, Err(LinkError::Closed)));
    }

    #[tokio::test]
    async fn a_flush_that_was_dropped_goes_on_where_it_was() {
        let (link, mut peer) = linked().await;
        let (_reader, mut writer) = link.split();
        let sent: Vec<u8> = (0..20_000_000u32).map(|n| n as u8).collect();
        sent.chunks(3_000_000).for_each(|chunk| writer.push(Bytes::copy_from_slice(chunk)));
        let mut got = Vec::new();
        let mut chunk = vec![0; 1 << 20];
        while got.len() < sent.len() {
            // More than the socket takes at once: the flush is dropped whenever the peer has read something.
            tokio::select! {
                biased;
                read = peer.read(&mut chunk) => got.extend_from_slice(&chunk[..read.unwrap()]),
                flushed = writer.flush(), if writer.pending() > 0 => flushed.unwrap(),
            }
        }
        assert!(got == sent);
        assert_eq!(writer.pending(), 0);
    }

    #[tokio::test]
    async fn another_protocol_is_told_apart_from_a_closed_connection() {
        for (answer, expected) in [(&b"\x00\x00\x00\x00"[..], "admin protocol"), (b"", "closed")] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap().to_string();
            let peer = async {
                let (mut peer, _) = listener.accept().await.unwrap();
                peer.write_all(answer).await.unwrap();
            };
            let (link, ()) = tokio::join!(Link::open(&addr, SOON), peer);
            let error = link.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn a_port_nobody_listens_on_is_unreachable() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = Link::open(&addr, SOON).await.unwrap_err();
        assert!(matches!(&error, LinkError::Unreachable { addr: at, .. } if *at == addr), "{error:?}");
    }
}
