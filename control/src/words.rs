//! How addresses, masks, methods and names are written in text, the same everywhere in control.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use dataplane::{
    addr::{Addr, Family},
    director::spec::{ClientAddress, ServiceKey},
    endpoint::Method,
};

use crate::field;

/// Forwarding methods by name.
pub const METHODS: [(&str, Method); 7] = [
    ("nat", Method::Nat),
    ("dr", Method::Dr),
    ("ipip", Method::Ipip),
    ("gue", Method::Gue),
    ("gre", Method::Gre),
    ("local", Method::Local),
    ("fullnat", Method::FullNat),
];

/// Transport protocols by name.
pub const PROTOCOLS: [(&str, u8); 3] = [("tcp", 6), ("udp", 17), ("sctp", 132)];

/// The netmask that takes every client for itself.
pub const fn no_netmask(family: Family) -> u32 {
    match family {
        Family::V4 => u32::MAX,
        Family::V6 => 128,
    }
}

/// Reads an address.
///
/// # Errors
///
/// What is wrong with it.
pub fn parse_addr(text: &str) -> Result<Addr, String> {
    let Ok(ip) = text.parse::<IpAddr>() else {
        return Err(format!("`{text}` is not an IP address"));
    };
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(format!("`{text}` is an IPv4-mapped address; write the IPv4 address"))
        }
        ip => Ok(ip.into()),
    }
}

/// Reads a netmask: dotted for IPv4, a prefix length for IPv6.
///
/// # Errors
///
/// What is wrong with it.
pub fn parse_netmask(text: &str, family: Family) -> Result<u32, String> {
    match family {
        Family::V4 => match text.parse::<Ipv4Addr>() {
            Ok(mask) => Ok(mask.to_bits()),
            Err(_) => Err(format!("`{text}` is not a mask as 255.255.255.0")),
        },
        Family::V6 => match text.parse::<u32>() {
            Ok(length @ 1..=128) => Ok(length),
            _ => Err(format!("`{text}` is not a prefix length from 1 to 128")),
        },
    }
}

/// Writes a netmask.
pub fn netmask_text(netmask: u32, family: Family) -> String {
    match family {
        Family::V4 => Ipv4Addr::from_bits(netmask).to_string(),
        Family::V6 => netmask.to_string(),
    }
}

/// Reads a forwarding method.
///
/// # Errors
///
/// There is none of this name.
pub fn parse_method(name: &str) -> Result<Method, String> {
    find(&METHODS, name).ok_or_else(|| {
        field::unknown("forwarding method", name, METHODS.iter().map(|(known, _)| *known))
    })
}

/// The name of a forwarding method.
pub fn method_name(method: Method) -> &'static str {
    name_of(&METHODS, method).expect("every method has its line in METHODS")
}

/// Reads how full NAT tells real servers their clients' addresses.
///
/// # Errors
///
/// There is no such way.
pub fn parse_client_address(name: &str) -> Result<ClientAddress, String> {
    ClientAddress::named(name).ok_or_else(|| {
        field::unknown("way", name, ClientAddress::NAMES.iter().map(|(known, _)| *known))
    })
}

/// Reads a protocol.
///
/// # Errors
///
/// There is none of this name.
pub fn parse_protocol(name: &str) -> Result<u8, String> {
    find(&PROTOCOLS, name)
        .ok_or_else(|| field::unknown("protocol", name, PROTOCOLS.iter().map(|(known, _)| *known)))
}

/// The name of a protocol; `ip` if it has none here.
pub fn protocol_name(protocol: u8) -> &'static str {
    name_of(&PROTOCOLS, protocol).unwrap_or("ip")
}

/// Writes a service's name: `TCP 10.0.0.1:80`, `TCP [fd00::1]:80`, `FWM 7`, `FWM 7 IPv6`.
#[derive(Debug)]
pub struct ServiceName<'a>(pub &'a ServiceKey);

impl fmt::Display for ServiceName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self.0 {
            ServiceKey::Address { protocol, addr, port } => {
                let name = protocol_name(protocol);
                write!(f, "{} {}", name.to_uppercase(), RealName { addr, port })
            }
            ServiceKey::Mark { mark, family: Family::V4 } => write!(f, "FWM {mark}"),
            ServiceKey::Mark { mark, family: Family::V6 } => write!(f, "FWM {mark} IPv6"),
        }
    }
}

/// What names a real server within its service; written `10.2.0.11:80`, `[fd02::11]:80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RealName {
    /// Its address.
    pub addr: Addr,
    /// Its port.
    pub port: u16,
}

impl fmt::Display for RealName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.addr.to_ip(), self.port).fmt(f)
    }
}

fn find<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    table.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

fn name_of<T: PartialEq>(table: &[(&'static str, T)], value: T) -> Option<&'static str> {
    table.iter().find(|(_, known)| *known == value).map(|(name, _)| *name)
}

/// Reads a range of ports, as `1024-65535`.
///
/// # Errors
///
/// It is none; what would be right.
pub fn parse_ports(text: &str) -> Result<(u16, u16), String> {
    let read = text
        .split_once('-')
        .and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
    read.filter(|(first, last)| first <= last && *first > 0)
        .ok_or_else(|| format!("`{text}` is no range of ports as 1024-65535"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_number_has_a_name_of_its_own() {
        for number in 0..=6 {
            let method = Method::from_number(number);
            assert_eq!(parse_method(method_name(method)), Ok(method));
        }
    }

    #[test]
    fn mapped_addresses_are_refused() {
        assert_eq!(
            parse_addr("::ffff:10.0.0.1").unwrap_err(),
            "`::ffff:10.0.0.1` is an IPv4-mapped address; write the IPv4 address"
        );
        assert_eq!(parse_addr("10.0.0.300").unwrap_err(), "`10.0.0.300` is not an IP address");
    }

    #[test]
    fn a_netmask_comes_back_as_it_was() {
        for text in ["255.255.255.0", "255.0.255.0", "0.0.0.24", "0.0.0.0"] {
            let mask = parse_netmask(text, Family::V4).unwrap();
            assert_eq!(netmask_text(mask, Family::V4), text);
        }
        assert_eq!(parse_netmask("64", Family::V6), Ok(64));
        for (text, family) in
            [("129", Family::V6), ("0", Family::V6), ("24", Family::V4), ("x", Family::V4)]
        {
            assert!(parse_netmask(text, family).unwrap_err().contains(text));
        }
    }
}
