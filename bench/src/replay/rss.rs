//! Which worker a frame comes to: as a NIC's receive-side scaling would have it.
//!
//! The hash is **not** symmetric, and it sees what is on the wire: requests to the VIP and replies from a
//! real server differ in their addresses, so the two directions of a flow may meet different workers.
//! Fragments and ICMP are spread by addresses alone, as NICs do.

use dataplane::{
    rng::Rng,
    wire::frame::{Kind, parse},
};

/// The worker, of `workers`, that takes `frame`; what is no IP goes to the first.
pub(super) fn worker(frame: &[u8], workers: usize) -> usize {
    let Ok(parsed) = parse(frame) else { return 0 };
    let ports = match parsed.kind {
        Kind::Flow => (parsed.key.source_port, parsed.key.destination_port),
        Kind::NotIp => return 0,
        _ => (0, 0),
    };
    let ends = [parsed.key.source.bits(), parsed.key.destination.bits()];
    let ports = u64::from(ports.0) << 16 | u64::from(ports.1);
    let words = ends.into_iter().flat_map(|bits| [bits >> 64, bits]);
    let hash = words.fold(ports, mix);
    usize::try_from(hash >> 33).unwrap_or(0) % workers.max(1)
}

/// One step of the hash: the generator's own mixing.
#[expect(clippy::cast_possible_truncation, reason = "words are 64 bits wide")]
const fn mix(hash: u64, word: u128) -> u64 {
    Rng::from_seed(hash ^ word as u64).next_u64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    #[test]
    fn flows_spread_and_their_two_directions_part() {
        let (mut counts, mut apart) = ([0; 4], 0);
        for port in 0..1000u16 {
            let frame = |from: ([u8; 4], u16), to: ([u8; 4], u16)| {
                let mut frame = Vec::new();
                let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from.0, to.0, 64);
                builder.udp(from.1, to.1).write(&mut frame, b"x").unwrap();
                frame
            };
            let (client, vip) = (([10, 9, 0, 7], 1024 + port), ([10, 0, 0, 1], 53));
            let request = worker(&frame(client, vip), 4);
            assert_eq!(request, worker(&frame(client, vip), 4));
            counts[request] += 1;
            apart += usize::from(request != worker(&frame(vip, client), 4));
        }
        assert!(counts.iter().all(|&count| count > 150), "{counts:?}");
        assert!(apart > 500, "{apart}");
        assert_eq!(worker(b"", 4), 0);
    }
}
