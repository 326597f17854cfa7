//! Names of hosts and services, and how an address and a port are written.

use std::net::Ipv4Addr;

use crate::addr::Addr;

/// Knows names. Asked while a command is read wherever a word is no number, and while a listing
/// without `-n` is written.
pub trait Names {
    /// The IPv4 address of a host: ipvsadm asks for no other family.
    fn host_addr(&self, name: &str) -> Option<Ipv4Addr>;
    /// The port of a service; `protocol` is TCP's, UDP's or SCTP's number.
    fn service_port(&self, name: &str, protocol: u8) -> Option<u16>;
    /// The name of a host.
    fn host_name(&self, addr: Addr) -> Option<String>;
    /// The name of a service.
    fn service_name(&self, port: u16, protocol: u8) -> Option<String>;
}

/// Knows no names at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numeric;

impl Names for Numeric {
    fn host_addr(&self, _: &str) -> Option<Ipv4Addr> {
        None
    }

    fn service_port(&self, _: &str, _: u8) -> Option<u16> {
        None
    }

    fn host_name(&self, _: Addr) -> Option<String> {
        None
    }

    fn service_name(&self, _: u16, _: u8) -> Option<String> {
        None
    }
}

/// `10.0.0.1:80`, `[fd00::1]:80`, with names where they are known.
pub(super) fn endpoint((addr, port): (Addr, u16), protocol: u8, names: &dyn Names) -> String {
    let host = names.host_name(addr).unwrap_or_else(|| addr.to_string());
    let service = names.service_name(port, protocol).unwrap_or_else(|| port.to_string());
    if addr.is_v4() { format!("{host}:{service}") } else { format!("[{host}]:{service}") }
}

/// The names to use: none where a listing shall be numeric.
pub(super) fn choose(numeric: bool, names: &dyn Names) -> &dyn Names {
    if numeric { &Numeric } else { names }
}
