//! IPv4 options on their way through a router: record route and timestamp are filled in, all
//! others are kept as they came.
//!
//! A packet with options is rare and welcome to be slow. Whoever forwards it writes its address
//! into the next free slot; Linux under IPVS writes the VIP, the local address at which the packet
//! arrived.
//! Source: RFC 791, section 3.1; RFC 781; RFC 1812, section 4.2.2.1; Linux
//! `__ip_options_compile`.

use super::{checksum::Sum, ipv4, put};
use crate::{addr::Addr, verdict::DropReason};

/// End of the options.
const END: u8 = 0;
/// Nothing, one octet.
const NO_OPERATION: u8 = 1;
/// Record route.
const RECORD_ROUTE: u8 = 7;
/// Timestamp.
const TIMESTAMP: u8 = 68;
/// Loose source route.
const LOOSE_ROUTE: u8 = 131;
/// Strict source route.
const STRICT_ROUTE: u8 = 137;

/// Does what the options of a header ask of a router, and mends the header checksum.
///
/// `header` is the whole IPv4 header with its options, already parsed. `address` is the router's
/// own IPv4 address, `timestamp` milliseconds since midnight UTC, or any other time with the
/// highest bit set (RFC 791).
///
/// # Errors
///
/// [`DropReason::MalformedHeader`]: an option's length or pointer cannot be, an option that may
/// come once came twice, a timestamp's overflow count is full, or the packet asks to be routed by
/// its source, which is refused as is usual (Linux's `accept_source_route` off). The header is
/// then partly changed: the packet is to be dropped.
#[cold]
pub fn forward(header: &mut [u8], address: Addr, timestamp: u32) -> Result<(), DropReason> {
    let address = address.low32().to_be_bytes();
    let mut at = ipv4::LEN;
    let (mut routes, mut stamps) = (0, 0);
    while let Some(&kind) = header.get(at) {
        match kind {
            END => break,
            NO_OPERATION => {
                at += 1;
                continue;
            }
            _ => {}
        }
        let length = usize::from(*header.get(at + 1).ok_or(DropReason::MalformedHeader)?);
        if length < 2 {
            return Err(DropReason::MalformedHeader);
        }
        let option = header.get_mut(at..at + length).ok_or(DropReason::MalformedHeader)?;
        match kind {
            RECORD_ROUTE => {
                routes += 1;
                record_route(option, address)?;
            }
            TIMESTAMP => {
                stamps += 1;
                stamp(option, address, timestamp.to_be_bytes())?;
            }
            LOOSE_ROUTE | STRICT_ROUTE => return Err(DropReason::MalformedHeader),
            _ => {}
        }
        if routes > 1 || stamps > 1 {
            return Err(DropReason::MalformedHeader);
        }
        at += length;
    }
    mend_checksum(header);
    Ok(())
}

/// Computes the header checksum anew.
fn mend_checksum(header: &mut [u8]) {
    if let Some(fixed) = header.first_chunk_mut::<{ ipv4::LEN }>() {
        put(fixed, 10, [0, 0]);
        let checksum = Sum::of(header).checksum();
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Where an option's pointer points: the free part behind it, empty if there is none left.
/// Pointers count from 1 and lie behind the option's own `fixed` octets.
fn slot(option: &mut [u8], fixed: usize) -> Result<&mut [u8], DropReason> {
    let pointer = usize::from(*option.get(2).ok_or(DropReason::MalformedHeader)?);
    if option.len() < fixed || pointer <= fixed {
        return Err(DropReason::MalformedHeader);
    }
    Ok(option.get_mut(pointer - 1..).unwrap_or_default())
}

/// Writes `address` into the next free slot, if one is left.
fn record_route(option: &mut [u8], address: [u8; 4]) -> Result<(), DropReason> {
    let slot = slot(option, 3)?;
    if !slot.is_empty() {
        *slot.first_chunk_mut().ok_or(DropReason::MalformedHeader)? = address;
        option[2] += 4;
    }
    Ok(())
}

/// Stamps the next free slot: with the time (kind 0), address and time (1), or the time if the
/// address that stands there is ours (3). Counts itself where no slot is left.
fn stamp(option: &mut [u8], address: [u8; 4], time: [u8; 4]) -> Result<(), DropReason> {
    let kind = *option.get(3).ok_or(DropReason::MalformedHeader)? & 0x0f;
    let slot = slot(option, 4)?;
    let used = match (kind, &mut *slot) {
        (3, []) => 0,
        (_, []) => {
            if option[3] >> 4 == 15 {
                return Err(DropReason::MalformedHeader);
            }
            option[3] += 0x10;
            0
        }
        (0, _) => {
            *slot.first_chunk_mut().ok_or(DropReason::MalformedHeader)? = time;
            4
        }
        (1 | 3, _) => {
            let pair: &mut [u8; 8] = slot.first_chunk_mut().ok_or(DropReason::MalformedHeader)?;
            if kind == 3 && pair[..4] != address {
                0
            } else {
                put(pair, 0, address);
                put(pair, 4, time);
                8
            }
        }
        _ => 0,
    };
    option[2] += used;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const TIME: u32 = 0x0102_0304;

    /// A valid header with these options.
    fn header(options: &[u8]) -> Vec<u8> {
        let mut header = vec![0; ipv4::LEN];
        header.extend(options);
        header.resize(header.len().next_multiple_of(4), 0);
        header[0] = 0x40 | u8::try_from(header.len() / 4).unwrap();
        mend_checksum(&mut header);
        header
    }

    /// The options after 10.0.0.1 has forwarded them.
    fn forwarded(options: &[u8]) -> Result<Vec<u8>, DropReason> {
        let mut header = header(options);
        forward(&mut header, Ipv4Addr::new(10, 0, 0, 1).into(), TIME)?;
        assert!(Sum::of(&header).is_valid());
        Ok(header[ipv4::LEN..ipv4::LEN + options.len()].to_vec())
    }

    #[test]
    fn record_route_gets_the_address_in_its_next_slot() {
        let one = [RECORD_ROUTE, 7, 4, 0, 0, 0, 0, NO_OPERATION];
        assert_eq!(forwarded(&one).unwrap(), [RECORD_ROUTE, 7, 8, 10, 0, 0, 1, NO_OPERATION]);
        let second = [RECORD_ROUTE, 11, 8, 1, 2, 3, 4, 0, 0, 0, 0, END];
        let filled = [RECORD_ROUTE, 11, 12, 1, 2, 3, 4, 10, 0, 0, 1, END];
        assert_eq!(forwarded(&second).unwrap(), filled);
        assert_eq!(forwarded(&filled).unwrap(), filled, "no slot left");
    }

    #[test]
    fn timestamps_are_given_as_asked() {
        let time = [TIMESTAMP, 8, 5, 0, 0, 0, 0, 0];
        assert_eq!(forwarded(&time).unwrap(), [TIMESTAMP, 8, 9, 0, 1, 2, 3, 4]);
        let full = [TIMESTAMP, 8, 9, 0x20, 1, 2, 3, 4];
        assert_eq!(forwarded(&full).unwrap(), [TIMESTAMP, 8, 9, 0x30, 1, 2, 3, 4]);
        let both = [TIMESTAMP, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(forwarded(&both).unwrap(), [TIMESTAMP, 12, 13, 1, 10, 0, 0, 1, 1, 2, 3, 4]);
        let ours = [TIMESTAMP, 12, 5, 3, 10, 0, 0, 1, 0, 0, 0, 0];
        assert_eq!(forwarded(&ours).unwrap(), [TIMESTAMP, 12, 13, 3, 10, 0, 0, 1, 1, 2, 3, 4]);
        let other = [TIMESTAMP, 12, 5, 3, 10, 0, 0, 2, 0, 0, 0, 0];
        assert_eq!(forwarded(&other).unwrap(), other);
    }

    #[test]
    fn other_options_pass_as_they_are() {
        let alert = [148, 4, 0, 0, NO_OPERATION, END, 0xaa, 0xbb];
        assert_eq!(forwarded(&alert).unwrap(), alert);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let malformed = Err(DropReason::MalformedHeader);
        for options in [
            &[RECORD_ROUTE, 1, 4, 0][..],
            &[RECORD_ROUTE, 2, 4, 0],
            &[RECORD_ROUTE, 9, 4, 0, 0, 0, 0, 0],
            &[RECORD_ROUTE, 7, 3, 0, 0, 0, 0, 0],
            &[RECORD_ROUTE, 7, 5, 0, 0, 0, 0, 0],
            &[RECORD_ROUTE, 7, 4, 0, 0, 0, 0, RECORD_ROUTE, 7, 4, 0, 0, 0, 0, 0, 0],
            &[TIMESTAMP, 8, 4, 0, 0, 0, 0, 0],
            &[TIMESTAMP, 8, 5, 1, 0, 0, 0, 0],
            &[TIMESTAMP, 8, 9, 0xf0, 0, 0, 0, 0],
            &[TIMESTAMP, 3, 5, 0],
            &[LOOSE_ROUTE, 7, 4, 1, 2, 3, 4, 0],
            &[STRICT_ROUTE, 7, 4, 1, 2, 3, 4, 0],
            &[NO_OPERATION, NO_OPERATION, NO_OPERATION, RECORD_ROUTE],
        ] {
            assert_eq!(forwarded(options), malformed, "{options:?}");
        }
    }
}
