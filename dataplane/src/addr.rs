//! One address type for both families: sixteen octets, IPv4 as IPv4-mapped IPv6.
//!
//! A flow entry, a key and an endpoint hold an address of either family in the same place, and two
//! addresses compare in one operation. An IPv6 packet that carries an IPv4-mapped address is
//! refused by the parser ([`crate::verdict::DropReason::MappedAddress`]), so the two families never
//! meet by accident (RFC 4291, section 2.5.5.2).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Upper 96 bits of an IPv4-mapped address.
const MAPPED: u128 = 0xffff_0000_0000;

/// An IPv4 or IPv6 address in host order.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr(u128);

/// Address family of a packet, a service or a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Addr {
    /// `::`, which no packet of a flow carries.
    pub const UNSPECIFIED: Self = Self(0);

    /// Builds an IPv4 address from its 32 bits in host order.
    #[inline]
    pub const fn v4(bits: u32) -> Self {
        Self(MAPPED | bits as u128)
    }

    /// Builds an IPv6 address from its 128 bits in host order.
    #[inline]
    pub const fn v6(bits: u128) -> Self {
        Self(bits)
    }

    /// The 128 bits in host order; IPv4 is mapped.
    #[inline]
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// The 32 bits of an IPv4 address; of an IPv6 address its last 32.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the low 32 bits are what is asked for")]
    pub const fn low32(self) -> u32 {
        self.0 as u32
    }

    /// Whether this is an IPv4 address.
    #[inline]
    pub const fn is_v4(self) -> bool {
        self.0 >> 32 == MAPPED >> 32
    }

    /// Whether this is the IPv4 address of one host on some network: neither in 0/8 or 127/8 nor in
    /// 224/3.
    #[inline]
    pub const fn is_unicast_v4(self) -> bool {
        // One less, 0 is the greatest of all.
        let first = (self.low32() >> 24).wrapping_sub(1);
        self.is_v4() && first < 223 && first != 126
    }

    /// The family.
    #[inline]
    pub const fn family(self) -> Family {
        if self.is_v4() { Family::V4 } else { Family::V6 }
    }

    /// The standard library's form.
    pub const fn to_ip(self) -> IpAddr {
        if self.is_v4() {
            IpAddr::V4(Ipv4Addr::from_bits(self.low32()))
        } else {
            IpAddr::V6(Ipv6Addr::from_bits(self.0))
        }
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::v4(ip.to_bits()),
            IpAddr::V6(ip) => Self::v6(ip.to_bits()),
        }
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(ip: Ipv4Addr) -> Self {
        Self::v4(ip.to_bits())
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(ip: Ipv6Addr) -> Self {
        Self::v6(ip.to_bits())
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_keep_apart() {
        let v4 = Addr::from(Ipv4Addr::new(10, 0, 0, 1));
        assert!(v4.is_v4());
        assert_eq!(v4.to_string(), "10.0.0.1");
        assert_eq!(v4.low32(), 0x0a00_0001);
        let v6: Addr = "fd00::1".parse::<IpAddr>().unwrap().into();
        assert_eq!(v6.family(), Family::V6);
        assert_eq!(v6.to_string(), "fd00::1");
        assert_ne!(Addr::v6(0x0a00_0001), v4);
    }
}
