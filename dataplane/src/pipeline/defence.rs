//! The defence against floods: `drop_entry`, `drop_packet`, `secure_tcp`.
//!
//! Once a second, and with each new configuration, a look decides whether room is short. The
//! kernel asks how many pages of memory are free; our table has a fixed size and takes no memory
//! while it works, so here it is how many of its slots are free. Less than `amemthresh` is short.
//! Then the automatic modes are in force; mode 3 always is.
//!
//! | setting | in force |
//! | --- | --- |
//! | `drop_packet` | one packet in so many that would open a flow is dropped: by mode 3 one in `am_droprate`, by the automatic modes one in `amemthresh` divided by what is missing to it |
//! | `drop_entry` | each second a 32nd of the slots is looked at, at random: half-open flows go, of those that were silent for a minute and had at most eight packets the more the fewer they had, templates that were never confirmed go |
//! | `secure_tcp` | TCP flows are believed only once the real server has acknowledged something |
//!
//! Every worker does its share of this by itself; together they look at as many slots as the kernel
//! does. The kernel looks at buckets and walks their chains, which comes to the same.
//! Source: Linux `net/netfilter/ipvs/ip_vs_ctl.c`, `update_defense_level`; `ip_vs_conn.c`,
//! `ip_vs_random_dropentry`, `todrop_entry`; `include/net/ip_vs.h`, `ip_vs_todrop`.

use super::{Context, Pipeline, housekeep::Settle};
use crate::{
    clock::{TICKS_PER_SECOND, Tick},
    flow::{Direction, Entry, SHED_MAX, flag::TEMPLATE, sctp, tcp},
    wire::protocol,
};

/// One in so many slots is looked at each second.
const SHARE: usize = 32;
/// Seconds that a flow must have been silent before it may be dropped.
const SILENT_S: u32 = 60;
/// Packets that a flow may have had at most to be dropped.
const PACKETS_MAX: usize = 8;

/// What one worker does against floods.
#[derive(Debug, Default)]
pub(super) struct Defence {
    /// Whether TCP's stricter table is in force.
    secure_tcp: bool,
    /// Whether entries are dropped.
    drop_entry: bool,
    /// One packet in so many is dropped; 0: none.
    drop_rate: u32,
    /// Packets until the next one that is dropped.
    drop_counter: u32,
    /// When the level was last decided.
    looked: Tick,
    /// Slots still to be looked at in this second.
    left: usize,
    /// For each number of packets: flows until the next one that is dropped.
    spared: [u8; PACKETS_MAX + 1],
}

impl Defence {
    /// Whether TCP's stricter table is in force.
    #[inline]
    pub(super) const fn secure_tcp(&self) -> bool {
        self.secure_tcp
    }

    /// Decides the level: once a second, and whenever a setting may have changed.
    #[cold]
    pub(super) fn look(&mut self, cx: &Context<'_>) {
        let settings = &cx.snapshot.settings;
        let free = cx.table.capacity().saturating_sub(cx.table.len());
        let free = u32::try_from(free).unwrap_or(u32::MAX);
        let missing = settings.amemthresh.saturating_sub(free);
        let short = missing != 0;
        cx.stats.work.room_short.set(u64::from(short));
        self.looked = cx.now;
        self.secure_tcp = settings.secure_tcp.in_force(short);
        self.drop_entry = settings.drop_entry.in_force(short);
        match settings.drop_packet.0 {
            0 => self.drop_rate = 0,
            1 | 2 => {
                self.drop_rate = settings.amemthresh.checked_div(missing).unwrap_or(0);
                self.drop_counter = self.drop_rate;
            }
            _ => self.drop_rate = settings.am_droprate,
        }
    }

    /// Whether packets that would open a flow are dropped now and then.
    pub(super) const fn may_drop_packets(&self) -> bool {
        self.drop_rate != 0
    }

    /// Whether this packet, which would open a flow, is to be dropped.
    pub(super) const fn drops_packet(&mut self) -> bool {
        if self.drop_rate == 0 {
            return false;
        }
        self.drop_counter = self.drop_counter.saturating_sub(1);
        if self.drop_counter > 0 {
            return false;
        }
        self.drop_counter = self.drop_rate;
        true
    }

    /// Whether a flow is to be dropped.
    fn drops_entry(&mut self, cx: &Context<'_>, flow: &Entry) -> bool {
        let control = flow.control();
        if control.has(TEMPLATE) {
            return flow.controlled() == 0 && self.drops_template(cx, flow);
        }
        let state = control.state();
        let established = match flow.protocol() {
            protocol::TCP => tcp::State::Established as u8,
            protocol::SCTP => sctp::State::Established as u8,
            _ => return self.drops_quiet(cx, flow),
        };
        let half_open = match flow.protocol() {
            protocol::TCP => [tcp::State::SynRecv as u8, tcp::State::SynAck as u8],
            _ => [sctp::State::Init1 as u8, sctp::State::Init as u8],
        };
        half_open.contains(&state) || state == established && self.drops_quiet(cx, flow)
    }

    /// Whether a template on which nothing hangs is to be dropped: unless it was confirmed, or is
    /// of a service that schedules every datagram by itself and was used lately.
    fn drops_template(&self, cx: &Context<'_>, template: &Entry) -> bool {
        let virt = template.virt();
        let services = &cx.snapshot.services;
        let one_packet = services.iter().any(|s| s.endpoint == virt && s.one_packet);
        if one_packet { is_silent(cx, template) } else { template.control().state() == 0 }
    }

    /// Whether a flow that was silent for long is to be dropped: the more likely the fewer packets
    /// it had.
    fn drops_quiet(&mut self, cx: &Context<'_>, flow: &Entry) -> bool {
        let packets = usize::try_from(flow.packets(Direction::ToReal)).unwrap_or(usize::MAX);
        if packets == 0 || packets > PACKETS_MAX || !is_silent(cx, flow) {
            return false;
        }
        let spared = &mut self.spared[packets];
        *spared = spared.saturating_sub(1);
        if *spared > 0 {
            return false;
        }
        *spared = u8::try_from(packets).unwrap_or(u8::MAX);
        true
    }
}

/// Whether a flow had no packet for a minute.
fn is_silent(cx: &Context<'_>, flow: &Entry) -> bool {
    cx.now.since(flow.seen()) >= SILENT_S * TICKS_PER_SECOND
}

impl Pipeline {
    /// A turn's share of the defence. Whether nothing is left to do before the next second.
    pub(super) fn defend(&mut self, cx: &Context<'_>) -> bool {
        if cx.now.since(self.defence.looked) >= TICKS_PER_SECOND {
            self.defence.look(cx);
            let share = (cx.table.highest_slot() as usize).div_ceil(SHARE * cx.table.workers());
            self.defence.left = if self.defence.drop_entry { share } else { 0 };
        }
        if self.defence.left > 0 {
            self.sacrifice(cx);
        }
        self.defence.left == 0
    }

    /// Looks at some slots at random and drops the flows in them that can be spared.
    #[cold]
    fn sacrifice(&mut self, cx: &Context<'_>) {
        let count = self.defence.left.min(SHED_MAX);
        self.defence.left -= count;
        let (rng, defence) = (&mut self.rng, &mut self.defence);
        let highest = u64::from(cx.table.highest_slot());
        let slot = |_| u32::try_from(1 + rng.below(highest)).unwrap_or(1);
        let slots = (0..count).map(slot);
        let judge = |flow: &Entry| defence.drops_entry(cx, flow);
        let shed = self.table.shed(slots, cx.endpoints, judge, &mut Settle(cx));
        cx.stats.work.flows_sacrificed.add(shed as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_packet_in_so_many_is_dropped_and_the_first_of_all() {
        let mut defence = Defence { drop_rate: 10, ..Defence::default() };
        let dropped: Vec<_> = (0..30).filter(|_| defence.drops_packet()).collect();
        assert_eq!(dropped, [0, 10, 20]);
        let mut none = Defence::default();
        assert!((0..30).all(|_| !none.drops_packet()));
    }
}
