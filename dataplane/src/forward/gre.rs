//! GRE: the packet travels whole behind an outer IP header and a GRE header.
//!
//! | Ethernet 14 | outer IP | GRE 4, with checksum 8 | client's IP packet, untouched |
//!
//! Source: RFC 2784; Linux `ip_vs_xmit.c`, `ipvs_gre_encap`.

use super::{Forward, Job, TUNNEL_CHECKSUM, outer};
use crate::{
    packet::Packet,
    verdict::DropReason,
    wire::{gre, protocol},
};

/// IPVS tunnelling, `-i --tun-type gre`.
#[derive(Debug)]
pub(super) struct Gre;

/// Octets between the outer IP header and the client's packet.
pub(super) const fn overhead(tunnel: u32) -> usize {
    if tunnel & TUNNEL_CHECKSUM != 0 { gre::LEN_CHECKSUM } else { gre::LEN }
}

impl Forward for Gre {
    fn to_real(packet: &mut Packet<'_>, job: &Job<'_>) -> Result<(), DropReason> {
        let inherited = outer::unwrap(packet, &job.tunnel())?;
        let header = gre::Header { ethertype: job.parsed.ethertype };
        if job.real.tunnel() & TUNNEL_CHECKSUM != 0 {
            header.emit_with_checksum(packet.prepend()?);
            gre::seal(packet.bytes_mut());
        } else {
            header.emit(packet.prepend()?);
        }
        outer::wrap(packet, &job.tunnel(), protocol::GRE, inherited)
    }
}
