//! IP in IP: the packet travels whole behind an outer IP header.
//!
//! | Ethernet 14 | outer IPv4 20 or IPv6 40 | client's IP packet, untouched |
//!
//! The real server unwraps it and answers the client directly, so nothing comes back through us.
//! Source: RFC 2003; IPv6 inside: RFC 4213; IPv6 outside: RFC 2473.

use super::{Forward, Job};
use crate::{packet::Packet, verdict::DropReason};

/// IPVS tunnelling, `-i`.
#[derive(Debug)]
pub(super) struct Ipip;

impl Forward for Ipip {
    #[inline]
    fn to_real(packet: &mut Packet<'_>, job: &Job<'_>) -> Result<(), DropReason> {
        super::ipip(packet, job.tunnel())
    }
}
