//! Packets that are lost between a master and one monitor: the kernel drops what arrives at their sockets, and tells
//! neither side, as if the cable were cut.
//!
//! The sockets are borrowed from the daemons (`pidfd_getfd`: as a debugger may), so nothing stands between them that
//! would acknowledge in their place.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use socket2::{SockFilter, Socket};

use crate::daemon::Daemon;

/// Where a monitor connects to whose packets are to be lost: so they can be told from those of others.
const APART: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// What a socket drops, as a program of the kernel's packet filter.
const EVERYTHING: [SockFilter; 1] = [SockFilter::new(RETURN, 0, 0, 0)];
/// Loads the address that a packet was sent to, and drops it if that is [`APART`].
const SENT_APART: [SockFilter; 4] = [
    SockFilter::new(LOAD_WORD, 0, 0, NETWORK_HEADER + 16),
    SockFilter::new(JUMP_IF_EQUAL, 0, 1, APART.to_bits()),
    SockFilter::new(RETURN, 0, 0, 0),
    SockFilter::new(RETURN, 0, 0, u32::MAX),
];
const RETURN: u16 = 0x06;
const LOAD_WORD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
/// `SKF_NET_OFF`
const NETWORK_HEADER: u32 = 0xfff0_0000;

/// On which way nothing arrives any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the monitor to the master.
    ToMaster,
    /// From the master to the monitor.
    ToMonitor,
    /// Neither way.
    Both,
}

/// Packets are lost until this is healed.
#[derive(Debug)]
pub struct Loss {
    sockets: Vec<Socket>,
}

/// The address at which a monitor has to find this master (which listens on all addresses) if packets are to be lost.
pub fn apart(master: &Daemon) -> SocketAddr {
    (APART, master.address().port()).into()
}

impl Loss {
    /// From now on packets are lost between the master and the monitor that has found it [`apart`]; also those that
    /// would open another connection.
    pub fn between(master: &Daemon, monitor: &Daemon, way: Way) -> Loss {
        let port = master.address().port();
        let place = SocketAddrV4::new(APART, port);
        let drops = |sockets: Vec<Socket>, filter: &[SockFilter]| {
            for socket in &sockets {
                socket.attach_filter(filter).expect("a socket takes a filter");
            }
            sockets
        };
        let mut sockets = Vec::new();
        if way != Way::ToMonitor {
            let arrived = |connection: &Connection| connection.local == place;
            sockets.extend(drops(sockets_of(master, arrived), &EVERYTHING));
        }
        if way != Way::ToMaster {
            let opened = |connection: &Connection| connection.remote == place;
            sockets.extend(drops(sockets_of(monitor, opened), &EVERYTHING));
        }
        // Whichever packet of the greeting is lost, there is no connection.
        let listening = |connection: &Connection| connection.remote.port() == 0 && connection.local.port() == port;
        sockets.extend(drops(sockets_of(master, listening), &SENT_APART));
        assert!(sockets.len() > 1, "there is a connection from {monitor:?} to {place}");
        Loss { sockets }
    }

    /// Packets arrive again.
    pub fn heal(self) {
        for socket in self.sockets {
            socket.detach_filter().expect("a filter can be taken off again");
        }
    }
}

/// A line of `/proc/net/tcp`.
struct Connection {
    local: SocketAddrV4,
    remote: SocketAddrV4,
    inode: String,
}

impl Connection {
    fn read(line: &str) -> Option<Connection> {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, remote) = (address(fields.next()?)?, address(fields.next()?)?);
        Some(Connection { local, remote, inode: fields.nth(6)?.to_owned() })
    }
}

/// `0200007F:0BBD`: the address as the processor's number, the port.
fn address(text: &str) -> Option<SocketAddrV4> {
    let (ip, port) = text.split_once(':')?;
    let ip = u32::from_str_radix(ip, 16).ok()?;
    Some(SocketAddrV4::new(Ipv4Addr::from(ip.to_ne_bytes()), u16::from_str_radix(port, 16).ok()?))
}

/// The sockets of a daemon that are one end of such a connection.
fn sockets_of(daemon: &Daemon, which: impl Fn(&Connection) -> bool) -> Vec<Socket> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel lists its connections");
    let wanted: Vec<String> = table
        .lines()
        .filter_map(Connection::read)
        .filter(|connection| which(connection))
        .map(|connection| format!("socket:[{}]", connection.inode))
        .collect();
    let pid = Pid::from_raw(daemon.pid().try_into().expect("pids are small")).expect("pids are not zero");
    let process = pidfd_open(pid, PidfdFlags::empty()).expect("the daemon runs");
    let files = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("the daemon runs");
    files
        .filter_map(|file| {
            let file = file.ok()?;
            let name = std::fs::read_link(file.path()).ok()?;
            let number: i32 = file.file_name().to_str()?.parse().ok()?;
            wanted.contains(&name.to_str()?.to_owned()).then(|| borrow(&process, number))
        })
        .collect()
}

fn borrow(process: &OwnedFd, number: i32) -> Socket {
    let borrowed = pidfd_getfd(process, number, PidfdGetfdFlags::empty());
    let why = "a daemon that this process started lends its sockets; in a container that may need CAP_SYS_PTRACE";
    let socket = borrowed.unwrap_or_else(|error| panic!("{why}: {error} (descriptor {})", process.as_raw_fd()));
    socket.into()
}
