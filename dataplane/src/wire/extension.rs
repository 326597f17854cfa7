//! IPv6 extension headers: the way from the IPv6 header to what it carries.
//!
//! Walked over: hop-by-hop options (first only), destination options, authentication, and a
//! routing header that is used up. The walk ends at a fragment header, at a routing header with
//! segments left (this node is not the packet's last: what follows is addressed to another), and at
//! everything else, which counts as the upper layer.
//! Source: RFC 8200, section 4; RFC 4302, section 2.

use crate::verdict::DropReason;

/// Hop-by-hop options.
const HOP_BY_HOP: u8 = 0;
/// Routing header.
const ROUTING: u8 = 43;
/// Fragment header.
pub const FRAGMENT: u8 = 44;
/// Authentication header.
const AUTHENTICATION: u8 = 51;
/// Destination options.
const DESTINATION: u8 = 60;

/// Length of the fragment header in octets.
pub const FRAGMENT_LEN: usize = 8;

/// Extension headers walked over at most; a packet with more is malformed. RFC 8200, section 4.1,
/// needs six: hop-by-hop, destination, routing, fragment, authentication, destination.
pub const HEADERS_MAX: usize = 8;

/// Where a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upper {
    /// Protocol number of the header found; [`FRAGMENT`] and a routing header are possible.
    pub protocol: u8,
    /// Its offset, at most the packet's length.
    pub offset: usize,
}

/// Walks over the extension headers of `packet`, the first of which is of kind `next` and lies at
/// `start`.
///
/// # Errors
///
/// [`DropReason::Truncated`] if a header to be walked over is not there in full,
/// [`DropReason::MalformedHeader`] if there are too many.
#[inline]
pub fn walk(packet: &[u8], start: usize, next: u8) -> Result<Upper, DropReason> {
    let mut upper = Upper { protocol: next, offset: start };
    for count in 0..=HEADERS_MAX {
        let ends_here = match upper.protocol {
            HOP_BY_HOP => count > 0,
            ROUTING | AUTHENTICATION | DESTINATION => false,
            _ => true,
        };
        if ends_here {
            return Ok(upper);
        }
        let &[next, units, _, segments_left, ..] =
            packet.get(upper.offset..).ok_or(DropReason::Truncated)?
        else {
            return Err(DropReason::Truncated);
        };
        let length = match upper.protocol {
            ROUTING if segments_left != 0 => return Ok(upper),
            AUTHENTICATION => (usize::from(units) + 2) * 4,
            _ => (usize::from(units) + 1) * 8,
        };
        upper = Upper { protocol: next, offset: upper.offset + length };
        if upper.offset > packet.len() {
            return Err(DropReason::Truncated);
        }
    }
    Err(DropReason::MalformedHeader)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `count` headers of 8 octets, all of `kind`, then `last`.
    fn chain(kind: u8, count: usize, last: u8) -> Vec<u8> {
        let mut octets = Vec::new();
        for i in 1..=count {
            octets.extend([if i == count { last } else { kind }, 0, 1, 0, 0, 0, 0, 0]);
        }
        octets
    }

    #[test]
    fn no_extension_header_is_where_it_starts() {
        assert_eq!(walk(&[], 0, 6), Ok(Upper { protocol: 6, offset: 0 }));
    }

    #[test]
    fn each_kind_is_as_long_as_it_says() {
        // Hop-by-hop of 8, destination of 16, authentication of 12 octets, routing used up.
        let mut octets = vec![0; 8 + 16 + 12 + 8];
        octets[0] = DESTINATION;
        octets[8..10].copy_from_slice(&[AUTHENTICATION, 1]);
        octets[24..26].copy_from_slice(&[ROUTING, 1]);
        octets[36] = 17;
        assert_eq!(walk(&octets, 0, HOP_BY_HOP), Ok(Upper { protocol: 17, offset: 44 }));
        for cut in 0..44 {
            assert_eq!(walk(&octets[..cut], 0, HOP_BY_HOP), Err(DropReason::Truncated));
        }
    }

    #[test]
    fn hop_by_hop_comes_first_or_is_not_ours_to_read() {
        let octets = chain(DESTINATION, 1, HOP_BY_HOP);
        assert_eq!(walk(&octets, 0, DESTINATION), Ok(Upper { protocol: HOP_BY_HOP, offset: 8 }));
    }

    #[test]
    fn a_routing_header_with_segments_left_ends_the_walk() {
        let octets = [6, 0, 4, 1, 0, 0, 0, 0];
        assert_eq!(walk(&octets, 0, ROUTING), Ok(Upper { protocol: ROUTING, offset: 0 }));
    }

    #[test]
    fn endless_chains_are_refused() {
        let octets = chain(DESTINATION, HEADERS_MAX, 6);
        assert_eq!(walk(&octets, 0, DESTINATION).map(|upper| upper.protocol), Ok(6));
        let octets = chain(DESTINATION, HEADERS_MAX + 1, 6);
        assert_eq!(walk(&octets, 0, DESTINATION), Err(DropReason::MalformedHeader));
    }
}
