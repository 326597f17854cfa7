//! What a replay found out.

use std::{collections::BTreeMap, io::Write};

use serde::Serialize;

/// One or more captures, replayed.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// Captures.
    pub(super) files: u64,
    /// Files below a folder that are no captures.
    pub(super) others: u64,
    /// Packets in the captures.
    pub(super) packets: u64,
    /// Captures that end in the middle of a record or are broken somewhere.
    pub(super) incomplete_files: u64,
    /// Packets of which the capture holds only the start.
    pub(super) cut_packets: u64,
    /// IPv4 header checksums that the capturing host had left to its hardware.
    pub(super) finished_checksums: u64,
    /// Packets of link types in which no IP is looked for, by the type's number.
    pub(super) foreign_link_types: BTreeMap<u32, u64>,
    /// Packets played, over all passes.
    pub(super) played: u64,
    pub(super) verdicts: Verdicts,
    /// Packets that the load balancer made itself.
    pub(super) originated: u64,
    pub(super) flows: Flows,
    pub(super) services: Vec<Service>,
    pub(super) time: Time,
}

/// What became of the packets played.
#[derive(Debug, Default, Serialize)]
pub(super) struct Verdicts {
    pub(super) transmitted: u64,
    pub(super) host: u64,
    pub(super) consumed: u64,
    /// By reason; reasons that did not occur are left out.
    pub(super) dropped: BTreeMap<&'static str, u64>,
}

impl Verdicts {
    fn total(&self) -> u64 {
        self.transmitted + self.host + self.consumed + self.dropped.values().sum::<u64>()
    }
}

/// Flows.
#[derive(Debug, Default, Serialize)]
pub(super) struct Flows {
    pub(super) created: u64,
    pub(super) expired: u64,
    /// At the end.
    pub(super) live: u64,
    /// For want of room.
    pub(super) refused: u64,
}

/// A service and how its flows were spread.
#[derive(Debug, Serialize)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) scheduler: String,
    pub(super) reals: Vec<Real>,
}

/// A real server's share.
#[derive(Debug, Serialize)]
pub(super) struct Real {
    pub(super) name: String,
    pub(super) flows: u64,
    pub(super) in_packets: u64,
    pub(super) out_packets: u64,
}

/// How long the pipeline took. Differs from run to run.
#[derive(Debug, Default, Serialize)]
pub(super) struct Time {
    pub(super) ns_per_packet: f64,
    /// Nanoseconds of a burst: median and 99th percentile.
    pub(super) burst_ns_p50: u64,
    pub(super) burst_ns_p99: u64,
    pub(super) packets_per_burst: f64,
    /// Nanoseconds of every burst.
    #[serde(skip)]
    pub(super) bursts: Vec<u64>,
}

impl Report {
    /// Adds another capture.
    pub(super) fn add(&mut self, other: Self) {
        self.files += other.files;
        self.packets += other.packets;
        self.incomplete_files += other.incomplete_files;
        self.cut_packets += other.cut_packets;
        self.finished_checksums += other.finished_checksums;
        for (link, count) in other.foreign_link_types {
            *self.foreign_link_types.entry(link).or_insert(0) += count;
        }
        self.played += other.played;
        self.verdicts.transmitted += other.verdicts.transmitted;
        self.verdicts.host += other.verdicts.host;
        self.verdicts.consumed += other.verdicts.consumed;
        for (reason, count) in other.verdicts.dropped {
            *self.verdicts.dropped.entry(reason).or_insert(0) += count;
        }
        self.originated += other.originated;
        self.flows.created += other.flows.created;
        self.flows.expired += other.flows.expired;
        self.flows.live += other.flows.live;
        self.flows.refused += other.flows.refused;
        self.services.extend(other.services);
        self.time.bursts.extend(other.time.bursts);
        self.time.summarise(self.played);
    }

    /// Whether every packet played ended in one verdict.
    pub(super) fn conserved(&self) -> bool {
        self.verdicts.total() == self.played
    }

    /// In one line, for one capture of many.
    pub(super) fn line(&self) -> String {
        let drops: Vec<_> = self
            .verdicts
            .dropped
            .iter()
            .map(|(reason, count)| format!(" {reason} {count}"))
            .collect();
        format!(
            "{} packets: sent {}, host {}, consumed {}, dropped{}; {} flows",
            self.packets,
            self.verdicts.transmitted,
            self.verdicts.host,
            self.verdicts.consumed,
            if drops.is_empty() { " 0".to_owned() } else { drops.concat() },
            self.flows.created,
        )
    }

    /// All of it, for people; the last line counts files and packets.
    pub(super) fn print(&self, out: &mut dyn Write) -> std::io::Result<()> {
        for (link, count) in &self.foreign_link_types {
            writeln!(
                out,
                "{count} packets of link type {link}, which is not read: no IP, the host's"
            )?;
        }
        if self.cut_packets > 0 {
            writeln!(out, "{} packets are cut in the capture", self.cut_packets)?;
        }
        if self.finished_checksums > 0 {
            let count = self.finished_checksums;
            writeln!(out, "{count} IPv4 header checksums, left to hardware, were finished")?;
        }
        if self.incomplete_files > 0 {
            writeln!(
                out,
                "{} captures are incomplete: what is whole was read",
                self.incomplete_files
            )?;
        }
        let Verdicts { transmitted, host, consumed, dropped } = &self.verdicts;
        writeln!(out, "received {}", self.played)?;
        writeln!(out, "  sent {transmitted}")?;
        writeln!(out, "  to the host {host}")?;
        writeln!(out, "  consumed {consumed}")?;
        writeln!(out, "  dropped {}", dropped.values().sum::<u64>())?;
        for (reason, count) in dropped {
            writeln!(out, "    {reason} {count}")?;
        }
        if !self.conserved() {
            writeln!(out, "  WITHOUT A VERDICT {}", self.played.abs_diff(self.verdicts.total()))?;
        }
        writeln!(out, "sent of our own {}", self.originated)?;
        let Flows { created, expired, live, refused } = &self.flows;
        writeln!(
            out,
            "flows created {created}, expired {expired}, live {live}, refused {refused}"
        )?;
        for service in &self.services {
            writeln!(out, "{} {}", service.name, service.scheduler)?;
            for Real { name, flows, in_packets, out_packets } in &service.reals {
                writeln!(
                    out,
                    "  {name}: {flows} flows, {in_packets} packets in, {out_packets} out"
                )?;
            }
        }
        let Time { ns_per_packet, burst_ns_p50, burst_ns_p99, packets_per_burst, .. } = &self.time;
        writeln!(
            out,
            "time {ns_per_packet:.0} ns per packet; bursts of {packets_per_burst:.1} packets: p50 {burst_ns_p50} ns, p99 {burst_ns_p99} ns"
        )?;
        if self.others > 0 {
            writeln!(out, "files that are no captures: {}", self.others)?;
        }
        writeln!(out, "{} files, {} packets", self.files, self.packets)
    }
}

impl Time {
    /// Works the figures out of the bursts.
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    pub(super) fn summarise(&mut self, packets: u64) {
        self.bursts.sort_unstable();
        let count = self.bursts.len();
        let percentile = |percent: usize| {
            let at = (count * percent / 100).min(count.saturating_sub(1));
            self.bursts.get(at).copied().unwrap_or(0)
        };
        (self.burst_ns_p50, self.burst_ns_p99) = (percentile(50), percentile(99));
        let total: u64 = self.bursts.iter().sum();
        self.ns_per_packet = if packets == 0 { 0.0 } else { total as f64 / packets as f64 };
        self.packets_per_burst = if count == 0 { 0.0 } else { packets as f64 / count as f64 };
    }
}
