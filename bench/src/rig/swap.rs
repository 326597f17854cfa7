//! A forwarder that only gives packets new link addresses: what AF_XDP costs without any work.
//!
//! Every TCP, UDP and SCTP packet that comes by one interface leaves by the other, for the link address
//! given with that one. It uses the devices of xvsd and nothing else of it.

use std::{io::Write, net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, bail};
use clap::{Parser, ValueEnum};
use dataplane::{
    addr::Addr,
    io::{
        Io as _,
        xsk::{self, Transmit, XskOptions},
    },
    packet::Packet,
    selector::{Ports, Prefix, Selector},
    steering::{Limits, Steering, rules::SteeringRules},
    verdict::{DeviceId, Verdict},
};
use xvs_bench::lab::{interrupt, process::pin};

/// Empty turns before a sleep.
const SPIN: u32 = 1000;

/// Forward everything between two interfaces, exchanging link addresses only.
#[derive(Debug, Parser)]
pub(crate) struct Swap {
    /// The CPU to run on.
    #[arg(long)]
    cpu: Option<usize>,
    /// How packets leave.
    #[arg(long, default_value = "batch")]
    transmit: How,
    /// Two interfaces with the link address of who is behind each: `front=02:00:00:00:00:0c`.
    #[arg(num_args = 2, required = true, value_name = "INTERFACE=MAC")]
    sides: Vec<String>,
}

/// How packets leave.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum How {
    /// As xvsd sends them.
    Batch,
    /// Through the AF_XDP transmit ring.
    Ring,
}

impl Swap {
    /// Forwards until a signal comes.
    ///
    /// # Errors
    ///
    /// The devices cannot be opened or are gone.
    pub(crate) fn run(&self, out: &mut impl Write) -> anyhow::Result<()> {
        interrupt::watch()?;
        if let Some(cpu) = self.cpu {
            pin(cpu)?;
        }
        let (mut interfaces, mut macs) = (Vec::new(), Vec::new());
        for side in &self.sides {
            let (interface, mac) = side.split_once('=').context("INTERFACE=MAC expected")?;
            interfaces.push(interface.to_owned());
            macs.push(parse_mac(mac)?);
        }
        let macs = [macs[0], macs[1]];
        let transmit = match self.transmit {
            How::Batch => Transmit::Auto,
            How::Ring => Transmit::Ring,
        };
        let options = XskOptions { transmit, ..XskOptions::default() };
        let mut steering = Steering::load(Limits::default())?;
        let opened = xsk::open(&mut steering, &interfaces, 1, &options)?;
        let to = Prefix::new(Addr::from(Ipv4Addr::UNSPECIFIED), 0).context("every address")?;
        let everything = Selector { protocol: None, to, ports: Ports::ANY, from: None };
        let rules = SteeringRules { selectors: [everything].into(), ..SteeringRules::default() };
        steering.follow(&rules)?;
        for report in &opened.reports {
            writeln!(out, "{report}")?;
        }
        writeln!(out, "ready")?;
        out.flush()?;
        let mut io = opened.workers.into_iter().next().context("one worker was opened")?;
        let mut idle = 0;
        while !interrupt::came() {
            let received = io.burst(
                |packets| packets.iter_mut().for_each(|packet| readdress(packet, &macs)),
                |_, _, _| {},
            )?;
            if received > 0 {
                io.flush()?;
                idle = 0;
            } else if idle < SPIN {
                idle += 1;
            } else {
                io.wait(Duration::from_millis(100))?;
            }
        }
        Ok(())
    }
}

fn readdress(packet: &mut Packet<'_>, macs: &[[u8; 6]; 2]) {
    let out = 1 - usize::from(packet.device.0);
    let bytes = packet.bytes_mut();
    bytes.copy_within(..6, 6);
    bytes[..6].copy_from_slice(&macs[out]);
    packet.verdict = Verdict::Tx(DeviceId(1 - packet.device.0));
}

fn parse_mac(text: &str) -> anyhow::Result<[u8; 6]> {
    let octets: Result<Vec<u8>, _> =
        text.split(':').map(|octet| u8::from_str_radix(octet, 16)).collect();
    match octets.map(<[u8; 6]>::try_from) {
        Ok(Ok(mac)) => Ok(mac),
        _ => bail!("{text} is no link address"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_addresses_are_read_and_what_is_none_is_refused() {
        assert_eq!(parse_mac("02:00:00:00:00:0c").unwrap(), [2, 0, 0, 0, 0, 12]);
        for wrong in ["", "02:00", "02:00:00:00:00:0g", "02:00:00:00:00:00:00"] {
            assert!(parse_mac(wrong).is_err(), "{wrong}");
        }
    }
}
