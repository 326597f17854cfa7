//! ARP over Ethernet for IPv4.
//!
//! | hardware 2 | protocol 2 | lengths 2 | operation 2 | sender's MAC 6, IP 4 | target's MAC 6, IP 4 |
//!
//! Source: RFC 826; gratuitous announcements: RFC 5227, section 3.

use super::{
    array_at,
    ethernet::{self, BROADCAST, Mac, ethertype},
    put, u16_at, u32_at,
};
use crate::addr::Addr;

/// Length of the message.
pub const LEN: usize = 28;

/// Hardware Ethernet, protocol IPv4, addresses of 6 and 4 octets.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// What a message wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Operation {
    /// Who has the target's IP?
    Request = 1,
    /// The sender has it.
    Reply = 2,
}

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it wants.
    pub operation: Operation,
    /// Sender's link address.
    pub sender_mac: Mac,
    /// Sender's IPv4 address; 0.0.0.0 in a probe.
    pub sender: Addr,
    /// Target's link address; not known, and so of no meaning, in a request.
    pub target_mac: Mac,
    /// Target's IPv4 address.
    pub target: Addr,
}

impl Message {
    /// Reads a message from behind the Ethernet header; padding may follow. `None` if it is cut
    /// short, not about Ethernet and IPv4, or neither request nor reply.
    pub fn parse(octets: &[u8]) -> Option<Self> {
        let message: &[u8; LEN] = octets.first_chunk()?;
        if message[..6] != KIND {
            return None;
        }
        let operation = match u16_at(message, 6) {
            1 => Operation::Request,
            2 => Operation::Reply,
            _ => return None,
        };
        Some(Self {
            operation,
            sender_mac: array_at(message, 8),
            sender: Addr::v4(u32_at(message, 14)),
            target_mac: array_at(message, 18),
            target: Addr::v4(u32_at(message, 24)),
        })
    }

    /// Writes the message.
    pub fn emit(self, out: &mut [u8; LEN]) {
        put(out, 0, KIND);
        put(out, 6, (self.operation as u16).to_be_bytes());
        put(out, 8, self.sender_mac);
        put(out, 14, self.sender.low32().to_be_bytes());
        put(out, 18, self.target_mac);
        put(out, 24, self.target.low32().to_be_bytes());
    }

    /// The request for the link address of `target`.
    pub const fn request(sender_mac: Mac, sender: Addr, target: Addr) -> Self {
        Self { operation: Operation::Request, sender_mac, sender, target_mac: [0; 6], target }
    }

    /// The answer to a request for an address that `mac` has.
    #[must_use]
    pub const fn answered(self, mac: Mac) -> Self {
        Self {
            operation: Operation::Reply,
            sender_mac: mac,
            sender: self.target,
            target_mac: self.sender_mac,
            target: self.sender,
        }
    }

    /// The Ethernet header it travels behind: a request to all, a reply to its target.
    pub const fn link(self) -> ethernet::Header {
        let destination = match self.operation {
            Operation::Request => BROADCAST,
            Operation::Reply => self.target_mac,
        };
        ethernet::Header { source: self.sender_mac, destination, ethertype: ethertype::ARP }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const CLIENT: Mac = [2, 0, 0, 0, 0, 0xfe];
    const OWN: Mac = [2, 0, 0, 0, 0, 1];

    #[test]
    fn a_request_is_answered_by_who_has_the_address() {
        let [from, vip] = [[10, 1, 0, 254], [10, 0, 0, 1]].map(|ip| Ipv4Addr::from(ip).into());
        let request = Message::request(CLIENT, from, vip);
        assert_eq!(request.link().destination, BROADCAST);
        let mut out = [0xff; LEN];
        request.emit(&mut out);
        assert_eq!(out[..8], [0, 1, 8, 0, 6, 4, 0, 1]);
        assert_eq!(out[18..], [0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
        assert_eq!(Message::parse(&out), Some(request));

        let reply = request.answered(OWN);
        reply.emit(&mut out);
        assert_eq!(out[6..18], [0, 2, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1]);
        assert_eq!(out[18..], [2, 0, 0, 0, 0, 0xfe, 10, 1, 0, 254]);
        assert_eq!(reply.link().destination, CLIENT);
    }

    #[test]
    fn what_is_not_ethernet_and_ipv4_is_not_read() {
        let mut out = [0; LEN];
        Message::request(CLIENT, Addr::v4(1), Addr::v4(2)).emit(&mut out);
        assert_eq!(Message::parse(&out[..LEN - 1]), None);
        for at in 0..8 {
            let mut changed = out;
            changed[at] ^= 0x40;
            assert_eq!(Message::parse(&changed), None, "octet {at}");
        }
    }
}
