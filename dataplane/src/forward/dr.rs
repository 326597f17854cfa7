//! Direct routing: the packet goes on as it is, to the real server's link address.
//!
//! The real server has the VIP on an interface that does not answer ARP, and answers the client
//! directly, so nothing comes back through us.

use super::{Forward, Job, link};
use crate::{packet::Packet, verdict::DropReason};

/// IPVS gatewaying, `-g`.
#[derive(Debug)]
pub(super) struct Dr;

impl Forward for Dr {
    #[inline]
    fn to_real(packet: &mut Packet<'_>, job: &Job<'_>) -> Result<(), DropReason> {
        link::replace(packet, job.parsed.l3, job.path, job.parsed.ethertype)
    }
}
