//! Makes checksums right that a fuzzer hardly ever hits.

use xvs_dataplane::wire::{
    at_mut,
    checksum::Sum,
    ethernet::{self, ethertype},
    icmp, ipv4, protocol,
};

/// The frame with its IPv4 header and ICMP checksums made right; ICMPv6's stays as it is.
pub fn mended(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let Some((ethertype::IPV4, l3)) = ethernet::payload(&frame) else {
        return frame;
    };
    let Some(header) = at_mut::<{ ipv4::LEN }>(&mut frame, l3) else {
        return frame;
    };
    header[10..12].fill(0);
    let (length, total) = (ipv4::header_len(header), usize::from(ipv4::total_len(header)));
    let is_icmp = header[9] == protocol::ICMP;
    if length >= ipv4::LEN
        && let Some(header) = frame.get_mut(l3..l3 + length)
    {
        let checksum = Sum::of(header).checksum();
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    if is_icmp && let Some(message) = frame.get_mut(l3 + length..l3 + total) {
        icmp::seal_v4(message);
    }
    frame
}
