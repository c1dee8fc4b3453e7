//! Ports for programs that cannot choose one, and for masters that come back to where they were.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::sync::Mutex;

/// Below the ports that Linux gives to whoever asks for any, so that no connection of another test sits on one of them;
/// a test may take its time until its program listens.
const PORTS: std::ops::Range<u16> = 10_000..30_000;

/// The UDP ports of the same numbers: who holds one has reserved the TCP port against all other processes of these tests.
static RESERVED: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());

/// A port that nobody listens on, and that no other test is given as long as this process lives.
pub fn free_port() -> u16 {
    let mut reserved = RESERVED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for port in PORTS {
        let Ok(reservation) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) else { continue };
        let addresses: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        // Not every machine has IPv6.
        let in_use = |address| {
            TcpListener::bind((address, port)).is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
        };
        if !addresses.into_iter().any(in_use) {
            reserved.push(reservation);
            return port;
        }
    }
    panic!("no free port in {PORTS:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice_and_each_can_be_listened_on() {
        let ports = [free_port(), free_port(), free_port()];
        assert!(ports[0] != ports[1] && ports[1] != ports[2] && ports[0] != ports[2], "{ports:?}");
        for port in ports {
            assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok(), "{port}");
        }
    }
}
