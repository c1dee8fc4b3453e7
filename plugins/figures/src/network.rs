//! Network interfaces, as Node's `os.networkInterfaces()` lists them.

use std::{collections::BTreeMap, io};

use if_addrs::{IfAddr, Interface};
use serde::Serialize;

/// One address of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Address {
    /// The address.
    pub address: String,
    /// Its mask, as an address.
    pub netmask: String,
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
    /// The interface's hardware address.
    pub mac: String,
    /// Whether only this machine reaches it.
    pub internal: bool,
    /// Address and length of the prefix.
    pub cidr: String,
}

/// Interface → addresses.
///
/// # Errors
/// When the system does not tell.
pub fn interfaces() -> io::Result<BTreeMap<String, Vec<Address>>> {
    let mut interfaces: BTreeMap<String, Vec<Address>> = BTreeMap::new();
    for interface in if_addrs::get_if_addrs()? {
        interfaces.entry(interface.name.clone()).or_default().push(address(&interface));
    }
    Ok(interfaces)
}

fn address(interface: &Interface) -> Address {
    let (family, netmask, prefix) = match &interface.addr {
        IfAddr::V4(v4) => ("IPv4", v4.netmask.to_string(), u32::from(v4.netmask).count_ones()),
        IfAddr::V6(v6) => ("IPv6", v6.netmask.to_string(), u128::from(v6.netmask).count_ones()),
    };
    let ip = interface.ip();
    Address {
        address: ip.to_string(),
        netmask,
        family,
        mac: mac(&interface.name),
        internal: interface.is_loopback(),
        cidr: format!("{ip}/{prefix}"),
    }
}

fn mac(interface: &str) -> String {
    let file = format!("/sys/class/net/{interface}/address");
    std::fs::read_to_string(file).map_or_else(|_| "00:00:00:00:00:00".to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_listed_as_node_lists_it() {
        let interfaces = interfaces().unwrap();
        let Some(loopback) = interfaces.get("lo") else { return };
        let expected = Address {
            address: "127.0.0.1".into(),
            netmask: "255.0.0.0".into(),
            family: "IPv4",
            mac: "00:00:00:00:00:00".into(),
            internal: true,
            cidr: "127.0.0.1/8".into(),
        };
        assert!(loopback.contains(&expected), "{loopback:?}");
    }
}
