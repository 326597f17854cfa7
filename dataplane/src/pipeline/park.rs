//! Packets that wait for the link address of their next hop.
//!
//! Bounded: [`WAITING`] packets of up to [`FRAME`] octets for [`PATIENCE`]; a packet that finds no
//! room, or is longer, is dropped with its reason, one that waits in vain is counted. They leave
//! with the first snapshot that knows the address. Real servers and gateways are kept resolved by
//! control, so this is for clients on the link and for the first moments.

use arrayvec::ArrayVec;

use super::{Context, Outcome, Pipeline};
use crate::{
    addr::Addr,
    clock::{TICKS_PER_SECOND, Tick},
    packet::Packet,
    route::Path,
    verdict::{DeviceId, DropReason, Verdict},
};

/// Packets that wait at most.
const WAITING: usize = 32;

/// Octets of one at most.
const FRAME: usize = 2048;

/// How long one waits at most: 1 s.
const PATIENCE: u32 = TICKS_PER_SECOND;

/// One waiting packet.
#[derive(Debug)]
struct Waiting {
    /// The device it leaves through.
    device: DeviceId,
    /// Whose link address it needs.
    next_hop: Addr,
    /// Since when it waits.
    since: Tick,
    /// Its place in the memory.
    slot: usize,
    /// Its length.
    length: usize,
}

/// All waiting packets.
#[derive(Debug)]
pub(super) struct Parked {
    /// In the order in which they came.
    waiting: ArrayVec<Waiting, WAITING>,
    /// `WAITING` slots of `FRAME` octets.
    octets: Box<[u8]>,
}

impl Default for Parked {
    fn default() -> Self {
        Self { waiting: ArrayVec::new(), octets: vec![0; WAITING * FRAME].into_boxed_slice() }
    }
}

impl Parked {
    /// A slot that nothing waits in.
    fn free_slot(&self) -> Option<usize> {
        (0..WAITING).find(|&slot| self.waiting.iter().all(|waiting| waiting.slot != slot))
    }
}

impl Pipeline {
    /// Asks control for the link address of a path's next hop.
    pub(super) fn want(&self, path: &Path) {
        // A full queue means that control is busy resolving; the next packet asks again.
        self.resolve.try_send((path.device, path.next_hop)).ok();
    }

    /// Keeps a rewritten packet until its next hop is known.
    #[cold]
    pub(super) fn park(&mut self, cx: &Context<'_>, packet: &Packet<'_>, path: &Path) -> Outcome {
        self.want(path);
        self.expire_parked(cx.now);
        let length = packet.len();
        let Some(slot) = self.parked.free_slot().filter(|_| length <= FRAME) else {
            return Err(DropReason::NextHopUnresolved);
        };
        self.parked.octets[slot * FRAME..][..length].copy_from_slice(packet.bytes());
        self.parked.waiting.push(Waiting {
            device: path.device,
            next_hop: path.next_hop,
            since: cx.now,
            slot,
            length,
        });
        Ok(Verdict::Consumed)
    }

    /// Lets those go whose next hop a new snapshot knows.
    pub(super) fn release_parked(&mut self, cx: &Context<'_>) {
        self.expire_parked(cx.now);
        let Self { parked, outbox, .. } = self;
        let Parked { waiting, octets } = parked;
        waiting.retain(|packet| {
            let path = cx.snapshot.routes.path(packet.next_hop);
            let known = path.resolved && path.device == packet.device;
            if known {
                let frame = &octets[packet.slot * FRAME..][..packet.length];
                outbox.push(packet.device, |slot| {
                    let slot = slot.get_mut(..frame.len())?;
                    slot.copy_from_slice(frame);
                    slot[..6].copy_from_slice(&path.destination);
                    slot[6..12].copy_from_slice(&path.source);
                    Some(frame.len())
                });
            }
            !known
        });
    }

    /// Gives up those that have waited too long.
    pub(super) fn expire_parked(&mut self, now: Tick) {
        let before = self.parked.waiting.len();
        self.parked.waiting.retain(|packet| now.since(packet.since) < PATIENCE);
        self.stats.work.parked_lost.add((before - self.parked.waiting.len()) as u64);
    }
}
