//! Selectors: which packets are meant, by protocol, destination prefix, ports and source prefix.
//!
//! They name the packets of a firewall mark and of services over a prefix or a range of ports. Of the
//! selectors that take a packet the one of the highest priority decides.
//! A [`Table`] of them is compiled by control and read where a flow begins.

mod table;

use std::{fmt, net::IpAddr, str::FromStr};

use crate::{
    addr::{Addr, Family},
    key::FlowKey,
    wire::protocol,
};

pub use table::{Nets, Ranked, Table};

/// Selectors that one table holds at most; more are refused.
pub const SELECTORS_MAX: usize = 1 << 14;

/// Selectors with a source prefix for one destination prefix at most; more are refused.
pub const SOURCES_MAX: usize = 64;

/// The protocols that have ports.
const PROTOCOLS: [u8; 3] = [protocol::TCP, protocol::UDP, protocol::SCTP];

/// The addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    addr: Addr,
    length: u8,
}

impl Prefix {
    /// The addresses that share the first `length` bits of `addr`; `None` if its family does not
    /// have as many. Bits behind are cleared.
    pub fn new(addr: Addr, length: u8) -> Option<Self> {
        let whole = Self::host(addr).length;
        (length <= whole).then(|| {
            let addr = Addr::v6(addr.bits() & mask(addr.family(), length));
            Self { addr, length }
        })
    }

    /// One address.
    pub const fn host(addr: Addr) -> Self {
        let length = match addr.family() {
            Family::V4 => 32,
            Family::V6 => 128,
        };
        Self { addr, length }
    }

    /// Its first address.
    pub const fn addr(self) -> Addr {
        self.addr
    }

    /// How many bits they share, of 32 or 128.
    pub const fn length(self) -> u8 {
        self.length
    }

    /// Its family.
    pub const fn family(self) -> Family {
        self.addr.family()
    }

    /// Whether it is a single address.
    pub fn is_host(self) -> bool {
        self == Self::host(self.addr)
    }

    /// Whether an address is among them.
    pub const fn contains(self, addr: Addr) -> bool {
        let mask = mask(self.family(), self.length);
        addr.bits() & mask == self.addr.bits()
            && matches!(
                (addr.family(), self.family()),
                (Family::V4, Family::V4) | (Family::V6, Family::V6)
            )
    }

    /// Whether all addresses of `other` are among them.
    pub const fn covers(self, other: Self) -> bool {
        self.length <= other.length && self.contains(other.addr)
    }
}

/// The mask of a prefix length over the mapped 128 bits.
const fn mask(family: Family, length: u8) -> u128 {
    let behind = match family {
        Family::V4 => 32 - length as u32,
        Family::V6 => 128 - length as u32,
    };
    match u128::MAX.checked_shl(behind) {
        Some(mask) => mask,
        None => 0,
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_host() {
            true => write!(f, "{}", self.addr),
            false => write!(f, "{}/{}", self.addr, self.length),
        }
    }
}

impl FromStr for Prefix {
    type Err = String;

    /// Reads `10.0.0.0/24`, `fd00::/64` or an address alone. Bits behind the prefix must be zero.
    fn from_str(text: &str) -> Result<Self, String> {
        let (addr, length) = match text.split_once('/') {
            Some((addr, length)) => (addr, Some(length)),
            None => (text, None),
        };
        let parsed = addr.parse::<IpAddr>();
        let addr = Addr::from(parsed.map_err(|error| format!("`{addr}`: {error}"))?);
        let Some(length) = length else { return Ok(Self::host(addr)) };
        let whole = Self::host(addr).length;
        let wrong = || format!("`{length}` is not a prefix length of 0 to {whole}");
        let prefix = length.parse().ok().and_then(|length| Self::new(addr, length));
        let prefix = prefix.ok_or_else(wrong)?;
        if prefix.addr != addr {
            return Err(format!("{addr} has bits set behind /{length}; {prefix} is meant"));
        }
        Ok(prefix)
    }
}

/// A range of ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ports {
    /// The first.
    pub first: u16,
    /// The last, not below the first.
    pub last: u16,
}

impl Ports {
    /// Every port.
    pub const ANY: Self = Self { first: 0, last: u16::MAX };

    /// One port.
    pub const fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// Whether a port is among them.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ANY => f.write_str("any"),
            Self { first, last } if first == last => write!(f, "{first}"),
            Self { first, last } => write!(f, "{first}-{last}"),
        }
    }
}

impl FromStr for Ports {
    type Err = String;

    /// Reads `80`, `80-90` or `any`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "any" {
            return Ok(Self::ANY);
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| {
            let port = text.parse::<u16>().ok();
            port.ok_or_else(|| format!("`{text}` is not a port of 0 to 65535"))
        };
        let (first, last) = (port(first)?, port(last)?);
        if first > last {
            return Err(format!("the range `{text}` ends before it begins"));
        }
        Ok(Self { first, last })
    }
}

/// Which packets are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector {
    /// IP protocol number: TCP, UDP or SCTP; `None` for all three.
    pub protocol: Option<u8>,
    /// Where they go.
    pub to: Prefix,
    /// To which port.
    pub ports: Ports,
    /// Where they come from; of the same family. `None`: anywhere.
    pub from: Option<Prefix>,
}

impl Selector {
    /// Whether a packet with this key is meant.
    pub fn takes(&self, key: &FlowKey) -> bool {
        self.protocol.is_none_or(|protocol| protocol == key.protocol)
            && self.to.contains(key.destination)
            && self.ports.contains(key.destination_port)
            && self.from.is_none_or(|from| from.contains(key.source))
    }

    /// The protocols that it takes.
    pub fn protocols(&self) -> impl Iterator<Item = u8> + use<> {
        let only = self.protocol;
        PROTOCOLS.into_iter().filter(move |p| only.is_none_or(|only| only == *p))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn prefixes_and_ports_are_read_and_written() {
        for text in ["10.0.0.0/24", "10.0.0.1", "0.0.0.0/0", "fd00::/64", "::/0", "fd00::1"] {
            assert_eq!(prefix(text).to_string(), text);
        }
        assert_eq!(prefix("10.0.0.1/32"), prefix("10.0.0.1"));
        for text in ["10.0.0.1/24", "10.0.0.0/33", "fd00::/129", "10.0.0/8", "x", "10.0.0.0/"] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
        for text in ["80", "80-90", "any", "0-79"] {
            assert_eq!(text.parse::<Ports>().unwrap().to_string(), text);
        }
        assert_eq!("0-65535".parse(), Ok(Ports::ANY));
        for text in ["90-80", "80-", "-", "65536", "http"] {
            assert!(text.parse::<Ports>().is_err(), "{text}");
        }
        assert!(prefix("0.0.0.0/0").contains(addr("1.2.3.4")));
        assert!(!prefix("::/0").contains(addr("1.2.3.4")), "another family");
        assert!(!prefix("0.0.0.0/0").contains(addr("fd00::1")));
    }
}
