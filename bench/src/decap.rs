//! `xvs-bench decap`: unwraps IPIP for real servers whose kernel has no tunnel device.
//!
//! Raw sockets take IPv4 and IPv6 packets of protocols 4 and 41 and keep the kernel from refusing
//! them; what is inside enters the kernel by a TUN device, as it would by `tunl0`. Outer fragments
//! are joined by the kernel before they get here. For laboratories: the ECN field of the outer
//! header is not carried inwards. Source: RFC 2003 and 2473; raw(7).

use std::{io::Write, num::NonZeroU32, os::fd::OwnedFd};

use anyhow::Context as _;
use dataplane::io::host::{self, HostPort};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with},
};

/// IPv4 and IPv6 inside: the protocol's number, and the Ethernet type of what it carries.
const INSIDE: [(u32, u16); 2] = [(4, 0x0800), (41, 0x86dd)];

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
}

/// One kind of tunnel.
struct Tunnel {
    socket: OwnedFd,
    outside: AddressFamily,
    /// Ethernet type of what is inside.
    inside: u16,
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
        let tunnels = open().context("raw sockets")?;
        writeln!(out, "ready: unwraps IPIP into {}", self.device)?;
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

fn open() -> rustix::io::Result<Vec<Tunnel>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let one = |outside, (number, inside)| {
        let protocol = NonZeroU32::new(number).map(Protocol::from_raw);
        let socket = socket_with(outside, SocketType::RAW, flags, protocol)?;
        Ok(Tunnel { socket, outside, inside })
    };
    OUTSIDE.into_iter().flat_map(|outside| INSIDE.map(|inside| one(outside, inside))).collect()
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
            // The kernel gives an IPv4 packet with its header, an IPv6 packet without.
            let outer = match self.outside {
                AddressFamily::INET => usize::from(frame[LINK] & 0xf) * 4,
                _ => 0,
            };
            if outer > length {
                continue;
            }
            let packet = &mut frame[outer..LINK + length];
            packet[LINK - 2..LINK].copy_from_slice(&self.inside.to_be_bytes());
            // A full queue drops the packet, as any link may.
            port.send(packet);
        }
    }
}
