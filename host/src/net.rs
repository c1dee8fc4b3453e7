//! Accepting connections: one task each.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error};

use crate::{
    ids::ConnId,
    master::Master,
    session::{Session, outbox::Outbox},
};

/// Connections that may wait for their acceptance: a fleet of thousands comes back at once.
const BACKLOG: u32 = 4096;

/// Pause after a failed accept: out of file descriptors, say. Those who are in go on.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A dead peer is found within 30 s: idle 10 s, then four probes of 5 s. Unacknowledged data has the same limit.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 4;
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// How many connections one address may have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AddressLimits {
    /// That have not registered.
    pub(crate) unregistered: usize,
    /// In all; `None` for no limit.
    pub(crate) connections: Option<usize>,
}

/// The open sessions, and the numbers of the next.
#[derive(Debug)]
pub(crate) struct Net {
    next: AtomicU64,
    sessions: Mutex<HashMap<ConnId, Arc<Outbox>>>,
    addresses: Mutex<HashMap<IpAddr, Count>>,
    limits: AddressLimits,
    tasks: TaskTracker,
}

#[derive(Debug, Default)]
struct Count {
    all: usize,
    unregistered: usize,
}

/// A place among the connections of one address.
#[derive(Debug)]
pub(crate) struct Place {
    net: Arc<Net>,
    address: IpAddr,
    registered: bool,
}

/// Takes an address; port 0 asks for any. Nobody can connect yet. Connections inherit the options that are set here.
///
/// # Errors
/// When the address is in use or not ours.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    watch_peers(&socket)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Lets others connect.
///
/// # Errors
/// When another socket listens there already.
pub(crate) fn listen(socket: TcpSocket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)
}

impl Net {
    pub(crate) fn new(limits: AddressLimits) -> Net {
        Net {
            next: AtomicU64::new(1),
            sessions: Mutex::default(),
            addresses: Mutex::default(),
            limits,
            tasks: TaskTracker::new(),
        }
    }

    /// Accepts until `stop`.
    pub(crate) async fn accept(self: Arc<Self>, listener: TcpListener, master: Arc<Master>, stop: CancellationToken) {
        let mut failing = false;
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => {
                    failing = false;
                    self.clone().serve(stream, address, master.clone());
                }
                // That one connection broke while it waited.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => debug!(%error, "accept"),
                Err(error) => {
                    if !failing {
                        error!(%error, "no connection can be accepted for the moment; those that are open go on");
                    }
                    failing = true;
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn serve(self: Arc<Self>, stream: TcpStream, address: SocketAddr, master: Arc<Master>) {
        let Some(place) = self.clone().take_place(address.ip()) else {
            debug!(%address, "too many connections from this address");
            return;
        };
        let conn = ConnId(self.next.fetch_add(1, Ordering::Relaxed));
        let mut session = Session::new(stream, conn, address, master, place);
        self.sessions.lock().insert(conn, session.outbox().clone());
        let net = self.clone();
        self.tasks.spawn(async move {
            session.run().await;
            net.sessions.lock().remove(&conn);
        });
    }

    /// Lets every session write what it has and end; waits until all have.
    pub(crate) async fn close(&self) {
        for outbox in self.sessions.lock().values() {
            outbox.finish();
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// How many sessions are open.
    pub(crate) fn open(&self) -> usize {
        self.sessions.lock().len()
    }

    fn take_place(self: Arc<Self>, address: IpAddr) -> Option<Place> {
        {
            let mut addresses = self.addresses.lock();
            let count = addresses.entry(address).or_default();
            let full = self.limits.connections.is_some_and(|limit| count.all >= limit);
            if full || count.unregistered >= self.limits.unregistered {
                return None;
            }
            count.all += 1;
            count.unregistered += 1;
        }
        Some(Place { net: self, address, registered: false })
    }
}

impl Place {
    /// The connection has registered: it no longer counts as one that has not.
    pub(crate) fn registered(&mut self) {
        if !std::mem::replace(&mut self.registered, true)
            && let Some(count) = self.net.addresses.lock().get_mut(&self.address)
        {
            count.unregistered -= 1;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut addresses = self.net.addresses.lock();
        let Some(count) = addresses.get_mut(&self.address) else { return };
        count.all -= 1;
        if !self.registered {
            count.unregistered -= 1;
        }
        if count.all == 0 {
            addresses.remove(&self.address);
        }
    }
}

/// Has the kernel find dead peers, and send at once what is written.
fn watch_peers(socket: &TcpSocket) -> io::Result<()> {
    let socket = SockRef::from(socket);
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    socket.set_tcp_nodelay(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_inherits_what_the_listener_was_told() {
        let listener = listen(bind("127.0.0.1:0".parse().unwrap()).unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (_peer, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (stream, _) = accepted.unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_PROBES);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED));
    }
}
