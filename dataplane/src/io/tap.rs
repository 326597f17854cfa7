//! A raw socket that hears only answers to connections of the box's own: TCP to certain addresses and
//! from a certain port on. Health checks that travel through the forwarding path listen here.
//!
//! One frame, one system call: it is made for hundreds of packets a second, beside the workers and not
//! for them. The kernel's filter keeps everything else away, so a busy interface costs it nothing.
//! Source: packet(7); Linux `Documentation/networking/filter.rst` (classic BPF).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use rustix::net::{RecvFlags, recv};

use super::sys;
use crate::{
    addr::{Addr, Family},
    wire::protocol,
};

/// Addresses that one tap can hear for.
pub const ADDRS_MAX: usize = 32;

/// Octets in front of the IP packet of a frame without a VLAN tag, which the kernel takes off.
pub const LINK: usize = 14;

/// A raw socket on one interface.
#[derive(Debug)]
pub struct Tap {
    socket: OwnedFd,
    interface: u32,
}

impl Tap {
    /// Opens it; it hears nothing yet.
    ///
    /// # Errors
    ///
    /// Without `CAP_NET_RAW`, or if the interface does not exist.
    pub fn open(name: &str) -> io::Result<Self> {
        let socket = sys::packet_socket()?;
        let (interface, _) = sys::interface(name)?;
        sys::set_option(&socket, libc::PACKET_IGNORE_OUTGOING, 1)?;
        sys::attach_filter(&socket, &mut filter(&[], 0))?;
        sys::listen(&socket, interface)?;
        Ok(Self { socket, interface })
    }

    /// Hears TCP to these addresses and to ports from `first` on, and nothing else. Of more than
    /// [`ADDRS_MAX`] addresses the rest is not heard.
    ///
    /// # Errors
    ///
    /// The kernel's, which has no reason for one.
    pub fn hear(&self, addrs: &[Addr], first: u16) -> io::Result<()> {
        sys::attach_filter(&self.socket, &mut filter(addrs, first))
    }

    /// Takes a frame; returns its length, which is cut to the room. Does not block.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there is none; the interface is down or gone.
    pub fn receive(&self, room: &mut [u8]) -> io::Result<usize> {
        let (length, _) = recv(&self.socket, room, RecvFlags::DONTWAIT)?;
        Ok(length)
    }

    /// Sends a frame, link header included. Does not block.
    ///
    /// # Errors
    ///
    /// The interface is down, gone, or has no room.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        sys::send(&self.socket, &[(self.interface, frame)]).map(drop)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

const LOAD_OCTET: u16 = 0x30;
const LOAD_HALF: u16 = 0x28;
const LOAD_WORD: u16 = 0x20;
const LOAD_HALF_AT_X: u16 = 0x48;
const LOAD_HEADER_LENGTH: u16 = 0xb1;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_BITS: u16 = 0x45;
const RETURN: u16 = 0x06;

type Line = libc::sock_filter;

const fn line(code: u16, jt: u8, jf: u8, k: u32) -> Line {
    Line { code, jt, jf, k }
}

/// The program. Every test that fails jumps over the line behind it, which goes on.
fn filter(addrs: &[Addr], first: u16) -> Vec<Line> {
    let addrs = &addrs[..addrs.len().min(ADDRS_MAX)];
    let of = |family| addrs.iter().filter(move |addr| addr.family() == family);
    let drop = || [line(RETURN, 0, 0, 0)];
    let need = |code, k| [line(code, 1, 0, k), line(RETURN, 0, 0, 0)];
    let mut v4 = vec![line(LOAD_OCTET, 0, 0, 23)];
    v4.extend(need(JUMP_EQUAL, protocol::TCP.into()));
    v4.push(line(LOAD_HALF, 0, 0, 20));
    // A fragment's first piece has its ports, others have none.
    v4.extend([line(JUMP_BITS, 0, 1, 0x1fff), line(RETURN, 0, 0, 0)]);
    v4.extend([line(LOAD_HEADER_LENGTH, 0, 0, 14), line(LOAD_HALF_AT_X, 0, 0, 16)]);
    v4.extend(need(JUMP_AT_LEAST, first.into()));
    v4.push(line(LOAD_WORD, 0, 0, 30));
    for addr in of(Family::V4) {
        v4.extend([line(JUMP_EQUAL, 0, 1, addr.low32()), line(RETURN, 0, 0, u32::MAX)]);
    }
    v4.extend(drop());
    let mut v6 = vec![line(LOAD_OCTET, 0, 0, 20)];
    v6.extend(need(JUMP_EQUAL, protocol::TCP.into()));
    v6.push(line(LOAD_HALF, 0, 0, 56));
    v6.extend(need(JUMP_AT_LEAST, first.into()));
    for addr in of(Family::V6) {
        // Four words, each of which may end the comparison.
        for (place, left) in [(0, 6), (1, 4), (2, 2), (3, 0)] {
            let word = (addr.bits() >> (96 - 32 * place)) & u128::from(u32::MAX);
            let word = u32::try_from(word).unwrap_or(0);
            v6.push(line(LOAD_WORD, 0, 0, 38 + 4 * place));
            v6.push(line(JUMP_EQUAL, 0, left + 1, word));
        }
        v6.push(line(RETURN, 0, 0, u32::MAX));
    }
    v6.extend(drop());
    let over = u32::try_from(v4.len()).unwrap_or(0);
    let mut program = vec![line(LOAD_HALF, 0, 0, 12)];
    program.extend([line(JUMP_EQUAL, 0, 1, 0x0800), line(JUMP, 0, 0, 2)]);
    program.extend([line(JUMP_EQUAL, 2, 0, 0x86dd), line(RETURN, 0, 0, 0)]);
    program.extend([line(JUMP, 0, 0, 1), line(JUMP, 0, 0, over)]);
    program.extend(v4);
    program.extend(v6);
    program
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use etherparse::PacketBuilder;

    use super::*;

    /// Runs the program as the kernel does.
    fn takes(program: &[Line], frame: &[u8]) -> bool {
        let (mut a, mut x, mut at) = (0_u32, 0_usize, 0_usize);
        let load = |at: usize, octets: usize| {
            let bytes = frame.get(at..at + octets)?;
            Some(bytes.iter().fold(0, |word, octet| word << 8 | u32::from(*octet)))
        };
        loop {
            let Line { code, jt, jf, k } = program[at];
            let k_at = k as usize;
            at += 1;
            let loaded = match code {
                LOAD_OCTET => load(k_at, 1),
                LOAD_HALF => load(k_at, 2),
                LOAD_WORD => load(k_at, 4),
                LOAD_HALF_AT_X => load(x + k_at, 2),
                _ => Some(a),
            };
            // A load behind the end drops the frame.
            let Some(loaded) = loaded else { return false };
            a = loaded;
            let test = match code {
                LOAD_HEADER_LENGTH => {
                    x = 4 * (frame[k_at] & 15) as usize;
                    continue;
                }
                JUMP => {
                    at += k_at;
                    continue;
                }
                RETURN => return k != 0,
                JUMP_EQUAL => a == k,
                JUMP_AT_LEAST => a >= k,
                JUMP_BITS => a & k != 0,
                _ => continue,
            };
            at += usize::from(if test { jt } else { jf });
        }
    }

    fn frame(source: &str, destination: &str, port: u16, tcp: bool) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([1; 6], [2; 6]);
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        let builder = match (source, destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), 64),
            _ => panic!("of one family"),
        };
        let mut frame = Vec::new();
        if tcp {
            builder.tcp(80, port, 0, 1000).write(&mut frame, &[]).unwrap();
        } else {
            builder.udp(80, port).write(&mut frame, &[0; 20]).unwrap();
        }
        frame
    }

    #[test]
    fn it_hears_tcp_to_its_addresses_from_its_port_on() {
        let addr = |text: &str| Addr::from(text.parse::<IpAddr>().unwrap());
        let own = ["10.0.0.5", "fd00::5", "10.0.0.6", "fd00:1::5"].map(addr);
        let program = filter(&own, 61_000);
        let hears = |source: &str, destination: &str, port, tcp| {
            takes(&program, &frame(source, destination, port, tcp))
        };
        for (source, own) in [
            ("10.9.0.1", "10.0.0.5"),
            ("10.9.0.1", "10.0.0.6"),
            ("fd09::1", "fd00::5"),
            ("fd09::1", "fd00:1::5"),
        ] {
            assert!(hears(source, own, 61_000, true) && hears(source, own, 65_535, true));
            assert!(!hears(source, own, 60_999, true), "a port of somebody else");
            assert!(!hears(source, own, 61_000, false), "no TCP");
        }
        for (source, other) in
            [("10.9.0.1", "10.0.0.7"), ("fd09::1", "fd00::6"), ("fd09::1", "fd00:2::5")]
        {
            assert!(!hears(source, other, 61_000, true), "{other}");
        }
        assert!(!takes(&filter(&[], 0), &frame("10.9.0.1", "10.0.0.5", 61_000, true)));
        assert!(!takes(&program, &[0; 60]));
        let mut fragment = frame("10.9.0.1", "10.0.0.5", 61_000, true);
        fragment[21] = 7;
        assert!(!takes(&program, &fragment));
        let full: Vec<_> = (0..ADDRS_MAX).map(|n| Addr::v6(n as u128)).collect();
        assert!(filter(&full, 1).len() < 4096, "the kernel's BPF_MAXINSNS");
        assert!(takes(&filter(&full, 1), &frame("fd09::1", "::1f", 9, true)));
    }
}
