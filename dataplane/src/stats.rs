//! Counters: written by one worker each, read by control at any time.
//!
//! A worker owns a [`WorkerStats`]; nobody else writes it, so a counter is bumped by a plain load
//! and store. Control sums over the workers. Per device, received = transmitted + host +
//! consumed + dropped, always: every packet is settled once, by the device that acted on its
//! verdict.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::{
    endpoint::EndpointId,
    flow::Direction,
    spec::Counters,
    verdict::{DeviceId, DropReason, Verdict},
};

/// Devices a worker can have: an interface's number fits below 16, [`DeviceId::HOST`] comes last.
pub const DEVICES: usize = DeviceId::HOST.0 as usize + 1;

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`. The owning worker only.
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    /// Raises it to `value` if that is more. The owning worker only.
    #[inline]
    pub fn raise(&self, value: u64) {
        if value > self.get() {
            self.set(value);
        }
    }

    /// Its value.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Replaces its value. The owning worker only.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }
}

/// What one device of one worker has seen.
#[derive(Debug)]
#[repr(align(64))]
pub struct DeviceStats {
    /// Packets received.
    pub received: Counter,
    /// Octets received, from the Ethernet header on.
    pub received_octets: Counter,
    /// Received packets that were sent on, here or through another device.
    pub transmitted: Counter,
    /// Received packets that went to the host.
    pub host: Counter,
    /// Received packets that were answered or kept.
    pub consumed: Counter,
    /// Received packets that were dropped, by reason.
    pub dropped: [Counter; DropReason::COUNT],
    /// Packets sent that we made ourselves: answers, fragments, errors.
    pub originated: Counter,
    /// Packets of ours that found no room.
    pub originated_lost: Counter,
    /// Packets that the kernel dropped before the worker saw them, as it was too slow; not among those
    /// received.
    pub missed: Counter,
}

impl Default for DeviceStats {
    fn default() -> Self {
        Self {
            received: Counter::default(),
            received_octets: Counter::default(),
            transmitted: Counter::default(),
            host: Counter::default(),
            consumed: Counter::default(),
            dropped: std::array::from_fn(|_| Counter::default()),
            originated: Counter::default(),
            originated_lost: Counter::default(),
            missed: Counter::default(),
        }
    }
}

impl DeviceStats {
    /// Counts a packet that came in with `octets` and what became of it.
    #[inline]
    pub fn settle(&self, octets: usize, verdict: Verdict) {
        self.received.add(1);
        self.received_octets.add(octets as u64);
        match verdict {
            Verdict::Tx(_) => self.transmitted.add(1),
            Verdict::Host => self.host.add(1),
            Verdict::Consumed => self.consumed.add(1),
            Verdict::Drop(reason) => self.dropped[reason as usize].add(1),
        }
    }

    /// Packets dropped for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().map(Counter::get).sum()
    }
}

/// One worker's share of a real server's counters.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct EndpointStats {
    /// Connections scheduled.
    pub conns: Counter,
    /// TCP connections accepted, where replies pass through us.
    pub accepted: Counter,
    /// TCP connections refused, or whose client had to repeat its SYN.
    pub failed: Counter,
    /// Packets from clients and to clients: by [`Direction`].
    packets: [Counter; 2],
    /// Their octets.
    octets: [Counter; 2],
}

impl EndpointStats {
    /// IPVS's five.
    fn counters(&self) -> Counters {
        Counters {
            conns: self.conns.get(),
            in_packets: self.packets[0].get(),
            out_packets: self.packets[1].get(),
            in_bytes: self.octets[0].get(),
            out_bytes: self.octets[1].get(),
        }
    }

    /// Counts a packet.
    #[inline]
    pub fn count(&self, direction: Direction, octets: u64) {
        self.packets[direction as usize].add(1);
        self.octets[direction as usize].add(octets);
    }

    /// Counts a packet from the client.
    #[inline]
    pub fn count_in(&self, octets: u64) {
        self.count(Direction::ToReal, octets);
    }

    /// Counts a packet to the client.
    #[inline]
    pub fn count_out(&self, octets: u64) {
        self.count(Direction::ToClient, octets);
    }
}

/// What a worker's pipeline and loop have done.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct WorkStats {
    /// Turns of the loop.
    pub turns: Counter,
    /// Turns that found no packet.
    pub idle_turns: Counter,
    /// Times the worker slept.
    pub sleeps: Counter,
    /// The longest turn so far, in nanoseconds: a burst, its transmission, housekeeping.
    pub longest_turn: Counter,
    /// The longest that putting a snapshot in force took so far, in nanoseconds; part of its turn.
    pub longest_adoption: Counter,
    /// Flows created.
    pub flows_created: Counter,
    /// Flows expired.
    pub flows_expired: Counter,
    /// Flows refused because the table or a quota was full.
    pub flows_refused: Counter,
    /// Flows that the drop_entry defence ended before their time.
    pub flows_sacrificed: Counter,
    /// 1 while fewer slots of the flow table are free than `amemthresh`, else 0.
    pub room_short: Counter,
    /// Generation of the snapshot in force.
    pub generation: Counter,
    /// Datagrams given up because their fragments did not all come in time, or displaced by others.
    pub datagrams_lost: Counter,
    /// Packets that waited for a next hop in vain.
    pub parked_lost: Counter,
    /// Packets of full NAT that should have told the client's address and had no room for it.
    pub clients_untold: Counter,
    /// Answers not sent because the rate limit was reached.
    pub answers_suppressed: Counter,
}

/// All counters of one worker.
#[derive(Debug)]
pub struct WorkerStats {
    /// By device.
    pub devices: [DeviceStats; DEVICES],
    /// By endpoint id.
    endpoints: Box<[EndpointStats]>,
    /// Of the worker itself.
    pub work: WorkStats,
}

impl WorkerStats {
    /// Counters for as many endpoints as the box has.
    pub fn new(endpoints: usize) -> Self {
        Self {
            devices: std::array::from_fn(|_| DeviceStats::default()),
            endpoints: (0..endpoints.max(1)).map(|_| EndpointStats::default()).collect(),
            work: WorkStats::default(),
        }
    }

    /// The counters of all real servers, by endpoint id.
    #[inline]
    pub const fn endpoints(&self) -> &[EndpointStats] {
        &self.endpoints
    }

    /// The counters of a real server; those of endpoint 0 for an id out of range.
    #[inline]
    pub fn endpoint(&self, id: EndpointId) -> &EndpointStats {
        self.endpoints.get(id.0 as usize).unwrap_or(&self.endpoints[0])
    }

    /// What it counted over all real servers, since the start of the process.
    pub fn total(&self) -> Counters {
        self.endpoints.iter().fold(Counters::default(), |sum, each| sum.plus(each.counters()))
    }

    /// The counters of a device; those of device 0 for a number out of range.
    #[inline]
    pub fn device(&self, id: DeviceId) -> &DeviceStats {
        self.devices.get(usize::from(id.0)).unwrap_or(&self.devices[0])
    }
}

/// The counters of all workers.
#[derive(Clone, Debug)]
pub struct Stats(Arc<[Arc<WorkerStats>]>);

impl Stats {
    /// Counters for `workers` workers, each with room for `endpoints` endpoints.
    pub fn new(workers: usize, endpoints: usize) -> Self {
        Self((0..workers.max(1)).map(|_| Arc::new(WorkerStats::new(endpoints))).collect())
    }

    /// One worker's counters.
    pub fn worker(&self, number: usize) -> &Arc<WorkerStats> {
        &self.0[number]
    }

    /// All workers' counters.
    pub fn workers(&self) -> &[Arc<WorkerStats>] {
        &self.0
    }

    /// A real server's counters over all workers, since the start of the process.
    pub fn endpoint(&self, id: EndpointId) -> Counters {
        let workers = self.0.iter().map(|worker| worker.endpoint(id));
        workers.fold(Counters::default(), |sum, each| sum.plus(each.counters()))
    }

    /// TCP connections that a real server accepted, and those that it refused or did not answer, over
    /// all workers, since the start of the process. Of those whose replies pass through us.
    pub fn answers(&self, id: EndpointId) -> (u64, u64) {
        let workers = self.0.iter().map(|worker| worker.endpoint(id));
        workers.fold((0, 0), |(accepted, failed), each| {
            (accepted + each.accepted.get(), failed + each.failed.get())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verdict_is_counted_once_and_the_sum_closes() {
        let stats = DeviceStats::default();
        for verdict in [
            Verdict::Tx(DeviceId(1)),
            Verdict::Host,
            Verdict::Consumed,
            Verdict::Drop(DropReason::Truncated),
            Verdict::Drop(DropReason::TooBig),
        ] {
            stats.settle(60, verdict);
        }
        assert_eq!(stats.received.get(), 5);
        assert_eq!(stats.received_octets.get(), 300);
        let sum = stats.transmitted.get()
            + stats.host.get()
            + stats.consumed.get()
            + stats.dropped_total();
        assert_eq!(sum, 5);
    }

    #[test]
    fn counters_of_the_workers_add_up() {
        let stats = Stats::new(2, 8);
        stats.worker(0).endpoint(EndpointId(3)).count_in(100);
        stats.worker(1).endpoint(EndpointId(3)).count_in(50);
        stats.worker(1).endpoint(EndpointId(3)).count_out(7);
        let sum = stats.endpoint(EndpointId(3));
        assert_eq!((sum.in_packets, sum.in_bytes, sum.out_bytes), (2, 150, 7));
    }
}
