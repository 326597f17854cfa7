//! Fragments on their way into the store and, as whole datagrams, out of it.

use super::{Context, Met, Outcome, Pipeline};
use crate::{
    addr::Family,
    fragment::{Gathered, Piece},
    outbox::FRAME,
    packet::Packet,
    verdict::{DeviceId, DropReason, Verdict},
    wire::{
        extension,
        frame::{self, Parsed},
    },
};

impl Pipeline {
    /// A fragment: kept, or the last one of a datagram that is then treated as one packet. Its
    /// verdict is that of the datagram.
    #[cold]
    pub(super) fn gather(
        &mut self,
        cx: &Context<'_>,
        packet: &mut Packet<'_>,
        parsed: &Parsed,
    ) -> Outcome {
        let ours = cx.snapshot.is_vip(parsed.key.destination)
            || cx.snapshot.local_addrs.contains(&parsed.key.destination)
            || cx.snapshot.nat_addrs.contains(&parsed.key.source);
        if !ours {
            return Ok(Verdict::Host);
        }
        let piece = piece(packet, parsed).ok_or(DropReason::BadFragment)?;
        // The store is taken out while the rest of the pipeline works on what it lends.
        let mut fragments = self.fragments.take().ok_or(DropReason::BadFragment)?;
        let outcome = match fragments.gather(&piece, cx.now) {
            Ok(Gathered::Kept) => Ok(Verdict::Consumed),
            Ok(Gathered::Whole(slot)) => self.whole(cx, packet.device, fragments.take(slot)),
            Err(reason) => Err(reason),
        };
        cx.stats.work.datagrams_lost.set(fragments.lost);
        self.fragments = Some(fragments);
        outcome
    }

    /// A datagram put together: memory, start, end and longest fragment.
    fn whole(
        &mut self,
        cx: &Context<'_>,
        device: DeviceId,
        (memory, start, end, longest): (&mut [u8], usize, usize, u16),
    ) -> Outcome {
        let mut datagram = Packet::new(memory, start, end, device);
        let outcome = match frame::parse(datagram.bytes()) {
            Ok(parsed) => self.single(cx, &mut datagram, Met { parsed: &parsed, longest }),
            Err(reason) => Err(reason),
        };
        match outcome {
            Ok(Verdict::Host) if device == DeviceId::HOST => Err(DropReason::NoDestination),
            Ok(Verdict::Host | Verdict::Tx(DeviceId::HOST)) if datagram.len() > FRAME => {
                self.send_pieces(DeviceId::HOST, datagram.bytes(), longest)
            }
            // The other pieces are used up: what the host gets is the whole.
            Ok(verdict @ (Verdict::Host | Verdict::Tx(_))) => {
                let device = match verdict {
                    Verdict::Tx(device) => device,
                    _ => DeviceId::HOST,
                };
                let frame = datagram.bytes();
                let sent = self.outbox.push(device, |slot| {
                    slot.get_mut(..frame.len())?.copy_from_slice(frame);
                    Some(frame.len())
                });
                if sent { Ok(Verdict::Consumed) } else { Err(DropReason::TxRingFull) }
            }
            other => other,
        }
    }
}

/// Where things are in a fragment; `None` if they are not.
fn piece<'a>(packet: &'a Packet<'_>, parsed: &Parsed) -> Option<Piece<'a>> {
    let frame = packet.bytes();
    let (l3, l4, end) = (usize::from(parsed.l3), usize::from(parsed.l4), usize::from(parsed.end));
    let common = Piece {
        header: frame.get(..l4)?,
        l3,
        next_header_at: None,
        source: parsed.key.source,
        destination: parsed.key.destination,
        id: 0,
        protocol: parsed.key.protocol,
        offset: 0,
        more: false,
        dont_fragment: false,
        data: frame.get(l4..end)?,
        device: packet.device,
    };
    let word = |at: usize| {
        let octets: [u8; 2] = frame.get(at..at + 2)?.try_into().ok()?;
        Some(u16::from_be_bytes(octets))
    };
    match parsed.family {
        Family::V4 => {
            let field = word(l3 + 6)?;
            Some(Piece {
                id: u32::from(word(l3 + 4)?),
                offset: usize::from(field & 0x1fff) * 8,
                more: field & 0x2000 != 0,
                dont_fragment: field & 0x4000 != 0,
                ..common
            })
        }
        Family::V6 => {
            let field = word(l4 + 2)?;
            Some(Piece {
                id: u32::from(word(l4 + 4)?) << 16 | u32::from(word(l4 + 6)?),
                offset: usize::from(field & 0xfff8),
                more: field & 1 != 0,
                next_header_at: Some(names_fragment(frame, l3, l4)?),
                data: frame.get(l4 + extension::FRAGMENT_LEN..end)?,
                ..common
            })
        }
    }
}

/// Offset of the octet that names the fragment header at `l4`.
fn names_fragment(frame: &[u8], l3: usize, l4: usize) -> Option<usize> {
    let (mut names, mut at) = (l3 + 6, l3 + 40);
    while at < l4 {
        names = at;
        at += 8 * (1 + usize::from(*frame.get(at + 1)?));
    }
    (at == l4).then_some(names)
}
