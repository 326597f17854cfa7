//! What senders leave for hardware to do, done here: checksums finished, super-segments cut.
//!
//! A veth or virtio peer, and the kernel's own receive coalescing, hand over TCP segments and UDP
//! datagram trains of up to 64 KB whose checksum is not computed. Cut as hardware would cut
//! them, every piece is a valid packet that fits the sender's MTU; the pieces of one
//! super-segment carry its octets in order.
//!
//! Sources: virtio 1.2, section 5.1.6.2 (packet transmission); Linux
//! `Documentation/networking/segmentation-offloads.rst`.

use crate::{
    addr::Addr,
    wire::{
        checksum::{self, Sum},
        protocol,
    },
};

/// Octets of a `struct virtio_net_hdr`.
pub(crate) const HEADER: usize = 10;

/// Offset of the checksum in a header of TCP.
const TCP_FIELD: u16 = 16;

/// The same of UDP, where 0 means that there is none.
const UDP_FIELD: u16 = 6;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
pub(crate) const NEEDS_CSUM: u8 = 1;

/// `VIRTIO_NET_HDR_GSO_ECN`, a flag beside the kind: the first piece has CWR set.
const ECN: u8 = 0x80;

/// What is left to be done with a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offload {
    /// The checksum to finish: where summing starts, and where the field is from there.
    pub checksum: Option<(u16, u16)>,
    /// The frame is a super-segment to cut: the transport protocol and the payload of a piece in octets.
    pub segment: Option<(u8, u16)>,
}

impl Offload {
    /// Reads a `struct virtio_net_hdr`, which raw sockets have in the machine's own order. A kind
    /// of segmentation that is not known is taken for none.
    pub(crate) fn parse(header: &[u8; HEADER]) -> Self {
        let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let segment = match header[1] & !ECN {
            1 | 4 => Some((protocol::TCP, word(4))),
            5 => Some((protocol::UDP, word(4))),
            _ => None,
        };
        Self { checksum: (header[0] & NEEDS_CSUM != 0).then(|| (word(6), word(8))), segment }
    }

    /// The same for a frame that has grown by `octets` in front of its IP header.
    #[must_use]
    pub(crate) fn shifted(self, octets: u16) -> Self {
        let checksum = self.checksum.map(|(start, field)| (start.saturating_add(octets), field));
        Self { checksum, ..self }
    }
}

/// Computes the checksum that the sender left unfinished: the field holds the pseudo header's sum.
/// Offsets that do not lie within the frame leave it as it is.
pub(crate) fn finish_checksum(frame: &mut [u8], (start, field): (u16, u16)) {
    let start = usize::from(start);
    let at = start + usize::from(field);
    if at + 2 > frame.len() {
        return;
    }
    let sum = Sum::of(&frame[start..]);
    put(frame, at, if field == UDP_FIELD { sum.udp_checksum() } else { sum.checksum() });
}

/// How a super-segment is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segments {
    /// Offset of the IP header.
    l3: usize,
    /// Offset of the transport header.
    l4: usize,
    /// Offset of the payload.
    payload: usize,
    /// Where the payload ends.
    end: usize,
    /// Octets of payload in each piece but the last.
    size: usize,
    source: Addr,
    destination: Addr,
    protocol: u8,
}

impl Segments {
    /// Reads the headers of a super-segment. `None` if they do not fit what is to be done: not
    /// TCP or UDP right behind IP (a tunnel), or cut short.
    pub(crate) fn new(frame: &[u8], offload: Offload) -> Option<Self> {
        let (protocol, size) = offload.segment.filter(|&(_, size)| size > 0)?;
        // A super-segment always has its checksum unfinished; that says where its header is.
        let l4 = usize::from(offload.checksum?.0);
        let l3 = ip_offset(frame)?;
        let (source, destination, end) = match frame.get(l3)? >> 4 {
            4 => v4(frame, l3, l4, protocol)?,
            6 => v6(frame, l3, l4, protocol)?,
            _ => return None,
        };
        let header =
            if protocol == protocol::TCP { 4 * usize::from(frame.get(l4 + 12)? >> 4) } else { 8 };
        let least = if protocol == protocol::TCP { 20 } else { 8 };
        let payload = l4 + header;
        if header < least || payload > end || end > frame.len() {
            return None;
        }
        let size = size.into();
        Some(Self { l3, l4, payload, end, size, source, destination, protocol })
    }

    /// How many pieces there are: at least one, at most 65 535.
    pub(crate) fn count(&self) -> usize {
        (self.end - self.payload).div_ceil(self.size).max(1)
    }

    /// Writes piece `index` of `frame` to the front of `out` and returns its length.
    ///
    /// # Panics
    ///
    /// If there is no such piece, or `out` is shorter than `frame`: the caller's error.
    pub(crate) fn emit(&self, frame: &[u8], index: usize, out: &mut [u8]) -> usize {
        let start = self.payload + index * self.size;
        let data = &frame[start..self.end.min(start + self.size)];
        let length = self.payload + data.len();
        let out = &mut out[..length];
        out[..self.payload].copy_from_slice(&frame[..self.payload]);
        out[self.payload..].copy_from_slice(data);

        if out[self.l3] >> 4 == 4 {
            put(out, self.l3 + 2, low16(length - self.l3));
            let number = word(out, self.l3 + 4).wrapping_add(low16(index));
            put(out, self.l3 + 4, number);
            put(out, self.l3 + 10, 0);
            let header = usize::from(out[self.l3] & 15) * 4;
            let checksum = Sum::of(&out[self.l3..self.l3 + header]).checksum();
            put(out, self.l3 + 10, checksum);
        } else {
            put(out, self.l3 + 4, low16(length - self.l3 - 40));
        }

        let field = if self.protocol == protocol::TCP {
            self.emit_tcp(index, out);
            TCP_FIELD
        } else {
            put(out, self.l4 + 4, low16(length - self.l4));
            UDP_FIELD
        };
        let transport = u32::from(low16(length - self.l4));
        let pseudo = checksum::pseudo(self.source, self.destination, self.protocol, transport);
        put(out, self.l4 + usize::from(field), pseudo.fold());
        finish_checksum(out, (low16(self.l4), field));
        length
    }

    /// The sequence number of piece `index`; FIN and PSH on the last piece only, CWR on the first.
    fn emit_tcp(&self, index: usize, out: &mut [u8]) {
        const FIN_PSH: u8 = 0x09;
        const CWR: u8 = 0x80;
        let at = self.l4 + 4;
        let number = u32::from(word(out, at)) << 16 | u32::from(word(out, at + 2));
        let ahead = u32::try_from(index * self.size).expect("within 64 KB");
        out[at..at + 4].copy_from_slice(&number.wrapping_add(ahead).to_be_bytes());
        let flags = &mut out[self.l4 + 13];
        if index + 1 < self.count() {
            *flags &= !FIN_PSH;
        }
        if index > 0 {
            *flags &= !CWR;
        }
    }
}

/// Addresses and end of an IPv4 packet whose transport header, of `protocol`, is at `l4`.
fn v4(frame: &[u8], l3: usize, l4: usize, protocol: u8) -> Option<(Addr, Addr, usize)> {
    let header: &[u8; 20] = frame.get(l3..)?.first_chunk()?;
    if l3 + 4 * usize::from(header[0] & 15) != l4 || l4 < l3 + 20 || header[9] != protocol {
        return None;
    }
    let addr = |at: usize| Some(Addr::v4(u32::from_be_bytes(*header[at..].first_chunk()?)));
    Some((addr(12)?, addr(16)?, l3 + usize::from(word(header, 2))))
}

/// The same for IPv6, behind hop-by-hop, routing and destination options.
fn v6(frame: &[u8], l3: usize, l4: usize, protocol: u8) -> Option<(Addr, Addr, usize)> {
    let header: &[u8; 40] = frame.get(l3..)?.first_chunk()?;
    let (mut next, mut at) = (header[6], l3 + 40);
    while at < l4 && matches!(next, 0 | 43 | 60) {
        next = *frame.get(at)?;
        at += 8 * (usize::from(*frame.get(at + 1)?) + 1);
    }
    if (at, next) != (l4, protocol) {
        return None;
    }
    let addr = |at: usize| Some(Addr::v6(u128::from_be_bytes(*header[at..].first_chunk()?)));
    Some((addr(8)?, addr(24)?, l3 + 40 + usize::from(word(header, 4))))
}

/// Where the IP header of a frame starts, behind Ethernet and any VLAN tags; `None` if the frame
/// is not IP.
pub(crate) fn ip_offset(frame: &[u8]) -> Option<usize> {
    let mut at = 12;
    loop {
        match frame.get(at..at + 2)? {
            [0x08, 0x00] | [0x86, 0xdd] => return Some(at + 2),
            [0x81, 0x00] | [0x88, 0xa8] => at += 4,
            _ => return None,
        }
    }
}

fn word(octets: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([octets[at], octets[at + 1]])
}

fn put(octets: &mut [u8], at: usize, value: u16) {
    octets[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// A length or a count within one super-segment, which IP keeps within 16 bits.
#[expect(clippy::cast_possible_truncation, reason = "IP's length field bounds all of these")]
const fn low16(value: usize) -> u16 {
    value as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    /// A super-segment as a veth peer would hand it over, checksum field left with the pseudo sum.
    fn super_segment(v6: bool, tcp: bool, payload: &[u8], vlan: bool) -> (Vec<u8>, Offload) {
        let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = match (v6, vlan) {
            (false, false) => ethernet.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64),
            (true, false) => ethernet.ipv6([1; 16], [2; 16], 64),
            (v6, true) => {
                let tagged = ethernet.single_vlan(7.try_into().unwrap());
                if v6 {
                    tagged.ipv6([1; 16], [2; 16], 64)
                } else {
                    tagged.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
                }
            }
        };
        let mut frame = Vec::new();
        if tcp {
            let mut builder = ip.tcp(1000, 80, 0xffff_ff00, 1024).ack(5).psh().fin();
            builder = builder.options_raw(&[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
            builder.write(&mut frame, payload).unwrap();
        } else {
            ip.udp(1000, 53).write(&mut frame, payload).unwrap();
        }
        let l3 = if vlan { 18 } else { 14 };
        let l4 = l3 + if v6 { 40 } else { 20 };
        let (protocol, field) = if tcp { (protocol::TCP, 16) } else { (protocol::UDP, 6) };
        let (source, destination) = if v6 {
            (Addr::v6(u128::from_be_bytes([1; 16])), Addr::v6(u128::from_be_bytes([2; 16])))
        } else {
            (Addr::v4(0x0a00_0001), Addr::v4(0x0a00_0002))
        };
        let length = u32::try_from(frame.len() - l4).unwrap();
        let pseudo = checksum::pseudo(source, destination, protocol, length).fold();
        put(&mut frame, l4 + usize::from(field), pseudo);
        let start = u16::try_from(l4).unwrap();
        (frame, Offload { checksum: Some((start, field)), segment: Some((protocol, 1000)) })
    }

    /// Payload of a frame whose every length and checksum etherparse confirms, and its TCP header.
    fn judged(frame: &[u8]) -> (Vec<u8>, Option<etherparse::TcpHeader>) {
        let packet = SlicedPacket::from_ethernet(frame).unwrap();
        let (payload, tcp) = match (packet.net.unwrap(), packet.transport.unwrap()) {
            (etherparse::NetSlice::Ipv4(ip), transport) => {
                let header = ip.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                match transport {
                    TransportSlice::Tcp(tcp) => {
                        let sum =
                            tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination());
                        assert_eq!(tcp.checksum(), sum.unwrap());
                        (tcp.payload().to_vec(), Some(tcp.to_header()))
                    }
                    TransportSlice::Udp(udp) => {
                        let header = udp.to_header();
                        let sum =
                            header.calc_checksum_ipv4(&ip.header().to_header(), udp.payload());
                        assert_eq!(header.checksum, sum.unwrap());
                        (udp.payload().to_vec(), None)
                    }
                    other => panic!("{other:?}"),
                }
            }
            (etherparse::NetSlice::Ipv6(ip), transport) => {
                let header = ip.header().to_header();
                match transport {
                    TransportSlice::Tcp(tcp) => {
                        let sum = tcp.calc_checksum_ipv6(header.source, header.destination);
                        assert_eq!(tcp.checksum(), sum.unwrap());
                        (tcp.payload().to_vec(), Some(tcp.to_header()))
                    }
                    TransportSlice::Udp(udp) => {
                        let sum = udp.to_header().calc_checksum_ipv6(&header, udp.payload());
                        assert_eq!(udp.checksum(), sum.unwrap());
                        (udp.payload().to_vec(), None)
                    }
                    other => panic!("{other:?}"),
                }
            }
            other => panic!("{other:?}"),
        };
        (payload, tcp)
    }

    proptest! {
        #[test]
        fn pieces_are_valid_packets_that_carry_the_payload_in_order(
            payload in proptest::collection::vec(any::<u8>(), 1..8000),
            v6: bool, tcp: bool, vlan: bool,
        ) {
            let (frame, offload) = super_segment(v6, tcp, &payload, vlan);
            let segments = Segments::new(&frame, offload).unwrap();
            let count = segments.count();
            prop_assert_eq!(count, payload.len().div_ceil(1000));
            let mut out = vec![0xee; frame.len()];
            let mut whole = Vec::new();
            for index in 0..count {
                let length = segments.emit(&frame, index, &mut out);
                let (piece, tcp) = judged(&out[..length]);
                prop_assert!(index + 1 == count || piece.len() == 1000);
                if let Some(tcp) = tcp {
                    let ahead = u32::try_from(whole.len()).unwrap();
                    prop_assert_eq!(tcp.sequence_number, 0xffff_ff00u32.wrapping_add(ahead));
                    prop_assert_eq!((tcp.fin, tcp.psh, tcp.ack), (index + 1 == count, index + 1 == count, true));
                }
                whole.extend(piece);
            }
            prop_assert_eq!(whole, payload);
        }

        #[test]
        fn an_unfinished_checksum_is_finished(
            payload in proptest::collection::vec(any::<u8>(), 0..1400), v6: bool, tcp: bool,
        ) {
            let (mut frame, offload) = super_segment(v6, tcp, &payload, false);
            finish_checksum(&mut frame, offload.checksum.unwrap());
            prop_assert_eq!(judged(&frame).0, payload);
        }

        #[test]
        fn no_input_panics(
            mut frame in proptest::collection::vec(any::<u8>(), 0..200),
            header: [u8; HEADER], start in 0u16..220, v6: bool,
        ) {
            // Mostly what is nearly right: random frames hardly get past the ethertype.
            if let Some(head) = frame.first_chunk_mut::<15>() {
                head[12..].copy_from_slice(if v6 { &[0x86, 0xdd, 0x60] } else { &[8, 0, 0x45] });
            }
            let mut offload = Offload::parse(&header);
            offload.checksum = offload.checksum.map(|(_, field)| (start, field % 64));
            if let Some(segments) = Segments::new(&frame, offload) {
                let mut out = vec![0; frame.len()];
                for index in 0..segments.count() {
                    segments.emit(&frame, index, &mut out);
                }
            }
            if let Some(place) = offload.checksum {
                finish_checksum(&mut frame, place);
            }
        }
    }

    /// UDP says 0xffff for it, TCP 0, in pieces and in what is whole.
    #[test]
    fn a_checksum_of_zero_is_written_as_its_protocol_writes_it() {
        for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut payload = [7; 800];
            let finished = |payload: &[u8]| {
                let (mut frame, offload) = super_segment(v6, tcp, payload, false);
                let mut piece = vec![0; frame.len()];
                Segments::new(&frame, offload).unwrap().emit(&frame, 0, &mut piece);
                let (start, field) = offload.checksum.unwrap();
                finish_checksum(&mut frame, (start, field));
                assert_eq!(piece, frame);
                judged(&frame);
                word(&frame, usize::from(start + field))
            };
            let (was, new) = (finished(&payload), Sum::of(&payload[..2]));
            payload[..2].copy_from_slice(&new.word(was).fold().to_be_bytes());
            assert_eq!(finished(&payload), if tcp { 0 } else { 0xffff });
        }
    }

    #[test]
    fn congestion_is_reported_by_the_first_piece_only() {
        let (mut frame, offload) = super_segment(false, true, &[7; 2500], false);
        frame[14 + 20 + 13] |= 0x80;
        let segments = Segments::new(&frame, offload).unwrap();
        let mut out = vec![0; frame.len()];
        let cwr: Vec<bool> = (0..3)
            .map(|index| {
                let length = segments.emit(&frame, index, &mut out);
                judged(&out[..length]).1.unwrap().cwr
            })
            .collect();
        assert_eq!(cwr, [true, false, false]);
    }

    #[test]
    fn what_is_inside_a_tunnel_is_not_cut() {
        let (frame, mut offload) = super_segment(false, true, &[7; 2500], false);
        offload.checksum = Some((14 + 20 + 20, 16));
        assert_eq!(Segments::new(&frame, offload), None);
    }

    #[test]
    fn the_header_is_read_as_virtio_lays_it_out() {
        let mut header = [0; HEADER];
        header[0] = 1;
        header[1] = 4 | ECN;
        header[4..6].copy_from_slice(&1440u16.to_ne_bytes());
        header[6..8].copy_from_slice(&54u16.to_ne_bytes());
        header[8..10].copy_from_slice(&16u16.to_ne_bytes());
        let expected = Offload { checksum: Some((54, 16)), segment: Some((protocol::TCP, 1440)) };
        assert_eq!(Offload::parse(&header), expected);
        assert_eq!(expected.shifted(4).checksum, Some((58, 16)));
        assert_eq!(Offload::parse(&[0; HEADER]), Offload::default());
    }
}
