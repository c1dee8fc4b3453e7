//! Where a server is to run, and whether its ports are free there: asked of the system, by trying.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    time::Duration,
};

use serde_json::{Map, Value};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

use super::recipe::{HostName, Unusable, scalar};

/// Time to find out whether somebody listens on another machine.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// The host of these fields, unless it is this machine. A server that names none runs here.
pub(super) async fn elsewhere(fields: &Map<String, Value>) -> Result<Option<HostName>, Unusable> {
    let Some(host) = fields.get("host").and_then(scalar).filter(|host| !host.is_empty()) else { return Ok(None) };
    let host: HostName = host.parse()?;
    if is_here(&host).await { Ok(None) } else { Ok(Some(host)) }
}

/// Whether an address of this host can be bound here. A name that means nothing here is somewhere else.
async fn is_here(host: &HostName) -> bool {
    let addresses = match host.as_str().parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => match lookup_host((host.as_str(), 0)).await {
            Ok(found) => found.map(|address| address.ip()).collect(),
            Err(_) => Vec::new(),
        },
    };
    addresses.into_iter().any(|address| UdpSocket::bind((address, 0)).is_ok())
}

/// The first of the server's ports on which somebody listens. It has `port` and `clientPort`, either or none.
///
/// # Errors
/// When something is no port.
pub(super) async fn occupied(fields: &Map<String, Value>, host: Option<&HostName>) -> Result<Option<u16>, Unusable> {
    for name in ["port", "clientPort"] {
        let Some(text) = fields.get(name).and_then(scalar).filter(|text| !text.is_empty()) else { continue };
        let port = text.parse::<u16>().ok().filter(|port| *port > 0);
        let why = "expected a port, from 1 to 65535";
        let port = port.ok_or_else(|| Unusable::Value { name: name.to_owned(), why })?;
        let is_occupied = match host {
            None => is_bound(port),
            Some(host) => listens(host, port).await,
        };
        if is_occupied {
            return Ok(Some(port));
        }
    }
    Ok(None)
}

/// Whether a port of this machine cannot be bound, on any address of it.
fn is_bound(port: u16) -> bool {
    let all: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    // Not every machine has IPv6: only this one error says that somebody is there.
    let in_use = |address: IpAddr| {
        TcpListener::bind(SocketAddr::from((address, port)))
            .is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    };
    all.into_iter().any(in_use)
}

/// Whether somebody answers on a port of another machine, where nothing can be bound from here.
async fn listens(host: &HostName, port: u16) -> bool {
    matches!(timeout(ANSWERS_WITHIN, TcpStream::connect((host.as_str(), port))).await, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    async fn place(host: Value) -> Result<Option<HostName>, Unusable> {
        elsewhere(json!({ "host": host }).as_object().unwrap()).await
    }

    #[tokio::test]
    async fn this_machine_is_found_by_its_addresses() {
        for here in [json!("127.0.0.1"), json!("localhost"), json!("0.0.0.0"), json!("::1"), json!(""), Value::Null] {
            assert_eq!(place(here.clone()).await, Ok(None), "{here}");
        }
        // Set aside for documentation: nobody has it.
        assert_eq!(place(json!("192.0.2.1")).await.unwrap().unwrap().as_str(), "192.0.2.1");
        assert!(place(json!("-oProxyCommand=id")).await.is_err());
    }

    #[tokio::test]
    async fn a_port_is_occupied_if_somebody_listens_on_it() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let fields = |value: Value| value.as_object().unwrap().clone();
        assert_eq!(occupied(&fields(json!({ "port": port })), None).await, Ok(Some(port)));
        assert_eq!(occupied(&fields(json!({ "clientPort": port.to_string() })), None).await, Ok(Some(port)));
        assert_eq!(occupied(&fields(json!({})), None).await, Ok(None));
        let here: HostName = "127.0.0.1".parse().unwrap();
        assert_eq!(occupied(&fields(json!({ "port": port })), Some(&here)).await, Ok(Some(port)));
        for odd in [json!("1;id"), json!(0), json!(70_000), json!("-1")] {
            assert!(occupied(&fields(json!({ "port": odd })), None).await.is_err(), "{odd}");
        }
    }
}
