//! `xvs-bench decap`: unwraps IPIP, GRE and GUE for real servers whose kernel has no tunnel device.
//!
//! Raw sockets take IPv4 and IPv6 packets of protocols 4, 41 and 47, a UDP socket takes GUE, and keep
//! the kernel from refusing them; what is inside enters the kernel by a TUN device, as it would by
//! `tunl0`. Outer fragments are joined by the kernel before they get here. For laboratories: the ECN
//! field of the outer header is not carried inwards, checksums of tunnels are not verified but for
//! UDP's. Source: RFC 2003, 2473 and 2784; draft-ietf-intarea-gue-09; raw(7).

use std::{
    io::Write,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    os::fd::OwnedFd,
};

use anyhow::Context as _;
use dataplane::{
    io::host::{self, HostPort},
    wire::{ethernet::ethertype, gre, gue, protocol},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with,
        sockopt::set_ipv6_v6only,
    },
};

/// What a socket takes.
#[derive(Clone, Copy)]
enum Kind {
    /// A packet right behind the outer header, with the Ethernet type of its family.
    Ip(u16),
    /// A GRE header in front of it.
    Gre,
    /// A GUE header in front of it, inside UDP.
    Gue,
}

/// Protocol numbers, and what they carry.
const PROTOCOLS: [(u32, Kind); 3] =
    [(4, Kind::Ip(ethertype::IPV4)), (41, Kind::Ip(ethertype::IPV6)), (47, Kind::Gre)];

/// Both families outside.
const OUTSIDE: [AddressFamily; 2] = [AddressFamily::INET, AddressFamily::INET6];

/// Octets of an Ethernet header, behind which [`HostPort::send`] finds the packet.
const LINK: usize = 14;

/// Unwraps packets until it is ended.
#[derive(clap::Args, Debug)]
pub(crate) struct Decap {
    /// The TUN device by which packets enter the kernel; it is made, and goes with this program.
    #[arg(long, default_value = "decap0", value_name = "NAME")]
    device: String,
    /// The UDP port at which GUE comes.
    #[arg(long, default_value_t = 6080, value_name = "PORT")]
    gue: u16,
}

/// One kind of tunnel.
struct Tunnel {
    socket: OwnedFd,
    outside: AddressFamily,
    kind: Kind,
}

impl Decap {
    /// Runs until the process is ended.
    ///
    /// # Errors
    ///
    /// Without root, or if the device's name is taken.
    pub(crate) fn run(&self, out: &mut impl Write) -> anyhow::Result<()> {
        let mut ports = host::create(&self.device, 1)?;
        let mut port = ports.pop().context("a TUN device has a queue")?;
        let tunnels = open(self.gue).context("sockets")?;
        writeln!(out, "ready: unwraps IPIP, GRE and GUE into {}", self.device)?;
        out.flush()?;
        let mut frame = vec![0; LINK + usize::from(u16::MAX)];
        loop {
            let mut waits: Vec<_> =
                tunnels.iter().map(|tunnel| PollFd::new(&tunnel.socket, PollFlags::IN)).collect();
            match poll(&mut waits, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("poll"),
            }
            for tunnel in &tunnels {
                tunnel.drain(&mut frame, &mut port)?;
            }
        }
    }
}

fn open(gue: u16) -> rustix::io::Result<Vec<Tunnel>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let mut tunnels = Vec::new();
    for outside in OUTSIDE {
        for (number, kind) in PROTOCOLS {
            let protocol = NonZeroU32::new(number).map(Protocol::from_raw);
            let socket = socket_with(outside, SocketType::RAW, flags, protocol)?;
            tunnels.push(Tunnel { socket, outside, kind });
        }
        let socket = socket_with(outside, SocketType::DGRAM, flags, None)?;
        let any: SocketAddr = match outside {
            AddressFamily::INET => (Ipv4Addr::UNSPECIFIED, gue).into(),
            _ => {
                set_ipv6_v6only(&socket, true)?;
                (Ipv6Addr::UNSPECIFIED, gue).into()
            }
        };
        bind(&socket, &any)?;
        tunnels.push(Tunnel { socket, outside, kind: Kind::Gue });
    }
    Ok(tunnels)
}

impl Tunnel {
    /// Hands on all that has come.
    fn drain(&self, frame: &mut [u8], port: &mut HostPort) -> anyhow::Result<()> {
        loop {
            let length = match recv(&self.socket, &mut frame[LINK..], RecvFlags::empty()) {
                Ok((length, _)) => length,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error).context("a raw socket"),
            };
            let Some((at, inside)) = self.inner(&frame[LINK..LINK + length]) else { continue };
            let packet = &mut frame[at..LINK + length];
            packet[LINK - 2..LINK].copy_from_slice(&inside.to_be_bytes());
            // A full queue drops the packet, as any link may.
            port.send(packet);
        }
    }

    /// Where the inner packet begins in what the socket gave, and the Ethernet type of its family.
    fn inner(&self, message: &[u8]) -> Option<(usize, u16)> {
        // A raw socket gives an IPv4 packet with its header, an IPv6 packet without; UDP neither.
        let outer = match (self.outside, self.kind) {
            (AddressFamily::INET, Kind::Ip(_) | Kind::Gre) => {
                usize::from(message.first()? & 0xf) * 4
            }
            _ => 0,
        };
        let rest = message.get(outer..)?;
        match self.kind {
            Kind::Ip(inside) => Some((outer, inside)),
            Kind::Gre => {
                let (inside, header) = gre::parse(rest)?;
                Some((outer + header, inside)).filter(|(at, _)| *at <= message.len())
            }
            Kind::Gue => {
                let (number, header) = gue::parse(rest)?;
                let inside = match number {
                    protocol::IPIP => ethertype::IPV4,
                    protocol::IPV6 => ethertype::IPV6,
                    _ => return None,
                };
                Some((outer + header, inside)).filter(|(at, _)| *at <= message.len())
            }
        }
    }
}
