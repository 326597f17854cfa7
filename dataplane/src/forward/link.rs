//! The link header: the last thing that is written.

use crate::{
    packet::Packet,
    route::Path,
    verdict::DropReason,
    wire::ethernet::{self, Header},
};

/// Replaces the link header in front of offset `l3`, with its tags if it has some, by an untagged
/// one for the path's next hop.
#[inline]
pub(super) fn replace(
    packet: &mut Packet<'_>,
    l3: u16,
    path: &Path,
    ethertype: u16,
) -> Result<(), DropReason> {
    packet.strip(usize::from(l3))?;
    write(packet.prepend()?, path, ethertype);
    Ok(())
}

/// Writes an untagged link header for the path's next hop.
#[inline]
pub(super) fn write(out: &mut [u8; ethernet::LEN], path: &Path, ethertype: u16) {
    Header { source: path.source, destination: path.destination, ethertype }.emit(out);
}
