//! What may differ between the kernel's packet and ours, and nothing else.
//!
//! Free are: the IP id of packets that the director makes itself (ICMP, fragments, tunnel headers
//! without DF), IPv6 fragment ids, the flow label of its own IPv6 answers (errors, echo replies,
//! resets), the source port of a GUE tunnel. A free field of ours is replaced by the kernel's
//! value **with the checksums updated incrementally**, then all octets are compared: a wrong
//! checksum stays wrong. Ids must be free consistently, too: fragments of one datagram share
//! theirs, packets of one flow share their GUE port.

use std::collections::BTreeMap;

use dataplane::wire::protocol;

use super::packet::{ETHERNET, Ip, u16_at};

/// The GUE ports that the recordings use.
const GUE_PORT: u16 = 6080;
/// Range of source ports that the kernel hashes flows into.
const GUE_SOURCES: std::ops::RangeInclusive<u16> = 32_768..=60_999;
/// IPv4: don't fragment.
const DF: u16 = 0x4000;
const FRAGMENT_HEADER: u8 = 44;

/// Free values that were seen: the kernel's, and what stood there in ours.
#[derive(Debug, Default)]
pub(super) struct Seen {
    ids: BTreeMap<u32, u32>,
    ports: BTreeMap<u16, u16>,
}

impl Seen {
    /// A new step: ids start over, ports belong to flows and stay.
    pub(super) fn next_step(&mut self) {
        self.ids.clear();
    }
}

/// Compares our frame `got` with the kernel's, both made out of `input`. `Err` tells the first octet
/// that differs where it may not.
pub(super) fn compare(
    input: Option<&[u8]>,
    expected: &[u8],
    got: &[u8],
    seen: &mut Seen,
) -> Result<(), String> {
    let mut aligned = got.to_vec();
    align(input, expected, &mut aligned, seen);
    if aligned == expected {
        return Ok(());
    }
    if aligned.len() != expected.len() {
        return Err(format!("{} octets, not {}", aligned.len(), expected.len()));
    }
    let at = aligned.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(0);
    Err(format!("octet {at} is {:#04x}, not {:#04x}", aligned[at], expected[at]))
}

/// Replaces the free fields of `got` by those of `expected`.
fn align(input: Option<&[u8]>, expected: &[u8], got: &mut [u8], seen: &mut Seen) {
    let Some(theirs) = Ip::in_frame(expected) else { return };
    let Some(ours) = Ip::in_frame(got) else { return };
    if theirs.is_v4() != ours.is_v4() || theirs.payload != ours.payload {
        return;
    }
    let input = input.and_then(Ip::in_frame).filter(|input| input.is_v4() == theirs.is_v4());
    let (payload, is_v4) = (theirs.payload, theirs.is_v4());
    let gue =
        theirs.protocol == protocol::UDP && theirs.ports().is_some_and(|(_, to)| to == GUE_PORT);
    if is_v4 {
        align_v4(input, theirs, got, seen);
    } else {
        align_v6(input, theirs, got, seen);
    }
    if gue {
        align_gue(theirs.data(), &mut got[ETHERNET + payload..], seen);
    }
}

/// The id, unless it is the client's own or the kernel's fixed 0.
fn align_v4(input: Option<Ip<'_>>, theirs: Ip<'_>, got: &mut [u8], seen: &mut Seen) {
    let header = &mut got[ETHERNET..];
    let (Some(wanted), Some(there)) = (u16_at(theirs.bytes, 4), u16_at(header, 4)) else { return };
    let kept = input.and_then(|input| u16_at(input.bytes, 4)) == Some(wanted);
    let fixed = wanted == 0 && u16_at(theirs.bytes, 6).is_some_and(|flags| flags & DF != 0);
    if kept
        || fixed
        || *seen.ids.entry(wanted.into()).or_insert_with(|| there.into()) != u32::from(there)
    {
        return;
    }
    put(header, 4, wanted);
    let Some(sum) = u16_at(header, 10) else { return };
    put(header, 10, updated(sum, there, wanted));
}

/// The fragment id, and the flow label of errors and answers that the director made.
fn align_v6(input: Option<Ip<'_>>, theirs: Ip<'_>, got: &mut [u8], seen: &mut Seen) {
    let header = &mut got[ETHERNET..];
    let label = |bytes: &[u8]| [bytes[1] & 0x0f, bytes[2], bytes[3]];
    let kept = input.is_some_and(|input| label(input.bytes) == label(theirs.bytes));
    let answer =
        input.is_some_and(|i| i.source == theirs.destination && i.destination == theirs.source);
    if (theirs.is_icmp_error() || answer) && !kept {
        header[1] = header[1] & 0xf0 | theirs.bytes[1] & 0x0f;
        header[2..4].copy_from_slice(&theirs.bytes[2..4]);
    }
    if theirs.bytes[6] == FRAGMENT_HEADER && header[6] == FRAGMENT_HEADER {
        let id = |bytes: &[u8]| bytes.get(44..48).and_then(|id| id.try_into().ok());
        let (Some(wanted), Some(there)) = (id(theirs.bytes), id(header)) else { return };
        let (number, there) = (u32::from_be_bytes(wanted), u32::from_be_bytes(there));
        if *seen.ids.entry(number).or_insert(there) == there {
            header[44..48].copy_from_slice(&wanted);
        }
    }
}

/// The source port; the UDP checksum, if there is one, covers it.
fn align_gue(theirs: &[u8], got: &mut [u8], seen: &mut Seen) {
    let (Some(wanted), Some(there)) = (u16_at(theirs, 0), u16_at(got, 0)) else { return };
    if !GUE_SOURCES.contains(&there) || *seen.ports.entry(wanted).or_insert(there) != there {
        return;
    }
    put(got, 0, wanted);
    if let Some(sum @ 1..) = u16_at(got, 6) {
        let sum = updated(sum, there, wanted);
        put(got, 6, if sum == 0 { 0xffff } else { sum });
    }
}

fn put(octets: &mut [u8], offset: usize, value: u16) {
    octets[offset..offset + 2].copy_from_slice(&value.to_be_bytes());
}

/// A checksum after one word under it changed (RFC 1624, equation 3).
#[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits")]
fn updated(sum: u16, from: u16, to: u16) -> u16 {
    let mut total = u32::from(!sum) + u32::from(!from) + u32::from(to);
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    !(total as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{Ipv4Header, PacketBuilder, ip_number};

    /// An IPIP packet whose outer header has this id and DF bit.
    fn tunnel(id: u16, df: bool) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00]);
        let (source, destination) = ([10, 2, 0, 1], [10, 2, 0, 11]);
        let mut ip = Ipv4Header::new(8, 64, ip_number::IPV4, source, destination).unwrap();
        ip.identification = id;
        ip.dont_fragment = df;
        ip.header_checksum = ip.calc_header_checksum();
        ip.write(&mut frame).unwrap();
        frame.extend(b"\x40payload");
        frame
    }

    fn datagram(from: u16, to: u16) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 2, 0, 1], [10, 2, 0, 11], 64)
            .udp(from, to);
        let mut frame = Vec::new();
        builder.write(&mut frame, b"inner").unwrap();
        frame
    }

    #[test]
    fn an_id_of_its_own_is_free_but_not_its_checksum() {
        let mut seen = Seen::default();
        assert_eq!(compare(None, &tunnel(7, false), &tunnel(9, false), &mut seen), Ok(()));
        let mut wrong = tunnel(9, false);
        wrong[ETHERNET + 10] ^= 1;
        seen.next_step();
        let error = compare(None, &tunnel(7, false), &wrong, &mut seen).unwrap_err();
        assert!(error.starts_with("octet 24 is"), "{error}");
    }

    #[test]
    fn fragments_of_one_datagram_share_their_id() {
        let mut seen = Seen::default();
        let (kernel, ours) = (tunnel(7, false), tunnel(9, false));
        assert_eq!(compare(None, &kernel, &ours, &mut seen), Ok(()));
        assert!(compare(None, &kernel, &tunnel(10, false), &mut seen).is_err());
        seen.next_step();
        assert_eq!(compare(None, &kernel, &tunnel(10, false), &mut seen), Ok(()));
    }

    #[test]
    fn an_id_that_was_kept_or_is_always_zero_is_not_free() {
        let mut seen = Seen::default();
        let input = tunnel(7, false);
        assert!(compare(Some(&input), &input, &tunnel(9, false), &mut seen).is_err());
        assert!(compare(None, &tunnel(0, true), &tunnel(9, true), &mut seen).is_err());
        assert_eq!(compare(None, &tunnel(0, true), &tunnel(0, true), &mut seen), Ok(()));
    }

    #[test]
    fn a_gue_port_is_free_within_its_range_and_the_same_for_one_flow() {
        let mut seen = Seen::default();
        let kernel = datagram(40_000, GUE_PORT);
        assert_eq!(compare(None, &kernel, &datagram(50_000, GUE_PORT), &mut seen), Ok(()));
        seen.next_step();
        assert!(compare(None, &kernel, &datagram(50_001, GUE_PORT), &mut seen).is_err());
        let kernel = datagram(41_000, GUE_PORT);
        assert!(compare(None, &kernel, &datagram(1024, GUE_PORT), &mut seen).is_err());
        let (kernel, ours) = (datagram(40_000, 53), datagram(50_000, 53));
        assert!(compare(None, &kernel, &ours, &mut seen).is_err(), "not a tunnel");
    }
}
